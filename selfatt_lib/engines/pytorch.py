"""The engine on PyTorch: Adam on a CPU, a GPU, or several that share each batch."""

import math
import re
import threading
import warnings
from contextlib import contextmanager

import numpy as np
import torch

from selfatt_lib.engines import (
    MOMENTS,
    Handle,
    check_state,
    deal_out,
    memory_errors,
)
from selfatt_lib.machinery import cuda
from selfatt_lib.machinery.devices import usable
from selfatt_lib.machinery.openmp import no_fork_here
from selfatt_lib.pytorch import SelfAttentiveBiLSTM, objective, to_device

NAME, VERSION = "PyTorch", torch.__version__
BETAS, EPSILON = (0.9, 0.999), 1e-8
THREADS = torch.get_num_threads()


def choose_devices(name="auto"):
    """Return the names of the devices that PyTorch is to compute on.

    A GPU counts only if a kernel ran on it.

    Parameters
    ----------
    name : {"auto", "cpu", "mps", "gpu", "gpu:1", "gpu:0,gpu:1", ...}, default "auto"
        "auto" takes the first NVIDIA GPU that works, else the CPU, and warns if there
        is one and none works; "gpu" means "gpu:0".

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        The name is none of the above, or names a GPU twice.
    RuntimeError
        A device was asked for by name and cannot be used.
    """
    if name == "auto":
        return [_first_gpu_that_works() or "cpu"]
    return usable(name, _problem)


def _first_gpu_that_works():
    problems = []
    for number in range(torch.cuda.device_count()):
        if not (problem := _problem(f"gpu:{number}")):
            return f"gpu:{number}"
        problems.append(problem)
    if problems:
        warnings.warn(f"computing on the CPU: {problems[0]}", stacklevel=3)
    return None


def _problem(device):
    if device == "cpu":
        return None
    if device == "mps" and not torch.backends.mps.is_available():
        return "it is the GPU of a Mac with Apple silicon, and PyTorch finds none here"
    if device != "mps" and torch.version.cuda is None:
        return f"the installed PyTorch, {VERSION}, is built without CUDA"
    if device != "mps" and not torch.cuda.is_available():
        return _no_gpu(cuda.driver())
    try:
        (torch.ones(1, device=native(device)) + 1).item()
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0]
        return f"no computation ran on {device}. PyTorch {VERSION} says: {said}"
    return None


def _no_gpu(driver):
    built = torch.version.cuda
    if driver and driver.cuda < tuple(map(int, built.split("."))):
        newest = ".".join(map(str, driver.cuda))
        return (
            f"its driver runs CUDA up to {newest}, and PyTorch {VERSION} was built for "
            f"{built}. Update the driver, or install PyTorch's build for CUDA {newest}"
        )
    return "PyTorch sees no NVIDIA GPU that works; nvidia-smi should say why"


def check_precision(precision, devices):
    """Raise RuntimeError unless all devices compute with a precision, "bfloat16"."""
    for device in devices:
        if not device.startswith("gpu"):
            raise RuntimeError(
                f"precision={precision!r} was asked for, and there is no NVIDIA GPU "
                "that can be used. Leave it at 'float32'."
            )
        if torch.cuda.get_device_capability(native(device)) < (8, 0):
            raise RuntimeError(
                f"precision={precision!r} was asked for, and {device} has no such "
                "numbers: they came with Ampere (compute capability 8.0). Leave it at "
                "'float32'."
            )


def native(device):
    """Return PyTorch's own object for the name of a device: torch.device."""
    return torch.device(re.sub("cpu.*", "cpu", device.replace("gpu", "cuda")))


@contextmanager
def computing(devices):
    """Let no process be forked meanwhile; say PyTorch's words on memory in ours."""
    with memory_errors(RuntimeError, devices), no_fork_here():
        yield


