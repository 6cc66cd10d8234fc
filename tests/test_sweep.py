"""Many runs by a plan: what is refused, what is kept, and what a kill leaves."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from conftest import SMALL, make_reviews
from selfatt_lib.cli import main
from selfatt_lib.run import RunDirectory
from selfatt_lib.sweep import expand, sweep

PLAN = {
    "common": SMALL | {"tfidf": False, "device": "cpu"},
    "grid": {"attention_hops": [1, 2], "seed": [0, 1]},
}


@pytest.fixture
def plan(tmp_path):
    """A plan on reviews of its own."""
    make_reviews(200).to_csv(tmp_path / "reviews.csv", index=False)
    return PLAN | {"common": PLAN["common"] | {"dataset": f"{tmp_path}/reviews.csv"}}


def test_a_grid_is_all_combinations_each_in_a_folder_of_its_own(tmp_path):
    runs = expand(PLAN, tmp_path)
    assert list(runs) == [
        f"attention_hops={hops},seed={seed}" for hops in (1, 2) for seed in (0, 1)
    ]
    assert [(c.attention_hops, c.seed, c.epochs) for c in runs.values()] == [
        (1, 0, 3),
        (1, 1, 3),
        (2, 0, 3),
        (2, 1, 3),
    ]
    assert len({config.run_dir for config in runs.values()}) == 4


def test_listed_runs_are_combined_with_the_grid_and_may_have_names(tmp_path):
    runs = [{"name": "slow", "learning_rate": 0.001}, {"epochs": 2}, {"name": 7}]
    plan = {"runs": runs, "grid": {"seed": [3]}}
    with pytest.warns(UserWarning, match="'8,seed=3' has the parameters of '7,seed=3'"):
        found = expand(plan | {"runs": [*runs, {"name": 8}]}, tmp_path, {"patience": 1})
    assert list(found) == ["slow,seed=3", "epochs=2,seed=3", "7,seed=3"]
    assert list(expand({"runs": [{}, {"seed": 1}]}, tmp_path)) == ["usual", "seed=1"]
    assert found["slow,seed=3"].learning_rate == 0.001
    assert all(c.patience == 1 and c.seed == 3 for c in found.values())


def test_equal_runs_are_trained_once(tmp_path):
    runs = [{"name": "a", "seed": 1}, {"name": "b", "seed": 1}]
    with pytest.warns(UserWarning, match="'b' has the parameters of 'a' and is"):
        assert list(expand({"runs": runs}, tmp_path)) == ["a"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "the plan has no run: grid or runs is missing or empty"),
        ({"grid": {}}, "the plan has no run"),
        ({"grid": {"seed": []}}, "the plan has no run"),
        ({"runs": []}, "the plan has no run"),
        ({"grid": {"seed": 3}}, "grid: seed must be a list of values; got 3"),
        ({"grid": {"attention_hop": [1]}}, "did you mean 'attention_hops'"),
        ({"grid": {"seed": [0]}, "common": {"epoch": 1}}, "did you mean 'epochs'"),
        ({"grid": {"epochs": [0]}}, "the run 'epochs=0': epochs must be a whole num"),
        ({"grid": {"run_dir": ["a"]}}, "run_dir is the sweep's own; leave it out"),
        ({"grid": {"seed": [0]}, "seeds": 5}, "a plan has grid .* got seeds: 5"),
        ({"runs": ["seed"]}, "runs: expected parameters; got 'seed'"),
        (
            {"runs": [{"name": "a"}, {"name": "a", "seed": 1}]},
            "two runs are called 'a'",
        ),
        ({"grid": {"dataset": ["a b", "a-b"]}}, "two runs are called 'dataset=a-b'"),
        ({"grid": {"dataset": ["A", "a"]}}, "two runs are called 'dataset=a'"),
        ({"grid": {"name": ["a"]}}, "a name is for one of the runs; leave it out"),
        ({"runs": [{"name": ".."}]}, "a run cannot be called '..'; give it a name of"),
        (
            {"grid": {"labels": [["a" * 99, "b" * 99]]}},
            "a run cannot be called 'label",
        ),
    ],
)
def test_a_plan_that_is_none_is_refused_in_a_sentence(wrong, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        expand(wrong, tmp_path)


def test_a_sweep_is_trained_told_and_not_trained_again(plan, tmp_path, monkeypatch):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    command = ["sweep", str(tmp_path / "plan.yaml"), "--folder", str(tmp_path / "runs")]
    done = CliRunner().invoke(main, [*command, "-p", "epochs", "1"])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "runs" / "results.csv")
    assert table["run"].tolist() == [*expand(plan, tmp_path)]
    varied = ["attention_hops", "seed"]
    assert table[varied].values.tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]
    assert table["accuracy"].between(0, 1).all()
    assert (table["epochs"] == 1).all()
    assert table["error"].isna().all()
    assert "attention_hops=2,seed=1" in done.output
    monkeypatch.setattr("selfatt_lib.sweep.fit", None)  # nothing is left to train
    again = CliRunner().invoke(main, [*command, "-p", "epochs", "1"])
    assert again.exit_code == 0, again.output
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "runs" / "results.csv"), table, check_exact=True
    )


def test_runs_of_other_parameters_are_refused_before_any_work(plan, tmp_path):
    sweep(expand(plan | {"grid": {"seed": [1]}}, tmp_path / "runs"), tmp_path / "runs")
    changed = plan | {"grid": {"seed": [0, 1]}}
    runs = expand(changed, tmp_path / "runs", {"hidden_size": 7})
    with pytest.raises(ValueError, match="has other parameters: hidden_size was 6"):
        sweep(runs, tmp_path / "runs")
    assert not (tmp_path / "runs" / "seed=0").exists()


def test_a_parameter_is_given_in_one_place(plan, tmp_path):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    command = ["sweep", str(tmp_path / "plan.yaml"), "-p", "seed", "3"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert "the plan's grid has seed, too: leave out -p" in done.output


def test_a_run_without_the_baseline_that_it_should_have_gets_it(plan, tmp_path):
    """As one that was stopped after its training."""
    plan["grid"] = {"seed": [0]}
    sweep(expand(plan, tmp_path / "runs"), tmp_path / "runs")
    plan["common"]["tfidf"] = True
    table = sweep(expand(plan, tmp_path / "runs"), tmp_path / "runs")
    assert table["tfidf_accuracy"][0] > 0.5


def test_ctrl_c_ends_a_sweep_with_its_status_and_how_to_go_on(
    plan, tmp_path, monkeypatch
):
    def stopped(_):
        raise KeyboardInterrupt(
            "SIGINT came. Stopped and saved after batch 3 of 9 in "
            "epoch 1. To go on, run the same with resume=True."
        )

    monkeypatch.setattr("selfatt_lib.sweep.fit", stopped)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    command = ["sweep", str(tmp_path / "plan.yaml"), "--folder", str(tmp_path / "runs")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 130
    assert "batch 3 of 9 in epoch 1. The same command goes on." in done.output


def test_a_run_that_fails_is_told_and_the_others_go_on(plan, tmp_path):
    plan["grid"] = {"dataset": [f"{tmp_path}/none.csv", f"{tmp_path}/reviews.csv"]}
    table = sweep(expand(plan, tmp_path / "runs"), tmp_path / "runs")
    assert "is neither a file" in table["error"][0]
    assert table["accuracy"].notna().tolist() == [False, True]


def test_a_loss_that_is_no_number_is_told_and_the_others_go_on(plan, tmp_path):
    plan["grid"] = {"learning_rate": [1e30, 0.01]}
    table = sweep(
        expand(plan, tmp_path / "runs", {"clip_norm": None}), tmp_path / "runs"
    )
    assert "infinite or no number" in table["error"][0]
    assert table["accuracy"].notna().tolist() == [False, True]


def test_a_run_that_another_process_trains_is_left_to_it(plan, tmp_path):
    runs = expand(plan | {"grid": {"seed": [0, 1]}}, tmp_path / "runs")
    code = """
