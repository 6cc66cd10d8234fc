"""Use a trained run: texts in; labels, attention and embeddings out."""

import warnings
from dataclasses import dataclass

import numpy as np

from selfatt_lib import engines, reference
from selfatt_lib.data.batches import Batches
from selfatt_lib.data.tokens import (
    TokenizedTexts,
    is_unicode,
    plain_text,
    tokenize,
    tokenize_all,
)
from selfatt_lib.data.vocabulary import Vocabulary
from selfatt_lib.labels import are_stars, listed
from selfatt_lib.machinery.places import locate_run
from selfatt_lib.machinery.threads import in_threads, one_thread_for_blas
from selfatt_lib.run import OtherEdition, read_run

# NumPy predicts fewer in the time that an engine takes to start
TEXTS_WORTH_AN_ENGINE = 10_000


@dataclass(frozen=True)
class Prediction:
    """What the model makes of one text.

    Attributes
    ----------
    text : str
        As it was given; without HTML if the model was trained so.
    label : int, float or str
        The most probable.
    labels : list
        All of them, in the order of the probabilities.
    probabilities : ndarray, shape (C,)
    tokens : list of str
        What the model read, clipped to its length.
    known : ndarray of bool, shape (tokens,)
        Whether the token is in the model's vocabulary; the others are all one unknown
        word to it.
    attention : ndarray, shape (hops, tokens)
        Each row sums to 1.
    clipped : bool
        Whether some of the text was not read: it has more tokens than the model
        reads, or a word of more than 300 characters.
    """

    text: str
    label: int | float | str
    labels: list
    probabilities: np.ndarray
    tokens: list
    known: np.ndarray
    attention: np.ndarray
    clipped: bool

    @property
    def stars(self):
        """The label where labels are stars, from 1 to 5: int."""
        if not are_stars(self.labels):
            raise AttributeError(
                f"this model predicts no stars but {listed(self.labels)}: see label"
            )
        return self.label