class Engine:
    """The model with its objective and its optimizer; see `engines`.

    Parameters
    ----------
    config : TrainingConfig
    vectors : ndarray of float32, shape (words, E)
        What the word vectors start from. All other weights are drawn with the run's
        seed.
    num_classes : int
    class_weights : list of float, optional
        Of the cross-entropy; all 1 by default.
    devices : list of str, optional
        By default those that ``config.device`` names.
    """

    def __init__(self, config, vectors, num_classes, class_weights=None, devices=None):
        self.config = config
        self.devices = list(devices or choose_devices(config.device))
        self.steps = 0
        settings = config.model_settings(*vectors.shape, num_classes)
        with self.computing():
            self.seed(config.seed)
            # each device has a copy of the model; the first one's weights are trained
            self.models = [
                SelfAttentiveBiLSTM(**settings.model_dump()).to(native(device))
                for device in self.devices
            ]
            self.named = self.models[0].named_weights()
            self.load_weights(self.weights() | {"embedding.weight": vectors})
            self.class_weights = [
                class_weights and torch.tensor(class_weights, device=native(device))
                for device in self.devices
            ]
            self.trained = {n: p for n, p in self.named.items() if p.requires_grad}
            self.optimizer = torch.optim.Adam(
                self.trained.values(),
                config.learning_rate,
                BETAS,
                fused=self.devices != ["mps"],  # one operation for all weights
            )

    def objective(self, tokens, valid_length, labels, number=0):
        """Return the loss (b,) and the logits (b, C) that a device finds."""
        device, rounded = native(self.devices[number]), self.config.precision
        tokens, labels = (to_device(x, device) for x in (tokens, labels))
        with torch.autocast(device.type, torch.bfloat16, rounded == "bfloat16"):
            logits, attention = self.models[number](tokens, valid_length)
        logits, attention = logits.float(), attention.float()
        given = labels, valid_length, self.class_weights[number]
        return objective(logits, attention, *given, self.config), logits

    def objectives(self, batch):
        """Return the devices' shares of a batch, and what each finds."""
        tokens, valid_length, labels = batch
        labels = labels.astype(np.int64)
        shares, parts = deal_out((tokens, valid_length, labels), len(self.devices))
        return shares, [
            self.objective(*map(torch.from_numpy, part), number)
            for number, part in enumerate(parts)
        ]

    def step(self, batch):
        """Move the weights once, down the gradient of a batch's mean loss.

        Each device finds the gradient of its part of the batch, weighed by the part's
        share of the reviews; their sum is the gradient of the whole.
        """
        with self.computing():
            for model in self.models:
                model.train().zero_grad()
            shares, outcomes = self.objectives(batch)
            for share, (loss, _) in zip(shares, outcomes):
                (loss.mean() * share).backward()  # the gradient of a device's part
            self.sum_gradients()
            if self.config.clip_norm:
                torch.nn.utils.clip_grad_norm_(
                    self.trained.values(), self.config.clip_norm
                )
            self.move()
            self.copy_weights()
            return Handle(shares, outcomes, as_array)

    def move(self):
        """Let Adam move the weights.

        MXNet adds ε to a root that is not corrected yet for the first steps, PyTorch to
        one that is.
        """
        self.steps += 1
        (group,) = self.optimizer.param_groups
        group["eps"] = EPSILON / math.sqrt(1 - BETAS[1] ** self.steps)
        self.optimizer.step()

    @torch.no_grad()
    def sum_gradients(self):
        """Add the gradients of all devices up on the first."""
        for weight, *others in zip(*(model.parameters() for model in self.models)):
            for other in others:
                if weight.requires_grad:
                    weight.grad += other.grad.to(weight.device)

    @torch.no_grad()
    def copy_weights(self):
        """Give all devices the weights of the first."""
        for weight, *others in zip(*(model.parameters() for model in self.models)):
            for other in others:
                other.copy_(weight)

    @torch.no_grad()
    def evaluate(self, batch):
        """Return the handle of a batch's loss and logits, without dropout."""
        with self.computing():
            for model in self.models:
                model.eval()
            return Handle(*self.objectives(batch), as_array)

    @torch.no_grad()
    def replay(self, batch):
        """Draw the random numbers that a step draws, and forget what comes out."""
        with self.computing():
            for model in self.models:
                model.train()
            self.objectives(batch)

    def computing(self):
        """Return the context in which this engine's devices compute."""
        return computing(self.devices)

    def seed(self, seed):
        """Seed PyTorch's random generators; each GPU draws numbers of its own."""
        torch.manual_seed(seed)
        for number, device in enumerate(self.devices):
            if device.startswith("gpu"):
                torch.cuda.init()
                generator = torch.cuda.default_generators[native(device).index]
                generator.manual_seed(seed + number)

    def set_learning_rate(self, rate):
        """Set Adam's learning rate."""
        (group,) = self.optimizer.param_groups
        group["lr"] = rate

    def weights(self):
        """Return the weights: dict of ndarray."""
        return {name: as_array(weight) for name, weight in self.named.items()}

    @torch.no_grad()
    def load_weights(self, weights):
        """Set the weights, on every device."""
        for name, weight in self.named.items():
            weight.copy_(torch.tensor(weights[name]))
        self.copy_weights()

    def state(self):
        """Return the weights, Adam's moments and the number of steps: dict of ndarray.

        The devices are not in it: it is the same for one and for several. Nor are the
        random generators, which each epoch seeds anew.
        """
        state = {f"weight:{name}": array for name, array in self.weights().items()}
        for name, weight in self.trained.items():
            moments = self.optimizer.state[weight]
            for part, theirs in zip(MOMENTS, ("exp_avg", "exp_avg_sq")):
                if theirs in moments:  # after the first step
                    state[f"{part}:{name}"] = as_array(moments[theirs])
        return state | {"step": np.array([self.steps])}

    def load_state(self, state):
        """Go back to a state, on every device.

        Raises
        ------
        ValueError
            It is not a state of this model.
        """
        check_state(state, self.named, self.trained)
        self.load_weights({name: state[f"weight:{name}"] for name in self.named})
        self.steps = int(state["step"][0])
        moments = [
            {"step": torch.tensor(float(self.steps))}
            | {
                theirs: torch.tensor(state[f"{part}:{name}"])
                for part, theirs in zip(MOMENTS, ("exp_avg", "exp_avg_sq"))
            }
            for name in self.trained
        ]
        whole = self.optimizer.state_dict() | {"state": dict(enumerate(moments))}
        self.optimizer.load_state_dict(whole)


