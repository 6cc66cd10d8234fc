"""Files that a stranger may have written, and files that are written whole."""

import json
import os
import tracemalloc

import numpy as np
import pytest
from damage import as_folder, as_link, as_pipe, damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from stopping import Stopped

from selfatt_lib.machinery import places
from selfatt_lib.machinery.files import (
    JSON_BYTES,
    read_arrays,
    read_json,
    read_layout,
    replacing,
    write_arrays,
    write_text,
)

ARRAYS = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "step": np.array([7]),
    "seconds": np.array([1.5]),
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("arrays")


@pytest.fixture(scope="module")
def saved(scratch):
    write_arrays(scratch / "arrays", ARRAYS, run="this")
    return scratch / "arrays"


def test_arrays_come_back_as_they_were_with_their_marks(saved):
    found = read_arrays(saved, run="this")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert read_layout(saved) == (
        {"seconds": ("F64", [1]), "step": ("I64", [1]), "weights": ("F32", [2, 3])},
        {"run": "this"},
    )


def test_arrays_that_lie_otherwise_in_memory_are_written_as_they_read(scratch):
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write_arrays(scratch / "turned", {"a": turned, "b": turned[::2]})
    found = read_arrays(scratch / "turned")
    np.testing.assert_array_equal(found["a"], turned)
    np.testing.assert_array_equal(found["b"], turned[::2])


def test_the_same_arrays_are_the_same_bytes(saved, scratch):
    write_arrays(scratch / "again", dict(reversed(ARRAYS.items())), run="this")
    assert (scratch / "again").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("metadata", [None, {"selfatt": "{}"}, {"selfatt": '"this"'}])
def test_a_file_without_the_mark_of_the_run_is_refused(metadata, scratch):
    save_file(ARRAYS, scratch / "marked", metadata)
    with pytest.raises(ValueError, match=r"marked: it is another run's, or was ch"):
        read_arrays(scratch / "marked", run="this")


def test_a_file_that_was_cut_or_has_more_at_its_end_is_refused(saved, scratch):
    data = saved.read_bytes()
    for size in range(len(data)):
        (scratch / "cut").write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"cut: it is no whole file of arrays"):
            read_arrays(scratch / "cut", run="this")
    (scratch / "long").write_bytes(data + b"\0")
    with pytest.raises(ValueError, match=r"long: it is no whole file of arrays"):
        read_arrays(scratch / "long", run="this")


@settings(deadline=None)
@given(data=st.data())
def test_any_damage_is_refused_with_the_file_or_read(data, saved, scratch):
    path = scratch / "other"
    path.write_bytes(data.draw(damaged(saved.read_bytes())))
    try:
        found = read_arrays(path, run="this")
    except ValueError as error:
        found, message = None, str(error)
    if found is None:
        assert message.startswith(f"{path}: ")
    else:
        assert found.keys() == load_file(path).keys()


def header(tensor, data=b"", **more):
    """A file that says of its only array what is given."""
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | tensor
    content = json.dumps({"a": entry, **more}).encode()
    return len(content).to_bytes(8, "little") + content + data


@pytest.mark.parametrize(
    "content",
    [
        header({"shape": [2**40], "data_offsets": [0, 2**42]}),
        header({"shape": [2**62, 4], "data_offsets": [0, 0]}),
        header({"shape": [-1]}, bytes(4)),
        header({"data_offsets": [4, 0]}, bytes(4)),
        header({"dtype": "BF16", "data_offsets": [0, 2]}, bytes(2)),
        header({"dtype": "F8_E4M3", "data_offsets": [0, 1]}, bytes(1)),
        header({}, bytes(4), __metadata__={"selfatt": "["}),
        header({}, bytes(4), __metadata__=[]),
        (2**60).to_bytes(8, "little") + b"{}",
        b"\x80\x04." * 20,  # a pickle
        b"",
    ],
)
def test_what_cannot_be_is_refused_before_memory_is_asked_for(content, tmp_path):
    path = tmp_path / "wrong"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=str(path)):
            read_arrays(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_other_arrays_than_expected_are_named(scratch):
    arrays = {name: np.ones((2, 3), np.float32) for name in "abcde"}
    arrays["d"] = np.ones((2, 3))
    write_arrays(scratch / "found", arrays)
    expected = {"a": (2, 3), "b": (3, 2), "c": (2, 3), "d": (2, 3), "f": (1,)}
    with pytest.raises(ValueError, match="found: ") as refused:
        read_arrays(scratch / "found", expected)
    assert str(refused.value).partition(": ")[2].split("; ") == [
        "'b' is F32 (2, 3), expected F32 (3, 2)",
        "'d' is F64 (2, 3), expected F32 (2, 3)",
        "'e' is F32 (2, 3), expected not there",
        "and 1 more",
    ]


@pytest.mark.parametrize("read", [read_arrays, read_json])
@pytest.mark.parametrize("make", [as_folder, as_pipe, as_link])
def test_only_plain_files_are_read(make, read, tmp_path):
    (tmp_path / "odd").write_bytes(header({}, bytes(4)))
    make(tmp_path / "odd")
    with pytest.raises(ValueError, match=r"odd: it is not a plain file"):
        read(tmp_path / "odd")


@pytest.mark.parametrize("read", [read_arrays, read_json])
def test_a_file_that_is_not_there_is_said_to_be_missing(read, tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        read(tmp_path / "gone")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"[]", "no JSON object"),
        (b'{"a": "\xff"}', "can't decode byte 0xff"),
        (b'{"a": ' + b"[" * 10**6, "recursion|Stack overflow"),  # as of Python 3.14
        (b'{"a": ' + b"9" * 10**5 + b"}", "Exceeds the limit"),
    ],
)
def test_what_is_not_a_json_object_is_refused(content, message, tmp_path):
    (tmp_path / "odd.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"odd.json: .*{message}"):
        read_json(tmp_path / "odd.json")


def test_json_of_any_size_is_not_read(tmp_path):
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(JSON_BYTES + 1)  # without a byte on the disk
    with pytest.raises(ValueError, match=r"large.json: at most .* bytes are read"):
        read_json(tmp_path / "large.json")


def test_a_json_object_is_read(tmp_path):
    (tmp_path / "good.json").write_text(json.dumps({"a": ["é", 1.5, None]}))
    assert read_json(tmp_path / "good.json") == {"a": ["é", 1.5, None]}


def refusing(refusals, monkeypatch):
    """Have the system refuse to put a file in another's place, so many times."""
    replace, calls = os.replace, []

    def refuse(*paths):
        calls.append(paths)
        if len(calls) <= refusals:
            raise PermissionError("WinError 5")
        replace(*paths)

    monkeypatch.setattr(os, "replace", refuse)


def test_a_file_that_a_virus_scanner_has_open_is_replaced_when_it_is_done(
    tmp_path, monkeypatch
):
    refusing(3, monkeypatch)
    write_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new"


def test_a_file_that_stays_open_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "SECONDS_HELD", 0.2)
    refusing(10**9, monkeypatch)
    with pytest.raises(PermissionError):
        write_text(tmp_path / "a.json", "new")
    assert list(tmp_path.iterdir()) == []


def stop_writing(path):
    with replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise Stopped


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "metrics.json"
    write_text(path, "old")
    with pytest.raises(Stopped):
        stop_writing(path)
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
