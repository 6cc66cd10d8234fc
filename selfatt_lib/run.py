"""The run directory: JSON and arrays in, JSON and arrays out. Nothing in it is code.

=========================  ===========================================================
``config.json``            the parameters, the model's sizes, and fingerprints
``vocab.json``             the words, in the order of their numbers
``model.safetensors``      the weights of the best epoch, named as in `reference`
``checkpoint.safetensors`` all that training goes on from
``metrics.jsonl``          a line an epoch
``metrics.json``           the scores, at the end
``predictions.csv``        of each test review, its label and those that were predicted
``attention.html``         some test reviews, shaded by attention
``training.ipynb``         the executed notebook
=========================  ===========================================================
"""

import filecmp
import hashlib
import json
import shutil
from contextlib import contextmanager

import numpy as np
from filelock import Timeout

from selfatt_lib.config import LabelList, ModelSettings, TrainingConfig
from selfatt_lib.machinery.files import read_arrays, read_json, write_arrays, write_text
from selfatt_lib.machinery.places import locate, take
from selfatt_lib.machinery.recording import check_counts
from selfatt_lib.machinery.settings import Settings
from selfatt_lib.reference import weight_shapes

FORMAT = 5  # of the run directory
MODEL, CHECKPOINT = "model.safetensors", "checkpoint.safetensors"
FILES = {"config.json", "vocab.json", "metrics.jsonl", "metrics.json", MODEL}
FILES |= {CHECKPOINT, "predictions.csv", "attention.html", "training.ipynb"}

# What does not count when runs are compared, and what may change when one goes on
NOT_COMPARED = {"resume", "run_dir", "engine", "device", "precision", "tfidf"}
EXTENDED = {"epochs", "patience"}


class RunSettings(Settings):
    """The content of ``config.json``.

    `labels` are the classes by number; `reviews` and `vocab` are fingerprints of what
    the run was trained on, `run` of all that decides its weights, a mark on its arrays.
    """

    format: int
    training: TrainingConfig
    model: ModelSettings
    labels: LabelList
    reviews: str
    vocab: str
    run: str


class Busy(RuntimeError):
    """Another process is training in a run's folder."""


class OtherEdition(ValueError):
    """A run is of another edition of the book, which kept its files otherwise."""


def read_run(folder):
    """Read a trained run: its RunSettings, its words (list of str) and its weights.

    FileNotFoundError: a file is missing. ValueError: one is damaged, does not belong to
    the others, or is of another edition. The message names it.
    """
    # of a run of another edition, the missing files are not what matters
    settings = read_settings(folder) if (folder / "config.json").exists() else None
    names = ("config.json", "vocab.json", MODEL)
    if missing := [name for name in names if not (folder / name).exists()]:
        raise FileNotFoundError(f"it has no {', '.join(missing)}")
    if (encoder := settings.training.encoder) != "attention":
        raise ValueError(f"its encoder is {encoder!r}, which is for comparisons only")
    return settings, read_words(folder, settings), read_weights(folder, settings)


