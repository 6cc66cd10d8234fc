"""Use a trained run: texts in, stars and attention out."""

import hashlib
import json
import reprlib
import warnings
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from selfatt_lib.data import Batches, TokenizedTexts, locate, tokenize_all
from selfatt_lib.data.sources import is_unicode
from selfatt_lib.machinery.runtime import (
    choose_devices,
    choose_threads,
    mx,
    mxnet_lock,
    nlp,
)
from selfatt_lib.model import POOLINGS, SelfAttentiveBiLSTM
from selfatt_lib.params import check_layout, read_json


@dataclass(frozen=True)
class Prediction:
    """What the model makes of one text.

    Attributes
    ----------
    text : str
    stars : int
        The most probable, from 1 to 5.
    probabilities : ndarray, shape (5,)
        Of 1 to 5 stars.
    tokens : list of str
        What the model read, clipped to its length.
    known : ndarray of bool, shape (tokens,)
        Whether the token is in the model's vocabulary; the others are all one unknown word to it.
    attention : ndarray, shape (hops, tokens)
        Each row sums to 1.
    clipped : bool
        Whether some of the text was not read: it has more tokens than the model
        reads, or a word of more than 300 characters.
    """

    text: str
    stars: int
    probabilities: np.ndarray
    tokens: list
    known: np.ndarray
    attention: np.ndarray
    clipped: bool


class Classifier:
    """A trained model with its vocabulary. Threads and forked processes may share it.

    Examples
    --------
    >>> classifier = Classifier.load("runs/quick")  # doctest: +SKIP
    >>> [prediction.stars for prediction in classifier.predict(["The food was great.", "Never again."])]  # doctest: +SKIP
    [5, 1]
    """

    def __init__(self, model, vocab, max_tokens, lower, device):
        self.model, self.vocab, self.device = model, vocab, device
        self.max_tokens, self.lower = max_tokens, lower

    @classmethod
    def load(cls, run_dir, device="auto"):
        """Load the best epoch of a run. No code in the folder is run.

        Parameters
        ----------
        run_dir : str or Path
        device : str, default "auto"
            As in `choose_devices`; of several, the first predicts.

        Raises
        ------
        FileNotFoundError
            The folder is not a run, or its first epoch is not finished.
        ValueError
            A file in it is damaged, or does not belong to the others. The message names it.
        """
        run_dir = locate(run_dir)
        config, vocab, params = paths = [
            run_dir / name for name in ("config.json", "vocab.json", "model.params")
        ]
        missing = [path.name for path in paths if not path.exists()]
        if missing:
            raise FileNotFoundError(
                f"{str(run_dir)!r} is not a trained run: it has no {', '.join(missing)}. 'make train' makes one in runs/quick."
            )
        device = choose_devices(device)[0]
        try:
            settings, max_tokens, lower, words, run = _read_config(config)
            vocab = _read_vocab(vocab, settings["vocab_size"], words)
            with mxnet_lock:
                model = _read_model(params, settings, run, device)
        except ValueError as error:
            raise ValueError(
                f"the run in {str(run_dir)!r} is damaged: {error}. Copy the whole of it again, or train it anew."
            ) from error
        model.hybridize()
        choose_threads(settings["hidden_size"])
        return cls(model, vocab, max_tokens, lower, device)

    def predict(self, texts, batch_size=64, on_invalid="raise"):
        """Predict the stars of texts.

        Parameters
        ----------
        texts : sequence of str
        batch_size : int, default 64
        on_invalid : {"raise", "skip"}, default "raise"
            What becomes of a text that is missing (None or NaN), has no word or is not
            valid Unicode: it is refused with all others, or its prediction is None.

        Returns
        -------
        list of Prediction
            In the order of the texts.

        Raises
        ------
        TypeError
            A single string was given, or something that is not a text (with its place).
        ValueError
            A text has no word or is not valid Unicode (with its place), or `on_invalid`
            is unknown.
        RuntimeError
            The weights are so large that the computation overflows.
        """
        if isinstance(texts, str):
            raise TypeError(
                "predict takes a list of texts; put the text in brackets: predict([text])"
            )
        if on_invalid not in ("raise", "skip"):
            raise ValueError(
                f"on_invalid must be 'raise' or 'skip'; got {on_invalid!r}"
            )
        texts = list(texts)
        valid = []
        for place, text in enumerate(texts):
            error = _why_invalid(text)
            if error is None:
                valid.append(place)
            elif on_invalid == "raise":
                raise type(error)(
                    f"text {place + 1} of {len(texts)} {error}. With on_invalid='skip', "
                    "such texts get None and all others a prediction."
                )
        predictions = [None] * len(texts)
        chosen = [texts[place] for place in valid]
        tokenized = tokenize_all(chosen, self.max_tokens, self.lower)
        for place, prediction in zip(
            valid, self._predict(chosen, tokenized, batch_size)
        ):
            predictions[place] = prediction
        return predictions

    def predict_tokens(self, tokens, batch_size=64):
        """Predict the stars of texts that are split into tokens already: to leave a word out, to put another in its place.

        Parameters
        ----------
        tokens : list of list of str
            As `tokenize` returns them. Longer lists are clipped to the model's length.
        batch_size : int, default 64

        Returns
        -------
        list of Prediction

        Raises
        ------
        ValueError
            A list is empty, or not a list of strings, or one is blank (with its place).
        RuntimeError
            As in `predict`.
        """
        for place, words in enumerate(tokens, 1):
            if (
                not isinstance(words, list)
                or not words
                or not all(isinstance(word, str) and word.strip() for word in words)
            ):
                raise ValueError(
                    f"tokens {place} of {len(tokens)} must be a list of at least one string, none blank; got {words!r}"
                )
        tokenized = TokenizedTexts.from_lists(
            [words[: self.max_tokens] for words in tokens]
        )
        texts = [" ".join(words) for words in tokens]
        return self._predict(texts, tokenized, batch_size)

    def _predict(self, texts, tokenized, batch_size):
        if not texts:
            return []
        known = np.array([word in self.vocab for word in tokenized.words])
        batches = Batches(tokenized, np.ones(len(texts)), self.vocab, batch_size)
        predictions = [None] * len(texts)
        # one review needs no buckets, and they would cost it time
        with mxnet_lock:  # the sampler sets warnings aside, in all threads
            sampler = batches.sampler() if len(texts) > 1 else [[0]]
        for numbers in sampler:
            tokens, valid_length, _ = batches.assemble(numbers)
            with mxnet_lock:
                logits, attention = self._compute(tokens, valid_length)
            if not np.isfinite(logits).all():
                raise RuntimeError(
                    "the model's numbers overflow: its weights are too large. Copy the run again, or train it anew."
                )
            probabilities = softmax(logits, axis=1)
            for row, number in enumerate(numbers):
                words = tokenized[number]
                tokens = [tokenized.words[i] for i in words]
                predictions[number] = Prediction(
                    text=texts[number],
                    stars=int(probabilities[row].argmax()) + 1,
                    probabilities=probabilities[row],
                    tokens=tokens,
                    known=known[words],
                    attention=attention[row, :, : len(words)],
                    clipped=_is_clipped(texts[number], tokens, self.max_tokens),
                )
        return predictions

    def _compute(self, *arrays):
        """Return logits and attention. Every array of MXNet's is gone with the call."""
        inputs = [mx.nd.from_numpy(a).as_in_context(self.device) for a in arrays]
        return [array.asnumpy() for array in self.model(*inputs)]


