"""A run that several processes share, on loopback; one is killed, and all go on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from conftest import SMALL, make_reviews
from selfatt_lib.config import TrainingConfig
from selfatt_lib.torchrun import Peers, own_config
from selfatt_lib.training import fit

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="looks for processes in /proc"
)

NO_DROPOUT = {"dropout": 0.0, "embedding_dropout": 0.0, "embedding": None}
WAIT = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun")
    make_reviews(300).to_csv(folder / "reviews.csv", index=False)
    others = make_reviews(300, seed=1).replace("film", "other film", regex=True)
    others.to_csv(folder / "others.csv", index=False)
    return folder


@pytest.fixture
def started():
    """Start a command in a folder, which ends with the test: Popen."""
    processes = []

    def start(command, folder):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        own = subprocess.Popen(command, cwd=folder, start_new_session=True, **pipes)
        processes.append(own)
        return own

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def torchrun(started):
    """Start `selfatt train` in so many processes: Popen."""

    def start(folder, run, processes, *options, **parameters):
        command = command_line(run, processes, *options, **parameters)
        return started(command, folder)

    return start


def command_line(run, processes, *options, **parameters):
    given = SMALL | NO_DROPOUT | {"dataset": "reviews.csv", "run_dir": run}
    given |= {"embedding_size": 8, "engine": "auto"} | parameters
    if "--nnodes=2" not in options:
        options = ["--standalone", *options]
    command = [sys.executable, "-m", "torch.distributed.run", *options]
    command += ["--nproc-per-node", str(processes), "-m", "selfatt_lib", "train"]
    for name, value in given.items():
        command += ["-p", name, str(value)]
    return command


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


def fit_alone(folder, run, **parameters):
    """The same run by one process: its folder."""
    given = SMALL | NO_DROPOUT | {"embedding_size": 8, "engine": "pytorch"}
    given |= {"dataset": str(folder / "reviews.csv"), "run_dir": str(folder / run)}
    fit(TrainingConfig(**given | parameters))
    return folder / run


@pytest.fixture(scope="module")
def alone(folder):
    return fit_alone(folder, "alone")


def assert_equal_histories(one, several):
    assert len(one) == len(several)
    for a, b in zip(one, several):
        for name in a.keys() - {"seconds"}:
            assert a[name] == pytest.approx(b[name], abs=1e-5), name


def test_three_processes_find_what_one_finds(folder, alone, torchrun):
    process = torchrun(folder, "three", 3)  # of 16 reviews, 6, 5 and 5
    said, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, said
    assert said.count("self-attentive BiLSTM") == 1
    assert_equal_histories(history_of(alone), history_of(folder / "three"))
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


def test_a_process_may_have_one_review_of_a_batch(folder, torchrun):
    parameters = {
        "batch_size": 3,  # three processes; the last batch of a bucket may have one
        "train_size": 121,
        "clip_norm": 0.05,
        "class_weights": "auto",
        "train_embedding": False,
        "pooling": "prune",
        "prune_p": 2,
        "prune_q": 3,
    }
    one = fit_alone(folder, "odd", **parameters)
    process = torchrun(folder, "odd-three", 3, **parameters)
    said, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, said
    assert_equal_histories(history_of(one), history_of(folder / "odd-three"))


def test_one_that_is_killed_ends_all_and_others_go_on(folder, torchrun):
    process = torchrun(folder, "killed", 2, epochs=100)
    after_epochs(1, folder, "killed")
    os.kill(workers(process)[1], signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.count("Error: another process of this run has ended. What was") == 1
    assert said.count("Traceback") == 1  # torchrun's own
    saved = load_file(folder / "killed" / "checkpoint.safetensors")
    epochs = int(saved["epoch"][0])
    assert epochs >= 1

    process = torchrun(folder, "killed", 3, epochs=epochs + 1, resume=True)
    said, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, said
    whole = fit_alone(folder, "whole", epochs=epochs + 1)
    assert_equal_histories(history_of(whole), history_of(folder / "killed"))


def test_torchrun_itself_goes_on(folder, torchrun):
    process = torchrun(folder, "again", 2, "--max-restarts=1", epochs=30)
    after_epochs(1, folder, "again")
    first = workers(process)
    os.kill(first[0], signal.SIGKILL)
    said, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, said
    assert len(history_of(folder / "again")) == 30
    assert "exitcode: -9" in said
    assert not (folder / "again.1").exists()  # it was not begun anew


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_all_after_the_same_batch(folder, torchrun, name):
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
    if name == "SIGTERM":  # what follows is the same
        return
    epochs = int(checkpoint["epoch"][0]) + 1
    process = torchrun(folder, run, 3, epochs=epochs, resume=True)
    said, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, said
    whole = fit_alone(folder, f"{run}-whole", epochs=epochs)
    assert_equal_histories(history_of(whole), history_of(folder / run))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"batch_size": 1}, "batch_size=1 has not a review for each of 2 processes"),
        ({"epoch": 2}, "did you mean 'epochs'"),
        ({"dataset": "none.csv"}, "none.csv"),
    ],
)
def test_what_cannot_be_shared_is_told_once(folder, torchrun, parameters, said):
    process = torchrun(folder, "refused", 2, **parameters)
    told, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 1
    assert len([x for x in told.splitlines() if x.startswith("Error: ")]) == 1
    assert said in told
    assert not (folder / "refused").exists()


def test_processes_with_other_reviews_do_not_train(folder, started):
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
    process = started(command, folder)
    told, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 1
    said = "ValueError: process 1 of 2 has other parameters, reviews, words, vectors"
    assert said in told
    assert not (folder / "other").exists()


def test_where_one_machine_cannot_begin_the_other_ends(folder, torchrun):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = ["--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    other = torchrun(folder, "two", 1, *address, "--node-rank=1", device="gpu:7")
    first = torchrun(folder, "two", 1, *address, "--node-rank=0", epochs=1000)
    told, _ = other.communicate(timeout=WAIT)
    assert "Error: device='gpu:7', but each of 2 processes takes one of its own" in told
    first.communicate(timeout=WAIT)  # it would train much longer
    assert first.returncode == 1


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    for name, value in (("WORLD_SIZE", 4), ("LOCAL_WORLD_SIZE", 2), ("LOCAL_RANK", 1)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("auto", "gpu", "cuda"):
        assert own_config(TrainingConfig(device=device)).device == "gpu:1"
    with pytest.raises(ValueError, match="each of 4 processes takes one of its own"):
        own_config(TrainingConfig(device="gpu:0"))
    with pytest.raises(ValueError, match="4 processes share a run with PyTorch only"):
        own_config(TrainingConfig(engine="mxnet"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"2 processes of this machine .* it has 1"):
        own_config(TrainingConfig())
    assert own_config(TrainingConfig(device="cpu")).device == "cpu"


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