def read_settings(folder):
    """Read ``config.json`` of a run: RunSettings."""
    path = folder / "config.json"
    content = read_json(path)
    if "training" in content and content.get("format") != FORMAT:
        raise OtherEdition(
            f"{path}: it is of another edition of the book, which kept its files "
            f"otherwise (this one reads format {FORMAT})"
        )
    try:
        settings = RunSettings(**content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    # nothing is left out, and nothing is meant otherwise than it is written
    written = json.dumps(settings.model_dump())
    classes = len({*map(str, settings.labels)})
    if written != json.dumps(content) or classes != settings.model.num_classes:
        raise ValueError(f"{path}: its settings are not as this library writes them")
    return settings


def read_words(folder, settings):
    """Read ``vocab.json`` of a run: list of str, held against its fingerprint."""
    path = folder / "vocab.json"
    words = read_json(path).get("words")
    if fingerprint(path.read_bytes()) != settings.vocab:
        raise ValueError(f"{path}: it is another run's, or was changed")
    size = settings.model.vocab_size
    if (
        not isinstance(words, list)
        or not all(isinstance(word, str) for word in words)
        or not len(words) == len(set(words)) == size
    ):
        raise ValueError(f"{path}: it is no list of {size} words, as config.json says")
    return words


def read_weights(folder, settings):
    """Read ``model.safetensors`` of a run: dict of ndarray, named as in `reference`."""
    sizes, encoder = settings.model.model_dump(), settings.training.encoder
    # those of other encoders are loaded by the engine alone, which knows their shapes
    expected = weight_shapes(sizes) if encoder == "attention" else None
    weights = read_arrays(folder / MODEL, expected, run=settings.run)
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{folder / MODEL}: {name} holds infinities or NaN")
    return weights


def fingerprint(content):
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def best(history):
    """Return the epoch with the highest validation accuracy, the first of several."""
    return max(history, key=lambda epoch: epoch["valid_accuracy"])


class RunDirectory:
    """A run's folder while it trains.

    It belongs to this process until `release`: a lock of the operating system, on a
    file in `cache_dir`, keeps the user's other processes out, and goes with this one,
    however that ends.

    Parameters
    ----------
    config : TrainingConfig

    Raises
    ------
    FileNotFoundError
        `resume` is set and the folder holds no run.
    ValueError
        `resume` is set and the run there has other parameters or more epochs, or the
        folder holds something that is not a run.
    Busy
        Another process is training in this folder; it is a RuntimeError.
    """

    def __init__(self, config):
        self.config = config
        self.path = locate(config.run_dir).resolve()
        self.aside = None  # where an earlier run was moved
        self.settings = None  # RunSettings, once it is begun
        if self.path.exists() and (
            not self.path.is_dir()
            or (not self._is_run() and any(self.path.glob("[!.]*")))
        ):
            raise ValueError(
                f"run_dir {config.run_dir!r} exists and is not a run (it has no "
                "config.json). Choose another run_dir."
            )
        if config.resume:
            self._check_resumable()
        try:
            self._lock = take(self.path)
        except Timeout:
            raise Busy(
                f"another process is training in {config.run_dir!r}, or a notebook "
                "that began to is still open. Wait for it, end it (shut the notebook's "
                "kernel down), or choose another run_dir."
            ) from None

    def _check_resumable(self):
        config = self.config
        if not self._is_run():
            raise FileNotFoundError(
                f"resume=True, but {config.run_dir!r} holds no run. Start it with "
                "resume=False."
            )
        if differences := self._differences():
            raise ValueError(
                f"resume=True, but the run in {config.run_dir!r} has other parameters: "
                f"{'; '.join(differences)}. Give the same ones, or choose another "
                "run_dir."
            )
        if (done := len(self.history())) > config.epochs:
            raise ValueError(
                f"resume=True with epochs={config.epochs}, but the run in "
                f"{config.run_dir!r} has {done} already. Give epochs={done} or "
                "more, or choose another run_dir."
            )

    def release(self):
        """Let other processes have the folder."""
        if self._lock:
            self._lock.release(force=True)

    # What lies there

    def _is_run(self):
        return (self.path / "config.json").is_file()

    def _saved_settings(self):
        with self._damaged(". Start it anew with resume=False."):
            return read_settings(self.path)

    @contextmanager
    def _damaged(self, advice):
        try:
            yield
        except ValueError as error:
            said = f"the run cannot be used: {error}{advice}"
            raise type(error)(said) from None

    def _differences(self):
        then = self._saved_settings().training
        return [
            f"{name} was {getattr(then, name)!r}, now {value!r}"
            for name, value in self._compared().items()
            if getattr(then, name) != value
        ]

    def _compared(self):
        return self.config.model_dump(exclude=NOT_COMPARED | EXTENDED)

    def _is_extended(self):
        then = self._saved_settings().training
        return any(getattr(self.config, n) != getattr(then, n) for n in EXTENDED)

    def is_finished(self):
        """Tell whether a finished run of these very parameters lies there."""
        if not (self._is_run() and (self.path / "metrics.json").is_file()):
            return False
        try:
            return not (self._differences() or self._is_extended())
        except OtherEdition:
            return False

    def history(self):
        """Return the epochs so far: list of dict."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        try:
            return [json.loads(line) for line in path.read_bytes().splitlines()]
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged: {error}. Start the run anew with resume=False."
            ) from None

    # Writing

    def begin(self, corpus):
        """Make the folder ready.

        An earlier run in it that is not resumed is moved aside, to the next free
        ``run_dir.N``.

        ValueError: it is resumed, but the reviews have changed since it began.
        """
        words = json.dumps({"words": corpus.vocab.idx_to_token})
        reviews = corpus.fingerprint()
        if self.config.resume:
            self._go_on(reviews, fingerprint(words.encode()))
        else:
            self._move_aside()
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_settings(reviews, words, corpus)
        write_text(self.path / "vocab.json", words)

    def _go_on(self, reviews, vocab):
        self.settings = self._saved_settings()
        if (self.settings.reviews, self.settings.vocab) != (reviews, vocab):
            raise ValueError(
                f"resume=True, but the reviews of {self.config.dataset!r} have changed "
                "since this run began, or how they are split into words."
            )
        if self._is_extended():  # then it is not finished yet
            (self.path / "metrics.json").unlink(missing_ok=True)
            changed = self.config.model_dump(include=EXTENDED)
            training = self.settings.training.model_copy(update=changed)
            self.settings = self.settings.model_copy(update={"training": training})
            self._write_config()

    def _move_aside(self):
        if self._is_run():
            number = 1
            while (aside := self.path.with_name(f"{self.path.name}.{number}")).exists():
                number += 1
            self.aside = self.path.rename(aside)

    def _write_settings(self, reviews, words, corpus):
        sizes = *corpus.vectors.shape, len(corpus.labels)
        decided = {
            "format": FORMAT,
            "model": self.config.model_settings(*sizes).model_dump(),
            "labels": corpus.labels,
            "reviews": reviews,
            "vocab": fingerprint(words.encode()),
        }
        same = json.dumps(decided | {"training": self._compared()})
        run = fingerprint(same.encode())
        training = self.config.model_dump()
        self.settings = RunSettings(**decided, training=training, run=run)
        self._write_config()

    def _write_config(self):
        content = self.settings.model_dump()
        write_text(self.path / "config.json", json.dumps(content, indent=2))

    def save_epoch(self, history, checkpoint, weights=None):
        """Keep an epoch, with its weights if it is the best so far.

        Whenever this is cut short, the epochs before it are intact. OSError: the folder
        is full, read-only or gone.
        """
        if weights:
            self._save(MODEL, weights)
        with self._writing("metrics.jsonl") as path:
            write_text(path, "".join(json.dumps(epoch) + "\n" for epoch in history))
        self.save_checkpoint(checkpoint)  # comes last and counts

    def save_checkpoint(self, checkpoint):
        """Keep all that training goes on from: dict of ndarray."""
        self._save(CHECKPOINT, checkpoint)

    def _save(self, name, arrays):
        with self._writing(name) as path:
            write_arrays(path, arrays, run=self.settings.run)

    @contextmanager
    def _writing(self, name):
        path = self.path / name
        try:
            yield path
        except (OSError, ValueError) as error:
            raise OSError(
                f"{path} could not be written: {error}. What was saved before is "
                "intact. Make room, or give the folder back and its permission to "
                "write, and go on with resume=True."
            ) from error

    def together(self, signals):
        """Return the signals that came to any process of this run, which is one."""
        return signals

    def restore(self):
        """Return the epochs up to where the run was saved last, and its checkpoint.

        Both are empty if nothing was saved yet. ValueError: a file is damaged or gone.
        """
        for left_over in self.path.glob(".*.partial"):  # by a run that was killed
            left_over.unlink()
        path = self.path / CHECKPOINT
        if not path.exists():
            return [], {}
        with self._damaged(". Start the run anew with resume=False."):
            checkpoint = read_arrays(path, run=self.settings.run)
            check_counts(path, checkpoint)
        done = int(checkpoint["epoch"][0])
        history = self.history()[:done]
        if len(history) < done or (done and not (self.path / MODEL).exists()):
            raise ValueError(
                f"{str(self.path)!r} lacks {MODEL} or some of the {done} epochs of "
                "metrics.jsonl. Start the run anew with resume=False."
            )
        if done:
            self.best_weights()
        return history, checkpoint

    def best_weights(self):
        """Return the weights of the best epoch: dict of ndarray."""
        with self._damaged(". Start the run anew with resume=False."):
            return read_weights(self.path, self.settings)

    def drop_equal_copy(self):
        """Delete the run moved aside if it has the same weights and no other files."""
        if self.aside and {path.name for path in self.aside.iterdir()} <= FILES:
            arrays = [MODEL, CHECKPOINT]
            equal, _, _ = filecmp.cmpfiles(self.aside, self.path, arrays, shallow=False)
            if equal == arrays:
                shutil.rmtree(self.aside)
                self.aside = None
