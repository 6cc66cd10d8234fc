"""What the sides of a comparison share: sizes, weights, batches, reviews. All NumPy."""

import json
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import yaml

from selfatt_lib.config import ModelSettings, TrainingConfig
from selfatt_lib.reference import weight_shapes

PARAMETERS = Path(__file__).parents[1] / "book" / "parameters"
# computed from the stars of the tutorial's own reviews
TUTORIAL_CLASS_WEIGHTS = [3.0, 5.3, 4.0, 2.0, 1.0]


@dataclass(frozen=True)
class Setting:
    """A run's parameters, its model's sizes, and a batch: all reviews are as long."""

    config: TrainingConfig
    model: ModelSettings
    reviews: int
    tokens: int

    def small(self):
        """Return a setting with the same parts, all small, and without dropout."""
        sizes = {"hidden_size": 24, "attention_units": 20, "classifier_units": 28}
        still = {"dropout": 0.0, "embedding_dropout": 0.0}
        config = self.config.model_copy(update=sizes | still)
        return Setting(config, config.model_settings(500, 50), reviews=40, tokens=12)

    def weights(self, seed=0):
        """Return random weights, named and ordered as in `reference`: dict."""
        rng = np.random.default_rng(seed)
        return {
            name: rng.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)
            for name, shape in weight_shapes(self.model.model_dump()).items()
        }

    def batch(self, seed=1):
        """Return tokens (reviews, tokens) and labels (reviews,), from 0 to 4."""
        rng = np.random.default_rng(seed)
        size = self.reviews, self.tokens
        tokens = rng.integers(2, self.model.vocab_size, size)
        return tokens, rng.integers(0, 5, self.reviews)

    def operations(self):
        """Count the floating-point operations of a training step's matrix products.

        A product of (m, k) and (k, n) takes 2mkn. The gradients of its two factors are
        two products of the same size, so each counts three times; twice where the first
        factor needs no gradient: frozen word vectors. The first word needs no recurrent
        product: the state before it is 0.
        """
        words, reviews, model = self.reviews * self.tokens, self.reviews, self.model
        u, hops, units = model.hidden_size, model.attention_hops, model.classifier_units
        total = 0
        for layer in range(model.num_layers):
            size = 2 * u if layer else model.embedding_size
            products = 3 if layer or model.train_embedding else 2
            total += 2 * products * 2 * words * size * 4 * u  # both directions
            total += 2 * 3 * 2 * (words - reviews) * u * 4 * u
        scores = words * (2 * u + hops) * model.attention_units
        pooled = words * hops * (2 * u + hops)  # AH, and AAᵀ of the penalty
        classifier = reviews * (hops * 2 * u + 5) * units
        return total + 3 * 2 * (scores + pooled + classifier)


def tutorial():
    """The setting of the GluonNLP tutorial: its vocabulary, its longest batch."""
    config = _config("tutorial", class_weights=TUTORIAL_CLASS_WEIGHTS)
    return Setting(config, config.model_settings(10_004, 300), reviews=64, tokens=100)


def quick(words=10_002):
    """The default setting, with a batch of the usual size."""
    config = _config("quick")
    return Setting(config, config.model_settings(words, 50), reviews=114, tokens=28)


def paper():
    """The paper's setting for Yelp, and its longest batch."""
    config = _config("paper")
    return Setting(config, config.model_settings(10_002, 100), reviews=32, tokens=100)


def _config(name, **changes):
    return TrainingConfig(**read_parameters(name) | changes, device="cpu")


def read_parameters(name):
    """Return the parameters of one of the book's files: dict."""
    text = (PARAMETERS / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def made_up(name, path):
    """Return those parameters for a file of made-up reviews and random vectors."""
    given = read_parameters(name) | {"dataset": path, "train_size": None}
    size = int(given["embedding"].split(".")[-1].removesuffix("d"))
    return given | {"embedding": None, "embedding_size": size}


def read_reviews(path, count):
    """Read the first so many of a file's reviews: list of (text, stars)."""
    with open(path, encoding="utf-8") as file:
        reviews = map(json.loads, islice(file, count))
        return [(review["text"], review["stars"]) for review in reviews]


class Predicting:
    """What is asked of a side that has ``texts`` and predicts them."""

    def run(self, count):
        """Return the probabilities of the first so many: ndarray, shape (count, 5)."""
        found = self.predict(self.texts[:count])
        return np.array([prediction.probabilities for prediction in found])

    def single(self):
        """Return the seconds that a review takes alone: the median of 100."""
        seconds = []
        for text in self.texts[:100]:
            started = time.perf_counter()
            self.predict([text])
            seconds.append(time.perf_counter() - started)
        return float(np.median(seconds))
