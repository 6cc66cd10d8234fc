"""What a GPU computes, where there is one; and the page about GPUs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from selfatt_lib import cuda
from selfatt_lib.cuda import GPU
from selfatt_lib.data import on_devices
from selfatt_lib.runtime import mx
from selfatt_lib.training import training_step

HERE = Path(__file__).parent


def compare_with_cpu(device, folder):
    """Take one step on the CPU and on a device from the same weights, and compare loss, logits and gradients."""
    from conftest import make_reviews, prepare

    found = []
    for devices in ([mx.cpu()], [device]):
        prepared = prepare(
            folder / "run",
            make_reviews(120),
            devices=devices,
            dropout=0.0,
            embedding_dropout=0.0,
        )
        model = prepared.model
        parameters = model.collect_params()
        if found:  # the device drew other weights
            model.load_parameters(str(folder / "weights"), ctx=device)
        else:
            model.save_parameters(str(folder / "weights"))
        trainer = mx.gluon.Trainer(parameters, "sgd", update_on_kvstore=False)
        batch = next(on_devices(prepared.valid_batches, devices))
        ((loss, logits),) = training_step(model, prepared.objective, trainer, batch)
        gradients = [p.list_grad()[0] for p in parameters.values()]
        found.append([a.asnumpy() for a in (loss, logits, *gradients)])
    for on_cpu, on_device in zip(*found):
        # cuDNN may round to TF32, which has 10 bits
        np.testing.assert_allclose(on_device, on_cpu, rtol=1e-2, atol=1e-2)


def test_the_comparison_itself(tmp_path):
    compare_with_cpu(mx.cpu(1), tmp_path)


def test_a_gpu_computes_what_the_cpu_computes(tmp_path):
    """In a process of its own, since all other tests hide the GPUs."""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    if "HIDDEN_CUDA_VISIBLE_DEVICES" in environment:
        visible = environment["HIDDEN_CUDA_VISIBLE_DEVICES"]
        environment["CUDA_VISIBLE_DEVICES"] = visible
    code = f"""
import sys
sys.path[:0] = {[str(HERE), str(HERE.parent)]!r}
from pathlib import Path
from selfatt_lib.runtime import choose_devices
from test_gpu import compare_with_cpu
try:
    (device,) = choose_devices("gpu")
except RuntimeError as error:
    sys.exit(f"no GPU: {{error}}")
compare_with_cpu(device, Path({str(tmp_path)!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    if done.returncode and done.stderr.startswith("no GPU: "):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr


def test_the_page_says_of_each_generation_what_the_library_says():
    page = (HERE.parent / "book" / "gpu.md").read_text()
    rows = re.findall(
        r"^\| (\w+) \| ([\d., ]+) \| .* \| (yes|no) \|$", page, re.MULTILINE
    )
    assert len(rows) == 8
    for generation, capabilities, answer in rows:
        for capability in capabilities.split(", "):
            gpu = GPU(generation, tuple(map(int, capability.split("."))), 0)
            assert gpu.has_code is (answer == "yes"), (generation, capability)
    for x, y in cuda.MACHINE_CODE:
        assert f"sm_{x}{y}" in page