def as_array(tensor):
    """Return a copy as an array of NumPy."""
    return tensor.detach().cpu().numpy().copy()


def predictor(settings, weights, device="auto"):
    """Return a function from (tokens (B, T), valid_length (B,)) to (logits, attention).

    Parameters
    ----------
    settings : ModelSettings
    weights : dict of ndarray
        Named as in `reference`.
    device : str, default "auto"
        As in `choose_devices`; of several, the first predicts.
    """
    device = choose_devices(device)[0]
    with torch.no_grad(), computing([device]):
        model = SelfAttentiveBiLSTM(**settings.model_dump()).eval()
        for name, weight in model.named_weights().items():
            weight.copy_(torch.tensor(weights[name]))
        model.to(native(device))

    # on a CPU, several threads predict, and each computes alone; a GPU does one batch
    # after the other, and has the memory for one
    alone = one_thread_each() if device == "cpu" else threading.Lock()

    @torch.inference_mode()
    def predict(tokens, valid_length):
        with computing([device]), alone:
            tokens = torch.from_numpy(tokens).to(native(device))
            found = model(tokens, torch.from_numpy(valid_length))
            return [as_array(tensor) for tensor in found]

    return predict


class one_thread_each:
    """A context in which this thread computes without the help of others."""

    def __enter__(self):
        torch.set_num_threads(1)

    def __exit__(self, *_):
        torch.set_num_threads(THREADS)
