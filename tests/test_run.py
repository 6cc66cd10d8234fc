"""The run directory: whose it is, what it holds, and what is refused as a run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from damage import alter
from safetensors.numpy import load_file
from stopping import at_step, stop_after

from conftest import (
    assert_same_run,
    finish,
    fit,
    make_reviews,
    prepare,
    replaced,
    run_code,
)
from selfatt_lib.config import TrainingConfig
from selfatt_lib.prediction import Classifier
from selfatt_lib.run import RunDirectory, best


def test_a_run_directory_holds_no_pickle(trained):
    for path in trained.run.path.iterdir():
        content = path.read_bytes()
        assert not content.startswith(b"\x80"), path  # a pickle begins so
        if path.suffix != ".safetensors":
            content.decode("utf-8")


def test_a_run_is_finished_only_if_it_ended_and_with_these_parameters(tmp_path):
    prepared = prepare(tmp_path / "run", make_reviews(100), valid_size=20, epochs=1)
    assert not prepared.run.is_finished()
    fit(prepared)
    assert not prepared.run.is_finished()
    finish(prepare(tmp_path / "run", make_reviews(100), valid_size=20, epochs=1))
    same = replaced(prepared.config, device="cpu")
    other = replaced(prepared.config, hidden_size=7)
    assert RunDirectory(same).is_finished()
    assert not RunDirectory(other).is_finished()


def test_of_equally_good_epochs_the_first_is_kept():
    lines = [
        {"epoch": e, "valid_accuracy": a} for e, a in enumerate([0.1, 0.5, 0.5, 0.2], 1)
    ]
    assert best(lines)["epoch"] == 2


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="exists and is not a run"):
        RunDirectory(TrainingConfig(run_dir=str(tmp_path)))
    with pytest.raises(ValueError, match="exists and is not a run"):
        RunDirectory(TrainingConfig(run_dir=str(tmp_path / "thesis.txt")))


def test_resuming_what_never_began_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"holds no run. Start it with resume=False"
    ):
        RunDirectory(TrainingConfig(run_dir=str(tmp_path / "nothing"), resume=True))


def test_resuming_with_other_parameters_is_refused_by_name(trained):
    config = replaced(trained.config, resume=True, lower=False, dropout=0.1)
    with pytest.raises(
        ValueError,
        match=r"parameters: lower was True, now False; dropout was 0.5, now 0.1\. Give",
    ):
        RunDirectory(config)


# Earlier runs


def test_an_earlier_run_is_moved_aside_and_dropped_only_for_the_very_same_weights(
    tmp_path,
):
    parameters = {"valid_size": 20, "epochs": 1}
    reviews = make_reviews(100)

    def names():
        return sorted(path.name for path in tmp_path.iterdir())

    finish(prepare(tmp_path / "run", reviews, **parameters))
    again = prepare(tmp_path / "run", reviews, **parameters)
    fit(again)
    # nothing is lost while the second is not finished
    assert names() == ["run", "run.1"]
    assert (tmp_path / "run.1" / "metrics.json").exists()
    assert not (tmp_path / "run" / "metrics.json").exists()
    finish(prepare(tmp_path / "run", reviews, **parameters))
    assert names() == ["run", "run.1"]  # the third equals the second
    finish(
        prepare(
            tmp_path / "run", reviews.assign(label=6 - reviews["label"]), **parameters
        )
    )
    assert names() == ["run", "run.1", "run.2"]
    (tmp_path / "run" / "notes.txt").write_text("mine")
    finish(
        prepare(
            tmp_path / "run", reviews.assign(label=6 - reviews["label"]), **parameters
        )
    )
    assert names() == ["run", "run.1", "run.2", "run.3"]
    assert (tmp_path / "run.3" / "notes.txt").exists()


def test_a_longer_run_with_the_same_best_epoch_is_not_dropped(tmp_path):
    # so small a learning rate never changes a prediction: the first epoch is the best
    parameters = {"valid_size": 20, "learning_rate": 1e-12}
    finish(prepare(tmp_path / "run", make_reviews(100), epochs=3, **parameters))
    finish(prepare(tmp_path / "run", make_reviews(100), epochs=1, **parameters))
    longer, shorter = (
        load_file(tmp_path / name / "model.safetensors") for name in ("run", "run.1")
    )
    assert (longer["output.weight"] == shorter["output.weight"]).all()
    assert (tmp_path / "run.1" / "metrics.jsonl").read_text().count("\n") == 3


def test_a_run_killed_while_its_folder_was_made_can_be_begun_again(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / ".config.json.partial").write_text("{")
    fit(prepare(path, make_reviews(100), valid_size=20, epochs=1))
    (path / "vocab.json").unlink()
    resumed = prepare(path, make_reviews(100), valid_size=20, epochs=1, resume=True)
    assert len(fit(resumed)) == 1
    assert (path / "vocab.json").exists()


# Two processes


HOLD = """
import sys
from selfatt_lib.config import TrainingConfig
from selfatt_lib.run import RunDirectory
run = RunDirectory(TrainingConfig(run_dir=sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_of_two_processes_the_second_stops_at_once_and_a_killed_one_blocks_nobody(
    tmp_path,
):
    config = TrainingConfig(run_dir=str(tmp_path / "run"))
    command = [sys.executable, "-c", HOLD, config.run_dir]
    holder = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            RuntimeError, match=r"another process is training in '.*run'"
        ):
            RunDirectory(config)
        RunDirectory(replaced(config, run_dir=str(tmp_path / "other")))
    finally:
        holder.kill()
        holder.communicate()
    RunDirectory(config)


def test_a_finished_run_is_free_for_others_while_its_notebook_stays_open(tmp_path):
    prepared = prepare(tmp_path / "run", make_reviews(100), valid_size=20, epochs=1)
    finish(prepared)
    done = run_code(HOLD, tmp_path / "run", input="")
    assert done.stdout == "held\n", done.stderr


# Damaged and foreign files


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "checkpoint.safetensors",
            lambda path: path.write_bytes(path.read_bytes()[:500]),
            "it is no whole file of arrays .*Start the run anew",
        ),
        (
            "checkpoint.safetensors",
            lambda path: alter(path, lambda arrays: {"a": np.zeros(1)}),
            "it has no 'epoch'. Start the run anew",
        ),
        (
            "checkpoint.safetensors",
            lambda path: alter(path, lambda a: a | {"mean:output.bias": a["epoch"]}),
            r"mean:output.bias is not float32 of the shape \(5,\)\. Start the run anew",
        ),
        (
            "checkpoint.safetensors",
            lambda path: alter(path, lambda a: {"epoch": a["epoch"]}),
            "it has no 'step'. Start the run anew",
        ),
        (
            "checkpoint.safetensors",
            lambda path: alter(path, lambda a: a | {"batches": a["step"]}),
            "it has no 'seconds'. Start the run anew",
        ),
        (
            "checkpoint.safetensors",
            lambda path: alter(path, lambda a: a | {"epoch": np.array([np.nan])}),
            r"'epoch' cannot be \[nan\]\. Start the run anew",
        ),
        (
            "checkpoint.safetensors",
            lambda path: alter(path, lambda a: a | {"step": -a["step"]}),
            r"'step' cannot be \[-\d+\]\. Start the run anew",
        ),
        (
            "metrics.jsonl",
            lambda path: path.write_text("{"),
            "is damaged: (?s:.*)Start the run anew",
        ),
        (
            "metrics.jsonl",
            lambda path: path.unlink(),
            "lacks model.safetensors or some of the 2 epochs",
        ),
        (
            "model.safetensors",
            lambda path: path.unlink(),
            "lacks model.safetensors or some of the 2 epochs",
        ),
        ("config.json", lambda path: path.write_text("{"), "config.json: Expecting"),
        (
            "config.json",
            lambda path: path.write_text("[]"),
            "config.json: it holds no JSON object",
        ),
        ("config.json", lambda path: path.write_text("{}"), "config.json: format is"),
    ],
)
def test_a_damaged_run_is_not_resumed(name, damage, message, tmp_path):
    fit(prepare(tmp_path / "run", make_reviews(100), valid_size=20, epochs=2))
    damage(tmp_path / "run" / name)
    with pytest.raises(ValueError, match=message):
        fit(
            prepare(
                tmp_path / "run",
                make_reviews(100),
                valid_size=20,
                epochs=2,
                resume=True,
            )
        )


