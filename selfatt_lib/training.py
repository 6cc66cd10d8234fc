"""The training run: its configuration, the loop, evaluation, and the run directory that everything is kept in."""

import ast
import difflib
import filecmp
import hashlib
import inspect
import itertools
import json
import os
import shutil
import signal
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.pipeline import make_pipeline

from selfatt_lib.data import (
    Batches,
    TokenizedTexts,
    build_vocab,
    cache_dir,
    load_glove,
    load_reviews,
    locate,
    on_devices,
    split_reviews,
    tokenize_kept,
)
from selfatt_lib.data.text import GLOVE_SIZES
from selfatt_lib.machinery.progress import tqdm
from selfatt_lib.machinery.runtime import (
    choose_devices,
    choose_threads,
    mx,
    nlp,
    seed_everything,
)
from selfatt_lib.model import POOLINGS, SelfAttentiveBiLSTM, check_pooling
from selfatt_lib.params import check_layout, mark, read_json, read_layout
from selfatt_lib.penalty import (
    FORMS,
    WeightedSoftmaxCE,
    class_weights,
    diversity_penalty,
)

nd, gluon = mx.nd, mx.gluon

STARS = [1, 2, 3, 4, 5]
LEARNING_RATE_DECAY = 0.9  # every second epoch, as in the tutorial
BATCHES_PER_READING = 10  # so often the bar's loss and accuracy are read
SECONDS_PER_SAVING = 600  # so often a long epoch is saved before its end


# Configuration


def _checked(default, expected, valid):
    return field(default=default, metadata={"expected": expected, "valid": valid})


def _whole(default, least=1, optional=False):
    expected = f"a whole number of at least {least}" + (" or None" if optional else "")
    return _checked(
        default,
        expected,
        lambda value: (
            (optional and value is None) or (type(value) is int and value >= least)
        ),
    )


def _number(default, expected, within, optional=False):
    expected = f"a number {expected}" + (" or None" if optional else "")
    return _checked(
        default,
        expected,
        lambda value: (
            (optional and value is None)
            or (type(value) in (int, float) and within(value))
        ),
    )


def _choice(default, choices):
    return _checked(
        default,
        f"one of {', '.join(map(repr, choices))}",
        lambda value: value in choices,
    )


def _flag(default):
    return _checked(default, "True or False", lambda value: type(value) is bool)


def _text(default):
    return _checked(
        default,
        "a text that is not empty (in quotes; for papermill: -r, not -p)",
        lambda value: type(value) is str and bool(value.strip()),
    )


WORDS = {"true": True, "false": False, "null": None, "none": None}


