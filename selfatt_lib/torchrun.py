"""A run that several processes share, which torchrun starts, on one machine or more."""

import os
import signal
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from selfatt_lib import engines
from selfatt_lib.engines import deal_out, pytorch
from selfatt_lib.engines.pytorch import native
from selfatt_lib.results import baselines, write_metrics
from selfatt_lib.run import RunDirectory, fingerprint
from selfatt_lib.training import build_engine, evaluate, prepare, train

PATIENCE = 120  # seconds to wait for the other processes to come
OWN = {"device", "run_dir", "resume", "tfidf"}  # what need not be the same for all
A_DAY = timedelta(days=1)  # until the first of a machine has prepared its reviews
LOST = "/gloo/", "pair closure", "NCCL error"  # in what PyTorch says of another's end


def fit_together(config):
    """Do what `training.fit` does, with the other processes that torchrun started.

    Each takes its share of every batch. What comes out is what one process finds, but
    for rounding, and for dropout, which each draws for itself. The first process alone
    reads and writes the run directory. Where torchrun starts all anew after one has
    failed, they go on with the run.

    Parameters
    ----------
    config : TrainingConfig
        `device` is "cpu", or "gpu" for one each; "auto" takes GPUs if there are any.

    Returns
    -------
    dict or None
        The content of ``metrics.json``, in the first process.

    Raises
    ------
    ValueError
        Processes cannot share such a run, or have read different reviews.
    RuntimeError
        Not all processes came, or one has ended.
    Quiet
        Any of these, and another process has told.
    KeyboardInterrupt
        As in `train`; all stop after the same batch.
    """
    peers = Peers()
    try:
        return _fit(own_config(config), peers)
    except KeyboardInterrupt as stopped:
        if stopped.args:  # all have stopped after the same batch
            peers.any_of(False)  # they stay until the first has saved it
            distributed.destroy_process_group()
        raise
    except Exception as error:
        told = peers.explain(error)
        if told is error:
            raise
        raise told from None


def _fit(config, peers):
    if peers.had_begun():
        config = config.model_copy(update={"resume": True})
    run = SharedRun(config, peers)
    chosen = engines.choose(config.engine, config.device, config.precision)
    corpus = peers.first_of_machine(lambda: prepare(config))
    peers.compare(config, corpus, chosen)
    own = SimpleNamespace(**vars(pytorch) | {"Engine": Engine})
    engine = build_engine(config, corpus, replace(chosen, module=own))
    run.begin(corpus)
    history = train(run, engine, corpus.train_batches, corpus.valid_batches)
    _, labels, predictions = evaluate(engine, corpus.test_batches)
    devices = [device for each in peers.from_all(chosen.devices) for device in each]
    distributed.destroy_process_group()
    if not run.directory:
        return None
    chosen = replace(chosen, devices=devices)
    results = run.directory, history, labels, predictions, corpus, chosen
    write_metrics(*results)
    return write_metrics(*results, baselines(corpus, config.tfidf))


def own_config(config):
    """Return a run's parameters as this process needs them.

    ValueError: several processes cannot share such a run.
    """
    count, device = int(os.environ["WORLD_SIZE"]), config.device
    if config.engine == "mxnet" or config.encoder != "attention":
        raise ValueError(
            f"{count} processes share a run with PyTorch only: leave engine at 'auto' "
            "and encoder at 'attention'"
        )
    device = device.replace("cuda", "gpu")
    if device not in ("auto", "cpu", "gpu"):
        raise ValueError(
            f"device={device!r}, but each of {count} processes takes one of its own: "
            "give 'auto', 'gpu' or 'cpu'"
        )
    if config.batch_size < count:
        raise ValueError(
            f"batch_size={config.batch_size} has not a review for each of {count} "
            "processes. Start fewer, or give a larger batch_size."
        )
    gpus = torch.cuda.device_count()
    if device == "auto":
        device = "gpu" if gpus else "cpu"
    here = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    if device == "gpu" and 0 < gpus < here:
        raise ValueError(
            f"{here} processes of this machine want a GPU each, and it has {gpus}. "
            f"Start {gpus} of them, or compute with device='cpu'."
        )
    device = device.replace("gpu", f"gpu:{os.environ.get('LOCAL_RANK', '0')}")
    return config.model_copy(update={"engine": "pytorch", "device": device})