import sys
from selfatt_lib.config import TrainingConfig
from selfatt_lib.run import RunDirectory
held = RunDirectory(TrainingConfig(run_dir=sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code, runs["seed=0"].run_dir]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        table = sweep(runs, tmp_path / "runs")
        other.stdin.close()
    assert table["error"][0] == "another process is training it"
    assert table["accuracy"].notna().tolist() == [False, True]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_sweep_that_is_killed_goes_on_where_it_was(plan, tmp_path):
    """Killed in the middle of its last run, it is what it would have been."""
    plan["common"]["epochs"] = 20
    plan["grid"] = {"seed": [0, 1]}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    folder = tmp_path / "runs"
    command = [
        sys.executable,
        "-m",
        "selfatt_lib",
        "sweep",
        str(tmp_path / "plan.yaml"),
    ]
    command += ["--folder", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as killed:
        begun, waited = folder / "seed=1" / "checkpoint.safetensors", time.time()
        while not begun.exists():
            assert killed.poll() is None
            assert time.time() < waited + 120
            time.sleep(0.01)
        os.kill(killed.pid, signal.SIGKILL)
    runs = expand(plan, folder)
    assert not RunDirectory(runs["seed=1"]).is_finished()
    first = (folder / "seed=0" / "model.safetensors").stat().st_mtime_ns
    table = sweep(runs, folder)
    assert (folder / "seed=0" / "model.safetensors").stat().st_mtime_ns == first
    whole = sweep(expand(plan, tmp_path / "whole"), tmp_path / "whole")
    same = ["run", "seed", "accuracy", "valid_accuracy", "epochs", "error"]
    pd.testing.assert_frame_equal(table[same], whole[same], check_exact=True)