def _meant(parameter, value):
    """Return the plain value that is meant by what YAML, a shell, NumPy or pathlib made.

    Parameters
    ----------
    parameter : dataclasses.Field
        Of `TrainingConfig`.
    value : object
        What cannot be understood is returned as it is.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, str) and parameter.type is not str:
        text = value.strip()
        with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            # 1e-3 is a text to YAML, null to papermill
            value = WORDS.get(text.lower(), text)
            value = ast.literal_eval(text) if value is text else value
    if isinstance(value, list | tuple):
        value = [_meant(parameter, each) for each in value]
    if (
        isinstance(value, float)
        and value.is_integer()
        and parameter.type in (int, int | None)
    ):
        value = int(value)
    return value


def _valid_class_weights(value):
    if value is None or value == "auto":
        return True
    return (
        type(value) is list
        and len(value) == len(STARS)
        and all(type(w) in (int, float) and 0 < w < float("inf") for w in value)
    )


@dataclass(frozen=True)
class TrainingConfig:
    """What a run is made of: the parameters of ``book/training.ipynb``, checked before any work.

    Raises
    ------
    ValueError
        A value is of the wrong type or impossible. The message names the parameter, what was given and what was expected.

    Notes
    -----
    Data: `dataset` (a name or a file, see `load_reviews`), `train_size` and `valid_size` (reviews; all others are trained on when
    `train_size` is None), `max_tokens`, `lower`, `vocab_size` (words), `embedding`, `train_embedding`.

    Model: see `SelfAttentiveBiLSTM`.

    Objective: `class_weights` is None for plain cross-entropy, "auto" to compute them from the training stars, or five numbers;
    `penalty_coefficient` times a `penalty_form` of `diversity_penalty` is added.

    Training: Adam with `learning_rate`, times 0.9 every second epoch; `clip_norm` bounds the global norm of the gradient of the mean
    loss; `patience` stops when so many epochs have passed since the best; `batch_size`, `num_buckets`, `bucket_ratio` as in
    `Batches`.

    `tfidf` is whether that baseline is computed (see `baselines`);
    `device` as in `choose_devices`; `run_dir` is the folder for the results; `resume` goes on with the run that lies there.

    NumPy's numbers and pathlib's paths are taken for what they are, and so is a text that
    can mean one value only: "1e-3", "null", "true", "[3.0, 5.3, 4.0, 2.0, 1.0]".
    """

    dataset: str = _text("review-snippets")
    train_size: int | None = _whole(None, optional=True)
    valid_size: int = _whole(1400)
    max_tokens: int = _whole(100)
    lower: bool = _flag(True)
    vocab_size: int = _whole(10_000)
    embedding: str = _choice("glove.6B.50d", list(GLOVE_SIZES))
    train_embedding: bool = _flag(True)

    hidden_size: int = _whole(64)
    num_layers: int = _checked(
        1,
        "a whole number from 1 to 100",
        lambda value: type(value) is int and 1 <= value <= 100,
    )
    attention_units: int = _whole(64)
    attention_hops: int = _whole(4)
    classifier_units: int = _whole(64)
    pooling: str = _choice("flatten", list(POOLINGS))
    prune_p: int | None = _whole(None, optional=True)
    prune_q: int | None = _whole(None, optional=True)
    dropout: float = _number(0.5, "from 0 to below 1", lambda value: 0 <= value < 1)
    embedding_dropout: float = _number(
        0.3, "from 0 to below 1", lambda value: 0 <= value < 1
    )

    class_weights: list | str | None = _checked(
        None, "None, 'auto' or a list of five numbers above 0", _valid_class_weights
    )
    penalty_coefficient: float = _number(
        0.03, "of at least 0", lambda value: 0 <= value < float("inf")
    )
    penalty_form: str = _choice("squared", list(FORMS))

    epochs: int = _whole(8)
    learning_rate: float = _number(
        0.003, "above 0", lambda value: 0 < value < float("inf")
    )
    clip_norm: float | None = _number(
        0.5, "above 0", lambda value: 0 < value < float("inf"), optional=True
    )
    patience: int | None = _whole(None, optional=True)
    batch_size: int = _whole(64)
    num_buckets: int = _whole(10)
    bucket_ratio: float = _number(
        0.5, "of at least 0", lambda value: 0 <= value < float("inf")
    )

    seed: int = _checked(
        0,
        "a whole number from 0 to 2**31 - 1",
        lambda value: type(value) is int and 0 <= value < 2**31,
    )
    tfidf: bool = _flag(True)
    device: str = _text("auto")
    run_dir: str = _text("runs/quick")
    resume: bool = _flag(False)

    def __post_init__(self):
        for parameter in fields(self):
            value = _meant(parameter, getattr(self, parameter.name))
            object.__setattr__(self, parameter.name, value)
            if not parameter.metadata["valid"](value):
                raise ValueError(
                    f"{parameter.name} must be {parameter.metadata['expected']}; got {value!r}"
                )
        check_pooling(self.pooling, self.prune_p, self.prune_q)

    @classmethod
    def from_namespace(cls, namespace):
        """Take the parameters from a notebook's ``globals()``; other plain values are misspelt ones.

        When the cell is run again, after others, names that are no parameters are left alone.

        Raises
        ------
        ValueError
            As above, or a name is not a parameter: papermill itself only warns of that.
        """
        plain = (bool, int, float, str, list, dict, type(None))
        known = [parameter.name for parameter in fields(cls)]
        given = {
            name: value
            for name, value in namespace.items()
            if name in known
            or (
                isinstance(value, plain)
                and not name.startswith(("_", "PAPERMILL_"))
                and name not in ("In", "Out")
            )
        }
        again = any(isinstance(value, cls) for value in namespace.values())
        for name in list(given):
            if name not in known:
                if again:
                    del given[name]
                    continue
                raise unknown_parameter(name)
        return cls(**given)

    @property
    def sample_size(self):
        """Reviews to load: ``train_size + valid_size``, or None for all."""
        return None if self.train_size is None else self.train_size + self.valid_size

    def model_arguments(self, vocab_size):
        """Return the arguments of `SelfAttentiveBiLSTM` as a dict."""
        wanted = inspect.signature(SelfAttentiveBiLSTM.__init__).parameters
        sizes = {
            "vocab_size": vocab_size,
            "embedding_size": GLOVE_SIZES[self.embedding],
            "num_classes": len(STARS),
        }
        return {
            name: value for name, value in asdict(self).items() if name in wanted
        } | sizes


def unknown_parameter(name):
    """Return the error for a name that is no parameter: ValueError."""
    known = [parameter.name for parameter in fields(TrainingConfig)]
    hint = f"known are: {', '.join(known)}"
    if close := difflib.get_close_matches(str(name), known, n=1):
        hint = f"did you mean {close[0]!r}?"
    if name == "squared_penalty":
        hint = (
            "since the authors' own penalty is there too, write penalty_form: "
            "'squared' for True, 'norm' for False"
        )
    return ValueError(f"there is no parameter {name!r}; {hint}")


# The run directory


@contextmanager
def replacing(path):
    """Give the path of a temporary file, which takes the place of `path` at the end: whole, or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _vocab_json(vocab):
    with warnings.catch_warnings():
        # the vectors are among the weights
        warnings.filterwarnings("ignore", "Serialization of attached embedding")
        return vocab.to_json()


