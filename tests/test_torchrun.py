"""A run that several processes share, on loopback; one is killed, and all go on."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from conftest import SMALL, make_reviews
from selfatt_lib.config import TrainingConfig
from selfatt_lib.torchrun import Peers
from selfatt_lib.training import fit

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="looks for processes in /proc"
)

NO_DROPOUT = {"dropout": 0.0, "embedding_dropout": 0.0, "embedding": None}
WAIT = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun")
    make_reviews(300).to_csv(folder / "reviews.csv", index=False)
    others = make_reviews(300, seed=1).replace("film", "other film", regex=True)
    others.to_csv(folder / "others.csv", index=False)
    return folder


def torchrun(folder, run, processes, *options, **parameters):
    """Start `selfatt train` in so many processes: Popen."""
    given = SMALL | NO_DROPOUT | {"dataset": "reviews.csv", "run_dir": run}
    given |= {"embedding_size": 8, "engine": "auto"} | parameters
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [*options, "--nproc-per-node", str(processes), "-m", "selfatt_lib"]
    command += ["train"]
    for name, value in given.items():
        command += ["-p", name, str(value)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, **pipes)


def workers(process):
    """Return the process of each number: dict."""
    listed = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
    )
    found = {}
    for pid in map(int, listed.stdout.split()):
        with open(f"/proc/{pid}/environ") as file:
            lines = file.read().split("\0")
        environment = dict(line.partition("=")[::2] for line in lines)
        if "RANK" in environment:
            found[int(environment["RANK"])] = pid
    return found


def history_of(path):
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def after_epochs(number, folder, run):
    """Wait until so many epochs are saved."""
    path, until = folder / run / "metrics.jsonl", time.monotonic() + WAIT
    while time.monotonic() < until:
        if path.exists() and len(path.read_text().splitlines()) >= number:
            return
        time.sleep(0.05)
    raise TimeoutError


@pytest.fixture(scope="module")
def alone(folder):
    """The same run by one process."""
    given = SMALL | NO_DROPOUT | {"embedding_size": 8, "engine": "pytorch"}
    run = folder / "alone"
    fit(TrainingConfig(**given, dataset=str(folder / "reviews.csv"), run_dir=str(run)))
    return run


def test_three_processes_find_what_one_finds(folder, alone):
    process = torchrun(folder, "three", 3)  # of 16 reviews, 6, 5 and 5
    said, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, said
    assert said.count("self-attentive BiLSTM") == 1
    one, three = history_of(alone), history_of(folder / "three")
    assert len(one) == len(three) == 3
    for a, b in zip(one, three):
        for name in a.keys() - {"seconds"}:
            assert a[name] == pytest.approx(b[name], abs=1e-5), name
    weights = [
        load_file(run / "model.safetensors") for run in (alone, folder / "three")
    ]
    for name, weight in weights[0].items():
        np.testing.assert_allclose(weight, weights[1][name], atol=1e-5)
    predicted = [
        pd.read_csv(run / "predictions.csv") for run in (alone, folder / "three")
    ]
    pd.testing.assert_frame_equal(*predicted)
    metrics = json.loads((folder / "three" / "metrics.json").read_text())
    assert metrics["test_size"] == SMALL["test_size"]
    assert metrics["device"] == "cpu, cpu, cpu"


def test_one_that_is_killed_ends_all_and_others_go_on(folder, alone):
    process = torchrun(folder, "killed", 2, epochs=100)
    after_epochs(1, folder, "killed")
    os.kill(workers(process)[1], signal.SIGKILL)
    began = time.monotonic()
    said, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert process.returncode == 1
    assert said.count("Error: another process of this run has ended. What was") == 1
    assert said.count("Traceback") == 1  # torchrun's own
    saved = load_file(folder / "killed" / "checkpoint.safetensors")
    epochs = int(saved["epoch"][0])
    assert epochs >= 1

    given = SMALL | NO_DROPOUT | {"embedding_size": 8, "engine": "pytorch"}
    given |= {"dataset": "reviews.csv", "resume": True, "epochs": epochs + 1}
    process = torchrun(folder, "killed", 3, **given)
    said, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, said
    process = torchrun(folder, "whole", 2, epochs=epochs + 1)
    said, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, said
    pairs = zip(history_of(folder / "killed"), history_of(folder / "whole"))
    for a, b in pairs:
        assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-5)


def test_torchrun_itself_goes_on(folder):
    process = torchrun(folder, "again", 2, "--max-restarts=1", epochs=40)
    after_epochs(1, folder, "again")
    first = workers(process)
    os.kill(first[0], signal.SIGKILL)
    said, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, said
    assert len(history_of(folder / "again")) == 40
    assert "exitcode: -9" in said
    assert not (folder / "again.1").exists()  # it was not begun anew


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_all_after_the_same_batch(folder, name):
    run = name.lower()
    process = torchrun(folder, run, 2, epochs=1000)
    after_epochs(1, folder, run)
    number = getattr(signal, name)
    for pid in [*workers(process).values(), process.pid]:  # as a terminal does
        os.kill(pid, number)
    said, _ = process.communicate(timeout=60)
    assert said.count(" came. Stopped and saved after ") == 1
    assert "another process of this run has ended" not in said
    checkpoint = load_file(folder / run / "checkpoint.safetensors")
    assert ("batches" in checkpoint) == ("after batch" in said)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"batch_size": 1}, "batch_size=1 has not a review for each of 2 processes"),
        ({"engine": "mxnet"}, "2 processes share a run with PyTorch only"),
        ({"device": "gpu:0"}, "each of 2 processes takes one of its own"),
        ({"epoch": 2}, "did you mean 'epochs'"),
        ({"dataset": "none.csv"}, "none.csv"),
    ],
)
def test_what_cannot_be_shared_is_told_once(folder, parameters, said):
    process = torchrun(folder, "refused", 2, **parameters)
    told, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 1
    assert len([x for x in told.splitlines() if x.startswith("Error: ")]) == 1
    assert said in told
    assert not (folder / "refused").exists()


def test_processes_with_other_reviews_do_not_train(folder):
    script = folder / "other.py"
    script.write_text(
        "import os\n"
        "from selfatt_lib.config import TrainingConfig\n"
        "from selfatt_lib.torchrun import fit_together\n"
        "name = 'others.csv' if os.environ['RANK'] == '1' else 'reviews.csv'\n"
        f"given = {SMALL | NO_DROPOUT | {'embedding_size': 8}}\n"
        "fit_together(TrainingConfig(**given, dataset=name, run_dir='other'))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", script]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1
    said = "ValueError: process 1 of 2 has other reviews, words, vectors than process 0"
    assert said in done.stderr
    assert not (folder / "other").exists()


def test_who_waits_for_others_says_how_many_came(monkeypatch):
    for name, value in (
        ("RANK", "0"),
        ("WORLD_SIZE", "3"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "0"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(
        RuntimeError, match=r"not all 3 processes came to .* 1/3 clients"
    ):
        Peers(patience=1)
