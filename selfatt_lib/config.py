"""The parameters of a training run, checked before any work."""

import difflib
import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from selfatt_lib.labels import MOST, label_key
from selfatt_lib.machinery.devices import gpu_numbers
from selfatt_lib.machinery.settings import LARGEST, Settings, meant

Whole = Annotated[
    int, Field(ge=1, le=LARGEST, description="a whole number of at least 1")
]
WholeOrNone = Annotated[
    int | None,
    Field(ge=1, le=LARGEST, description="a whole number of at least 1 or None"),
]
Layers = Annotated[int, Field(ge=1, le=100, description="a whole number from 1 to 100")]
Seed = Annotated[
    int, Field(ge=0, lt=2**31, description="a whole number from 0 to 2**31 - 1")
]
Share = Annotated[float, Field(ge=0, lt=1, description="a number from 0 to below 1")]
Positive = Annotated[float, Field(gt=0, description="a number above 0")]
PositiveOrNone = Annotated[
    float | None, Field(gt=0, description="a number above 0 or None")
]
NotNegative = Annotated[float, Field(ge=0, description="a number of at least 0")]
Flag = Annotated[bool, Field(description="True or False")]
Text = Annotated[
    str,
    Field(
        pattern=r"\S",
        description="a text that is not empty (in quotes; for papermill: -r, not -p)",
    ),
]
TextOrNone = Annotated[
    Text | None,
    Field(description="a text that is not empty (in quotes), or None"),
]
Part = Annotated[
    Annotated[int, Field(ge=1, le=LARGEST)] | Annotated[float, Field(gt=0, lt=1)],
    Field(description="a share between 0 and 1, or a whole number of at least 1"),
]
Weights = Annotated[
    Literal["auto"] | Annotated[list[Positive], Field(min_length=2)] | None,
    Field(description="None, 'auto' or a list with a number above 0 for each class"),
]
NumClasses = Annotated[
    int, Field(ge=2, le=MOST, description=f"a whole number from 2 to {MOST}")
]
Label = int | float | str
LabelList = Annotated[list[Label], Field(min_length=2, max_length=MOST)]
Labels = Annotated[
    LabelList | Annotated[dict[str, Label], Field(min_length=2)] | None,
    Field(
        description=f"None, a list of 2 to {MOST} different numbers or texts (in "
        "quotes), the classes in their order, or what the file calls each and its name"
    ),
]
Bins = Annotated[
    Annotated[list[float | int], Field(min_length=1, max_length=MOST - 1)] | None,
    Field(description="None or a list of numbers, each larger than the one before"),
]
Names = Annotated[
    Annotated[list[str], Field(min_length=2)] | None,
    Field(description="None or a list with the name of each column"),
]
Invalid = Literal["raise", "skip"]
Encoder = Literal["attention", "average", "cnn", "last", "max", "uniform"]
Pooling = Literal["flatten", "mean", "prune"]
PenaltyForm = Literal["squared", "norm", "mean_squared"]
EngineName = Literal["auto", "mxnet", "pytorch"]
Precision = Literal["float32", "bfloat16"]


# the arguments of `load_reviews` that say how a file is read
READING = ("text_column", "label_column", "columns", "encoding", "labels", "bins")
READING += ("on_invalid", "unescape_html")
OF_TEXTS = ("labels", "columns")  # lists of them


class ModelSettings(Settings):
    """The arguments of `model.SelfAttentiveBiLSTM`, as ``config.json`` keeps them."""

    vocab_size: Whole
    embedding_size: Whole
    hidden_size: Whole
    num_layers: Layers
    attention_units: Whole
    attention_hops: Whole
    classifier_units: Whole
    num_classes: NumClasses
    pooling: Pooling
    prune_p: WholeOrNone
    prune_q: WholeOrNone
    dropout: Share
    embedding_dropout: Share
    train_embedding: Flag

    @model_validator(mode="after")
    def _pruning_has_its_sizes(self):
        check_pooling(self.pooling, self.prune_p, self.prune_q)
        return self