SHORT = {"valid_size": 20, "epochs": 2}


@pytest.fixture
def two_runs(tmp_path):
    """Return the folders of two runs with other learning rates."""
    folders = {tmp_path / "run": 0.01, tmp_path / "other": 0.02}
    for folder, rate in folders.items():
        fit(prepare(folder, make_reviews(100), **SHORT, learning_rate=rate))
    return list(folders)


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.safetensors"])
def test_arrays_of_another_run_are_refused_though_they_fit(name, two_runs):
    run, other = two_runs
    begun = prepare(run, make_reviews(100), **SHORT, learning_rate=0.01)
    stop_after(begun, batches=len(begun.train_batches) + 1)
    shutil.copy(other / name, run)
    again = prepare(run, make_reviews(100), **SHORT, learning_rate=0.01, resume=True)
    advice = "it is another run's, or was changed. Start the run anew with resume=False"
    with pytest.raises(ValueError, match=f"{name}.* {advice}"):
        fit(again)
    assert len(again.run.history()) == 1  # and nothing was trained in vain
    if name == "model.safetensors":
        with pytest.raises(ValueError, match=f"{name}: it is another run's"):
            Classifier.load(run)


def test_a_run_of_another_edition_is_neither_resumed_nor_loaded(tmp_path):
    parameters = {"valid_size": 20, "epochs": 1}
    fit(prepare(tmp_path / "run", make_reviews(100), **parameters))
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["format"]
    path.write_text(json.dumps(config))
    sentence = (
        r"config.json: it is of another edition of the book.*this one reads format"
    )
    with pytest.raises(ValueError, match=sentence):
        prepare(tmp_path / "run", make_reviews(100), **parameters, resume=True)
    with pytest.raises(ValueError, match=sentence):
        Classifier.load(tmp_path / "run")
    again = prepare(tmp_path / "run", make_reviews(100), **parameters)
    assert not again.run.is_finished()
    fit(again)
    assert "format" not in json.loads((tmp_path / "run.1" / path.name).read_text())


