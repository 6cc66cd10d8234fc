"""The model in PyTorch, held against `reference`, and Adam against Gluon's formula."""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from selfatt_lib import reference
from selfatt_lib.config import PenaltyForm, TrainingConfig
from selfatt_lib.engines import pytorch as engine
from selfatt_lib.machinery.cuda import Driver
from selfatt_lib.machinery.files import read_arrays, write_arrays
from selfatt_lib.pytorch import (
    BiLSTM,
    SelfAttentiveBiLSTM,
    diversity_penalty,
    objective,
)

VOCAB, E = 40, 7
SMALL = {"hidden_size": 5, "attention_units": 4, "attention_hops": 3}
SMALL |= {"classifier_units": 6, "prune_p": 3, "prune_q": 2}


def make_model(**parameters):
    """Return a model, and its weights as a file gives them back."""
    config = TrainingConfig(**SMALL | parameters)
    torch.manual_seed(0)
    sizes = config.model_settings(VOCAB, E).model_dump()
    model = SelfAttentiveBiLSTM(**sizes).eval()
    weights = {n: p.detach().numpy() for n, p in model.named_weights().items()}
    return model, weights, sizes


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCAB, (6, 9)).astype(np.int32)
    return tokens, np.array([9, 1, 4, 9, 7, 2], np.int32)


def run(model, tokens, valid_length):
    with torch.inference_mode():
        found = model(torch.from_numpy(tokens), torch.from_numpy(valid_length))
    return [tensor.numpy() for tensor in found]


@pytest.fixture(params=["packed", "reversed"])
def way(request, monkeypatch):
    """Let the LSTM read padded batches as on a GPU, or as elsewhere."""
    chosen = getattr(BiLSTM, request.param)
    for name in ("packed", "reversed"):
        monkeypatch.setattr(BiLSTM, name, chosen)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("pooling", ["flatten", "mean", "prune"])
def test_it_computes_what_the_reference_computes_from_the_same_file(
    pooling, num_layers, batch, tmp_path
):
    model, weights, sizes = make_model(pooling=pooling, num_layers=num_layers)
    shapes = reference.weight_shapes(sizes)
    write_arrays(tmp_path / "model.safetensors", weights)
    weights = read_arrays(tmp_path / "model.safetensors", shapes)
    logits, attention, embedding = reference.forward(*batch, weights, pooling)
    found = run(model, *batch)
    np.testing.assert_allclose(found[0], logits, atol=1e-5)
    np.testing.assert_allclose(found[1], attention, atol=1e-5)
    hidden = reference.states(*batch, weights)
    M, _ = model.attention(torch.from_numpy(hidden), torch.from_numpy(batch[1]))
    np.testing.assert_allclose(M.detach().numpy(), embedding, atol=1e-5)


@pytest.mark.usefixtures("way")
def test_padding_and_neighbours_never_matter(batch):
    model, _, _ = make_model(num_layers=2)
    tokens, valid_length = batch
    logits, attention = run(model, tokens, valid_length)
    for row, n in enumerate(valid_length):
        assert (attention[row, :, n:] == 0).all()
        np.testing.assert_allclose(attention[row].sum(axis=1), 1, atol=1e-6)
        alone = run(model, tokens[row : row + 1, :n], valid_length[row : row + 1])
        np.testing.assert_allclose(logits[row], alone[0][0], atol=1e-6)
        np.testing.assert_allclose(attention[row, :, :n], alone[1][0], atol=1e-6)
    longer = np.pad(tokens, ((0, 0), (0, 5)), constant_values=3)
    np.testing.assert_allclose(run(model, longer, valid_length)[0], logits, atol=1e-6)


@pytest.mark.usefixtures("way")
def test_no_gradient_comes_from_padding(batch):
    model, _, _ = make_model(num_layers=2)
    tokens, valid_length = map(torch.from_numpy, batch)
    vectors = model.embedding(tokens).detach().requires_grad_()
    model.embedding.forward = lambda _: vectors
    model(tokens, valid_length)[0].sum().backward()
    is_word = torch.arange(9) < valid_length[:, None]
    assert (vectors.grad[~is_word] == 0).all()
    assert (vectors.grad[is_word].abs().sum(dim=1) > 0).all()


def test_dropout_acts_in_training_only_and_where_gluons_does(batch):
    model, _, _ = make_model(num_layers=2, dropout=0.9, embedding_dropout=0.0)
    np.testing.assert_array_equal(run(model, *batch)[0], run(model, *batch)[0])
    seen = []
    model.dropout.register_forward_hook(lambda _, x, __: seen.append(x[0].shape[1:]))
    model.train()
    assert np.abs(run(model, *batch)[0] - run(model, *batch)[0]).max() > 0
    # between the LSTM's layers, before the hidden layer and behind it
    assert seen[:3] == [(9, 10), (30,), (6,)]


