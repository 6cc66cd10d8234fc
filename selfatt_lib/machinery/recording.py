"""What stands beside the training loop: a bar, readings, signals, savings, advice."""

import signal
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from selfatt_lib.machinery import is_shared
from selfatt_lib.machinery.progress import tqdm

BATCHES_PER_READING = 10  # so often the bar's loss and accuracy are read
SECONDS_PER_SAVING = 600  # so often a long epoch is saved before its end
TALLIED = ("loss", "labels", "logits")


def in_background(batches):
    """Yield batches, of which a thread makes the next two in advance."""
    batches = iter(batches)
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, batches, None) for _ in range(2))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, batches, None))
            yield batch


class Tally:
    """The handles of an epoch's batches, left on the devices until they are read.

    `fitted` gets the tokens of batches that are known to be done; `earlier` is what
    `progress` returned before this process went on with the epoch.
    """

    def __init__(self, fitted=None, earlier=None):
        self.handles, self.sizes = [], []
        self.fitted = [] if fitted is None else fitted
        self.before, seconds, self.earlier = 0, 0.0, None
        if earlier and "batches" in earlier:
            self.before = int(earlier["batches"][0])
            seconds = float(earlier["seconds"][0])
            self.earlier = [earlier[f"tally:{part}"] for part in TALLIED]
        self.started = time.perf_counter() - seconds

    @property
    def seconds(self):
        """Seconds of the epoch so far."""
        return time.perf_counter() - self.started

    def add(self, batch, handle):
        """Add a batch and the handle of what became of it."""
        tokens, _, labels = batch
        self.handles.append((labels, handle))
        self.sizes.append(tokens.size)

    def arrays(self, first=None, last=None):
        """Wait for batches; return their loss (B,), labels (B,) and logits (B, C)."""
        parts = []
        for labels, handle in self.handles[first:last]:
            loss, logits = handle.read()
            parts.append((loss, labels, logits))
        self.fitted.append(max(self.sizes[first:last], default=0))
        if self.earlier and first is None:
            parts.insert(0, self.earlier)
        return [np.concatenate(arrays) for arrays in zip(*parts)]

    def read(self, first=None, last=None):
        """Return mean loss, labels and predictions of batches, of all by default."""
        loss, labels, logits = self.arrays(first, last)
        return float(loss.mean(dtype=np.float64)), labels, logits.argmax(axis=1)

    def progress(self):
        """Return what a checkpoint keeps in the middle of an epoch: dict of ndarray."""
        arrays = zip(TALLIED, self.arrays())
        return {
            **{f"tally:{part}": array for part, array in arrays},
            "batches": np.array([self.before + len(self.handles)]),
            "seconds": np.array([self.seconds]),
        }

    def first_not_finite(self):
        """Return the number of the first batch whose loss is infinite or no number."""
        for number, (_, handle) in enumerate(self.handles, self.before + 1):
            if not np.isfinite(handle.read()[0]).all():
                return number


def check_counts(path, checkpoint):
    """Raise ValueError unless all that a checkpoint counts is there and can be."""
    in_an_epoch = "batches" in checkpoint
    counted = ["epoch", "step", *["batches", "seconds"] * in_an_epoch]
    tallied = [f"tally:{part}" for part in TALLIED] * in_an_epoch
    for name in (*counted, *tallied):
        if name not in checkpoint:
            raise ValueError(f"{path}: it has no {name!r}")
    for name in counted:
        if checkpoint[name].shape != (1,) or not 0 <= checkpoint[name][0] < 2**53:
            raise ValueError(f"{path}: {name!r} cannot be {checkpoint[name]}")
    if len({checkpoint[name].shape[:1] for name in tallied}) > 1:
        raise ValueError(f"{path}: its tallies are not of the same batches")


@contextmanager
def recording(run, engine, batches, history, saved):
    """Watch over the loop, from the first epoch to the last: a Recorder.

    `history` has the epochs that are done, `saved` is the checkpoint to go on from.
    """
    config, steps, fitted = run.config, len(batches), []
    longest = int(batches.lengths.max())
    with (
        advice_on_memory(config, engine.devices, longest, fitted),
        signals_noted() as signals,
        tqdm(
            total=config.epochs * steps,
            initial=len(history) * steps,
            desc="epoch",
            unit=" batches",
            mininterval=0.5,
        ) as bar,
    ):
        yield Recorder(run, engine, steps, history, saved, fitted, signals, bar)


