"""One cache, many processes.

Each file is downloaded once, and never taken for whole when it is not.
"""

import errno
import io
import multiprocessing
import os
import resource
import shutil
import signal
import tarfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pandas as pd
import pytest
from damage import cut, turn_a_bit
from servers import glove_archive, serve, sha256, use_glove

from selfatt_lib.data import sources
from selfatt_lib.data.sources import load_reviews
from selfatt_lib.data.vectors import load_vectors
from selfatt_lib.machinery import places

pytestmark = pytest.mark.usefixtures("only_own_index")

# children have what a test has set, and need not import anything
FORK = multiprocessing.get_context("fork")
PROCESSES = 8

RATED = {"Wonderful.": 3.2, "Fine, I guess.": 1.0, "A waste of time.": -2.5}
SNIPPETS = (list(RATED), [5, 4, 1])


def tar(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def source_distribution():
    """A small one with snippets in it, and what pip asks of any."""
    lines = [
        f"{i}\t{rating}\t{text}\n" for i, (text, rating) in enumerate(RATED.items())
    ]
    films, products = sources.SNIPPET_FILES
    snippets = {films: "".join(lines[:2]).encode(), products: lines[2].encode()}
    setup = (
        b"from setuptools import setup\nsetup(name='vaderSentiment', version='3.3.2')"
    )
    return tar(
        {
            "vaderSentiment-3.3.2/setup.py": setup,
            sources.SNIPPETS_ARCHIVE: tar({"../outside.txt": b"", **snippets}),
        }
    )


def load_snippets():
    reviews = load_reviews("review-snippets")
    return reviews["text"].tolist(), reviews["label"].tolist()


def load_glove():
    return load_vectors("glove.6B.100d", ["movie", "café"])[:, 0].tolist()


def load_yelp():
    reviews = load_reviews("yelp-review-full")
    return reviews["text"].tolist(), reviews["label"].tolist()


@contextmanager
def sender(content, send, other=None):
    """A server of one file, or of what `other` returns.

    Yield the address, and a list that grows with each download.
    """
    downloads = []

    def respond(method, path, number):
        if other and (answer := other(path)):
            return answer
        if method == "GET":
            downloads.append(path)
        return send(content)

    with serve(respond) as (address, _):
        yield address, downloads


@contextmanager
def snippets_served(monkeypatch, send):
    content = source_distribution()
    name = "vaderSentiment-3.3.2.tar.gz"

    def index(path):
        page = f'<a href="/files/{name}">{name}</a>'.encode()
        if not path.endswith(".tar.gz"):
            return 200, {"Content-Type": "text/html"}, page

    with sender(content, send, index) as (address, downloads):
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
        monkeypatch.setattr(sources, "SNIPPETS_HASH", f"sha256:{sha256(content)}")
        yield SimpleNamespace(
            load=load_snippets, expected=SNIPPETS, file=name, downloads=downloads
        )


@contextmanager
def glove_served(monkeypatch, send):
    content = glove_archive()
    with sender(content, send) as (address, downloads):
        use_glove(monkeypatch, address, content)
        yield SimpleNamespace(
            load=load_glove,
            expected=[2.0, 3.0],
            file="glove.6B.zip",
            downloads=downloads,
        )


@contextmanager
def yelp_served(monkeypatch, send):
    table = pd.DataFrame({"label": [4, 0], "text": ["Loved it.", "Hated it."]})
    content = table.to_parquet()
    stated = {"ETag": f'"{sha256(content)}"', "X-Repo-Commit": sources.YELP["revision"]}

    def send_stated(content):
        status, headers, body = send(content)
        return status, headers | stated, body

    with sender(content, send_stated) as (address, downloads):
        monkeypatch.setattr(sources, "YELP", {**sources.YELP, "endpoint": address})
        yield SimpleNamespace(
            load=load_yelp,
            expected=(["Loved it.", "Hated it."], [5, 1]),
            file=f"hub/datasets--Yelp--yelp_review_full/blobs/{sha256(content)}",
            downloads=downloads,
        )


SERVED = [snippets_served, glove_served, yelp_served]
served_by_all = pytest.mark.parametrize("served", SERVED)
served_by_ours = pytest.mark.parametrize("served", SERVED[:2])


def whole(content):
    return 200, {}, content


def slowly(content):
    """As long as it takes until all have noticed that they have nothing."""
    time.sleep(0.5)
    return whole(content)


def at_once(load):
    """Call a function in eight processes at the same time; return what they return."""
    together = FORK.Barrier(PROCESSES)
    with ProcessPoolExecutor(PROCESSES, FORK, together.wait) as pool:
        return [call.result() for call in [pool.submit(load) for _ in range(PROCESSES)]]


@served_by_all
def test_eight_processes_download_once_and_load_the_same(served, cache, monkeypatch):
    with served(monkeypatch, slowly) as source:
        assert at_once(source.load) == [source.expected] * PROCESSES
        assert len(source.downloads) == 1
    assert not list(cache.rglob("*.part"))
    assert not list(cache.rglob("*.txt"))  # nothing was unpacked, inside or outside
    assert list(cache.parent.iterdir()) == [cache]


@served_by_ours
def test_a_download_that_is_killed_blocks_nobody_and_leaves_nothing(
    served, cache, monkeypatch
):
    half_sent, go_on = FORK.Event(), FORK.Event()

    def stall_at_first(content):
        if half_sent.is_set():
            return whole(content)

        def halves():
            yield content[: len(content) // 2]
            half_sent.set()
            go_on.wait(10)

        return 200, {"Content-Length": str(len(content))}, halves()

    with served(monkeypatch, stall_at_first) as source:
        child = FORK.Process(target=source.load)
        child.start()
        assert half_sent.wait(10)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert list(cache.glob("*.part"))
        assert source.load() == source.expected
        go_on.set()
    assert len(source.downloads) == 2
    assert {path.name for path in cache.iterdir()} == {
        source.file,
        f"{source.file}.lock",
    }


def empty(path):
    os.truncate(path, 0)


@pytest.mark.parametrize(("served", "damage"), zip(SERVED, [cut, turn_a_bit, empty]))
def test_a_file_that_changed_is_named_and_downloaded_again(
    served, damage, cache, monkeypatch
):
    with served(monkeypatch, whole) as source:
        source.load()
        damage(cache / source.file)
        with pytest.warns(UserWarning, match="was altered or cut short") as warned:
            assert source.load() == source.expected
        assert source.load() == source.expected
        assert len(source.downloads) == 2
    named = str(warned[0].message).split(" was altered")[0]
    assert os.path.samefile(named, cache / source.file)


@served_by_all
def test_what_cannot_be_downloaded_again_is_not_loaded_altered(
    served, cache, monkeypatch
):
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(places, "ATTEMPTS", 1)
    with served(monkeypatch, whole) as source:
        source.load()
    turn_a_bit(cache / source.file)
    with (
        pytest.warns(UserWarning, match="was altered or cut short"),
        pytest.raises(RuntimeError, match="could not be fetched from"),
    ):
        source.load()


def test_a_hub_that_sends_another_file_than_it_states_is_refused(cache, monkeypatch):
    def another(content):
        return whole(content[:-1] + b"?")

    with (
        yelp_served(monkeypatch, another),
        pytest.warns(UserWarning, match="was altered or cut short"),
        pytest.raises(RuntimeError, match="not the hash that the hub states"),
    ):
        load_yelp()


@pytest.mark.parametrize("served", SERVED[1:])
def test_a_cache_that_was_removed_is_filled_again(served, cache, monkeypatch):
    with served(monkeypatch, whole) as source:
        source.load()
        shutil.rmtree(cache)
        assert source.load() == source.expected


@served_by_ours
def test_a_cache_that_is_removed_during_the_download_is_an_error_that_names_it(
    served, cache, monkeypatch
):
    def remove(content):
        shutil.rmtree(cache)
        return whole(content)

    monkeypatch.setattr(places, "ATTEMPTS", 1)
    with (
        served(monkeypatch, remove) as source,
        pytest.raises(RuntimeError, match=f"into {cache}: .*\n.*SELFATT_CACHE names"),
    ):
        source.load()


@served_by_all
@pytest.mark.parametrize("place", ["file/cache", "file", "/sys/selfatt"])
def test_a_place_that_cannot_be_a_cache_is_named_with_the_mend(
    place, served, tmp_path, cache, monkeypatch
):
    (tmp_path / "file").touch()
    folder = tmp_path / place
    monkeypatch.setenv("SELFATT_CACHE", str(folder))
    with (
        served(monkeypatch, whole) as source,
        pytest.raises(RuntimeError, match=f"into {folder}: .*\n.*SELFATT_CACHE names"),
    ):
        source.load()
    assert len(source.downloads) == 0


def load_with_little_room(load, room):
    """Where no file can grow beyond so many bytes, as on a disk that fills up."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    return load()


def test_a_disk_that_fills_up_is_an_error_that_names_the_folder_and_keeps_nothing(
    cache, monkeypatch
):
    with glove_served(monkeypatch, whole) as source:
        room = len(glove_archive()) // 2
        with ProcessPoolExecutor(1, FORK) as pool:
            failed = pool.submit(load_with_little_room, source.load, room).exception()
        assert f"into {cache}: [Errno {errno.EFBIG}]" in str(failed)
        assert "room and the right to write" in str(failed)
        assert [path.name for path in cache.iterdir()] == [f"{source.file}.lock"]
        assert source.load() == source.expected


def test_a_whole_file_is_read_where_nothing_can_be_written(cache, monkeypatch):
    with glove_served(monkeypatch, whole) as source:
        source.load()
    monkeypatch.setattr("filelock.FileLock", lambda _: pytest.fail("a lock was taken"))
    assert source.load() == source.expected