@pytest.mark.parametrize("form", PenaltyForm.__args__)
@pytest.mark.parametrize("class_weights", [None, [3.0, 5.3, 4.0, 2.0, 1.0]])
def test_the_objective_is_the_references(form, class_weights, batch):
    _, weights, _ = make_model()
    logits, A, _ = reference.forward(*batch, weights)
    labels = np.array([0, 4, 2, 1, 3, 0])
    expected = reference.cross_entropy(logits, labels, class_weights)
    expected = expected + 0.3 * reference.penalty(A, form, batch[1])
    config = TrainingConfig(penalty_coefficient=0.3, penalty_form=form)
    given = map(torch.from_numpy, (logits, A, labels, batch[1]))
    weights = None if class_weights is None else torch.tensor(class_weights)
    found = objective(*given, weights, config)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_the_penaltys_gradient_is_a_number_where_the_hops_are_apart():
    attention = torch.eye(3).repeat(2, 1, 1).requires_grad_()
    for form in PenaltyForm.__args__:
        attention.grad = None
        diversity_penalty(attention, form).sum().backward()
        assert torch.isfinite(attention.grad).all()


def test_an_unknown_form_and_an_unknown_pooling_are_refused():
    with pytest.raises(ValueError, match="form must be one of squared, norm, mean_"):
        diversity_penalty(torch.eye(2)[None], "sqared")
    with pytest.raises(ValueError, match="pooling must be one of flatten, mean, prun"):
        SelfAttentiveBiLSTM(5, 4, 3, 1, 2, 2, 3, pooling="max")


def test_weights_are_drawn_as_gluon_draws_them():
    _, weights, _ = make_model(pooling="prune", hidden_size=60)
    for name, weight in weights.items():
        if "bias" in name:
            assert not weight.any()
        elif weight.ndim == 2:  # Xavier's bound
            bound = np.sqrt(6 / sum(weight.shape))
            assert 0.9 * bound < np.abs(weight).max() <= bound


def test_each_gpu_draws_numbers_of_its_own(monkeypatch):
    generators = [torch.Generator() for _ in range(3)]
    monkeypatch.setattr(torch.cuda, "default_generators", ())
    give = partial(monkeypatch.setattr, torch.cuda, "default_generators", generators)
    monkeypatch.setattr(torch.cuda, "init", give)  # before, there are none
    engine.Engine.seed(SimpleNamespace(devices=["gpu:2", "gpu:0"]), 5)
    assert (generators[0].initial_seed(), generators[2].initial_seed()) == (6, 5)
    assert torch.initial_seed() == 5


def test_an_old_driver_is_the_reason_why_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(engine.cuda, "driver", lambda: Driver((12, 4)))
    said = "its driver runs CUDA up to 12.4, and PyTorch .* was built for 13.0. Update"
    with pytest.raises(RuntimeError, match=said):
        engine.choose_devices("gpu")


