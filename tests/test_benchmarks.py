"""What the benchmarks rest on: the peers do the same work, and the table says so."""

import json
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from benchmarks import ours, questions, report, reviews, settings
from benchmarks.harness import Runs, Side, interleave
from conftest import ENGINE

NAME = {"MXNet": "tutorial", "PyTorch": "pytorch"}[ENGINE.NAME]
peer = import_module(f"benchmarks.{NAME}")


@pytest.mark.parametrize("setting", [settings.tutorial(), settings.quick()])
def test_the_peers_loss_falls_as_ours_does(setting):
    losses = []
    for side in (ours.TrainingStep("auto"), peer.TrainingStep()):
        side.build(setting.small())
        losses.append(side.run(5))
    np.testing.assert_allclose(*losses, rtol=questions.SAME_LOSS)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.skipif(ENGINE.NAME != "PyTorch", reason="the peer is PyTorch's")
@pytest.mark.parametrize("name", ["tutorial", "quick", "paper"])
def test_a_plain_epoch_does_the_steps_of_ours(name, tmp_path):
    """Both read a file of made-up reviews; then the same padded batch, as one wrote."""
    path = tmp_path / "reviews.jsonl"
    words, rng = ["good", "bad", "a", "the", "film"], np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, n)) for n in rng.integers(1, 9, 40)]
    reviews = [{"text": text, "stars": i % 5} for i, text in enumerate(texts)]
    path.write_text("\n".join(map(json.dumps, reviews)))
    given = settings.made_up(name, str(path)) | {"batch_size": 7, "dropout": 0.0}
    given |= {"hidden_size": 6, "attention_units": 5, "classifier_units": 8}
    given |= {"embedding_dropout": 0.0, "class_weights": None}
    own, plain = ours.Epoch("auto", "cpu", given), peer.Epoch("cpu", given)
    assert own.seconds() > 0
    assert plain.seconds() > 0
    setting = own.setting()
    assert setting.reviews == 38
    assert setting.tokens == np.mean([len(review) for review, _ in plain.reviews])

    tokens, labels, lengths = plain.collate(plain.reviews[:7])
    assert lengths.tolist() == sorted(lengths.tolist(), reverse=True)
    step = ours.TrainingStep("auto")
    for side in (step, plain.loop):
        side.build(replace(setting, reviews=2, tokens=3))
    batch = [x.numpy().astype(np.int32) for x in (tokens, lengths, labels)]
    losses = [step.engine.step(batch).read()[0].mean() for _ in range(3)]
    theirs = [plain.loop.step(tokens, labels, lengths).item() for _ in range(3)]
    np.testing.assert_allclose(losses, theirs, rtol=1e-5)


def test_a_peer_that_does_other_work_is_refused():
    losses = {"ours": [2.0, 1.0], "peer": [2.0, 1.0009]}
    questions.check("losses", losses, relative=questions.SAME_LOSS)
    losses["peer"][1] = 1.1
    with pytest.raises(RuntimeError, match="do not do the same work"):
        questions.check("losses", losses, relative=questions.SAME_LOSS)


def test_the_operations_of_a_step_are_those_of_its_products():
    """At the tutorial's setting: 18.4 billion forward in the first layer, 27.6 in the
    second; backward once more, and twice."""
    words, u = 64 * 100, 300
    first, second = 2 * 2 * words * 2 * u * 4 * u, 2 * 2 * words * 3 * u * 4 * u
    # but no gradient of the word vectors: half of the inputs' share backward
    lstm = 3 * (first + second) - first / 2
    expected = pytest.approx(1.05 * lstm, rel=0.03)
    assert settings.tutorial().operations() == expected


def test_a_ratio_says_how_many_times_better_ours_is():
    assert report.row("q", "speed", "reviews/s", 30, 10)["ratio"] == 3
    assert report.row("q", "latency", "ms", 2, 3)["ratio"] == 1.5
    assert report.row("q", "alone", "s", 2)["ratio"] is None
    runs = {"ours": Runs([1, 2, 9]), "peer": Runs([4, 4, 4])}
    (row,) = report.compare("q", "step", "reviews/s", runs, 100)
    assert (row["ours"], row["peer"], row["ratio"]) == (50, 25, 2)
    assert row["spread"] == pytest.approx(2)
    (alone,) = report.compare("q", "one", "ms", {"ours": Runs([1, 2, 9])})
    assert (alone["ours"], alone["peer"]) == (2000, None)


def test_a_busy_machine_is_not_hidden():
    calm = report.row("q", "calm", "s", 1, spread=0.02) | {"others": 0.01}
    wide = report.row("q", "wide", "s", 1, spread=0.4) | {"others": 0.01}
    busy = report.row("busy", "other work", "s", 1, spread=0.02) | {"others": 0.5}
    assert report.doubts([calm]) == []
    assert len(report.doubts([calm, wide, busy])) == 2
    assert report.table([calm, wide]).count("?") == 1


def test_a_partial_run_replaces_its_own_rows_only(tmp_path):
    first = [report.row("one", "a", "s", 1), report.row("two", "b", "s", 2)]
    report.keep(first, {}, tmp_path)
    report.keep([report.row("two", "b", "s", 3)], {}, tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [(row["name"], row["ours"]) for row in rows] == [("a", 1), ("b", 3)]


def test_sides_take_turns_and_the_first_rounds_do_not_count():
    order = []
    works = {name: lambda n=name: order.append(n) or len(order) for name in "ab"}
    assert interleave(works, 2, "turns") == {"a": [3, 5], "b": [4, 6]}
    assert order == list("ababab")


def test_a_side_that_fails_says_why(tmp_path):
    missing = str(tmp_path / "missing.jsonl")
    with (
        Side("benchmarks.settings:read_reviews", missing, 1) as side,
        pytest.raises(FileNotFoundError, match=r"missing\.jsonl"),
    ):
        side.call("run")


def test_lengths_follow_the_tutorials_histogram():
    lengths = reviews.random_lengths(20_000, np.random.default_rng(0))
    assert lengths.min() >= 1
    assert lengths.max() <= reviews.LONGEST
    assert (lengths >= 100).mean() == pytest.approx(
        100_550 / sum(reviews.COUNTS), abs=0.02
    )
