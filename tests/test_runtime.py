import subprocess
import sys

import numpy as np
import pytest

from selfatt_lib.runtime import choose_device, mx, seed_everything


def test_only_missing_numpy_names_are_added():
    code = """
import numpy as np
before = dict(vars(np))
import selfatt_lib.runtime as runtime
import numpy
added = set(vars(np)) - set(before)
changed = [name for name in before if vars(np)[name] is not before[name] and not name.startswith("_")]
wanted = set(runtime._RENAMED) | set(runtime._CONSTANTS) | set(runtime._LOOKED_UP_ONLY)
# NumPy loads some of its own parts when they are first asked for
modules = {name for name in added if type(vars(np)[name]).__name__ == "module"}
assert not changed, changed
assert added - modules <= wanted, added - wanted
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_mxnet_computes_beside_this_numpy():
    assert mx.nd.array(np.eye(2)).sum().asscalar() == 2


def test_a_name_that_mxnet_only_looks_up_says_that_it_is_gone():
    with pytest.raises(NotImplementedError, match="npv was removed"):
        np.npv(0.1, [1, 2])


@pytest.mark.parametrize("name", ["cpu", "auto"])
def test_without_a_gpu_the_cpu_is_chosen(name, monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    assert choose_device(name) == mx.cpu()


@pytest.mark.skipif(mx.context.num_gpus() > 0, reason="this machine has a GPU")
def test_a_gpu_on_which_nothing_runs_is_not_chosen(monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 1)
    assert choose_device("auto") == mx.cpu()


@pytest.mark.skipif(mx.context.num_gpus() > 0, reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["gpu", "gpu:1"])
def test_a_gpu_asked_for_and_not_usable_is_an_error_with_a_way_out(name):
    with pytest.raises(
        RuntimeError, match=f"device='{name}' was asked for.*Use device='cpu' or 'auto'"
    ):
        choose_device(name)


def test_the_numbered_gpu_is_the_one_tried(monkeypatch):
    monkeypatch.setattr(mx, "gpu", mx.cpu)  # kernels run on this stand-in
    assert choose_device("gpu:1") == mx.cpu(1)
    assert choose_device("gpu") == mx.cpu(0)


@pytest.mark.parametrize("name", ["tpu", "gpu:x", "GPU", "", 0, None])
def test_an_unknown_device_name_is_refused(name):
    with pytest.raises(
        ValueError, match="device must be 'auto', 'cpu', 'gpu' or 'gpu:N'"
    ):
        choose_device(name)


def test_the_same_seed_draws_the_same_everywhere():
    import random

    def draw():
        return (
            random.random(),
            np.random.rand(),
            mx.nd.random.uniform(shape=(4,)).asnumpy().tolist(),
        )

    seed_everything(7)
    first = draw()
    seed_everything(7)
    assert draw() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draw(), first))