def test_adam_adds_epsilon_where_gluons_does():
    """With gradients as small as 1e-8, it matters."""
    config = TrainingConfig(**SMALL, learning_rate=0.01, clip_norm=None)
    ours = engine.Engine(config, np.zeros((VOCAB, E), np.float32), 5, devices=["cpu"])
    before, name = ours.weights()["output.bias"], "output.bias"
    gradient = np.array([1e-8, 1e-7, -1e-6, 1e-3, 1.0])
    mean = variance = np.zeros(5)
    for t in (1, 2, 3):
        ours.models[0].zero_grad()
        ours.trained[name].grad = torch.tensor(gradient, dtype=torch.float32)
        ours.move()
        mean = 0.9 * mean + 0.1 * gradient
        variance = 0.999 * variance + 0.001 * gradient**2
        rate = 0.01 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        before = before - rate * mean / (np.sqrt(variance) + 1e-8)
        np.testing.assert_allclose(ours.weights()[name], before, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpu", "gpu:0 cannot be used: .*Or use device='cpu' or 'auto'"),
        ("cuda:1", "gpu:1 cannot be used: "),
        ("mps", "mps cannot be used: it is the GPU of a Mac with Apple silicon"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_the_reason(name, said):
    with pytest.raises(
        RuntimeError, match=f"device='{name}' was asked for, and {said}"
    ):
        engine.choose_devices(name)


def test_of_the_gpus_the_first_that_computes_is_taken(monkeypatch):
    broken = {"cuda:0"}
    ones = torch.ones

    def compute(*size, device):
        if str(device) in broken:
            raise RuntimeError("CUDA error: no kernel image is available\nmore")
        return ones(*size)

    assert engine.choose_devices() == ["cpu"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch, "ones", compute)
    assert engine.choose_devices() == ["gpu:1"]
    assert engine.choose_devices("gpu:1") == ["gpu:1"]
    with pytest.raises(RuntimeError, match=r"gpu:0 cannot be .*CUDA error: no kern"):
        engine.choose_devices("gpu:1,gpu:0")
    broken.add("cuda:1")
    with pytest.warns(UserWarning, match="computing on the CPU: .*no kernel image is"):
        assert engine.choose_devices() == ["cpu"]


def test_a_pytorch_without_cuda_is_named(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(RuntimeError, match=r"PyTorch, \d.*, is built without CUDA"):
        engine.choose_devices("gpu")


def test_bfloat16_is_refused_where_no_gpu_has_it(monkeypatch):
    with pytest.raises(RuntimeError, match="there is no NVIDIA GPU that can be used"):
        engine.check_precision("bfloat16", ["cpu"])
    capability = {"cuda:0": (7, 5), "cuda:1": (8, 0)}
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: capability[str(device)]
    )
    engine.check_precision("bfloat16", ["gpu:1"])
    with pytest.raises(RuntimeError, match=r"gpu:0 has no such numbers: .*Ampere"):
        engine.check_precision("bfloat16", ["gpu:1", "gpu:0"])


def test_with_bfloat16_the_loss_is_near_and_the_weights_stay_float32(
    batch, monkeypatch
):
    """On a CPU, and as a GPU reads it; the parameters refuse what only takes longer."""
    monkeypatch.setattr(BiLSTM, "reversed", BiLSTM.packed)
    labels, found, lstm = np.array([0, 4, 2, 1, 3, 0]), {}, set()
    for precision in ("float32", "bfloat16"):
        config = TrainingConfig(**SMALL, precision=precision, dropout=0.0)
        vectors = np.ones((VOCAB, E), np.float32)
        ours = engine.Engine(config, vectors, 5, devices=["cpu"])
        layer = ours.models[0].layers[0]
        layer.register_forward_hook(lambda _, __, states: lstm.add(states.dtype))
        found[precision] = ours.step((*batch, labels)).read()
        assert {array.dtype for array in ours.weights().values()} == {np.dtype("f4")}
    assert lstm == {torch.float32}
    for exact, rounded in zip(*found.values()):
        assert rounded.dtype == np.float32
        assert 0 < np.abs(exact - rounded).max() < 0.05


class Copies(TorchDispatchMode):
    """Takes note of copies between devices, and whether the program waits for them."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        tensors = [x for x in (*args, found) if isinstance(x, torch.Tensor)]
        if len({x.device for x in tensors if x.dim()}) > 1:
            self.seen.append((function, (kwargs or {}).get("non_blocking")))
        return found


@pytest.mark.parametrize("form", ["squared", "norm", "mean_squared"])
def test_a_step_on_a_gpu_waits_for_nothing(batch, monkeypatch, form):
    """PyTorch's device without memory stands in: whoever reads from it fails."""
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *x, fused, **more: adam(*x, **more))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(BiLSTM, "reversed", BiLSTM.packed)
    monkeypatch.setattr(engine.Engine, "weights", lambda _: {})
    monkeypatch.setattr(engine.Engine, "load_weights", lambda *_: None)
    config = TrainingConfig(**SMALL, num_layers=2, penalty_form=form)
    vectors = np.ones((VOCAB, E), np.float32)
    ours = engine.Engine(config, vectors, 5, [1.0] * 5, devices=["meta"])
    with Copies() as copies:
        handle = ours.step((*batch, np.array([0, 4, 2, 1, 3, 0])))
        ours.evaluate((*batch, np.array([0, 4, 2, 1, 3, 0])))
    # tokens, labels, a place for each word and layer, padding, and lengths
    assert len(copies.seen) == 2 * (5 + (form == "mean_squared"))
    assert copies.seen == [(torch.ops.aten._to_copy.default, True)] * len(copies.seen)
    with pytest.raises(NotImplementedError):
        handle.read()


def test_memory_that_does_not_suffice_is_a_memory_error():
    said = "the memory of cpu does not suffice"
    with pytest.raises(MemoryError, match=said), engine.computing(["cpu"]):
        torch.empty(2**46, dtype=torch.uint8)
