import json
import os
import struct
import tracemalloc

import numpy as np
import pytest
from damage import damaged
from hypothesis import given, settings
from hypothesis import strategies as st

from selfatt_lib.machinery.runtime import mx
from selfatt_lib.params import JSON_BYTES, check_layout, mark, read_json, read_layout

DTYPES = ["float32", "float64", "float16", "uint8", "int32", "int8", "int64"]
ARRAYS = {f"an.{name}": mx.nd.ones((2, 3), dtype=name) for name in DTYPES}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("params")


@pytest.fixture(scope="module")
def saved(scratch):
    """A file with an array of each dtype."""
    path = scratch / "arrays"
    mx.nd.save(str(path), ARRAYS)
    return path


def layout_of(arrays):
    return {
        name: (array.shape, np.dtype(array.dtype)) for name, array in arrays.items()
    }


@settings(deadline=None)
@given(
    arrays=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0")),
        st.tuples(
            st.lists(st.integers(1, 4), min_size=1, max_size=6),
            st.sampled_from(DTYPES),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_the_layout_is_that_of_the_arrays_that_mxnet_saved(arrays, scratch):
    arrays = {
        name: mx.nd.zeros(shape, dtype=dtype) for name, (shape, dtype) in arrays.items()
    }
    mx.nd.save(str(scratch / "any"), arrays)
    assert read_layout(scratch / "any") == layout_of(arrays)


def test_the_layout_of_a_model_is_that_of_its_parameters(trained):
    expected = trained.model._collect_params_with_prefix()
    path, run = trained.run.path / "model.params", trained.run.fingerprint
    assert read_layout(path, run) == layout_of(expected)
    check_layout(path, expected, run)
    marked = expected | {mark(run): mx.nd.zeros(1)}
    assert read_layout(path) == layout_of(marked)


@pytest.mark.parametrize(
    "arrays",
    [
        {"a": mx.nd.zeros(1)},
        {"a": mx.nd.zeros(1), mark("other"): mx.nd.zeros(1)},
        {"a": mx.nd.zeros(1), mark("this"): mx.nd.zeros(2)},
        {"a": mx.nd.zeros(1), mark("this"): mx.nd.zeros(1, dtype="float64")},
    ],
)
def test_a_file_without_the_mark_of_the_run_is_refused(arrays, scratch):
    mx.nd.save(str(scratch / "marked"), arrays)
    for read in (read_layout, lambda path, run: check_layout(path, arrays, run)):
        with pytest.raises(ValueError, match=r"marked: it is another run's, or was ch"):
            read(scratch / "marked", "this")


def test_a_file_that_was_cut_or_has_more_at_its_end_is_refused(saved, scratch):
    data = saved.read_bytes()
    for size in range(len(data)):
        (scratch / "cut").write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"cut: it ends too early"):
            read_layout(scratch / "cut")
    (scratch / "long").write_bytes(data + b"\0")
    with pytest.raises(ValueError, match=r"long: it goes on after its end"):
        read_layout(scratch / "long")


@settings(deadline=None)
@given(data=st.data())
def test_what_is_not_refused_mxnet_reads_alike(data, saved, scratch):
    (scratch / "other").write_bytes(data.draw(damaged(saved.read_bytes())))
    try:
        layout = read_layout(scratch / "other")
    except ValueError as error:
        layout, message = None, str(error)
    if layout is None:
        assert message.startswith(f"{scratch / 'other'}: ")
    else:
        assert layout_of(mx.nd.load(str(scratch / "other"))) == layout


def file_of(
    head=(0x112, 0),
    count=1,
    magic=0xF993FAC9,
    storage=0,
    shape=(2,),
    ndim=None,
    device=(1, 0),
    dtype=0,
    names=(b"a",),
    name_count=None,
):
    """A file as MXNet writes it, but for what is given."""
    ndim = len(shape) if ndim is None else ndim
    name_count = len(names) if name_count is None else name_count
    array = struct.pack(f"<Iii{len(shape)}q", magic, storage, ndim, *shape)
    array += struct.pack("<3i", *device, dtype) + bytes(8)
    named = b"".join(struct.pack("<Q", len(name)) + name for name in names)
    counts = struct.pack("<Q", count), struct.pack("<Q", name_count)
    arrays = array * min(count, 2)
    return struct.pack("<2Q", *head) + counts[0] + arrays + counts[1] + named


def test_the_files_that_these_tests_make_are_as_mxnet_writes_them(scratch):
    mx.nd.save(str(scratch / "theirs"), {"a": mx.nd.zeros(2)})
    assert (scratch / "theirs").read_bytes() == file_of()


WRONG = [
    ({"head": (0x113, 0)}, "is not a file of MXNet's arrays"),
    ({"head": (0x112, 1)}, "is not a file of MXNet's arrays"),
    ({"count": 2**64 - 1}, "ends too early|something that is not a dense array"),
    ({"magic": 0xF993FAC8}, "something that is not a dense array"),  # of MXNet 0.x
    ({"magic": 0xF993FACA}, "something that is not a dense array"),  # NumPy's shapes
    ({"storage": 1}, "something that is not a dense array"),
    ({"shape": ()}, "an array of 0 dimensions"),
    ({"ndim": -1}, "an array of -1 dimensions"),
    ({"ndim": 2**31 - 1}, "an array of 2147483647 dimensions"),
    ({"ndim": 30}, "ends too early"),
    ({"shape": (-2,)}, r"the shape \(-2,\)"),
    ({"shape": (0, 2**62)}, r"the shape \(0, 4611686018427387904\)"),
    ({"shape": (3,)}, "ends too early|one name for each"),
    ({"shape": (2**31,)}, "ends too early"),
    ({"shape": (2**62, 4)}, "ends too early"),  # 2**64 numbers: 0 if it overflows
    ({"shape": (2**32, 2**30)}, "ends too early"),  # 2**64 bytes
    ({"device": (2, 0)}, r"on device \[2, 0\]"),
    ({"device": (1, 7)}, r"on device \[1, 7\]"),
    ({"dtype": -1}, "dtype number -1"),
    ({"dtype": 7}, "dtype number 7"),
    ({"names": ()}, "not one name for each array"),
    ({"names": (b"a", b"b")}, "not one name for each array"),
    ({"names": (), "name_count": 1}, "ends too early"),
    ({"names": (b"\xff",)}, "can't decode byte 0xff"),
    ({"count": 2, "names": (b"a", b"a")}, "two arrays have the same name"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_what_mxnet_would_not_have_written_is_refused(given, message, tmp_path):
    path = tmp_path / "wrong"
    path.write_bytes(file_of(**given))
    with pytest.raises(ValueError, match=f"{path}: .*({message})"):
        read_layout(path)


@pytest.mark.parametrize("given", [{"shape": (2**40,)}, {"count": 2**40}])
def test_no_memory_is_asked_for_that_the_file_does_not_fill(given, tmp_path):
    (tmp_path / "wrong").write_bytes(file_of(**given))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=str(tmp_path)):
            read_layout(tmp_path / "wrong")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_other_arrays_than_expected_are_named(saved):
    check_layout(saved, ARRAYS)
    expected = {
        **ARRAYS,
        "an.int8": mx.nd.ones((2, 3)),
        "an.int32": mx.nd.ones((3, 2), dtype="int32"),
        "another": mx.nd.ones(1),
    }
    del expected["an.float16"]
    with pytest.raises(ValueError, match="arrays: ") as refused:
        check_layout(saved, expected)
    assert str(refused.value).partition(": ")[2].split("; ") == [
        "'an.float16' is float16 (2, 3), expected not there",
        "'an.int32' is int32 (2, 3), expected int32 (3, 2)",
        "'an.int8' is int8 (2, 3), expected float32 (2, 3)",
        "and 1 more",
    ]


def as_directory(path):
    path.mkdir()


def as_pipe(path):
    os.mkfifo(path)


def as_link(path):
    path.with_name("real").write_bytes(file_of())
    path.symlink_to("real")


@pytest.mark.parametrize("read", [read_layout, read_json])
@pytest.mark.parametrize("make", [as_directory, as_pipe, as_link])
def test_only_plain_files_are_read(make, read, tmp_path):
    make(tmp_path / "odd")
    with pytest.raises(ValueError, match=r"odd: it is not a plain file"):
        read(tmp_path / "odd")


@pytest.mark.parametrize("read", [read_layout, read_json])
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
