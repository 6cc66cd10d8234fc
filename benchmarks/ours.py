"""Our side of every comparison, and all that the benchmarks ask of the library."""

import resource
import tempfile
from dataclasses import replace

from benchmarks import settings

# the tokenizer is PyTorch's too: what needs MXNet is imported where it is needed
from selfatt_lib.data import Batches, build_vocab, load_reviews, tokenize_all


class Pipeline:
    """From raw texts to batches."""

    def __init__(self, path, count):
        self.texts, self.stars = settings.read_reviews(path, count)

    def run(self):
        """Return how many reviews and how many tokens came out."""
        tokenized = tokenize_all(self.texts)
        vocab = build_vocab(tokenized)
        reviews = tokens = 0
        for _, lengths, stars in Batches(tokenized, self.stars, vocab, shuffle=True):
            reviews += len(stars)
            tokens += int(lengths.asnumpy().sum())
        return reviews, tokens


def _model(setting, config):
    from selfatt_lib.machinery.runtime import choose_threads, mx
    from selfatt_lib.model import SelfAttentiveBiLSTM

    choose_threads(setting.hidden_size)
    model = SelfAttentiveBiLSTM(**config.model_arguments(setting.vocab_size))
    model.initialize(ctx=mx.cpu())
    parameters = model.collect_params().values()
    for parameter, weight in zip(parameters, setting.weights(), strict=True):
        parameter.set_data(mx.nd.array(weight))
    model.hybridize()
    return model


class TrainingStep:
    """Steps on one batch. The losses are read at the end: `train` reads late too."""

    def build(self, setting):
        """Begin anew with this setting."""
        from selfatt_lib.machinery.runtime import mx
        from selfatt_lib.training import TrainingConfig, build_objective, training_step

        config = TrainingConfig(**setting.parameters)
        model = _model(setting, config)
        objective = build_objective(config, None, [mx.cpu()])
        adam = {"learning_rate": config.learning_rate}
        parameters = model.collect_params()
        trainer = mx.gluon.Trainer(parameters, "adam", adam, update_on_kvstore=False)
        tokens, stars = setting.batch()
        lengths = mx.nd.full(len(tokens), setting.tokens, dtype="int32")
        tokens, stars = mx.nd.array(tokens, dtype="int32"), mx.nd.array(stars)
        batch = [(1.0, tokens, lengths, stars)]
        self.wait = mx.nd.waitall
        self.step = lambda: training_step(
            model, objective, trainer, batch, config.clip_norm
        )

    def run(self, steps):
        """Return the mean loss before each step: list of float."""
        outcomes = [self.step() for _ in range(steps)]
        self.wait()
        return [float(loss.mean().asscalar()) for ((loss, _),) in outcomes]


class Epoch:
    """An epoch of the default setting.

    One review is held out instead of 1400, so that it is training and next to nothing
    else.
    """

    def __init__(self):
        from selfatt_lib.training import TrainingConfig, prepare

        self.config = TrainingConfig(epochs=1, valid_size=1, device="cpu")
        self.corpus = prepare(self.config)

    def seconds(self):
        """Train, and return what `train` reports: the epoch without its saving."""
        from selfatt_lib.machinery.runtime import mx
        from selfatt_lib.training import (
            RunDirectory,
            build_model,
            build_objective,
            train,
        )

        model = build_model(self.config, self.corpus.vocab, [mx.cpu()])
        stars = self.corpus.train_reviews["stars"]
        objective = build_objective(self.config, stars, [mx.cpu()])
        batches = self.corpus.train_batches, self.corpus.valid_batches
        with tempfile.TemporaryDirectory() as folder:
            run = RunDirectory(replace(self.config, run_dir=folder))
            history = train(run, model, objective, *batches)
        return float(history["seconds"].item())


class Inference(settings.Predicting):
    """A classifier of the default size with random weights, loaded from a run.

    Parameters
    ----------
    run_dir : str
    reviews : int
        So many are predicted.
    """

    def __init__(self, run_dir, reviews):
        from selfatt_lib.prediction import Classifier
        from selfatt_lib.training import RunDirectory, TrainingConfig

        table = load_reviews()
        vocab = build_vocab(tokenize_all(table["text"]))
        setting = settings.quick(vocab_size=len(vocab))
        config = TrainingConfig(**setting.parameters | {"run_dir": run_dir})
        run = RunDirectory(config)
        run.begin(vocab, table, table)
        run.save_weights(_model(setting, config))
        self.predict = Classifier.load(run_dir, device="cpu").predict
        self.texts = load_reviews(size=reviews)["text"].tolist()


class FromFile:
    """From JSON lines to batches."""

    def __init__(self, path):
        from selfatt_lib.training import TrainingConfig

        self.config = TrainingConfig(dataset=path, valid_size=1000, device="cpu")

    def run(self):
        """Return the most memory that this process had, in bytes."""
        from selfatt_lib.machinery.runtime import mx
        from selfatt_lib.training import prepare

        for _ in prepare(self.config).train_batches:
            pass
        mx.nd.waitall()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
