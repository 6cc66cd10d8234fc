"""Use a trained run: texts in, stars and attention out."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import softmax

from selfatt_lib.data import Batches, TokenizedTexts, tokenize_all
from selfatt_lib.data.sources import is_unicode
from selfatt_lib.model import SelfAttentiveBiLSTM
from selfatt_lib.runtime import choose_devices, choose_threads, mx, nlp


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
    """

    text: str
    stars: int
    probabilities: np.ndarray
    tokens: list
    known: np.ndarray
    attention: np.ndarray


class Classifier:
    """A trained model with its vocabulary.

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
            A file in it is damaged.
        """
        run_dir = Path(run_dir)
        missing = [
            name
            for name in ("config.json", "vocab.json", "model.params")
            if not (run_dir / name).is_file()
        ]
        if missing:
            raise FileNotFoundError(
                f"{str(run_dir)!r} is not a trained run: it has no {', '.join(missing)}. 'make train' makes one in runs/quick."
            )
        device = choose_devices(device)[0]
        try:
            config = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
            vocab = nlp.Vocab.from_json(
                (run_dir / "vocab.json").read_text(encoding="utf-8")
            )
            model = SelfAttentiveBiLSTM(**config["model"])
            model.load_parameters(str(run_dir / "model.params"), ctx=device)
            if len(vocab) != config["model"]["vocab_size"]:
                raise ValueError(
                    f"vocab.json has {len(vocab)} words, config.json says {config['model']['vocab_size']}"
                )
            training = config["training"]
            max_tokens, lower = training["max_tokens"], training["lower"]
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            AssertionError,
            mx.MXNetError,
        ) as error:
            raise ValueError(
                f"the run in {str(run_dir)!r} is damaged: {error!r}"
            ) from error
        model.hybridize()
        choose_threads(config["model"]["hidden_size"])
        return cls(model, vocab, max_tokens, lower, device)

    def predict(self, texts, batch_size=64):
        """Predict the stars of texts.

        Parameters
        ----------
        texts : sequence of str
        batch_size : int, default 64

        Returns
        -------
        list of Prediction
            In the order of the texts.

        Raises
        ------
        TypeError
            A single string was given, or something that is not a text.
        ValueError
            A text has no word or is not valid Unicode (with its place).
        """
        if isinstance(texts, str):
            raise TypeError(
                "predict takes a list of texts; put the text in brackets: predict([text])"
            )
        texts = list(texts)
        for place, text in enumerate(texts, 1):
            if not isinstance(text, str):
                raise TypeError(
                    f"text {place} of {len(texts)} must be a string; got {text!r}"
                )
            if not is_unicode(text):
                raise ValueError(
                    f"text {place} of {len(texts)} is not valid Unicode; save or send it as UTF-8: {text[:40]!r}"
                )
        tokenized = tokenize_all(texts, self.max_tokens, self.lower)
        if not tokenized.lengths.all():
            place = int(tokenized.lengths.argmin())
            raise ValueError(
                f"text {place + 1} of {len(texts)} has no word; got {texts[place]!r}"
            )
        return self._predict(texts, tokenized, batch_size)

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
            A list is empty, or not a list of strings (with its place).
        """
        for place, words in enumerate(tokens, 1):
            if (
                not isinstance(words, list)
                or not words
                or not all(isinstance(word, str) for word in words)
            ):
                raise ValueError(
                    f"tokens {place} of {len(tokens)} must be a list of at least one string; got {words!r}"
                )
        clipped = [words[: self.max_tokens] for words in tokens]
        tokenized = TokenizedTexts.from_lists(clipped)
        return self._predict(
            [" ".join(words) for words in clipped], tokenized, batch_size
        )

    def _predict(self, texts, tokenized, batch_size):
        if not texts:
            return []
        known = np.array([word in self.vocab for word in tokenized.words])
        batches = Batches(tokenized, np.ones(len(texts)), self.vocab, batch_size)
        predictions = [None] * len(texts)
        # one review needs no buckets, and they would cost it time
        for numbers in batches.sampler() if len(texts) > 1 else [[0]]:
            ids, valid_length = (
                mx.nd.from_numpy(array).as_in_context(self.device)
                for array in batches.assemble(numbers)[:2]
            )
            logits, attention = self.model(ids, valid_length)
            probabilities = softmax(logits.asnumpy(), axis=1)
            attention = attention.asnumpy()
            for row, number in enumerate(numbers):
                words = tokenized[number]
                predictions[number] = Prediction(
                    text=texts[number],
                    stars=int(probabilities[row].argmax()) + 1,
                    probabilities=probabilities[row],
                    tokens=[tokenized.words[i] for i in words],
                    known=known[words],
                    attention=attention[row, :, : len(words)],
                )
        return predictions
