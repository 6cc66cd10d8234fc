"""The training run: data made ready, the loop, and all of it in one call."""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from selfatt_lib import engines
from selfatt_lib.data.batches import Batches
from selfatt_lib.data.sources import load_reviews
from selfatt_lib.data.split import split_reviews
from selfatt_lib.data.tokens import (
    TokenizedTexts,
    tokenize,
    tokenize_kept,
    warn_of_clipping,
)
from selfatt_lib.data.vectors import (
    check_embedding,
    load_vectors,
    warn_of_low_coverage,
)
from selfatt_lib.data.vocabulary import Vocabulary, build_vocab
from selfatt_lib.labels import class_numbers
from selfatt_lib.machinery.recording import Tally, in_background, recording
from selfatt_lib.reference import class_weights
from selfatt_lib.results import baselines, scores, write_metrics
from selfatt_lib.run import RunDirectory, best, fingerprint


@dataclass(frozen=True)
class Corpus:
    """Reviews made ready for training.

    Attributes
    ----------
    labels : list
        The classes, in the order of their numbers.
    train_reviews, valid_reviews, test_reviews : DataFrame
        With ``text`` and ``label``.
    train_tokens, valid_tokens, test_tokens : TokenizedTexts
    clipped : float
        The share of tokens that ``config.max_tokens`` cuts off, of 1000 reviews.
    vocab : Vocabulary
        Of the training reviews.
    vectors : ndarray of float32, shape (words, E)
        The vector of each word, zeros where it has none.
    train_batches, valid_batches, test_batches : Batches
    """

    labels: list
    train_reviews: pd.DataFrame
    valid_reviews: pd.DataFrame
    test_reviews: pd.DataFrame
    train_tokens: TokenizedTexts
    valid_tokens: TokenizedTexts
    test_tokens: TokenizedTexts
    clipped: float
    vocab: Vocabulary
    vectors: np.ndarray
    train_batches: Batches
    valid_batches: Batches
    test_batches: Batches

    def fingerprint(self):
        """Return a hash of all texts and labels: str."""
        reviews = pd.concat([self.train_reviews, self.valid_reviews, self.test_reviews])
        columns = reviews[["text", "label"]].astype({"label": str})
        hashes = pd.util.hash_pandas_object(columns, index=False)
        return fingerprint(hashes.to_numpy().tobytes())


def prepare(config, reviews=None):
    """Do what the data chapter does step by step: load, split, tokenize, number, batch.

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
    FileNotFoundError, ValueError, RuntimeError, ImportError
        As `load_reviews`, `split_reviews`, `tokenize` and `load_vectors` do; the last
        two before the reviews are read, where that can be. ValueError: all training
        reviews have one label.
    """
    tokenize("", language=config.language)  # an error comes before the work
    check_embedding(config.embedding)
    parts = _parts(config, reviews)
    labels = config.class_names or sorted({*parts[0]["label"], *parts[1]["label"]})
    numbers = [class_numbers(part["label"], labels) for part in parts]
    _refuse_one_label(labels, numbers[0])
    reading = config.max_tokens, config.lower, config.language
    tokens = [tokenize_kept(part["text"], *reading) for part in parts]
    clipped = warn_of_clipping(parts[0]["text"], *reading)
    vocab = build_vocab(tokens[0], config.vocab_size)
    chosen = config.embedding, vocab.idx_to_token, config.embedding_size, config.seed
    vectors = load_vectors(*chosen)
    if config.embedding is not None:
        warn_of_low_coverage(tokens[0], vocab, vectors)
    bucketing = config.batch_size, config.num_buckets, config.bucket_ratio
    batches = [Batches(*part, vocab, *bucketing) for part in zip(tokens, numbers)]
    return Corpus(labels, *parts, *tokens, clipped, vocab, vectors, *batches)


def _refuse_one_label(labels, numbers):
    if len({*numbers}) < 2:
        raise ValueError(
            f"all {len(numbers):,} training reviews have the label "
            f"{labels[numbers[0]]!r}; a classifier needs two labels or more"
        )


def _parts(config, reviews):
    """Return training, validation and test reviews."""
    if reviews is None:
        sampling = config.sample_size, config.split_seed
        reviews = load_reviews(config.dataset, *sampling, **config.reading)
    sizes = [config.valid_size, config.test_size, config.train_size, config.split_seed]
    if config.test_dataset is None:
        return split_reviews(reviews, *sizes)
    sizes[1] = 0
    *parts, _ = split_reviews(reviews, *sizes)
    test = load_reviews(config.test_dataset, **config.reading)
    known = pd.concat(parts)["text"]
    if shared := test["text"].isin(known).sum():
        warnings.warn(
            f"{shared:,} of {len(test):,} texts of {config.test_dataset} occur in "
            f"{config.dataset}, too: the score on them says nothing of new ones",
            stacklevel=3,
        )
    return *parts, test