class Recorder:
    """What `recording` knows of the batches so far."""

    def __init__(self, run, engine, steps, history, saved, fitted, signals, bar):
        self.run, self.engine, self.steps, self.history = run, engine, steps, history
        self.fitted, self.signals, self.bar = fitted, signals, bar
        self.done = len(history)
        self.tally = Tally(fitted, saved)

    @property
    def seconds(self):
        """Seconds of the epoch so far."""
        return self.tally.seconds

    def begin_epoch(self, epoch):
        """Start to count anew, except in an epoch that was saved in the middle."""
        if epoch > self.done + 1:
            self.tally = Tally(self.fitted)
        self.epoch, self.number = epoch, 0  # of the batch in it
        self.saved = time.perf_counter()
        self.bar.set_description(f"epoch {epoch} of {self.run.config.epochs}")

    def was_done(self):
        """Count the next batch; tell whether an earlier process has done it."""
        self.number += 1
        self.bar.update()
        return self.number <= self.tally.before

    def add(self, batch, handle):
        """Add a batch; every tenth is read, a signal or ten minutes save the run."""
        tally = self.tally
        tally.add(batch, handle)
        if (
            self.number % BATCHES_PER_READING == 0
            and len(tally.handles) > BATCHES_PER_READING
        ):
            # ten batches back, so that the devices have work while we wait
            loss, labels, predictions = tally.read(
                -2 * BATCHES_PER_READING, -BATCHES_PER_READING
            )
            self.require_finite(loss)
            accuracy = (labels == predictions).mean()
            shown = {"loss": f"{loss:.3f}", "accuracy": f"{accuracy:.3f}"}
            self.bar.set_postfix(shown, refresh=False)
        asked = self.run.together(self.signals)
        if asked or time.perf_counter() - self.saved > SECONDS_PER_SAVING:
            self.require_finite(tally.read()[0])
            self.run.save_checkpoint(self.checkpoint() | tally.progress())
            self.saved = time.perf_counter()
        done = f"batch {self.number} of {self.steps} in epoch {self.epoch}"
        self.stop_if(asked, done)

    def read(self):
        """Wait for the epoch's batches; return mean loss, labels and predictions."""
        found = self.tally.read()
        self.require_finite(found[0])
        return found

    def save_epoch(self, is_best):
        """Keep the epoch that ends `history`, with its weights if it is the best."""
        loss = self.history[-1]["valid_loss"]
        if not np.isfinite(loss):
            raise RuntimeError(
                f"the validation loss of epoch {self.epoch} is {loss}. What was saved "
                "before is kept. Begin anew with a lower learning_rate, or set "
                "clip_norm."
            )
        weights = self.engine.weights() if is_best else None
        self.run.save_epoch(self.history, self.checkpoint(), weights)
        self.stop_if(self.run.together(self.signals), f"epoch {self.epoch}")

    def checkpoint(self):
        """Return what training goes on from after a whole epoch: dict of ndarray."""
        return self.engine.state() | {"epoch": np.array([len(self.history)])}

    def require_finite(self, loss):
        """Raise RuntimeError, with the batch at fault, unless a loss is finite."""
        if not np.isfinite(loss):
            raise RuntimeError(
                f"the loss of batch {self.tally.first_not_finite()} of {self.steps} in "
                f"epoch {self.epoch} is infinite or no number. What was saved before "
                "is kept. Begin anew with a lower learning_rate, or set clip_norm."
            )

    def stop_if(self, asked, after):
        """Raise KeyboardInterrupt if signals came; the run is saved by then."""
        if asked:
            raise KeyboardInterrupt(
                f"{asked[0]} came. Stopped and saved after {after}. To go on, "
                "run the same with resume=True."
            )


@contextmanager
def signals_noted():
    """Take note of SIGINT and SIGTERM: names; the same again ends the process.

    What the process ignores, as shells have it do in the background, stays ignored.
    torchrun passes on what the terminal has sent to its processes already, so that a
    second one means nothing; it ends them itself after half a minute.
    """
    came, before, shared = [], {}, is_shared()

    def note(number, _):
        came.append(signal.Signals(number).name)
        if not shared:
            signal.signal(number, before[number])

    # Python allows it nowhere else.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, note)
    try:
        yield came
    finally:
        if not (shared and came):  # torchrun ends the others when one has stopped
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def advice_on_memory(config, devices, longest, fitted):
    """Say what to do about a MemoryError of the engine.

    `longest` is the longest review's number of tokens, `fitted` has the tokens of
    batches that are known to have fitted.
    """
    try:
        yield
    except MemoryError as error:
        smaller = "a smaller max_tokens"
        if config.batch_size > 1:
            # the tokens of the largest batch, for each of batch_size
            tokens = max(1, config.bucket_ratio) * longest
            most, fits = max(fitted, default=0), config.batch_size // 2
            known = ""
            if most:
                fits = max(1, min(fits, int(most / tokens)))
                known = f" (batches of {most:,} tokens did fit)"
            smaller = f"batch_size={fits}{known}"
        elsewhere = ""
        if devices[0] != "cpu":
            elsewhere = (
                ", or go on with this run on other devices: resume=True with "
                "device='cpu' (and precision='float32')"
            )
        if devices[0].startswith("gpu"):
            several = "several, as in device='gpu:0,gpu:1'"
            if is_shared():
                several = "more processes"
            elsewhere += f" or with {several}"
        raise MemoryError(
            f"{error} for batch_size={config.batch_size} and reviews of {longest} "
            f"tokens. The epochs before this one are kept. Begin anew with {smaller}"
            f"{elsewhere}. In a notebook, restart the kernel first: it still holds the "
            "memory."
        ) from error