def _why_invalid(text):
    """Return the error that a text deserves, or None."""
    if not isinstance(text, str):
        return TypeError(f"must be a string; got {text!r:.80}")
    if not is_unicode(text):
        return ValueError(f"is not valid Unicode; save it as UTF-8: {text[:40]!r}")
    if not text or text.isspace():
        return ValueError(f"has no word; got {text[:40]!r}")
    return None


def _is_clipped(text, tokens, max_tokens):
    """Tell whether a text has characters that are in none of its tokens."""
    words = text.split(None, max_tokens)  # the last is all that is left
    # "İ" is one character in the text and two in a token, where it is lower case
    return len("".join(words).lower()) > len("".join(tokens).lower())


def _is_size(value):
    return type(value) is int and 1 <= value < 2**31


def _is_share(value):
    return type(value) in (int, float) and 0 <= value < 1


def _is_flag(value):
    return type(value) is bool


# What the settings of a run can be, whoever wrote them. The number of layers alone decides how long it takes to build a model; all
# other sizes have to be those of arrays in the file.
POSSIBLE = {
    "vocab_size": _is_size,
    "embedding_size": _is_size,
    "hidden_size": _is_size,
    "num_layers": lambda value: _is_size(value) and value <= 100,
    "attention_units": _is_size,
    "attention_hops": _is_size,
    "classifier_units": _is_size,
    "num_classes": lambda value: type(value) is int and value == 5,
    "pooling": lambda value: value in POOLINGS,
    "prune_p": lambda value: value is None or _is_size(value),
    "prune_q": lambda value: value is None or _is_size(value),
    "dropout": _is_share,
    "embedding_dropout": _is_share,
    "train_embedding": _is_flag,
    "max_tokens": _is_size,
    "lower": _is_flag,
}


def _read_config(path):
    """Return the arguments of `SelfAttentiveBiLSTM`, `max_tokens`, `lower`, and the vocabulary's and the run's fingerprints, which old runs lack."""
    config = read_json(path)
    model, training = (config.get(part) for part in ("model", "training"))
    if not (isinstance(model, dict) and isinstance(training, dict)):
        raise ValueError(f"{path}: it has no settings of a model and its training")
    reading = {name: training.get(name) for name in ("max_tokens", "lower")}
    settings = model | reading
    for name in POSSIBLE | settings:
        value = settings.get(name)
        if name not in POSSIBLE or not POSSIBLE[name](value):
            raise ValueError(f"{path}: {name[:80]} cannot be {reprlib.repr(value)}")
    return model, *reading.values(), config.get("vocab"), config.get("run")


def _read_vocab(path, size, fingerprint):
    """Return the vocabulary, if its file is what GluonNLP itself writes of it."""
    content = read_json(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it warns, and mends at length
            vocab = nlp.Vocab.from_json(json.dumps(content))
        whole = json.loads(vocab.to_json()) == content
    except Exception as error:  # it checks little, so this can be any
        raise ValueError(f"{path}: {error!r}") from error
    if not whole or not vocab.unknown_token:
        raise ValueError(f"{path}: its words and their numbers contradict each other")
    if len(vocab) != size:
        raise ValueError(f"{path}: it has {len(vocab)} words, config.json says {size}")
    if fingerprint not in (None, hashlib.sha256(path.read_bytes()).hexdigest()):
        raise ValueError(f"{path}: it is another run's, or was changed")
    return vocab


def _read_model(path, settings, run, device):
    """Return the model with its weights. Nothing is allocated for it before its file is known to hold them."""
    model = SelfAttentiveBiLSTM(**settings)
    parameters = model._collect_params_with_prefix()
    check_layout(path, parameters, run)
    model.load_parameters(str(path), ctx=device, ignore_extra=True)
    for name, parameter in parameters.items():
        if not np.isfinite(parameter.data(device).asnumpy()).all():
            raise ValueError(f"{path}: {name} holds infinities or NaN")
    return model