class Quiet(Exception):
    """An end of which another process has told the reason."""


class Peers:
    """The processes of a run, and what they tell each other.

    Attributes
    ----------
    rank : int
        The number of this one, from 0.
    count : int
    """

    def __init__(self, patience=PATIENCE):
        wait = timedelta(seconds=patience)
        try:
            # a store of names and values, which torchrun keeps for all processes
            coming = distributed.rendezvous("env://", timeout=wait)
            self.all_starts, self.rank, self.count = next(coming)
        except distributed.DistError as error:
            raise RuntimeError(self.missing(patience, str(error))) from error
        # not what processes left there that failed, whom torchrun started before
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.store = distributed.PrefixStore(f"start {start}", self.all_starts)
        self.store.set(f"came {self.rank}", "")
        for number in range(self.count):
            try:
                self.store.wait([f"came {number}"], wait)
            except distributed.DistError as error:
                said = f"Process {number} did not."
                raise RuntimeError(self.missing(patience, said)) from error
        # for what is not on a GPU; it sees at once when a process has ended
        distributed.init_process_group(
            "gloo", store=self.store, rank=self.rank, world_size=self.count
        )
        self.patient = distributed.new_group(backend="gloo", timeout=A_DAY)

    def missing(self, patience, said):
        """Return what to tell when not all processes came."""
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        return (
            f"not all {os.environ['WORLD_SIZE']} processes came to {address} within "
            f"{patience} seconds. {said} Were all started, and is the port free?"
        )

    def first_of_machine(self, make):
        """Return what `make` returns, called by one process of a machine, then by all.

        So the first fetches and tokenizes, and the others find that done.
        """
        first = os.environ.get("LOCAL_RANK", "0") == "0"
        made = make() if first else None
        distributed.barrier(self.patient)  # until then, or until one has ended
        return made if first else make()

    def from_first(self, make):
        """Return what `make` returns in the first process, in all."""
        box = [make() if self.rank == 0 else None]
        distributed.broadcast_object_list(box)
        return box[0]

    def from_all(self, own):
        """Return what each process has: list, in the order of their numbers."""
        found = [None] * self.count
        distributed.all_gather_object(found, own)
        return found

    def compare(self, config, corpus, chosen):
        """Raise ValueError unless all processes are about to train the same."""
        own = {
            "parameters": config.model_dump(exclude=OWN),
            "reviews": corpus.fingerprint(),
            "words": corpus.vocab.idx_to_token,
            "vectors": corpus.vectors.tobytes(),
            "kind of device": chosen.devices[0].partition(":")[0],
            "library": chosen.library,
        }
        own = {
            name: fingerprint(each if name == "vectors" else repr(each).encode())
            for name, each in own.items()
        }
        found = self.from_all(own)
        for number, other in enumerate(found):
            if differ := [name for name in own if other[name] != found[0][name]]:
                raise ValueError(
                    f"process {number} of {self.count} has other {', '.join(differ)} "
                    "than process 0. Give all the same files, or copies of them, the "
                    "same parameters and the same packages."
                )

    def any_of(self, own):
        """Tell whether any process has what is true; all have to ask."""
        number = torch.tensor([int(bool(own))])
        distributed.all_reduce(number)
        return bool(number)

    def note_begun(self):
        """Note, for processes that torchrun starts anew, that the run has begun."""
        self.all_starts.set("begun", "")

    def had_begun(self):
        """Tell whether processes that torchrun has started before had begun the run."""
        return self.all_starts.check(["begun"])

    def explain(self, error):
        """Return what a process is to end with: `Quiet` if another has told why."""
        # torchrun ends all when one has ended, and so the one that is about to tell
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if isinstance(error, distributed.DistError) or any(
            word in str(error) for word in LOST
        ):
            error = RuntimeError(
                "another process of this run has ended. What was saved before is kept: "
                "start all again with resume=True, with as many processes as you like."
            )
        try:
            told = self.store.add("told", 1) > 1
        except RuntimeError:  # the store has gone with its machine
            told = os.environ.get("LOCAL_RANK", "0") != "0"
        return Quiet(str(error)) if told else error