def build_engine(config, corpus, chosen=None):
    """Return the engine for a run, with seeded random weights and the word vectors.

    Parameters
    ----------
    config : TrainingConfig
    corpus : Corpus
    chosen : engines.Chosen, optional
        What `engines.choose` returned; by default it is asked.

    Returns
    -------
    Engine
        As `engines` describes it.
    """
    weights, num_classes = config.class_weights, len(corpus.labels)
    if weights == "auto":
        weights = class_weights(corpus.train_batches.labels, num_classes)
    if weights and len(weights) != num_classes:
        raise ValueError(
            f"class_weights must have a number for each label, {corpus.labels}; got "
            f"{weights}"
        )
    return engines.build(config, corpus.vectors, num_classes, weights, chosen)


def train(run, engine, train_batches, valid_batches):
    """Train, keep the best epoch, and leave the engine with its weights.

    Parameters
    ----------
    run : RunDirectory
        Made ready by its `begin`.
    engine : Engine
    train_batches, valid_batches : Batches

    Returns
    -------
    pandas.DataFrame
        A row an epoch: ``epoch``, ``learning_rate``, ``train_loss``,
        ``train_accuracy``, ``train_weighted_f1``, the same of ``valid_``, and
        ``seconds``. The best epoch is the one with the highest validation accuracy, the
        first if several have it.

    Raises
    ------
    RuntimeError
        The loss became infinite or no number.
    KeyboardInterrupt
        SIGINT or SIGTERM came. The batch was finished and the run saved; resumed, it
        goes on with the next batch.
    OSError
        The run directory cannot be written to.
    MemoryError
        A batch does not fit into the memory of the device.
    ValueError
        The run is resumed and a file of it is damaged.
    """
    config = run.config
    history, saved = run.restore()  # nothing, unless it is resumed
    if saved:
        engine.load_state(saved)
    with recording(run, engine, train_batches, history, saved) as recorder:
        for epoch in range(len(history) + 1, config.epochs + 1):
            if out_of_patience(history, config.patience):
                break
            recorder.begin_epoch(epoch)
            seed, rate = epoch_seed(config.seed, epoch), decayed_rate(config, epoch)
            engine.seed(seed)
            engine.set_learning_rate(rate)
            for batch in in_background(train_batches.shuffled(seed)):
                if recorder.was_done():  # by a process that was stopped in this epoch
                    engine.replay(batch)
                else:
                    recorder.add(batch, engine.step(batch))
            # a line of metrics.jsonl: loss, accuracy and F1 of both parts
            line = {"epoch": epoch, "learning_rate": rate}
            line |= summary("train", *recorder.read())
            line |= summary("valid", *evaluate(engine, valid_batches))
            history.append(line | {"seconds": recorder.seconds})
            recorder.save_epoch(is_best=best(history)["epoch"] == epoch)
    engine.load_weights(run.best_weights())  # not those of the last epoch
    return pd.DataFrame(history)


def evaluate(engine, batches):
    """Predict every review once, without dropout.

    Returns
    -------
    loss : float
        The mean of the objective over reviews.
    labels, predictions : ndarray of int, shape (reviews,)
        From 0 to C - 1, in the order of the reviews.
    """
    tally = Tally()
    for batch in in_background(batches):
        tally.add(batch, engine.evaluate(batch))
    loss, labels, predictions = tally.read()
    order = np.argsort(np.concatenate(batches.in_order))
    return loss, labels[order], predictions[order]


def decayed_rate(config, epoch):
    """Return Adam's learning rate: times 0.9 every second epoch, as in the tutorial."""
    rate = config.learning_rate * 0.9 ** ((epoch - 1) // 2)
    # below that, float32 has no number for it
    return max(rate, min(config.learning_rate, 1e-30))


def epoch_seed(seed, epoch):
    """Return the seed of an epoch.

    Each epoch has its own, so that a resumed run draws what an unbroken one would have
    drawn.
    """
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0] >> 1)


def out_of_patience(history, patience):
    """Tell whether so many epochs have passed since the best."""
    return (
        patience is not None
        and bool(history)
        and len(history) - best(history)["epoch"] >= patience
    )


def summary(part, loss, labels, predictions):
    """Return the loss and the scores of an epoch's part, "train" or "valid": dict."""
    found = {"loss": loss} | scores(labels, predictions)
    return {f"{part}_{name}": value for name, value in found.items()}


def fit(config, corpus=None):
    """Do what the training chapter does step by step.

    Prepare, train, compare with the baselines, write the metrics.

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
    # before the work, if there is none
    chosen = engines.choose(config.engine, config.device, config.precision)
    corpus = corpus or prepare(config)
    engine = build_engine(config, corpus, chosen)
    run.begin(corpus)
    history = train(run, engine, corpus.train_batches, corpus.valid_batches)
    _, labels, predictions = evaluate(engine, corpus.test_batches)
    results = run, history, labels, predictions, corpus, chosen
    write_metrics(*results)
    return write_metrics(*results, baselines(corpus, config.tfidf))