class TrainingConfig(Settings):
    """The parameters of ``book/training.ipynb``.

    NumPy's numbers and pathlib's paths are taken for what they are, and so is a text
    that can mean one value only: "1e-3", "null", "true", "[3.0, 5.3, 4.0, 2.0, 1.0]".

    Raises
    ------
    ValueError
        A name is no parameter, or a value is of the wrong type or impossible. The
        message names the parameter, what was given and what was expected.

    Examples
    --------
    >>> TrainingConfig(epochs="12").epochs
    12
    >>> TrainingConfig(epochs=0)
    Traceback (most recent call last):
    ...
    ValueError: epochs must be a whole number of at least 1; got 0
    """

    # Data: see `load_reviews`, `split_reviews`, `tokenize`, `build_vocab`,
    # `load_vectors`
    dataset: Text = "review-snippets"
    text_column: TextOrNone = None  # None: the one with a usual name
    label_column: TextOrNone = None
    columns: Names = None  # of a CSV file without a header
    encoding: TextOrNone = None  # None: UTF-8
    labels: Labels = None  # None: all that occur, sorted
    bins: Bins = None  # edges, to cut numbers into classes
    on_invalid: Invalid = "raise"  # "skip" leaves wrong rows out
    unescape_html: Flag = False
    language: Text = "en"
    train_size: WholeOrNone = None  # None: all that are left
    valid_size: Part = 0.1  # the best epoch is chosen on these
    test_size: Part = 0.1  # and scored on these
    test_dataset: TextOrNone = None  # or on all of another file, whatever test_size
    split_seed: Seed = 0
    max_tokens: Whole = 100
    lower: Flag = True
    vocab_size: Whole = 10_000
    embedding: TextOrNone = "glove.6B.50d"
    embedding_size: WholeOrNone = None  # for embedding=None only
    train_embedding: Flag = True

    # Model: see `SelfAttentiveBiLSTM`, and `encoders` for others than attention, which
    # need engine="mxnet" and leave penalty, hops and pooling unused
    encoder: Encoder = "attention"
    hidden_size: Whole = 64  # u
    num_layers: Layers = 1
    attention_units: Whole = 64  # d_a
    attention_hops: Whole = 4  # r
    classifier_units: Whole = 64
    pooling: Pooling = "flatten"
    prune_p: WholeOrNone = None
    prune_q: WholeOrNone = None
    dropout: Share = 0.5
    embedding_dropout: Share = 0.3

    # Objective: None is plain cross-entropy, "auto" counts the labels in training
    class_weights: Weights = None
    penalty_coefficient: NotNegative = 0.03
    penalty_form: PenaltyForm = "squared"

    # Training: Adam
    epochs: Whole = 8
    learning_rate: Positive = 0.003
    clip_norm: PositiveOrNone = 0.5  # of the gradient of the mean loss
    patience: WholeOrNone = None  # epochs after the best
    batch_size: Whole = 64  # and the next two as in `Batches`
    num_buckets: Whole = 10
    bucket_ratio: NotNegative = 0.5

    seed: Seed = 0
    tfidf: Flag = True  # False leaves that baseline out
    engine: EngineName = "auto"
    device: Text = "auto"  # and the next as in `engines.choose`
    precision: Precision = "float32"
    run_dir: Text = "runs/quick"
    resume: Flag = False  # go on with the run that lies there

    _meant = staticmethod(meant)

    def __init__(self, /, **given):
        for name in given:
            if name not in type(self).model_fields:
                raise unknown_parameter(name)
        super().__init__(**given)

    @model_validator(mode="after")
    def _what_belongs_together_fits(self):
        check_pooling(self.pooling, self.prune_p, self.prune_q)
        check_labels(self.labels, self.bins)
        if (room := sum(p for p in (self.valid_size, self.test_size) if p < 1)) >= 1:
            raise ValueError(
                f"valid_size and test_size leave nothing to train on: {room:g} of all"
            )
        check_engine(self.engine, self.device, self.precision)
        if self.encoder != "attention" and self.engine != "mxnet":
            raise ValueError(
                f"encoder={self.encoder!r} needs engine='mxnet'; got engine="
                f"{self.engine!r}"
            )
        if self.embedding is not None and self.embedding_size is not None:
            raise ValueError(
                "embedding_size is for embedding=None, random vectors; those of "
                f"{self.embedding!r} have the size that they have. Got embedding_size="
                f"{self.embedding_size}: leave it out, or set embedding=None."
            )
        return self

    @field_validator("*", mode="before")
    @classmethod
    def _what_is_meant(cls, value, info):
        kind = cls.model_fields[info.field_name].annotation
        if isinstance(value, str) and kind == Text | None:  # a column may be called 1
            return None if value.strip().lower() in ("none", "null") else value
        return meant(value, kind, info.field_name in OF_TEXTS)

    @classmethod
    def from_namespace(cls, namespace):
        """Take the parameters from a notebook's ``globals()``.

        Other plain values are misspelt parameters, which papermill only warns of. When
        the cell is run again, after others, they are left alone.
        """
        plain = (bool, int, float, str, list, dict, type(None))
        again = any(isinstance(value, cls) for value in namespace.values())
        config = cls(
            **{
                name: value
                for name, value in namespace.items()
                if name in cls.model_fields
                or (
                    isinstance(value, plain)
                    and not again
                    and not name.startswith(("_", "PAPERMILL_"))
                    and name not in ("In", "Out")
                )
            }
        )
        if config.encoder != "attention":
            raise ValueError(
                f"encoder={config.encoder!r} is for comparisons, without a notebook: "
                "see selfatt sweep. This notebook shows what attention does."
            )
        return config

    @property
    def sample_size(self):
        """Reviews to load for parts of the given sizes, or None for all."""
        if self.train_size is None:
            return None
        held_out = [self.valid_size] + [self.test_size] * (self.test_dataset is None)
        counts = [size for size in held_out if isinstance(size, int)]
        rest = 1 - sum(size for size in held_out if isinstance(size, float))
        return math.ceil((self.train_size + sum(counts)) / rest)

    @property
    def reading(self):
        """The arguments of `load_reviews` that say how a file is read: dict."""
        return {name: getattr(self, name) for name in READING}

    @property
    def class_names(self):
        """The labels that the parameters state, in order: list, or None."""
        if isinstance(self.labels, dict):
            return list(dict.fromkeys(self.labels.values()))
        return self.labels or (self.bins and list(range(1, len(self.bins) + 2)))

    def model_settings(self, vocab_size, embedding_size, num_classes=5):
        """Return what the model is made of: ModelSettings."""
        values = vars(self) | {
            "vocab_size": vocab_size,
            "embedding_size": embedding_size,
            "num_classes": num_classes,
        }
        return ModelSettings(
            **{name: values[name] for name in ModelSettings.model_fields}
        )


