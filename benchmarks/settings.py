"""What the sides of a comparison share: sizes, weights, a batch, reviews. All NumPy."""

import json
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import yaml

PARAMETERS = Path(__file__).parents[1] / "book" / "parameters"
# computed from the stars of the tutorial's own reviews
TUTORIAL_CLASS_WEIGHTS = [3.0, 5.3, 4.0, 2.0, 1.0]


@dataclass(frozen=True)
class Setting:
    """A model's parameters and the shape of its batches.

    Attributes
    ----------
    parameters : dict
        As in ``book/parameters``; each is an attribute too.
    vocab_size : int
    reviews, tokens : int
        Of a batch, in which all reviews are as long.
    """

    parameters: dict
    vocab_size: int
    reviews: int
    tokens: int

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return self.parameters[name]

    @property
    def embedding_size(self):
        """300 of ``glove.6B.300d``."""
        return int(self.embedding.split(".")[-1].removesuffix("d"))

    def small(self):
        """Return a setting with the same parts, all small, and without dropout."""
        sizes = {"hidden_size": 24, "attention_units": 20, "classifier_units": 28}
        still = {"dropout": 0.0, "embedding_dropout": 0.0}
        parameters = self.parameters | sizes | still | {"embedding": "glove.6B.50d"}
        return replace(
            self, parameters=parameters, vocab_size=500, reviews=40, tokens=12
        )

    def weights(self, seed=0):
        """Return random weights: list of ndarray of float32, as both engines list them.

        The word vectors; of each layer, and of its forward and then its backward
        direction, input and recurrent weights (4u, ·) and both biases, the gates in the
        order i, f, g, o; W_s1 and W_s2; weights and bias of the classifier's two layers.
        """
        u, hops, units = self.hidden_size, self.attention_hops, self.classifier_units
        layers = self.num_layers * 2 * [(4 * u, 2 * u), (4 * u, u), (4 * u,), (4 * u,)]
        layers[0] = layers[4] = (4 * u, self.embedding_size)
        attention = [(self.attention_units, 2 * u), (hops, self.attention_units)]
        classifier = [(units, hops * 2 * u), (units,), (5, units), (5,)]
        words = (self.vocab_size, self.embedding_size)
        rng = np.random.default_rng(seed)
        return [
            rng.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)
            for shape in [words, *layers, *attention, *classifier]
        ]

    def batch(self, seed=1):
        """Return tokens (reviews, tokens) and stars (reviews,), from 1 to 5."""
        rng = np.random.default_rng(seed)
        tokens = rng.integers(2, self.vocab_size, (self.reviews, self.tokens))
        return tokens, rng.integers(1, 6, self.reviews)

    def operations(self):
        """Count the floating-point operations of a training step's matrix products.

        A product of (m, k) and (k, n) takes 2mkn. The gradients of its two factors are
        two products of the same size, so that each product counts three times; twice
        where the first factor needs no gradient: frozen word vectors. The recurrent
        product is not needed at the first word, whose state before is 0.
        """
        words = self.reviews * self.tokens
        u, hops, units = self.hidden_size, self.attention_hops, self.classifier_units
        total = 0
        for layer in range(self.num_layers):
            size = 2 * u if layer else self.embedding_size
            products = 3 if layer or self.train_embedding else 2
            total += 2 * products * 2 * words * size * 4 * u  # both directions
            total += 2 * 3 * 2 * (words - self.reviews) * u * 4 * u
        scores = words * (2 * u + hops) * self.attention_units
        embedding = words * hops * 2 * u
        overlap = words * hops * hops
        classifier = self.reviews * (hops * 2 * u + 5) * units
        return total + 3 * 2 * (scores + embedding + overlap + classifier)


def tutorial():
    """The setting of the GluonNLP tutorial: its vocabulary, its longest batch."""
    parameters = _read("tutorial") | {"class_weights": TUTORIAL_CLASS_WEIGHTS}
    return Setting(parameters, vocab_size=10_004, reviews=64, tokens=100)


def quick(vocab_size=10_002):
    """The default setting, with a batch of the usual size."""
    return Setting(_read("quick"), vocab_size, reviews=114, tokens=28)


def _read(name):
    return yaml.safe_load((PARAMETERS / f"{name}.yaml").read_text(encoding="utf-8"))


def read_reviews(path, count):
    """Read the first so many of a file's reviews: list of texts, list of stars."""
    with open(path, encoding="utf-8") as file:
        reviews = [json.loads(line) for line in islice(file, count)]
    return [review["text"] for review in reviews], [
        review["stars"] for review in reviews
    ]


class Predicting:
    """What is asked of a side that has ``texts`` and predicts them."""

    def run(self):
        self.predict(self.texts)

    def probabilities(self):
        """Return the probabilities of all reviews: ndarray, shape (reviews, 5)."""
        return np.array([found.probabilities for found in self.predict(self.texts)])

    def single(self):
        """Return the seconds that a review takes alone: the median of 100."""
        seconds = []
        for text in self.texts[:100]:
            started = time.perf_counter()
            self.predict([text])
            seconds.append(time.perf_counter() - started)
        return float(np.median(seconds))
