"""What a GPU computes, where there is one; and the page about GPUs."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from stopping import stop_after

from conftest import ENGINE, TWO, fit, make_reviews, prepare, run_code
from selfatt_lib import engines
from selfatt_lib.machinery import cuda
from selfatt_lib.machinery.cuda import GPU

HERE = Path(__file__).parent


def compare_with_cpu(device, folder):
    """Step on the CPU and on a device from one start; compare all that comes out."""
    found, weights = [], None
    for name in ("cpu", device):
        prepared = prepare(
            folder / "compared",
            make_reviews(120),
            chosen=engines.Chosen(ENGINE, [name]),
            dropout=0.0,
            embedding_dropout=0.0,
        )
        engine = prepared.engine
        if weights:  # the device drew others
            engine.load_weights(weights)
        weights = engine.weights()
        loss, logits = engine.step(next(iter(prepared.valid_batches))).read()
        moments = [a for n, a in sorted(engine.state().items()) if n.startswith("mean")]
        found.append([loss, logits, *moments])  # after one step: the gradient's tenth
    for on_cpu, on_device in zip(*found, strict=True):
        # cuDNN may round to TF32, which has 10 bits
        assert np.abs(on_device - on_cpu).max() <= 1e-2 * np.abs(on_cpu).max()


def train_and_resume(device, folder):
    """Adam, dropout, clipping, checkpoints: stop after an epoch, go on, and learn."""
    chosen = engines.Chosen(ENGINE, [device])
    same = {"chosen": chosen, "epochs": 4, "learning_rate": 0.02}
    whole = prepare(folder / "run", **same)
    stop_after(whole, len(whole.train_batches) + 1)
    history = fit(prepare(folder / "run", **same, resume=True))
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert history["train_loss"].iloc[-1] < 0.7 * history["train_loss"].iloc[0]


CHECKS = [compare_with_cpu, train_and_resume]


@pytest.mark.parametrize("check", CHECKS)
def test_the_checks_themselves(check, tmp_path):
    check(TWO.devices[1], tmp_path)


@pytest.mark.parametrize("check", CHECKS)
def test_a_gpu_computes_what_the_cpu_computes(check, tmp_path):
    """In a process of its own, since all other tests hide the GPUs."""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    if "HIDDEN_CUDA_VISIBLE_DEVICES" in environment:
        visible = environment["HIDDEN_CUDA_VISIBLE_DEVICES"]
        environment["CUDA_VISIBLE_DEVICES"] = visible
    code = f"""
import sys
sys.path[:0] = {[str(HERE), str(HERE.parent)]!r}
from pathlib import Path
import test_gpu
try:
    (device,) = test_gpu.ENGINE.choose_devices("gpu")
except RuntimeError as error:
    print("no GPU:", error)
    sys.exit()
test_gpu.{check.__name__}(device, Path({str(tmp_path)!r}))
"""
    done = run_code(code, env=environment)
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("no GPU"):
        pytest.skip(done.stdout.strip())


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