def unknown_parameter(name):
    """Return the error for a name that is no parameter: ValueError."""
    known = list(TrainingConfig.model_fields)
    hint = f"known are: {', '.join(known)}"
    if close := difflib.get_close_matches(str(name), known, n=1):
        hint = f"did you mean {close[0]!r}?"
    if name == "squared_penalty":
        hint = (
            "since the authors' own penalty is there too, write penalty_form: "
            "'squared' for True, 'norm' for False"
        )
    return ValueError(f"there is no parameter {name!r}; {hint}")


def check_pooling(pooling, prune_p=None, prune_q=None):
    """Raise ValueError unless `pooling` is known and has the sizes that it needs."""
    if pooling not in Pooling.__args__:
        raise ValueError(
            f"pooling must be one of {', '.join(Pooling.__args__)}; got {pooling!r}"
        )
    if pooling == "prune" and not (prune_p and prune_q):
        raise ValueError(
            "pooling='prune' needs prune_p and prune_q (for example 150 and 10); got "
            f"{prune_p} and {prune_q}"
        )


def check_labels(labels=None, bins=None):
    """Raise ValueError unless these can be the labels and bins of `load_reviews`."""
    found = [*labels] if labels else []  # in the file
    names = [*dict.fromkeys(labels.values())] if isinstance(labels, dict) else found
    for given in (found, names):
        keys = {*map(label_key, given)}
        if "" in keys or len(keys) < len(given):
            raise ValueError(
                "labels must be different, by more than case, blanks and how a number "
                f"is written, and none be blank; got {given}"
            )
    if len(names) == 1:
        raise ValueError(f"labels must have two names or more; got {names}")
    if bins and sorted({*bins}) != bins:
        raise ValueError(f"bins must be numbers, each larger than the last; got {bins}")
    if bins and labels and (isinstance(labels, dict) or len(labels) != len(bins) + 1):
        raise ValueError(
            f"{len(bins)} bins make {len(bins) + 1} classes, whose names are a list in "
            f"labels; got {labels}"
        )


def check_engine(engine="auto", device="auto", precision="float32"):
    """Raise ValueError unless there can be an engine that computes so."""
    if engine not in EngineName.__args__:
        raise ValueError(
            f"engine must be one of {', '.join(EngineName.__args__)}; got {engine!r}"
        )
    if precision not in Precision.__args__:
        raise ValueError(
            f"precision must be one of {', '.join(Precision.__args__)}; got "
            f"{precision!r}"
        )
    gpu_numbers(device)
    for name, value, wanted in (
        ("device", device, "mps"),
        ("precision", precision, "bfloat16"),
    ):
        if value == wanted and engine == "mxnet":
            raise ValueError(
                f"{name}={value!r} needs engine='pytorch'; got engine='mxnet'"
            )
    if precision == "bfloat16" and device in ("cpu", "mps"):
        raise ValueError(
            "precision='bfloat16' is for an NVIDIA GPU, for example device='gpu'; got "
            f"device={device!r}. There, leave it at 'float32'."
        )
