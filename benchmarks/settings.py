"""What all sides of a comparison share: a model's sizes, its weights, a batch. Everything here is NumPy's."""

from dataclasses import dataclass, replace
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
        As in ``book/parameters``.
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
        return replace(
            self,
            parameters=self.parameters | sizes | still | {"embedding": "glove.6B.50d"},
            vocab_size=500,
            reviews=40,
            tokens=12,
        )

    def weights(self, seed=0):
        """Return random weights, in the order in which MXNet and PyTorch list them: list of ndarray of float32.

        The word vectors; of each layer, and of its forward and then its backward direction, input and recurrent weights (4u, ·) and
        both biases, the gates in the order i, f, g, o; W_s1 and W_s2; weights and bias of the classifier's two layers.
        """
        u, hops = self.hidden_size, self.attention_hops
        direction = [(4 * u, 2 * u), (4 * u, u), (4 * u,), (4 * u,)]
        layers = self.num_layers * 2 * direction
        layers[0] = layers[4] = (4 * u, self.embedding_size)
        units = self.classifier_units
        shapes = [
            (self.vocab_size, self.embedding_size),
            *layers,
            (self.attention_units, 2 * u),
            (hops, self.attention_units),
            (units, hops * 2 * u),
            (units,),
            (5, units),
            (5,),
        ]
        rng = np.random.default_rng(seed)
        weights = [rng.normal(0, shape[-1] ** -0.5, shape) for shape in shapes]
        return [array.astype(np.float32) for array in weights]

    def batch(self, seed=1):
        """Return tokens (reviews, tokens) and stars (reviews,), from 1 to 5: ndarrays of int."""
        rng = np.random.default_rng(seed)
        tokens = rng.integers(2, self.vocab_size, (self.reviews, self.tokens))
        return tokens, rng.integers(1, 6, self.reviews)


def tutorial():
    """The setting of the GluonNLP tutorial: its vocabulary, its longest batch."""
    parameters = _read("tutorial") | {"class_weights": TUTORIAL_CLASS_WEIGHTS}
    return Setting(parameters, vocab_size=10_004, reviews=64, tokens=100)


def quick(vocab_size=10_002):
    """The default setting, with a batch of the usual size."""
    return Setting(_read("quick"), vocab_size, reviews=114, tokens=28)


def _read(name):
    return yaml.safe_load((PARAMETERS / f"{name}.yaml").read_text(encoding="utf-8"))
