"""The CPU's LSTM against MXNet's own, which `BiLSTM` uses elsewhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.compiler_lock import global_compiler_lock
from test_processes import fork_while_it_is_held, in_a_process

from conftest import run_code
from selfatt_lib.machinery import lstm
from selfatt_lib.machinery.runtime import mx, seed_everything
from selfatt_lib.model import BiLSTM

nd = mx.nd
PLACES, SIZE, UNITS = 7, 5, 4


def outcome(on_cpu, lengths, hybridize=False, batches=1, frozen=False, twice=False):
    """Return the outputs, and the gradients of a random weighing of them: list."""
    seed_everything(1)
    layer = BiLSTM(UNITS, SIZE)
    layer.is_on_cpu = lambda: on_cpu
    layer.initialize(mx.init.Normal(0.6))
    if hybridize:
        layer.hybridize()
    rng = np.random.default_rng(0)
    real = (np.arange(PLACES) < np.array(lengths)[:, None])[:, :, None]
    weighing = nd.array(rng.normal(size=(len(lengths), PLACES, 2 * UNITS)) * real)
    inputs = [
        nd.array(rng.normal(size=(len(lengths), PLACES, SIZE))) for _ in range(batches)
    ]
    if not frozen:
        for batch in inputs:
            batch.attach_grad()
    length = nd.array(lengths, dtype="int32")
    with mx.autograd.record():
        outputs = [layer(batch, length) for batch in inputs]
        total = sum(
            (number + 1) * (o * weighing).sum() for number, o in enumerate(outputs)
        )
        if twice:
            total = total + (layer(inputs[0], length) * weighing).sum()
    total.backward()
    gradients = [weight.grad() for weight in layer.collect_params().values()]
    if not frozen:
        gradients += [batch.grad for batch in inputs]
    return [output.asnumpy() * real for output in outputs] + [
        gradient.asnumpy() for gradient in gradients
    ]


def check(lengths, **how):
    ours, mxnets = outcome(True, lengths, **how), outcome(False, lengths, **how)
    assert len(ours) == len(mxnets)
    for one, other in zip(ours, mxnets):
        np.testing.assert_allclose(one, other, atol=1e-5 * max(1, np.abs(other).max()))
    assert np.abs(ours[0]).max() > 1e-3


@pytest.mark.parametrize("hybridize", [False, True])
@pytest.mark.parametrize(
    "lengths", [[7], [1], [7, 3, 5], [3, 5, 6], [7] * 40, [1] * 20 + [7] * 13]
)
def test_it_computes_what_mxnets_lstm_computes(lengths, hybridize):
    check(lengths, hybridize=hybridize)


@settings(deadline=None)
@given(st.lists(st.integers(1, PLACES), min_size=1, max_size=40))
def test_of_any_lengths(lengths):
    check(lengths)


@pytest.mark.parametrize("threads", [1, 3, 4, 64])
def test_on_any_number_of_threads(threads, monkeypatch):
    lengths = np.random.default_rng(3).integers(1, PLACES + 1, 75).tolist()
    monkeypatch.setattr(lstm, "THREADS", threads)
    monkeypatch.setattr(lstm, "PRODUCT_WORTH_A_THREAD", 0)
    check(lengths)


def test_the_reviews_are_shared_out_among_the_threads(monkeypatch):
    weights = [np.zeros((4 * UNITS, UNITS))] * 8
    for threads, reviews, shares in ((2, 64, 1), (8, 64, 4), (8, 40, 2), (8, 3, 1)):
        monkeypatch.setattr(lstm, "THREADS", threads)
        directions = lstm._directions(np.full(reviews, 3), 3, weights)
        assert len(directions) == 2 * shares
        words = np.concatenate([direction.words for direction in directions[::2]])
        assert sorted(words) == list(range(3 * reviews))


def test_two_batches_may_be_under_way():
    check([7, 2, 4], batches=2)


def test_inputs_may_be_read_twice():
    check([7, 2, 4], twice=True)


def test_inputs_that_need_no_gradient():
    check([7, 2, 4], frozen=True)


def test_padding_is_not_read_and_its_states_are_zeros():
    layer = BiLSTM(UNITS, SIZE)
    layer.initialize()
    inputs = np.random.default_rng(0).normal(size=(2, PLACES, SIZE))
    inputs[1, 3:] = np.nan
    inputs = nd.array(inputs)
    inputs.attach_grad()
    with mx.autograd.record():
        outputs = layer(inputs, nd.array([PLACES, 3]))
    outputs.backward()
    assert (outputs[1, 3:] == 0).asnumpy().all()
    assert np.isfinite(outputs.asnumpy()).all()
    assert (inputs.grad[1, 3:] == 0).asnumpy().all()


def test_what_is_not_finite_shows():
    layer = BiLSTM(UNITS, SIZE)
    layer.initialize()
    outputs = layer(nd.full((1, PLACES, SIZE), np.nan), nd.array([PLACES]))
    assert np.isnan(outputs.asnumpy()).all()


def test_tanh_is_exact_to_float32():
    x = np.concatenate([np.linspace(-12, 12, 100_001), [1e-30, 100, np.inf, -np.inf]])
    x = x.astype(np.float32)
    ours = np.array([lstm._tanh(number) for number in x], np.float32)
    np.testing.assert_allclose(ours, np.tanh(x.astype(float)), rtol=5e-7)


@pytest.mark.parametrize("lengths", [[0, 2], [3, PLACES + 1]])
def test_an_impossible_length_is_refused(lengths, capfd):
    layer = BiLSTM(UNITS, SIZE)
    layer.initialize()
    with pytest.raises(mx.MXNetError):
        layer(nd.ones((2, PLACES, SIZE)), nd.array(lengths)).wait_to_read()
    assert f"must be from 1 to 7, the length of the batch; got {lengths}" in (
        capfd.readouterr().out
    )


def test_double_precision_is_refused(capfd):
    layer = BiLSTM(UNITS, SIZE)
    layer.initialize()
    layer.cast("float64")
    with pytest.raises(mx.MXNetError):
        layer(nd.ones((2, PLACES, SIZE), dtype="float64"), nd.array([1, 2]))
    assert "this LSTM computes in float32 only" in capfd.readouterr().out


def fork_and_compile():
    fork_while_it_is_held(global_compiler_lock, lambda: check([7, 2]) is None)


def test_numbas_lock_held_by_another_thread_at_the_fork_stops_no_child():
    in_a_process(fork_and_compile)


ENDING = """
import sys
from selfatt_lib.machinery import lstm
from selfatt_lib.model import BiLSTM

lstm.PRODUCT_WORTH_A_THREAD = int(sys.argv[1])
layer = BiLSTM(20, 20)
layer.initialize()
inputs, length = lstm.mx.nd.ones((64, 50, 20)), lstm.mx.nd.full(64, 50)
for _ in range(100):
    with lstm.mx.autograd.record():
        outputs = layer(inputs, length)
    outputs.backward()
"""


@pytest.mark.parametrize("worth_a_thread", [0, 10**9])
def test_a_process_may_end_while_the_lstm_computes(worth_a_thread):
    done = run_code(ENDING, worth_a_thread, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
