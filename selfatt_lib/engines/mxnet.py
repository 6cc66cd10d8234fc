"""The engine on MXNet: Adam on a CPU, on a GPU, or on several that share each batch."""

from contextlib import contextmanager

import numpy as np

from selfatt_lib.encoders import EncoderClassifier
from selfatt_lib.engines import (
    MOMENTS,
    Handle,
    check_state,
    deal_out,
    memory_errors,
)
from selfatt_lib.machinery.runtime import (
    choose_devices,
    choose_threads,
    context,
    mx,
    mxnet_lock,
)
from selfatt_lib.model import SelfAttentiveBiLSTM
from selfatt_lib.penalty import WeightedSoftmaxCE, diversity_penalty

nd, gluon = mx.nd, mx.gluon
NAME, VERSION = "MXNet", mx.__version__


@contextmanager
def computing(devices):
    """Let no process be forked meanwhile; say MXNet's words on memory in ours."""
    with memory_errors(mx.MXNetError, devices), mxnet_lock:
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
        self.contexts = [context(device) for device in self.devices]
        with self.computing():
            self.seed(config.seed)
            choose_threads(config.hidden_size)
            settings = config.model_settings(*vectors.shape, num_classes)
            self.model = (
                SelfAttentiveBiLSTM(**settings.model_dump())
                if config.encoder == "attention"
                else EncoderClassifier(config.encoder, settings)
            )
            self.model.initialize(mx.init.Xavier(), ctx=self.contexts)
            self.model.embedding.weight.set_data(nd.array(vectors))
            self.model.hybridize()
            self.cross_entropy = (
                gluon.loss.SoftmaxCrossEntropyLoss()
                if class_weights is None
                else WeightedSoftmaxCE(class_weights)
            )
            self.cross_entropy.initialize(ctx=self.contexts)
            self.trainer = gluon.Trainer(
                self.model.collect_params(),
                "adam",
                {"learning_rate": config.learning_rate},
                update_on_kvstore=False,
            )
        self.parameters = self.model.named_parameters()
        names = {parameter.name: name for name, parameter in self.parameters.items()}
        self.trained = {  # the trainer's numbers of the weights that it moves
            names[parameter.name]: index
            for index, parameter in enumerate(self.trainer._params)
            if parameter.grad_req != "null"
        }

    def objective(self, tokens, valid_length, labels):
        """Return the loss (B,) and the logits (B, C): the paper's section 2.2."""
        logits, attention = self.model(tokens, valid_length)
        loss = self.cross_entropy(logits, labels)
        coefficient = self.config.penalty_coefficient
        if coefficient and self.config.encoder == "attention":
            form = self.config.penalty_form
            loss = loss + coefficient * diversity_penalty(attention, form, valid_length)
        return loss, logits

    def step(self, batch):
        """Move the weights once, down the gradient of a batch's mean loss.

        Each device finds the gradient of its part of the batch, weighed by the part's
        share of the reviews; their sum is the gradient of the whole, on every device.
        """
        with self.computing():
            shares, parts = self.deal_out(batch)
            with mx.autograd.record():  # remember how each number came about
                outcomes = [self.objective(*part) for part in parts]  # (B,), (B, C)
                losses = [
                    loss.mean() * share for share, (loss, _) in zip(shares, outcomes)
                ]
            mx.autograd.backward(losses)  # the gradient of each device's part
            self.trainer.allreduce_grads()  # their sum, on every device
            if self.config.clip_norm:
                moved = [self.trainer._params[index] for index in self.trained.values()]
                for gradients in zip(*(weight.list_grad() for weight in moved)):
                    gluon.utils.clip_global_norm(  # of one device
                        gradients, self.config.clip_norm, check_isfinite=False
                    )
            self.trainer.update(1)  # Adam
            return Handle(shares, outcomes, self.as_array)

    def evaluate(self, batch):
        """Return the handle of a batch's loss and logits, without dropout."""
        with self.computing():
            shares, parts = self.deal_out(batch)
            outcomes = [self.objective(*part) for part in parts]
            return Handle(shares, outcomes, self.as_array)

    def replay(self, batch):
        """Draw the random numbers that a step draws, and forget what comes out."""
        with self.computing(), mx.autograd.train_mode():
            for tokens, valid_length, _ in self.deal_out(batch)[1]:
                logits, _ = self.model(tokens, valid_length)
                logits.wait_to_read()

    def deal_out(self, batch):
        """Bring a batch to the devices, each its share of the reviews."""
        tokens, valid_length, labels = batch
        labels = labels.astype(np.float32)
        shares, parts = deal_out((tokens, valid_length, labels), len(self.devices))
        return shares, [
            [nd.from_numpy(array).as_in_context(device) for array in part]
            for device, part in zip(self.contexts, parts)
        ]

    def as_array(self, array):
        """Wait for an NDArray, and return it as an array of NumPy."""
        with self.computing():
            return array.asnumpy()

    def computing(self):
        """Return the context in which this engine's devices compute."""
        return computing(self.devices)

    def seed(self, seed):
        """Seed MXNet's random generators, on every device."""
        mx.random.seed(seed)

    def set_learning_rate(self, rate):
        """Set Adam's learning rate."""
        self.trainer.set_learning_rate(rate)

    def weights(self):
        """Return the weights: dict of ndarray."""
        with self.computing():
            return {
                name: parameter.list_data()[0].asnumpy()
                for name, parameter in self.parameters.items()
            }

    def load_weights(self, weights):
        """Set the weights, on every device."""
        with self.computing():
            for name, parameter in self.parameters.items():
                parameter.set_data(nd.array(weights[name]))

    def state(self):
        """Return the weights, Adam's moments and the number of steps: dict of ndarray.

        The devices are not in it: it is the same for one and for several. Nor are the
        random generators, which each epoch seeds anew.
        """
        state = {f"weight:{name}": array for name, array in self.weights().items()}
        with self.computing():
            for name, index in self.trained.items():
                moments = self.trainer._updaters[0].states.get(index, ())
                for part, moment in zip(MOMENTS, moments):
                    state[f"{part}:{name}"] = moment.asnumpy()
            state["step"] = np.array([self.trainer._optimizer.num_update])
        return state

    def load_state(self, state):
        """Go back to a state, on every device.

        Raises
        ------
        ValueError
            It is not a state of this model.
        """
        check_state(state, self.parameters, self.trained)
        steps = int(state["step"][0])
        self.load_weights({name: state[f"weight:{name}"] for name in self.parameters})
        optimizer = self.trainer._optimizer
        with self.computing():
            optimizer.num_update = steps
            for updater, device in zip(self.trainer._updaters, self.contexts):
                optimizer._set_current_context(device.device_id)
                for name, index in self.trained.items():
                    updater.states[index] = tuple(
                        nd.array(state[f"{part}:{name}"], ctx=device)
                        for part in MOMENTS
                    )
                    updater.states_synced[index] = True
                    optimizer._index_update_count[index] = steps


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
    place = context(device)
    choose_threads(settings.hidden_size)
    with computing([device]):
        model = SelfAttentiveBiLSTM(**settings.model_dump())
        model.initialize(ctx=place)
        for name, parameter in model.named_parameters().items():
            parameter.set_data(nd.array(weights[name]))
        model.hybridize()

    def predict(tokens, valid_length):
        with computing([device]):
            inputs = [
                nd.from_numpy(array).as_in_context(place)
                for array in (tokens, valid_length)
            ]
            return [array.asnumpy() for array in model(*inputs)]

    return predict