class Classifier:
    """A trained model with its vocabulary. Threads and forked processes may share it.

    Batches are computed in threads. NumPy's and SciPy's own, in BLAS, are switched off
    in this process, since they would only wait.

    It computes with `reference.forward`; more than 10,000 texts, or any on a GPU that
    was asked for by name, with an engine.

    Parameters
    ----------
    weights : dict of ndarray
        Named as in `reference`.
    vocab : Vocabulary
    settings : ModelSettings
    labels : list
        The classes, in the order of their numbers.
    max_tokens : int, default 100
    lower : bool, default True
    device : str, default "auto"
        As in `engines.choose`; of several, the first predicts.
    language : str, default "en"
        As in `tokenize`.
    unescape_html : bool, default False
        Undo HTML in the texts, as `plain_text` does.

    Examples
    --------
    >>> classifier = Classifier.load("runs/quick")  # doctest: +SKIP
    >>> texts = ["The food was great.", "Never again."]  # doctest: +SKIP
    >>> [found.stars for found in classifier.predict(texts)]  # doctest: +SKIP
    [5, 1]
    """

    def __init__(
        self,
        weights,
        vocab,
        settings,
        labels,
        max_tokens=100,
        lower=True,
        device="auto",
        language="en",
        unescape_html=False,
    ):
        self.weights, self.vocab, self.settings = weights, vocab, settings
        self.labels = labels
        self.max_tokens, self.device = max_tokens, device
        self.reading = max_tokens, lower, language
        self.unescape_html = unescape_html
        self._forward, self._engine = self._numpy, None
        one_thread_for_blas()
        if device not in ("auto", "cpu"):
            self._forward = self._start_engine()

    @classmethod
    def load(cls, run_dir, device="auto"):
        """Load the best epoch of a run. No code in the folder is run.

        Parameters
        ----------
        run_dir : str or Path
            "pretrained" is one that comes with the library: `tools/pretrained.py`.
        device : str, default "auto"
            As in `engines.choose`; of several, the first predicts.

        Raises
        ------
        FileNotFoundError
            The folder is not a run, or its first epoch is not finished.
        ImportError
            Its language needs a package that is not installed.
        ValueError
            A file in it is damaged, does not belong to the others, or is of another
            edition. The message names it.
        """
        try:
            settings, words, weights = read_run(locate_run(run_dir))
            tokenize("", language=settings.training.language)  # is it one, and there?
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{str(run_dir)!r} is not a trained run: {error}. 'make train' makes "
                "one in runs/quick; 'pretrained' is one that comes with the library."
            ) from None
        except ImportError as error:
            raise ImportError(
                f"the run in {str(run_dir)!r} cannot be used: {error}"
            ) from None
        except OtherEdition as error:
            raise ValueError(
                f"the run in {str(run_dir)!r} cannot be used: {error}. Train it anew."
            ) from None
        except ValueError as error:
            raise ValueError(
                f"the run in {str(run_dir)!r} cannot be used: {error}. Copy the whole "
                "of it again, or train it anew."
            ) from error
        reading = ("max_tokens", "lower", "language", "unescape_html")
        reading = {name: getattr(settings.training, name) for name in reading}
        model = weights, Vocabulary(words), settings.model, settings.labels
        return cls(*model, device=device, **reading)

    def predict(self, texts, batch_size=64, on_invalid="raise"):
        """Predict the labels of texts.

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
        texts = self._checked(texts, on_invalid)
        chosen = [text for text in texts if text is not None]
        tokenized = tokenize_all(chosen, *self.reading)
        found = iter(self._predictions(chosen, tokenized, batch_size))
        return [text and next(found) for text in texts]

    def _checked(self, texts, on_invalid="raise"):
        """Return texts as a list, with None for those that are invalid."""
        if isinstance(texts, str):
            raise TypeError(
                "a list of texts is expected; put the text in brackets: [text]"
            )
        if on_invalid not in ("raise", "skip"):
            raise ValueError(
                f"on_invalid must be 'raise' or 'skip'; got {on_invalid!r}"
            )
        texts = list(texts)
        if self.unescape_html:
            texts = [
                plain_text(each) if isinstance(each, str) else each for each in texts
            ]
        for place, text in enumerate(texts):
            error = _why_invalid(text)
            if error and on_invalid == "raise":
                raise type(error)(
                    f"text {place + 1} of {len(texts)} {error}. With "
                    "on_invalid='skip', predict gives such texts None and all others a "
                    "prediction."
                )
            if error:
                texts[place] = None
        return texts

    def predict_tokens(self, tokens, batch_size=64):
        """Predict the labels of texts that are split into tokens already.

        So a word can be left out, or another put in its place.

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
                    f"tokens {place} of {len(tokens)} must be a list of at least one "
                    f"string, none blank; got {words!r}"
                )
        tokenized = TokenizedTexts.from_lists(
            [words[: self.max_tokens] for words in tokens]
        )
        texts = [" ".join(words) for words in tokens]
        return self._predictions(texts, tokenized, batch_size)

    def embed(self, texts, batch_size=64, on_invalid="raise"):
        """Return the sentence embedding of each text, the paper's matrix M = AH.

        Parameters
        ----------
        texts : sequence of str
        batch_size : int, default 64
        on_invalid : {"raise", "skip"}, default "raise"
            As in `predict`; the embedding of a text that is skipped is NaN.

        Returns
        -------
        ndarray of float32, shape (texts, hops, 2 * hidden_size)
            A row for each hop: the states of the BiLSTM, weighed by its attention.
            NumPy computes them, whatever the device.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As in `predict`.
        """
        texts = self._checked(texts, on_invalid)
        chosen = [text for text in texts if text is not None]
        tokenized = tokenize_all(chosen, *self.reading)
        shape = len(texts), self.settings.attention_hops, 2 * self.settings.hidden_size
        embeddings = np.full(shape, np.nan, np.float32)
        places = np.flatnonzero([text is not None for text in texts])
        for numbers, (_, _, embedding) in self._computed(tokenized, batch_size):
            embeddings[places[numbers]] = embedding
        return embeddings

    def _computed(self, tokenized, batch_size, forward=None):
        """Yield the numbers of each batch's texts, and what `forward` makes of them."""
        if not len(tokenized):
            return
        some_class = np.zeros(len(tokenized))  # which plays no part here
        batches = Batches(tokenized, some_class, self.vocab, batch_size)

        def compute(numbers):
            tokens, valid_length, _ = batches.assemble(numbers)  # (B, T) and (B,)
            return (forward or self._numpy)(tokens, valid_length)

        outcomes = in_threads(compute, batches.in_order)
        for numbers, outcome in zip(batches.in_order, outcomes):
            if not np.isfinite(outcome[0]).all():  # logits
                raise RuntimeError(
                    "the model's numbers overflow: its weights are too large. Copy the "
                    "run again, or train it anew."
                )
            yield numbers, outcome

    def _predictions(self, texts, tokenized, batch_size):
        forward = self._forward
        if len(texts) > TEXTS_WORTH_AN_ENGINE and engines.installed():
            try:
                forward = self._start_engine()
            except ImportError as error:
                warnings.warn(f"NumPy predicts: {error}", stacklevel=3)
        known = np.array([word in self.vocab for word in tokenized.words])  # (words,)
        predictions = [None] * len(texts)
        for numbers, (logits, attention, *_) in self._computed(
            tokenized, batch_size, forward
        ):
            probabilities = reference.softmax(logits)  # (B, C)
            for row, number in enumerate(numbers):
                ids = tokenized[number]
                words = [tokenized.words[i] for i in ids]
                predictions[number] = Prediction(
                    text=texts[number],
                    label=self.labels[probabilities[row].argmax()],
                    labels=self.labels,
                    probabilities=probabilities[row],
                    tokens=words,
                    known=known[ids],
                    attention=attention[row, :, : len(ids)],  # (r, n)
                    clipped=_is_clipped(texts[number], words, self.max_tokens),
                )
        return predictions

    def _start_engine(self):
        if self._engine is None:
            chosen = engines.choose(device=self.device)
            self._engine = chosen.module.predictor(
                self.settings, self.weights, chosen.devices[0]
            )
        return self._engine

    def _numpy(self, tokens, valid_length):
        with np.errstate(all="ignore"):  # what overflows is seen by what comes out
            return reference.forward(
                tokens, valid_length, self.weights, self.settings.pooling
            )


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