class RunDirectory:
    """The files of one run. Loading them runs no code: they are JSON, HTML and arrays.

    ``config.json`` (the parameters, the model's arguments, and fingerprints of the reviews, of the vocabulary, and of all that
    together, which marks the arrays), ``vocab.json``, ``model.params`` (the best epoch), ``metrics.jsonl`` (a line an epoch),
    ``checkpoint.params`` (what resuming needs), ``metrics.json`` and ``attention.html`` (at the end).

    Parameters
    ----------
    config : TrainingConfig

    Raises
    ------
    FileNotFoundError
        `resume` is set and the folder holds no run.
    ValueError
        `resume` is set and the run there has other parameters or more epochs, or the
        folder holds something that is not a run.
    RuntimeError
        Another process is training in this folder.

    Notes
    -----
    The folder belongs to this process until the metrics are written (`release`). A lock
    of the operating system, on a file in `cache_dir`, keeps the user's others out; it
    goes with the process, however that ends.
    """

    # What does not count when runs are compared, and what may change when one goes on
    NOT_COMPARED = ("resume", "run_dir", "device", "tfidf")
    EXTENDED = ("epochs", "patience")
    FILES = frozenset(
        [
            "config.json",
            "vocab.json",
            "model.params",
            "metrics.jsonl",
            "checkpoint.params",
            "metrics.json",
            "attention.html",
            "training.ipynb",
        ]
    )

    def __init__(self, config):
        self.config = config
        self.path = locate(config.run_dir).resolve()
        self.aside = None  # where an earlier run was moved
        self.fingerprint = None
        if self.path.exists() and (
            not self.path.is_dir()
            or (not self._is_run() and any(self.path.glob("[!.]*")))
        ):
            raise ValueError(
                f"run_dir {config.run_dir!r} exists and is not a run (it has no config.json). Choose another run_dir."
            )
        if config.resume:
            if not self._is_run():
                raise FileNotFoundError(
                    f"resume=True, but {config.run_dir!r} holds no run. Start it with resume=False."
                )
            if differences := self._differences():
                raise ValueError(
                    f"resume=True, but the run in {config.run_dir!r} has other parameters: {'; '.join(differences)}. "
                    "Give the same ones, or choose another run_dir."
                )
            if (done := len(self.history())) > config.epochs:
                raise ValueError(
                    f"resume=True with epochs={config.epochs}, but the run in "
                    f"{config.run_dir!r} has {done} already. Give epochs={done} or "
                    "more, or choose another run_dir."
                )
        self._take()

    def _take(self):
        """Keep other processes out of the folder, from now on."""
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        path = cache_dir() / "locks" / f"{name}.lock"
        # one for all of this process: a notebook's cell may be run again
        self._lock = FileLock(path, blocking=False, is_singleton=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise RuntimeError(
                f"another process is training in {self.config.run_dir!r}, or a notebook "
                "that began to is still open. Wait for it, end it (shut the notebook's "
                "kernel down), or choose another run_dir."
            ) from None
        except (OSError, NotImplementedError):
            pass  # a cache folder that may only be read, or on a drive without locks

    def release(self):
        """Let other processes have the folder."""
        self._lock.release(force=True)

    def _is_run(self):
        return (self.path / "config.json").is_file()

    def _then(self):
        """Return the parameters that the run in the folder was begun with."""
        then = self.read("config.json").get("training")
        if not isinstance(then, dict):
            path = self.path / "config.json"
            raise ValueError(
                f"the run is damaged: {path} has no settings of a training"
            )
        if "squared_penalty" in then:  # of a run from before there were three forms
            then["penalty_form"] = "squared" if then["squared_penalty"] else "norm"
        return then

    def _differences(self):
        then = self._then()
        return [
            f"{name} was {then.get(name)!r}, now {value!r}"
            for name, value in self._compared().items()
            if then.get(name) != value
        ]

    def _compared(self):
        left_out = self.NOT_COMPARED + self.EXTENDED
        parameters = asdict(self.config).items()
        return {name: value for name, value in parameters if name not in left_out}

    def _is_extended(self):
        then = self._then()
        return any(
            getattr(self.config, name) != then.get(name) for name in self.EXTENDED
        )

    def is_finished(self):
        """Tell whether the folder holds a finished run of these very parameters, so that it need not be trained again."""
        return (
            self._is_run()
            and (self.path / "metrics.json").is_file()
            and not self._differences()
            and not self._is_extended()
        )

    def begin(self, vocab, train_reviews, valid_reviews):
        """Make the folder ready. An earlier run in it that is not resumed is moved aside, to the next free ``run_dir.N``.

        Parameters
        ----------
        vocab : gluonnlp.Vocab
        train_reviews, valid_reviews : DataFrame

        Raises
        ------
        ValueError
            The run is resumed, but the reviews have changed since it began.
        """
        words = _vocab_json(vocab)
        reviews = pd.concat([train_reviews, valid_reviews])[["text", "stars"]]
        fingerprint = hashlib.sha256(
            pd.util.hash_pandas_object(reviews, index=False).to_numpy().tobytes()
        ).hexdigest()
        if self.config.resume:
            if self.read("config.json").get("reviews") != fingerprint:
                raise ValueError(
                    f"resume=True, but the reviews of {self.config.dataset!r} have changed since this run began."
                )
            if self._is_extended():  # then it is not finished yet
                (self.path / "metrics.json").unlink(missing_ok=True)
                config = self.read("config.json")
                for name in self.EXTENDED:
                    config["training"][name] = getattr(self.config, name)
                write_text(self.path / "config.json", json.dumps(config, indent=2))
        else:
            if self._is_run():
                number = 1
                while (
                    aside := self.path.with_name(f"{self.path.name}.{number}")
                ).exists():
                    number += 1
                self.aside = self.path.rename(aside)
            self.path.mkdir(parents=True, exist_ok=True)
            model = self.config.model_arguments(len(vocab))
            config = {
                "training": asdict(self.config),
                "model": model,
                "reviews": fingerprint,
                "vocab": hashlib.sha256(words.encode()).hexdigest(),
            }
            same = config | {"training": self._compared()}
            config["run"] = hashlib.sha256(json.dumps(same).encode()).hexdigest()
            write_text(self.path / "config.json", json.dumps(config, indent=2))
        write_text(self.path / "vocab.json", words)
        # None in a run from before there were marks
        self.fingerprint = self.read("config.json").get("run")

    def drop_equal_copy(self):
        """Delete the earlier run that was moved aside, if its files of arrays are the very same and nothing else lies there."""
        if self.aside and {path.name for path in self.aside.iterdir()} <= self.FILES:
            arrays = ["model.params", "checkpoint.params"]
            equal, _, _ = filecmp.cmpfiles(self.aside, self.path, arrays, shallow=False)
            if equal == arrays:
                shutil.rmtree(self.aside)
                self.aside = None

    def read(self, name):
        """Return the content of a JSON file of the run: a dict. Raises ValueError if it is damaged."""
        try:
            return read_json(self.path / name)
        except ValueError as error:
            raise ValueError(f"the run is damaged: {error}") from None

    def history(self):
        """Return the epochs so far: list of dict."""
        path = self.path / "metrics.jsonl"
        try:
            return (
                [json.loads(line) for line in path.read_text().splitlines()]
                if path.exists()
                else []
            )
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged: {error}. Start the run anew with resume=False."
            ) from None

    def save_epoch(self, model, trainer, history, is_best):
        """Keep an epoch. Whenever this is cut short, the epochs before it are intact: the checkpoint comes last and counts.

        Raises
        ------
        OSError
            The folder cannot be written to: it is full, read-only or gone.
        """
        if is_best:
            self.save_weights(model)
        with self._replacing("metrics.jsonl") as temporary:
            lines = [json.dumps(epoch) + "\n" for epoch in history]
            temporary.write_text("".join(lines), encoding="utf-8")
        self.save_checkpoint(model, trainer, len(history))

    def save_weights(self, model):
        """Keep the weights in ``model.params``, which has the form of Gluon's ``save_parameters``."""
        parameters = model._collect_params_with_prefix().items()
        arrays = {name: _on_cpu(parameter) for name, parameter in parameters}
        self._save_arrays("model.params", arrays)

    def save_checkpoint(self, model, trainer, epoch, tally=None):
        """Keep all that training goes on from, after an epoch or, with the `tally` of the next one so far, in the middle of that."""
        arrays = checkpoint(model, trainer, epoch, tally)
        self._save_arrays("checkpoint.params", arrays)

    def _save_arrays(self, name, arrays):
        if self.fingerprint is not None:
            arrays[mark(self.fingerprint)] = nd.zeros(1)
        with self._replacing(name) as temporary:
            nd.save(str(temporary), arrays)
            read_layout(temporary)  # MXNet does not tell when its last bytes got lost

    @contextmanager
    def _replacing(self, name):
        path = self.path / name
        try:
            with replacing(path) as temporary:
                yield temporary
        except (OSError, mx.MXNetError, ValueError) as error:
            raise OSError(
                f"{path} could not be written: {str(error).strip().splitlines()[-1]}. What was saved before is intact. Make room, or give "
                "the folder back and its permission to write, and go on with resume=True."
            ) from error

    def restore(self, model, trainer):
        """Go back to where the run was saved last, if it was.

        Returns
        -------
        history : list of dict
            The epochs up to there.
        earlier : tuple or None
            Of an epoch that was saved in the middle: batches done, seconds taken, and what `_Tally.arrays` returned.

        Raises
        ------
        ValueError
            The checkpoint is damaged, or what belongs to it is missing.
        """
        for left_over in self.path.glob(".*.partial"):  # by a run that was killed
            left_over.unlink()
        path = self.path / "checkpoint.params"
        if not path.exists():
            return [], None
        try:
            read_layout(path, self.fingerprint)
            done, earlier = restore(nd.load(str(path)), model, trainer)
        except (
            mx.MXNetError,
            LookupError,
            TypeError,
            ValueError,
            AssertionError,
        ) as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise ValueError(
                f"{path} is damaged: {reason}. Start the run anew with resume=False."
            ) from error
        history = self.history()[:done]
        if len(history) < done or (done and not (self.path / "model.params").exists()):
            raise ValueError(
                f"{str(self.path)!r} lacks model.params or some of the {done} epochs of metrics.jsonl. "
                "Start the run anew with resume=False."
            )
        if done:
            self.check_layout(model)
        return history, earlier

    def check_layout(self, model):
        """Raise ValueError unless ``model.params`` is this run's and holds what the model needs."""
        expected = model._collect_params_with_prefix()
        try:
            check_layout(self.path / "model.params", expected, self.fingerprint)
        except ValueError as error:
            raise ValueError(
                f"{error}. Start the run anew with resume=False."
            ) from None


