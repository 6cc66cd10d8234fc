import os
import random
import shutil
import subprocess
import sys
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import settings
from playwright.sync_api import sync_playwright
from safetensors.numpy import load_file

from selfatt_lib import engines, training
from selfatt_lib.config import TrainingConfig
from selfatt_lib.results import baselines, write_metrics
from selfatt_lib.run import RunDirectory
from selfatt_lib.training import evaluate

mpl.use("agg")

settings.register_profile("torture", max_examples=2_000, deadline=None)
if "HYPOTHESIS_PROFILE" in os.environ:
    settings.load_profile(os.environ["HYPOTHESIS_PROFILE"])

OPINIONS = {
    1: "awful broken waste",
    2: "bad dull weak",
    3: "average mixed plain",
    4: "good solid nice",
    5: "superb perfect love",
}


def make_reviews(size, seed=0):
    """Reviews of 3 to 30 words of which some tell the stars."""
    rng = random.Random(seed)
    stars = [rng.choice([1, 2, 3, 4, 5, 5]) for _ in range(size)]
    texts = [
        " ".join(
            rng.choices(
                [
                    "the",
                    "film",
                    "was",
                    "a",
                    "story",
                    "and",
                    "I",
                    *OPINIONS[star].split(),
                ],
                k=rng.randint(3, 30),
            )
        )
        for star in stars
    ]
    return pd.DataFrame({"text": texts, "label": stars})


# the engine that is installed here
CHOSEN = engines.choose(device="cpu")
ENGINE = CHOSEN.module
TWO = engines.Chosen(ENGINE, ["cpu:0", "cpu:1"])  # to an engine they are two devices
SMALL = {
    "valid_size": 60,
    "test_size": 20,
    "hidden_size": 6,
    "attention_units": 5,
    "attention_hops": 2,
    "classifier_units": 8,
    "batch_size": 16,
    "num_buckets": 3,
    "epochs": 3,
}


def prepare(run_dir, reviews=None, chosen=CHOSEN, **parameters):
    """Do what the training notebook does up to the training, on a small scale."""
    config = TrainingConfig(run_dir=str(run_dir), **{**SMALL, **parameters})
    run = RunDirectory(config)
    corpus = training.prepare(config, make_reviews(320) if reviews is None else reviews)
    engine = training.build_engine(config, corpus, chosen)
    return SimpleNamespace(
        **vars(corpus), corpus=corpus, config=config, run=run, engine=engine
    )


def fit(prepared):
    """Do the training itself; return its history."""
    p = prepared
    p.run.begin(p.corpus)
    return training.train(p.run, p.engine, p.train_batches, p.valid_batches)


def finish(prepared):
    """Train and write the metrics, which is what makes a run a finished one."""
    prepared.history = fit(prepared)
    _, labels, predictions = evaluate(prepared.engine, prepared.test_batches)
    results = prepared.run, prepared.history, labels, predictions
    results += prepared.corpus, CHOSEN
    write_metrics(*results)
    return write_metrics(*results, baselines(prepared.corpus))


def assert_same_run(a, b):
    """The same history but for the seconds, and the same weights, bit for bit."""
    pd.testing.assert_frame_equal(
        a.history.drop(columns="seconds"),
        b.history.drop(columns="seconds"),
        check_exact=True,
    )
    for file in ("model.safetensors", "checkpoint.safetensors"):
        first, second = (load_file(each.run.path / file) for each in (a, b))
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(
                first[name], second[name], err_msg=f"{file}: {name}"
            )


def replaced(config, **changed):
    return TrainingConfig(**vars(config) | changed)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished small run."""
    prepared = prepare(tmp_path_factory.mktemp("runs") / "small", learning_rate=0.02)
    prepared.history = fit(prepared)
    return prepared


@pytest.fixture(scope="session")
def polar(tmp_path_factory):
    """A finished small run with two labels, which are texts."""
    reviews = make_reviews(360)
    reviews["label"] = np.where(reviews["label"] > 3, "positive", "negative")
    run_dir = tmp_path_factory.mktemp("runs") / "polar"
    prepared = prepare(run_dir, reviews, learning_rate=0.02)
    prepared.metrics = finish(prepared)
    return prepared


CHROMIUM = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]


@pytest.fixture(scope="module")
def browser():
    """Chromium, or whatever of its kind is installed."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        reason = f"needs a browser: install one of {', '.join(CHROMIUM)}"
        if os.environ.get("BROWSER_TESTS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


def run_code(code, *arguments, **options):
    """Run Python code in a fresh process; return what `subprocess.run` returns."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Keep what is downloaded and tokenized in a folder that is not there yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SELFATT_CACHE", str(folder))
    return folder


@pytest.fixture
def only_own_index(monkeypatch):
    """Let pip look nowhere but where the test says, once, and keep nothing."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
