"""Our side of every comparison: the library, called as the book calls it."""

import resource
import tempfile
import time
from dataclasses import replace

from benchmarks import reviews
from benchmarks.settings import Setting, quick
from selfatt_lib.data import (
    Batches,
    build_vocab,
    load_reviews,
    on_devices,
    tokenize_all,
)
from selfatt_lib.machinery.runtime import choose_threads, mx, seed_everything
from selfatt_lib.model import SelfAttentiveBiLSTM
from selfatt_lib.prediction import Classifier
from selfatt_lib.training import (
    RunDirectory,
    TrainingConfig,
    build_model,
    build_objective,
    epoch_seed,
    prepare,
    train,
    training_step,
)

nd = mx.nd
DEVICES = [mx.cpu()]


class Pipeline:
    """From raw texts to batches."""

    def __init__(self, path, count):
        read = reviews.read(path, count)
        self.texts = [review["text"] for review in read]
        self.stars = [review["stars"] for review in read]

    def run(self):
        """Return how many reviews and how many tokens came out."""
        tokenized = tokenize_all(self.texts)
        vocab = build_vocab(tokenized)
        seen = [0, 0]
        for _, lengths, stars in Batches(tokenized, self.stars, vocab, shuffle=True):
            seen = [seen[0] + len(stars), seen[1] + int(lengths.asnumpy().sum())]
        return seen


def _with_weights(setting, config):
    choose_threads(setting.hidden_size)
    model = SelfAttentiveBiLSTM(**config.model_arguments(setting.vocab_size))
    model.initialize(ctx=DEVICES)
    parameters = model.collect_params().values()
    for parameter, weight in zip(parameters, setting.weights(), strict=True):
        parameter.set_data(nd.array(weight))
    model.hybridize()
    return model


def _trainer(model, config):
    adam = {"learning_rate": config.learning_rate}
    parameters = model.collect_params()
    return mx.gluon.Trainer(parameters, "adam", adam, update_on_kvstore=False)


class TrainingStep:
    """`training_step` on one batch. Nothing is read back before the end, as `train` reads ten batches late."""

    def build(self, **setting):
        """Begin anew with this setting."""
        setting = Setting(**setting)
        self.config = TrainingConfig(**setting.parameters)
        self.model = _with_weights(setting, self.config)
        self.objective = build_objective(self.config, None, DEVICES)
        self.trainer = _trainer(self.model, self.config)
        tokens, stars = setting.batch()
        lengths = nd.full(len(tokens), setting.tokens, dtype="int32")
        tokens, stars = nd.array(tokens, dtype="int32"), nd.array(stars)
        self.batch = [(1.0, tokens, lengths, stars)]

    def step(self):
        return training_step(
            self.model, self.objective, self.trainer, self.batch, self.config.clip_norm
        )

    def losses(self, steps):
        """Return the mean loss before each step: list of float."""
        outcomes = [self.step() for _ in range(steps)]
        return [float(loss.mean().asscalar()) for ((loss, _),) in outcomes]

    def run(self, steps):
        for _ in range(steps):
            self.step()
        nd.waitall()


class Epoch:
    """An epoch of the default setting: by `train`, and by `training_step` alone.

    One review is held out instead of 1400, so that an epoch is training and next to nothing else.
    """

    def __init__(self):
        self.config = TrainingConfig(epochs=1, valid_size=1, device="cpu")
        self.corpus = prepare(self.config)

    def _parts(self):
        model = build_model(self.config, self.corpus.vocab, DEVICES)
        stars = self.corpus.train_reviews["stars"]
        return model, build_objective(self.config, stars, DEVICES)

    def whole(self):
        """Train for an epoch and return the seconds that `train` itself reports for it, without saving."""
        with tempfile.TemporaryDirectory() as folder:
            run = RunDirectory(replace(self.config, run_dir=folder))
            batches = self.corpus.train_batches, self.corpus.valid_batches
            history = train(run, *self._parts(), *batches)
        return float(history["seconds"].item())

    def steps(self):
        """Take the same steps on the same batches, which lie ready, and return their seconds."""
        model, objective = self._parts()
        trainer = _trainer(model, self.config)
        seed_everything(epoch_seed(self.config.seed, 1))
        batches = list(on_devices(self.corpus.train_batches, DEVICES))
        nd.waitall()
        started = time.perf_counter()
        for batch in batches:
            training_step(model, objective, trainer, batch, self.config.clip_norm)
        nd.waitall()
        return time.perf_counter() - started

    def padding(self):
        """Return the share of the batches' places that no word takes."""
        places = words = 0
        for tokens, lengths, _ in self.corpus.train_batches:
            places += tokens.size
            words += int(lengths.asnumpy().sum())
        return 1 - words / places


class Inference:
    """A classifier of the default size with random weights, kept as a run and loaded from there.

    Parameters
    ----------
    run_dir : str
    reviews : int
        So many are predicted.
    """

    def __init__(self, run_dir, reviews):
        table = load_reviews()
        vocab = build_vocab(tokenize_all(table["text"]))
        setting = quick(vocab_size=len(vocab))
        config = TrainingConfig(**setting.parameters | {"run_dir": run_dir})
        run = RunDirectory(config)
        run.begin(vocab, table, table)
        run.save_weights(_with_weights(setting, config))
        self.classifier = Classifier.load(run_dir, device="cpu")
        self.texts = load_reviews(size=reviews)["text"].tolist()

    def run(self):
        self.classifier.predict(self.texts)

    def probabilities(self):
        predictions = self.classifier.predict(self.texts)
        return [prediction.probabilities.tolist() for prediction in predictions]

    def one_by_one(self, first, last):
        """Predict some texts, each alone, and return the seconds of each."""
        seconds = []
        for text in self.texts[first:last]:
            started = time.perf_counter()
            self.classifier.predict([text])
            seconds.append(time.perf_counter() - started)
        return seconds


class FromFile:
    """From JSON lines to batches. The one place that says how."""

    def __init__(self, path):
        self.config = TrainingConfig(dataset=path, valid_size=1000, device="cpu")

    def run(self):
        """Return the bytes a token of the corpus, and the peak memory of this process."""
        corpus = prepare(self.config)
        for _ in corpus.train_batches:
            pass
        nd.waitall()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        parts = corpus.train_tokens, corpus.valid_tokens
        arrays = sum(part.ids.nbytes + part.offsets.nbytes for part in parts)
        tokens = sum(len(part.ids) for part in parts)
        return {"bytes_a_token": arrays / tokens, "peak": peak}