def _on_cpu(parameter):
    return parameter.list_data()[0].as_in_context(mx.cpu())


def checkpoint(model, trainer, epoch, tally=None):
    """Return all that training goes on from, as a dict of NDArrays: weights, Adam's moments, the step and the epoch.

    The random generators are not in it: each epoch seeds them anew. Nor are the devices: it is the same for one and for several.
    In the middle of the next epoch, what became of its batches so far belongs to it.
    """
    state = {
        f"weight:{name}": _on_cpu(parameter)
        for name, parameter in _named_parameters(model)
    }
    for index, moments in trainer._updaters[0].states.items():
        for name, moment in zip(("mean", "variance"), moments):
            state[f"{name}:{index}"] = moment.as_in_context(mx.cpu())
    state["epoch"] = nd.array([epoch], dtype="int64")
    state["step"] = nd.array([trainer._optimizer.num_update], dtype="int64")
    if tally:
        state["batches"] = nd.array([tally.count], dtype="int64")
        state["seconds"] = nd.array([tally.seconds], dtype="float64")
        for part, array in zip(_TALLIED, tally.arrays()):
            state[f"tally:{part}"] = nd.from_numpy(array)
    return state


def restore(state, model, trainer):
    """Put a checkpoint back into a model and its trainer, on every device.

    Returns
    -------
    epoch : int
    earlier : tuple or None
        As `RunDirectory.restore` returns it.
    """
    for name, parameter in _named_parameters(model):
        parameter.set_data(state[f"weight:{name}"])
    optimizer = trainer._optimizer
    optimizer.num_update = int(state["step"].asscalar())
    with_moments = [int(name[5:]) for name in state if name.startswith("mean:")]
    for index, part in itertools.product(with_moments, ("mean", "variance")):
        if state[f"{part}:{index}"].shape != trainer._params[index].shape:
            raise ValueError(f"{part}:{index} has not the shape of its weight")
    for updater, device in zip(trainer._updaters, devices_of(model)):
        optimizer._set_current_context(device.device_id)
        for index in with_moments:
            updater.states[index] = tuple(
                state[f"{part}:{index}"].copyto(device) for part in ("mean", "variance")
            )
            updater.states_synced[index] = True
            optimizer._index_update_count[index] = optimizer.num_update
    earlier = None
    if "batches" in state:
        tallied = [state[f"tally:{part}"].asnumpy() for part in _TALLIED]
        count, seconds = (state[name].asscalar() for name in ("batches", "seconds"))
        earlier = int(count), float(seconds), tallied
    return int(state["epoch"].asscalar()), earlier


