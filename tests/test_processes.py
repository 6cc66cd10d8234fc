"""Threads, and processes however they are started. What hangs fails within a minute."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from conftest import CHOSEN, ENGINE, fit, make_reviews, prepare
from selfatt_lib import prediction
from selfatt_lib.machinery import words
from selfatt_lib.machinery.progress import tqdm
from selfatt_lib.prediction import Classifier
from selfatt_lib.training import build_engine

TEXTS = make_reviews(40)["text"].tolist()
SECONDS = 50
LOADED = {}  # found by a forked process; any other loads its own

ENGINES = {"NumPy": prediction.TEXTS_WORTH_AN_ENGINE, ENGINE.NAME: 0}


def answers(run_dir, engine=ENGINE.NAME):
    prediction.TEXTS_WORTH_AN_ENGINE = ENGINES[engine]
    classifier = LOADED.get(run_dir) or Classifier.load(run_dir)
    return [
        (found.stars, found.probabilities.tobytes(), found.tokens)
        for found in classifier.predict(TEXTS)
    ]


@pytest.fixture(autouse=True)
def _set_back():
    yield
    prediction.TEXTS_WORTH_AN_ENGINE = ENGINES["NumPy"]


@pytest.mark.parametrize("engine", ENGINES)
def test_eight_threads_may_make_the_first_call_at_once(engine, trained, monkeypatch):
    run_dir = trained.run.path
    together = threading.Barrier(8)

    def first_call(_):
        together.wait(SECONDS)
        return answers(run_dir, engine)

    with ThreadPoolExecutor(8) as threads:
        for _ in range(10):
            monkeypatch.setitem(LOADED, run_dir, Classifier.load(run_dir))
            found = list(threads.map(first_call, range(8)))
            assert found == [answers(run_dir, engine)] * 8


def in_a_process(function, *arguments):
    """Call a function in a fresh process, which must be done in time."""
    process = multiprocessing.get_context("spawn").Process(
        target=lead, args=(function, *arguments)
    )
    with pytest.MonkeyPatch.context() as patch:
        # the process imports this file, and with it the conftest.py beside it
        patch.syspath_prepend(os.path.dirname(__file__))
        process.start()
    process.join(SECONDS)
    if hangs := process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    assert not hangs
    assert process.exitcode == 0


def lead(function, *arguments):
    os.setsid()  # to be killed together with its children
    if ENGINE.NAME == "MXNet":
        from selfatt_lib.machinery import lstm

        lstm.PRODUCT_WORTH_A_THREAD = 0  # threads compute, however small the model
    function(*arguments)


def fork(function, *arguments):
    """Return the number of a child that ends well if the function returns True."""
    if child := os.fork():
        return child
    signal.alarm(20)
    good = False
    try:
        good = function(*arguments)
    finally:
        os._exit(not good)


def wait_for(child):
    assert os.waitpid(child, 0)[1] == 0


def predict_in_workers(run_dir, method):
    LOADED[run_dir] = Classifier.load(run_dir)
    expected = {engine: answers(run_dir, engine) for engine in ENGINES}
    with multiprocessing.get_context(method).Pool(2) as pool:
        for engine in ENGINES:
            found = pool.starmap(answers, [(run_dir, engine)] * 4, chunksize=1)
            assert found == [expected[engine]] * 4, engine


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_predict_what_their_parent_predicts(method, trained):
    in_a_process(predict_in_workers, trained.run.path, method)


def train_in_a_child(folder):
    def weights(name):
        fit(prepare(folder / name, learning_rate=0.02))
        return (folder / name / "model.safetensors").read_bytes()

    expected = weights("parent")
    answers(folder / "parent")
    wait_for(fork(lambda: weights("child") == expected))


def test_a_forked_child_trains_to_the_weights_of_its_parent(tmp_path):
    in_a_process(train_in_a_child, tmp_path)


def predict_and_fork(run_dir):
    LOADED[run_dir] = Classifier.load(run_dir)
    expected, done = answers(run_dir), threading.Event()

    def predict():
        while not done.is_set():
            assert answers(run_dir) == expected

    with ThreadPoolExecutor(8) as threads:
        predicting = [threads.submit(predict) for _ in range(8)]
        try:
            for _ in range(3):
                wait_for(fork(lambda: answers(run_dir) == expected))
                for _ in range(6):
                    wait_for(fork(bool, True))
        finally:
            done.set()
    for thread in predicting:
        thread.result()


def test_a_process_may_be_forked_while_it_predicts(trained):
    in_a_process(predict_and_fork, trained.run.path)


def train_and_fork(folder):
    prepared = prepare(folder)
    batch, done = next(iter(prepared.train_batches)), threading.Event()

    def new_engine():
        return build_engine(prepared.config, prepared.corpus, CHOSEN)

    def loss():
        return new_engine().step(batch).read()[0].tobytes()

    def train(seed):
        """Step on batches of all sizes: an engine prepares for each of them anew."""
        engine, rng = new_engine(), np.random.default_rng(seed)
        while not done.is_set():
            reviews, places = rng.integers(1, batch[0].shape, endpoint=True)
            tokens, valid_length, labels = (array[:reviews] for array in batch)
            valid_length = np.minimum(valid_length, places)
            engine.step((tokens[:, :places].copy(), valid_length, labels)).read()
        engine.weights()  # waits for the last step

    expected, end = loss(), time.monotonic() + 10
    with ThreadPoolExecutor(4) as threads:
        training = [threads.submit(train, seed) for seed in range(4)]
        try:
            while time.monotonic() < end:
                wait_for(fork(lambda: loss() == expected))
        finally:
            done.set()
    for thread in training:
        thread.result()


def test_a_process_may_be_forked_while_it_trains(tmp_path):
    in_a_process(train_and_fork, tmp_path)


def hold_and_fork(run_dir, name):
    LOADED[run_dir] = Classifier.load(run_dir)
    lock = {"tokens": words.words_of("en", True).lock, "tqdm": tqdm.get_lock()}[name]
    fork_while_it_is_held(lock, lambda: len(answers(run_dir)) == len(TEXTS))


def fork_while_it_is_held(lock, function):
    """Fork a child that calls a function, while another thread holds a lock."""
    held = threading.Event()

    def hold():
        with lock:
            held.set()
            threading.Event().wait(0.5)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = fork(function)
    holder.join()
    wait_for(child)


@pytest.mark.parametrize("name", ["tokens", "tqdm"])
def test_a_lock_that_another_thread_held_at_the_fork_stops_no_child(name, trained):
    in_a_process(hold_and_fork, trained.run.path, name)


FORK = """
import os, sys, threading, time
from selfatt_lib import prediction
from selfatt_lib.prediction import Classifier

prediction.TEXTS_WORTH_AN_ENGINE = 0
classifier = Classifier.load(sys.argv[1])
thread = threading.Thread(target=classifier.predict, args=(["a film"] * 50,))
thread.start()
while thread.is_alive():  # the engine is imported meanwhile
    child = os.fork()
    if not child:
        os._exit(len(classifier.predict(["a film", "good"])) != 2)
    assert os.waitpid(child, 0)[1] == 0
    time.sleep(0.05)
thread.join()
print("done")
"""


def test_a_process_may_be_forked_while_it_starts_an_engine(trained):
    command = [sys.executable, "-c", FORK, trained.run.path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.stdout == "done\n", done.stderr
    assert done.stderr == ""