class Engine(pytorch.Engine):
    """The engine of one of several processes: a device, and its share of each batch."""

    def __init__(self, config, vectors, num_classes, *more):
        self.rank, self.count = distributed.get_rank(), distributed.get_world_size()
        super().__init__(config, vectors, num_classes, *more)
        self.device, self.num_classes = native(self.devices[0]), num_classes
        self.group = None  # of processes that exchange what the devices find
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            self.group = distributed.new_group(backend="nccl")
        # takes the first process's weights, and the mean of the gradients of all
        self.models = [DistributedDataParallel(*self.models, process_group=self.group)]

    def seed(self, seed):
        """Seed PyTorch's random generators; each process draws its own numbers."""
        super().seed(seed + self.rank)

    def objectives(self, batch):
        """Return the weight of the own share in the mean, and what is found of it."""
        tokens, valid_length, labels = batch
        whole = tokens, valid_length, labels.astype(np.int64)
        shares, parts = deal_out(whole, self.count)
        own = map(torch.from_numpy, parts[self.rank])
        return [shares[self.rank] * self.count], [self.objective(*own)]

    def step(self, batch):
        """Do what the engine of one process does, and return the same."""
        return self.of_all(batch, super().step(batch))

    def evaluate(self, batch):
        """Do what the engine of one process does, and return the same."""
        return self.of_all(batch, super().evaluate(batch))

    @torch.no_grad()
    def of_all(self, batch, handle):
        """Return the handle of what all processes have found, from that of one."""
        sizes = [len(part) for part in np.array_split(batch[-1], self.count)]
        own = torch.zeros(max(sizes), 1 + self.num_classes, device=self.device)
        for loss, logits in handle.outcomes:  # none, if no review is left for this one
            own[: len(loss)] = torch.cat([loss[:, None], logits], dim=1)
        found = [torch.empty_like(own) for _ in sizes]
        distributed.all_gather(found, own, group=self.group)
        handle.outcomes = [(x[:b, 0], x[:b, 1:]) for x, b in zip(found, sizes) if b]
        return handle


class SharedRun:
    """A `RunDirectory` that the first process reads and writes, for all."""

    def __init__(self, config, peers):
        self.config, self.peers = config, peers
        self.directory = RunDirectory(config) if peers.rank == 0 else None

    def begin(self, corpus):
        """Make the folder ready."""
        if self.directory:
            self.directory.begin(corpus)
            self.peers.note_begun()

    def restore(self):
        """Return what `RunDirectory.restore` returns in the first process."""
        return self.peers.from_first(lambda: self.directory.restore())

    def best_weights(self):
        """Return the weights of the best epoch: dict of ndarray."""
        return self.peers.from_first(lambda: self.directory.best_weights())

    def save_epoch(self, *content):
        """Keep an epoch."""
        if self.directory:
            self.directory.save_epoch(*content)

    def save_checkpoint(self, checkpoint):
        """Keep all that training goes on from."""
        if self.directory:
            self.directory.save_checkpoint(checkpoint)

    def together(self, signals):
        """Return the signals that came to this process, or that one came to another."""
        if not self.peers.any_of(signals):  # all ask, after the same batch
            return []
        return list(signals) or ["a signal to another process"]