def _named_parameters(model):
    """Return names and parameters; the names are without the model's own prefix, which counts the models of a process."""
    return [
        (name.removeprefix(model.prefix), parameter)
        for name, parameter in model.collect_params().items()
    ]


# Training


@dataclass(frozen=True)
class Corpus:
    """Reviews made ready for training.

    Attributes
    ----------
    train_reviews, valid_reviews : DataFrame
        With ``text`` and ``stars``.
    train_tokens, valid_tokens : TokenizedTexts
    vocab : gluonnlp.Vocab
        Of the training reviews, with word vectors attached.
    train_batches, valid_batches : Batches
        The first are shuffled.
    """

    train_reviews: pd.DataFrame
    valid_reviews: pd.DataFrame
    train_tokens: TokenizedTexts
    valid_tokens: TokenizedTexts
    vocab: nlp.Vocab
    train_batches: Batches
    valid_batches: Batches


def prepare(config, reviews=None):
    """Do what the data chapter does step by step: load, split, tokenize, number, attach word vectors, batch.

    Parameters
    ----------
    config : TrainingConfig
    reviews : DataFrame, optional
        Taken instead of those that ``config.dataset`` names.

    Returns
    -------
    Corpus

    Raises
    ------
    FileNotFoundError, ValueError, RuntimeError
        As `load_reviews`, `split_reviews` and `load_glove` do.
    """
    if reviews is None:
        reviews = load_reviews(config.dataset, config.sample_size, config.seed)
    parts = split_reviews(reviews, config.valid_size, config.train_size, config.seed)
    tokens = [
        tokenize_kept(part["text"], config.max_tokens, config.lower) for part in parts
    ]
    vocab = build_vocab(tokens[0], config.vocab_size)
    vocab.set_embedding(load_glove(config.embedding, vocab.idx_to_token))
    bucketing = {
        name: getattr(config, name)
        for name in ("batch_size", "num_buckets", "bucket_ratio")
    }
    batches = [
        Batches(
            part_tokens,
            part["stars"],
            vocab,
            shuffle=shuffle,
            **bucketing,
        )
        for part, part_tokens, shuffle in zip(parts, tokens, (True, False))
    ]
    return Corpus(*parts, *tokens, vocab, *batches)


def build_model(config, vocab, devices):
    """Return a model with seeded random weights and the word vectors attached to `vocab`.

    Parameters
    ----------
    config : TrainingConfig
    vocab : gluonnlp.Vocab
        With an embedding set.
    devices : list of mxnet.Context
        Each gets the same weights.

    Returns
    -------
    SelfAttentiveBiLSTM
    """
    seed_everything(config.seed)
    choose_threads(config.hidden_size)
    model = SelfAttentiveBiLSTM(**config.model_arguments(len(vocab)))
    model.initialize(mx.init.Xavier(), ctx=devices)
    model.embedding.weight.set_data(vocab.embedding.idx_to_vec)
    model.hybridize()
    return model


def devices_of(model):
    """Return the devices that a model lives on: list of mxnet.Context."""
    return model.output.weight.list_ctx()


def build_objective(config, train_stars, devices):
    """Return what training makes small, a function of logits, attention, valid_length and stars: the loss of each review.

    Cross-entropy, weighted or not, plus the penalty: Lin et al. (2017), section 2.2.
    """
    weights = (
        class_weights(train_stars)
        if config.class_weights == "auto"
        else config.class_weights
    )
    cross_entropy = (
        gluon.loss.SoftmaxCrossEntropyLoss()
        if weights is None
        else WeightedSoftmaxCE(weights)
    )
    cross_entropy.initialize(ctx=devices)

    def objective(logits, attention, valid_length, stars):
        loss = cross_entropy(logits, stars - 1)
        if config.penalty_coefficient:
            penalty = diversity_penalty(attention, config.penalty_form, valid_length)
            loss = loss + config.penalty_coefficient * penalty
        return loss

    return objective


_TALLIED = ("loss", "stars", "logits")


