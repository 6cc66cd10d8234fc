"""A few of the kills of ``make torture``; would its harness notice a loss?"""

import json
import shutil
import signal

import pytest
from damage import cut, turn_a_bit

from tools import kills


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of the harness that nobody killed."""
    run_dir = tmp_path_factory.mktemp("kills") / "never-killed"
    assert kills.run(run_dir)[0] == 0
    return run_dir


def test_a_run_killed_in_an_epoch_and_while_it_saved_is_the_run_never_killed(
    finished, tmp_path
):
    run_dir, epochs = tmp_path / "killed", 0
    for occasion, number in (("a batch", 70), ("half of a file written", 6)):
        assert kills.run(run_dir, occasion, number)[0] == -signal.SIGKILL
        epochs = kills.look_at(run_dir, epochs)
    assert epochs == 2
    assert list(run_dir.glob(".*"))  # half-written
    assert kills.run(run_dir)[0] == 0
    assert kills.outcome(run_dir) == kills.outcome(finished)
    assert not list(run_dir.glob(".*"))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "checkpoint.safetensors", "metrics.json"]
)
def test_the_harness_notices_half_a_file(name, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    assert kills.look_at(tmp_path / "run", 5) == 5
    cut(tmp_path / "run" / name)
    with pytest.raises(RuntimeError, match=f"{name} is not whole"):
        kills.look_at(tmp_path / "run", 5)


def test_the_harness_notices_a_lost_epoch(finished):
    with pytest.raises(RuntimeError, match="of 6 epochs 5 are left"):
        kills.look_at(finished, 6)


def test_the_harness_notices_other_weights_and_other_metrics(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    expected = kills.outcome(finished)
    assert kills.outcome(tmp_path / "run") == expected
    weights = tmp_path / "run" / "model.safetensors"
    turn_a_bit(weights)
    assert kills.outcome(tmp_path / "run") != expected
    shutil.copy(finished / "model.safetensors", weights)
    metrics = json.loads((finished / "metrics.json").read_text())
    metrics["accuracy"] += 0.001
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics))
    assert kills.outcome(tmp_path / "run") != expected