# Folders that cannot be written to


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, and a function that mounts it anew."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", disk],
            capture_output=True,
        )

    if shutil.which("mount") is None or mount("size=1500k").returncode:
        pytest.skip("needs to mount a disk, which only root may")
    yield disk, mount
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("cause", ["full", "almost full", "read-only", "gone"])
def test_a_disk_that_takes_no_more_is_an_error_and_the_last_epoch_stays(
    cause, small_disk, tmp_path, monkeypatch
):
    disk, mount = small_disk
    parameters = {"epochs": 3, "learning_rate": 0.01}
    unbroken = prepare(tmp_path / "unbroken", **parameters)
    unbroken.history = fit(unbroken)
    steps = len(unbroken.train_batches)

    def fill(leave):
        room = shutil.disk_usage(disk).free - leave
        (disk / "ballast").write_bytes(bytes(room))

    def spoil():
        stopped.engine.weights()  # waits for what is computed in the background
        if cause == "read-only":
            assert mount("remount", "ro").returncode == 0
        elif cause == "gone":
            (disk / "run").rename(disk / "elsewhere")
        else:
            fill(leave=4096 * (cause == "almost full"))

    def mend():
        if cause == "read-only":
            assert mount("remount", "rw").returncode == 0
        elif cause == "gone":
            (disk / "elsewhere").rename(disk / "run")
        else:
            (disk / "ballast").unlink()

    stopped = prepare(disk / "run", **parameters)
    with monkeypatch.context() as patch:
        at_step(steps + 2, spoil, patch)
        with pytest.raises(
            OSError, match=r"run/.* could not be written: .*\. What was saved before is"
        ):
            fit(stopped)
    mend()
    assert len(stopped.run.history()) in (1, 2)
    assert load_file(disk / "run" / "checkpoint.safetensors")["epoch"] == 1

    resumed = prepare(disk / "run", resume=True, **parameters)
    resumed.history = fit(resumed)
    assert_same_run(unbroken, resumed)


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.safetensors"])
def test_bytes_that_get_lost_without_an_error_are_noticed(name, tmp_path, monkeypatch):
    prepared = prepare(tmp_path / "run", make_reviews(100), valid_size=20)
    write = Path.write_bytes

    def lose_the_last_bytes(path, content):
        write(path, content[:-100] if name in path.name else content)

    monkeypatch.setattr(Path, "write_bytes", lose_the_last_bytes)
    with pytest.raises(OSError, match=f"{name} could not be written: .*not fully cov"):
        fit(prepared)
    assert not (prepared.run.path / name).exists()


def test_a_run_is_not_resumed_with_other_words(tmp_path):
    fit(prepare(tmp_path / "run", make_reviews(100), **SHORT))
    again = prepare(tmp_path / "run", make_reviews(100), resume=True, **SHORT)
    again.corpus.vocab.idx_to_token[-1] = "other"
    before = (tmp_path / "run" / "vocab.json").read_bytes()
    with pytest.raises(ValueError, match="or how they are split into words"):
        again.run.begin(again.corpus)
    assert (tmp_path / "run" / "vocab.json").read_bytes() == before