class _Tally:
    """What became of an epoch's batches, left on the devices until it is asked for.

    Parameters
    ----------
    fitted : list of int, optional
        Sizes of batches known to be done; `arrays` adds to it.
    earlier : tuple, optional
        From `RunDirectory.restore`: the batches before those that are added.
    """

    def __init__(self, fitted=None, earlier=None):
        self.batches = []  # of each, on each device: loss, stars, logits
        self.sizes = []  # tokens of each, padding included
        self.fitted = [] if fitted is None else fitted
        self.before, seconds, self.earlier = earlier or (0, 0.0, None)
        self.started = time.perf_counter() - seconds

    @property
    def count(self):
        return self.before + len(self.batches)

    @property
    def seconds(self):
        return time.perf_counter() - self.started

    def add(self, batch, outcomes):
        """Add a batch from `on_devices`, and the loss and logits that each device made of its part."""
        self.batches.append(
            [
                (loss.detach(), stars, logits.detach())
                for (share, _, _, stars), (loss, logits) in zip(batch, outcomes)
                if share
            ]
        )
        self.sizes.append(sum(tokens.size for _, tokens, _, _ in batch))

    def arrays(self, first=None, last=None):
        """Return loss (reviews,), stars (reviews,) and logits (reviews, 5) of these batches, of all by default.

        It waits until they are done.
        """
        parts = [
            [array.asnumpy() for array in part]
            for batch in self.batches[first:last]
            for part in batch
        ]
        self.fitted.append(max(self.sizes[first:last], default=0))
        if self.earlier and first is None:
            parts.insert(0, self.earlier)
        return [np.concatenate(arrays) for arrays in zip(*parts)]

    def read(self, first=None, last=None):
        """Return mean loss, stars and predictions of these batches."""
        loss, stars, logits = self.arrays(first, last)
        return (
            float(loss.mean(dtype=np.float64)),
            stars.astype(int),
            logits.argmax(axis=1) + 1,
        )

    def first_not_finite(self):
        """Return the number of the first batch with a loss that is infinite or no number."""
        return next(
            number
            for number, batch in enumerate(self.batches, self.before + 1)
            if not all(np.isfinite(loss.asnumpy()).all() for loss, _, _ in batch)
        )


def scores(stars, predictions):
    """Return ``{"accuracy", "weighted_f1"}`` of predicted stars."""
    return {
        "accuracy": float(accuracy_score(stars, predictions)),
        "weighted_f1": float(
            f1_score(stars, predictions, average="weighted", zero_division=0)
        ),
    }


def evaluate(model, batches, objective):
    """Predict every review once, without dropout.

    Returns
    -------
    loss : float
        The mean of the objective over reviews.
    stars, predictions : ndarray of int, shape (reviews,)
        From 1 to 5, in the order of the batches.
    """
    tally = _Tally()
    for batch in on_devices(batches, devices_of(model)):
        outcomes = []
        for _, tokens, valid_length, stars in batch:
            logits, attention = model(tokens, valid_length)
            loss = objective(logits, attention, valid_length, stars)
            outcomes.append((loss, logits))
        tally.add(batch, outcomes)
    return tally.read()


def training_step(model, objective, trainer, batch, clip_norm=None):
    """Move the weights once, down the gradient of a batch's mean loss.

    Each device finds the gradient of its part of the batch, weighed by the part's share of the reviews; their sum is the gradient of
    the whole, on every device.

    Parameters
    ----------
    model : SelfAttentiveBiLSTM
    objective : callable
        From `build_objective`.
    trainer : mxnet.gluon.Trainer
        With ``update_on_kvstore=False``.
    batch : list of tuple
        From `on_devices`: share, tokens, valid length and stars, for each of the model's devices.
    clip_norm : float, optional
        The gradient is shortened to this norm, taken over all weights together, if it is longer.

    Returns
    -------
    list of (loss, logits)
        For each device, with its B reviews: NDArrays, shapes (B,) and (B, 5).
    """
    outcomes, losses = [], []
    with mx.autograd.record():
        for share, tokens, valid_length, stars in batch:
            logits, attention = model(tokens, valid_length)
            loss = objective(logits, attention, valid_length, stars)
            outcomes.append((loss, logits))
            losses.append(loss.mean() * share)
    mx.autograd.backward(losses)
    trainer.allreduce_grads()
    if clip_norm:
        trained = [p.list_grad() for p in trainer._params if p.grad_req != "null"]
        for gradients in zip(*trained):  # those of one device
            gluon.utils.clip_global_norm(gradients, clip_norm, check_isfinite=False)
    trainer.update(1)
    return outcomes


@contextmanager
def _advice_on_memory(config, devices, fitted, longest):
    """Turn MXNet's words on memory into advice.

    `fitted` are the tokens of the batches that are known to have fitted, `longest` those of the longest review.
    """
    try:
        yield
    except mx.MXNetError as error:
        said = str(error).lower()
        if not any(
            words in said
            for words in ("out of memory", "failed to allocate", "alloc_failed")
        ):
            raise
        smaller = "a smaller max_tokens"
        if config.batch_size > 1:
            # the tokens of the largest batch, for each of batch_size
            tokens = max(1, config.bucket_ratio) * longest
            fits = config.batch_size // 2
            if fitted:
                fits = max(1, min(fits, int(max(fitted) / tokens)))
            known = f" (batches of {max(fitted):,} tokens did fit)" if fitted else ""
            smaller = f"batch_size={fits}{known}"
        elsewhere = (
            ", or go on with this run on other devices: resume=True with device='cpu' or with several, as in device='gpu:0,gpu:1'"
            if devices[0].device_type == "gpu"
            else ""
        )
        raise MemoryError(
            f"the memory of {', '.join(map(str, devices))} does not suffice for batch_size={config.batch_size} and reviews of {longest} "
            f"tokens. The epochs before this one are kept. Begin anew with {smaller}{elsewhere}. In a notebook, restart the kernel "
            "first: it still holds the memory."
        ) from error


