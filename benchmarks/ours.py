"""Our side of every comparison, and all that the benchmarks ask of the library."""

import resource
import tempfile

import numpy as np

from benchmarks import settings
from selfatt_lib import engines
from selfatt_lib.config import TrainingConfig
from selfatt_lib.data.batches import Batches
from selfatt_lib.data.sources import load_reviews
from selfatt_lib.data.tokens import tokenize_all
from selfatt_lib.data.vocabulary import build_vocab
from selfatt_lib.labels import class_numbers
from selfatt_lib.prediction import Classifier
from selfatt_lib.run import RunDirectory
from selfatt_lib.training import build_engine, prepare, train


class Pipeline:
    """From raw texts to batches."""

    def __init__(self, path, count):
        self.texts, stars = zip(*settings.read_reviews(path, count))
        self.labels = class_numbers(stars, [1, 2, 3, 4, 5])

    def run(self):
        """Return how many reviews and how many tokens came out."""
        tokenized = tokenize_all(self.texts)
        batches = Batches(tokenized, self.labels, build_vocab(tokenized))
        reviews = tokens = 0
        for _, valid_length, labels in batches.shuffled(0):
            reviews += len(labels)
            tokens += int(valid_length.sum())
        return reviews, tokens


class TrainingStep:
    """Steps on one batch. The losses are read at the end: `train` reads late too."""

    def __init__(self, engine, device="cpu"):
        self.chosen = engines.choose(engine, device)
        self.wait = bool  # PyTorch's steps on a CPU are done when they return
        if self.chosen.module.NAME == "MXNet":
            from selfatt_lib.machinery.runtime import mx

            self.wait = mx.nd.waitall

    def build(self, setting):
        """Begin anew with this setting."""
        weights = setting.weights()
        config, vectors = setting.config, weights["embedding.weight"]
        self.engine = engines.build(
            config, vectors, 5, config.class_weights, self.chosen
        )
        self.engine.load_weights(weights)
        tokens, labels = setting.batch()
        valid_length = np.full(len(tokens), setting.tokens)
        self.batch = [a.astype(np.int32) for a in (tokens, valid_length, labels)]

    def run(self, steps):
        """Return the mean loss before each step: list of float."""
        handles = [self.engine.step(self.batch) for _ in range(steps)]
        self.wait()  # for the last step's weights too
        return [float(handle.read()[0].mean()) for handle in handles]


# one epoch, of all reviews but two
HELD_OUT = {"epochs": 1, "valid_size": 1, "test_size": 1}


class Epoch:
    """An epoch, of the default setting by default; but two reviews are held out."""

    def __init__(self, engine, device="cpu", parameters=None):
        self.settings = (parameters or {}) | HELD_OUT
        self.settings |= {"engine": engine, "device": device}
        self.corpus = prepare(TrainingConfig(**self.settings))

    def setting(self):
        """Return the sizes of what an epoch reads, as one batch without padding."""
        config, corpus = TrainingConfig(**self.settings), self.corpus
        sizes = *corpus.vectors.shape, len(corpus.labels)
        lengths = corpus.train_batches.lengths
        model = config.model_settings(*sizes)
        return settings.Setting(config, model, len(lengths), float(lengths.mean()))

    def seconds(self):
        """Train, and return what `train` reports: the epoch without its saving."""
        corpus = self.corpus
        with tempfile.TemporaryDirectory() as folder:
            config = TrainingConfig(**self.settings | {"run_dir": folder})
            run, engine = RunDirectory(config), build_engine(config, corpus)
            run.begin(corpus)
            history = train(run, engine, corpus.train_batches, corpus.valid_batches)
        return float(history["seconds"].item())


def texts_and_words(count):
    """Return so many texts of the default data set, and its vocabulary."""
    vocab = build_vocab(tokenize_all(load_reviews()["text"]))
    return load_reviews(size=count)["text"].tolist(), vocab


class Inference(settings.Predicting):
    """A classifier of the default size, with random weights, for so many reviews."""

    def __init__(self, count):
        self.texts, vocab = texts_and_words(count)
        setting = settings.quick(len(vocab))
        weights, sizes = setting.weights(), setting.model
        self.predict = Classifier(
            weights, vocab, sizes, [1, 2, 3, 4, 5], device="cpu"
        ).predict


class FromFile:
    """From JSON lines to batches."""

    def __init__(self, path):
        self.config = TrainingConfig(dataset=path, valid_size=1000)

    def run(self):
        """Return the most memory that this process had, in bytes."""
        for _ in prepare(self.config).train_batches:
            pass
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Sample:
    """Some of many reviews, drawn at random from JSON lines."""

    def __init__(self, path, count):
        self.arguments = path, count

    def run(self):
        """Return how many came."""
        return len(load_reviews(*self.arguments))