@contextmanager
def _signals_noted():
    """Take note of SIGINT and SIGTERM; the same one again ends the process. Gives names.

    What the process ignores, as shells have it do in the background, it goes on ignoring.
    """
    came, before = [], {}

    def note(number, _):
        came.append(signal.Signals(number).name)
        signal.signal(number, before[number])

    # Python allows it nowhere else.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, note)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stopped(signals, after):
    return KeyboardInterrupt(
        f"{signals[0]} came. Stopped and saved after {after}. To go on, run the same "
        "with resume=True."
    )


def _require_finite(loss, tally, epoch, steps):
    """Raise RuntimeError with the first batch at fault if a mean loss is infinite or no number."""
    if not np.isfinite(loss):
        raise RuntimeError(
            f"the loss of batch {tally.first_not_finite()} of {steps} in epoch {epoch} is infinite or no number. What was saved before is "
            "kept. Begin anew with a lower learning_rate, or set clip_norm."
        )


def _draw_dropout(model, batch):
    """Draw the random numbers that a step on the batch draws, and forget what comes out."""
    with mx.autograd.train_mode():
        for _, tokens, valid_length, _ in batch:
            logits, _ = model(tokens, valid_length)
            logits.wait_to_read()


def train(run, model, objective, train_batches, valid_batches):
    """Train, keep the best epoch, and leave the model with its weights.

    Parameters
    ----------
    run : RunDirectory
        Made ready by its `begin`.
    model : SelfAttentiveBiLSTM
        On one device or several, which then share each batch.
    objective : callable
        From `build_objective`.
    train_batches, valid_batches : Batches

    Returns
    -------
    pandas.DataFrame
        A row an epoch: ``epoch``, ``learning_rate``, ``train_loss``, ``train_accuracy``, ``train_weighted_f1``, the same of
        ``valid_``, and ``seconds``. The best epoch is the one with the highest validation accuracy, the first if several have it.

    Raises
    ------
    RuntimeError
        The loss became infinite or no number.
    KeyboardInterrupt
        SIGINT or SIGTERM came. The batch was finished and the run saved; resumed, it goes on with the next batch.
    OSError
        The run directory cannot be written to.
    MemoryError
        A batch does not fit into the memory of the device.
    ValueError
        The run is resumed and a file of it is damaged.
    """
    config, devices = run.config, devices_of(model)
    trainer = gluon.Trainer(
        model.collect_params(),
        "adam",
        {"learning_rate": config.learning_rate},
        update_on_kvstore=False,
    )
    history, earlier = run.restore(model, trainer)
    done = len(history)

    steps, fitted = len(train_batches), []
    longest = int(train_batches.lengths.max())
    with (
        _signals_noted() as signals,
        tqdm(
            total=config.epochs * steps,
            initial=done * steps,
            desc="epoch",
            unit=" batches",
            mininterval=0.5,
        ) as bar,
        _advice_on_memory(config, devices, fitted, longest),
    ):
        for epoch in range(done + 1, config.epochs + 1):
            if (
                history
                and config.patience
                and epoch - 1 - _best(history)["epoch"] >= config.patience
            ):
                break
            saved = time.perf_counter()
            seed_everything(epoch_seed(config.seed, epoch))
            trainer.set_learning_rate(
                config.learning_rate * LEARNING_RATE_DECAY ** ((epoch - 1) // 2)
            )
            bar.set_description(f"epoch {epoch} of {config.epochs}")

            tally = _Tally(fitted, earlier)
            earlier = None

            for number, batch in enumerate(on_devices(train_batches, devices), 1):
                bar.update()
                if number <= tally.before:
                    _draw_dropout(model, batch)
                    continue
                outcomes = training_step(
                    model, objective, trainer, batch, config.clip_norm
                )
                tally.add(batch, outcomes)
                if (
                    number % BATCHES_PER_READING == 0
                    and len(tally.batches) > BATCHES_PER_READING
                ):
                    # ten batches back, so that the devices have work while we wait
                    recent_loss, recent_stars, predictions = tally.read(
                        -2 * BATCHES_PER_READING, -BATCHES_PER_READING
                    )
                    _require_finite(recent_loss, tally, epoch, steps)
                    bar.set_postfix(
                        loss=f"{recent_loss:.3f}",
                        accuracy=f"{(recent_stars == predictions).mean():.3f}",
                        refresh=False,
                    )
                if signals or time.perf_counter() - saved > SECONDS_PER_SAVING:
                    _require_finite(tally.read()[0], tally, epoch, steps)
                    run.save_checkpoint(model, trainer, len(history), tally)
                    saved = time.perf_counter()
                if signals:
                    raise _stopped(
                        signals, f"batch {number} of {steps} in epoch {epoch}"
                    )

            train_outcome = tally.read()
            _require_finite(train_outcome[0], tally, epoch, steps)
            line = {"epoch": epoch, "learning_rate": trainer.learning_rate}
            for part, (loss, stars, predictions) in (
                ("train", train_outcome),
                ("valid", evaluate(model, valid_batches, objective)),
            ):
                line[f"{part}_loss"] = loss
                line |= {
                    f"{part}_{name}": value
                    for name, value in scores(stars, predictions).items()
                }
            if not np.isfinite(line["valid_loss"]):
                raise RuntimeError(
                    f"the held-out loss of epoch {epoch} is {line['valid_loss']}. What was saved before is kept. Begin anew with a lower "
                    "learning_rate, or set clip_norm."
                )
            history.append(line | {"seconds": tally.seconds})
            run.save_epoch(
                model, trainer, history, is_best=_best(history)["epoch"] == epoch
            )
            if signals:
                raise _stopped(signals, f"epoch {epoch}")
    run.check_layout(model)
    best = str(run.path / "model.params")
    model.load_parameters(best, ctx=devices, ignore_extra=True)
    return pd.DataFrame(history)


def epoch_seed(seed, epoch):
    """Return the seed of an epoch. Each epoch has its own, so that a resumed run draws what an unbroken one would have drawn."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0] >> 1)


def _best(history):
    return max(history, key=lambda line: line["valid_accuracy"])


# Results


# Punctuation counts, as it does for the model.
TERMS = {"ngram_range": (1, 2), "token_pattern": r"\w+|[^\w\s]"}
NUM_TERMS = 50_000
# Counting all pairs of words of more reviews would take gigabytes.
COUNTED_REVIEWS = 50_000


def _commonest_terms(reviews):
    """Return words and pairs of words.

    Of equally common ones, scikit-learn's ``max_features`` keeps others on other
    processors.
    """
    counter = CountVectorizer(**TERMS)
    counted = counter.fit_transform(reviews["text"].iloc[:COUNTED_REVIEWS])
    counts = np.asarray(counted.sum(axis=0))[0]
    commonest = np.argsort(-counts, kind="stable")[:NUM_TERMS]
    return counter.get_feature_names_out()[commonest]


def baselines(train_reviews, valid_reviews, tfidf=True):
    """Score what any model has to beat, on the same held-out reviews.

    Parameters
    ----------
    train_reviews, valid_reviews : DataFrame
        With ``text`` and ``stars``.
    tfidf : bool, default True
        False leaves it out.

    Returns
    -------
    dict
        ``majority`` (always the commonest star of the training reviews) and ``tfidf``
        (logistic regression on TF-IDF of one and two words, the commonest 50 000 of the
        first 50 000 reviews), each a dict from `scores`.
    """
    stars = train_reviews["stars"]
    classifiers = {"majority": DummyClassifier()}
    if tfidf and stars.nunique() == 1:  # nothing to regress
        classifiers["tfidf"] = DummyClassifier()
    elif tfidf:
        terms = TfidfVectorizer(**TERMS, vocabulary=_commonest_terms(train_reviews))
        # Newton's method ends so near the optimum that every machine predicts the same.
        regression = LogisticRegression(C=3, solver="newton-cg", tol=1e-8)
        classifiers["tfidf"] = make_pipeline(terms, regression)
    found = {}
    for name, classifier in tqdm(classifiers.items(), desc="baselines", leave=False):
        classifier.fit(train_reviews["text"].tolist(), stars)
        found[name] = scores(
            valid_reviews["stars"], classifier.predict(valid_reviews["text"].tolist())
        )
    return found


def write_metrics(
    run, history, stars, predictions, train_size, devices, baseline_scores=None
):
    """Write ``metrics.json`` and return it. The run is finished then.

    Called once as soon as the model is trained, and again with the scores of the
    baselines, which may take long and much memory. Then others may have the folder.

    Parameters
    ----------
    run : RunDirectory
    history : DataFrame
        From `train`.
    stars, predictions : ndarray of int, shape (valid_size,)
        Of the best epoch.
    train_size : int
    devices : list of mxnet.Context
    baseline_scores : dict, optional
        From `baselines`.

    Returns
    -------
    dict
        ``seconds`` are those of all epochs, before and after a resume.
    """
    metrics = scores(stars, predictions)
    metrics["confusion_matrix"] = confusion_matrix(
        stars, predictions, labels=STARS
    ).tolist()
    for name, values in (baseline_scores or {}).items():
        metrics |= {f"{name}_{score}": value for score, value in values.items()}
    metrics |= {
        "epochs": len(history),
        "best_epoch": int(_best(history.to_dict("records"))["epoch"]),
        "train_size": train_size,
        "valid_size": len(stars),
        "seconds": round(float(history["seconds"].sum()), 1),
        "device": ", ".join(map(str, devices)),
        "seed": run.config.seed,
    }
    write_text(run.path / "metrics.json", json.dumps(metrics, indent=2))
    run.drop_equal_copy()
    if baseline_scores is not None:
        run.release()
    return metrics


def fit(config, corpus=None):
    """Do what the training chapter does step by step: prepare, train, compare with the baselines, write the metrics.

    Parameters
    ----------
    config : TrainingConfig
    corpus : Corpus, optional
        From `prepare`, which several runs can share.

    Returns
    -------
    dict
        The content of ``metrics.json``.
    """
    run = RunDirectory(config)
    devices = choose_devices(config.device)
    corpus = corpus or prepare(config)
    model = build_model(config, corpus.vocab, devices)
    objective = build_objective(config, corpus.train_reviews["stars"], devices)
    run.begin(corpus.vocab, corpus.train_reviews, corpus.valid_reviews)
    history = train(run, model, objective, corpus.train_batches, corpus.valid_batches)
    _, stars, predictions = evaluate(model, corpus.valid_batches, objective)
    results = run, history, stars, predictions, len(corpus.train_reviews), devices
    write_metrics(*results)
    found = baselines(corpus.train_reviews, corpus.valid_reviews, config.tfidf)
    return write_metrics(*results, found)
