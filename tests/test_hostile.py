"""Whatever lies in a file, it is read or refused in words.

Soon, in little memory, and naming the place.
"""

import io
import json
import os
import re
import signal
import stat
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from datetime import timedelta
from decimal import Decimal

import psutil
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from test_sources import WRITERS

from conftest import run_code
from selfatt_lib.data.sources import load_reviews
from selfatt_lib.data.tokens import is_unicode, tokenize, tokenize_all
from selfatt_lib.machinery import readers


def line_of(text):
    return json.dumps({"text": text, "stars": 1}) + "\n"


GOOD_LINE = line_of("a")
GOOD_CSV = "text,stars\ngood film,5\n"


def zip_of(*members, method=zipfile.ZIP_DEFLATED):
    packed = io.BytesIO()
    with (
        warnings.catch_warnings(action="ignore"),
        zipfile.ZipFile(  # of a name twice
            packed, "w", method
        ) as archive,
    ):
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


def parquet_of(*columns, notes=None, **options):
    names, values = zip(*columns)
    table = pa.table(list(map(pa.array, values)), list(names), metadata=notes)
    parquet.write_table(table, file := io.BytesIO(), **options)
    return file.getvalue()


def parquet_of_stars(*stars):
    return parquet_of(("text", ["a"] * len(stars)), ("stars", pa.array(stars)))


def altered(content, offset, format, *values, after=b"PK\x01\x02"):
    """Return an archive with something else in the first entry of its directory.

    Or after another mark.
    """
    content = bytearray(content)
    struct.pack_into(format, content, content.find(after) + offset, *values)
    return bytes(content)


LINK = zipfile.ZipInfo("reviews.csv")
LINK.external_attr = (stat.S_IFLNK | 0o777) << 16
PACKED = zip_of(("reviews.csv", GOOD_CSV * 1000))
NESTED = "[" * 1000, "[" * 100_000, '{"a":' * 1000, '{"a":' * 100_000
STARS = "stars must be a whole number from 1 to 5"

REFUSED = {
    # archives
    "link.zip": (zip_of((LINK, "/etc/passwd")), "'reviews.csv' in it is a link"),
    "nested.zip": (zip_of(("a.zip", PACKED)), "the name should end in .*got 'a.zip'"),
    "nested.csv.zip": (zip_of(("a.csv", PACKED)), "has no 'text' and no 'stars'"),
    "twice.zip": (zip_of(("a.csv", GOOD_CSV), ("a.csv", GOOD_CSV)), "of 2 files"),
    "empty.zip": (b"", "not a whole zip archive"),
    "no member.zip": (zip_of(), "of 0 files"),
    "encrypted.zip": (altered(PACKED, 8, "<H", 1), "is encrypted. Unpack it"),
    "lzma.zip": (
        zip_of(("a.csv", GOOD_CSV), method=zipfile.ZIP_LZMA),
        "is not packed by deflate",
    ),
    "bzip2.zip": (
        zip_of(("a.csv", GOOD_CSV), method=zipfile.ZIP_BZIP2),
        "is not packed by deflate",
    ),
    "unknown method.zip": (altered(PACKED, 10, "<H", 99), "is not packed by deflate"),
    "larger than said.zip": (altered(PACKED, 24, "<I", 30), "is damaged: Bad CRC-32"),
    "grows.zip": (
        altered(PACKED, 24, "<I", 2**32 - 2),
        r"'reviews.csv' in it has 4,294,967,294 bytes, too many for \d+. Unpack it",
    ),
    "elsewhere.zip": (altered(PACKED, 42, "<I", 2**30), "not a whole zip archive"),
    "other name.zip": (altered(PACKED, 46, "c", b"x"), "not a whole zip archive"),
    "name not unicode.zip": (
        altered(altered(PACKED, 8, "<H", 0x800), 46, "c", b"\xff"),
        "not a whole zip archive",
    ),
    # JSON
    **{
        f"deep {number}.jsonl": (
            f'{GOOD_LINE}{{"text": "a", "stars": 1, "x": {nested}',
            "the file is not valid JSON|line 2 is not valid JSON",
        )
        for number, nested in enumerate(NESTED)
    },
    **{
        f"deep {number}.json": (nested, "the file is not valid JSON")
        for number, nested in enumerate(NESTED)
    },
    "deep stars.json": (
        f'{{"texts": ["a"], "labels": [{"[" * 500}{"]" * 500}]}}',
        "row 1: stars must be",
    ),
    **{
        f"stars {stars[:9]}.jsonl": (
            f'{GOOD_LINE}{{"text": "a", "stars": {stars}}}\n',
            f"row 2: {STARS}",
        )
        for stars in (
            *("NaN", "-Infinity", "1e999", "9" * 400, '"1e999"', '"nan"', '""'),
            *("[]", "[1]", "{}", '{"a": 1}', "[[1], [2]]", '"\\ud800"', '"\\u0661"'),
        )
    },
    "a number too long.jsonl": (
        GOOD_LINE + '{"text": "a", "stars": 1, "x": %s}' % ("9" * 5000),
        "line 2 is not valid JSON: Exceeds the limit",
    ),
    "a key twice.jsonl": (
        GOOD_LINE + '{"text": "a", "stars": 1, "stars": 5}\n',
        "line 2 is not valid JSON: the key 'stars' occurs twice",
    ),
    "a key twice.json": (
        '{"texts": ["a"], "labels": [1], "labels": [2]}',
        "the key 'labels' occurs twice",
    ),
    "latin-1.jsonl": (
        GOOD_LINE.encode() + '{"text": "café", "stars": 1}\n'.encode("latin-1"),
        "line 2 is not valid JSON: 'utf-8' codec can't decode byte 0xe9",
    ),
    "utf-16.jsonl": (GOOD_LINE.encode("utf-16"), "not valid JSON: 'utf-8' codec"),
    "utf-16.json": (
        '{"texts": ["a"], "labels": [1]}'.encode("utf-16"),
        "not valid JSON: 'utf-8' codec",
    ),
    "nul.jsonl": (
        GOOD_LINE + '{"text": "a\0b", "stars": 1}\n',
        "line 2 is not valid JSON: Invalid control character",
    ),
    "nuls.jsonl": (b"\0" * 50, "not valid JSON"),
    "carriage return.jsonl": (GOOD_LINE + '{"a": 1}\r{"a": 1}', "line 2 is not valid"),
    "half a character.json": (
        '{"texts": ["a", "\\ud800"], "labels": [1, 1]}',
        r"row 2: text must be valid Unicode, in UTF-8; got '\\ud800'",
    ),
    "half a character as a key.jsonl": (
        '{"\\ud800": 1}\n',
        r"line 1 has no 'text' and no 'stars'; it has: '\\ud800'",
    ),
    "long keys.jsonl": ('{"%s": 1}' % ("x" * 10**6), r"it has: 'x{12}\.\.\.x{13}'$"),
    "an array as a line.jsonl": (GOOD_LINE + "[1]\n", "line 2: .*got a JSON list"),
    "a number as a line.jsonl": (GOOD_LINE + "5\n", "line 2: .*got a JSON int"),
    "more lines.json": (
        '\n{"texts": ["a"], "labels": [1]}\n\n' + GOOD_LINE,
        "line 4: nothing may follow the object",
    ),
    # CSV
    "latin-1.csv": (
        "text,stars\na,1\ncafé,1\n".encode("latin-1"),
        r"row 2: text must be valid Unicode, in UTF-8; got 'caf\\udce9'",
    ),
    "utf-16.csv": (GOOD_CSV.encode("utf-16"), "read as CSV in UTF-8, has no 'text'"),
    "nuls.csv": ("\0" * 50, r"it has: '\\x00"),
    "unclosed.csv": (
        'text,stars\na,1\n"b\nc,2\nd,3\n',
        "the row that begins in line 3: unexpected end of data. Put texts that",
    ),
    "unclosed and opened again.csv": (
        'text,stars\na,1\n"b,2\nc,3\n"d,4\n',
        "the row that begins in line 3: ',' expected after '\"'",
    ),
    "text twice.csv": ("text,text,stars\na,b,1\n", "has 'text' more than once"),
    "stars twice.csv": ("text,stars,stars\na,1,2\n", "has 'stars' more than once"),
    "too few.csv": (
        'text,stars\n"a\nb",1\nc\n',
        "line 4: it has 1 fields, the header 2. Put",
    ),
    "too many.csv": (
        "text,stars\n\na,1\nb,2,3\n",
        "line 4: it has 3 fields, the header 2",
    ),
    **{
        f"stars {number}.csv": (f"text,stars\na,1\nb,{stars}\n", f"row 2: {STARS}")
        for number, stars in enumerate(("NaN", "inf", "1e999", "", "9" * 400, "5\0"))
    },
    # Parquet
    "no rows.parquet": (
        parquet_of(("text", pa.array([], "str")), ("stars", pa.array([], "i8"))),
        "holds no review",
    ),
    "empty.parquet": (b"", "cannot be read as Parquet"),
    "truncated.parquet": (parquet_of_stars(1, 2)[:-20], "cannot be read as Parquet"),
    "text twice.parquet": (
        parquet_of(("text", ["a"]), ("text", ["b"]), ("stars", [1])),
        "has 'text' more than once",
    ),
    "stars twice.parquet": (
        parquet_of(("text", ["a"]), ("stars", [1]), ("stars", [2])),
        "has 'stars' more than once",
    ),
    **{
        f"text {number}.parquet": (
            parquet_of(("text", text), ("stars", [1])),
            "row 1: text must be a string",
        )
        for number, text in enumerate(([7], [b"a"], pa.array([7]).dictionary_encode()))
    },
    **{
        f"{name} nested {number}.parquet": (
            parquet_of(*({"text": ["a"], "stars": [1]} | {name: nested}).items()),
            f"cannot be read as Parquet: {name} must be plain; got ",
        )
        for name in readers.NEEDED
        for number, nested in enumerate(
            (
                [["a"]],
                [{"a": 1}],
                # a few bytes in the file, ten million objects in Python
                pa.ListArray.from_arrays([0, 10**7], pa.nulls(10**7, "bool")),
            )
        )
    },
    "text not unicode.parquet": (
        parquet_of(
            (
                "text",
                pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers()),
            ),
            ("stars", [1]),
        ),
        "cannot be read as Parquet",
    ),
    **{
        f"stars {number}.parquet": (parquet_of_stars(stars), f"row 1: {STARS}")
        for number, stars in enumerate(
            (
                *(
                    "x",
                    b"1",
                    True,
                    None,
                    1.5,
                    float("nan"),
                    float("inf"),
                    Decimal("1.5"),
                ),
                *(timedelta(1), pa.scalar(1, pa.timestamp("ns"))),
            )
        )
    },
    "stars of nanoseconds.parquet": (
        parquet_of_stars(pa.scalar(1, pa.time64("ns"))),
        "cannot be read as Parquet",
    ),
}

READ = {
    "above.zip": (zip_of(("../../a.csv", GOOD_CSV)), [("good film", 5)]),
    "absolute.zip": (zip_of(("/etc/a.csv", GOOD_CSV)), [("good film", 5)]),
    "smaller than said.zip": (
        altered(zip_of(("a.csv", GOOD_CSV)), 24, "<I", 10**6),
        [("good film", 5)],
    ),
    "mark of byte order.jsonl": ("\ufeff" + GOOD_LINE, [("a", 1)]),
    "mark of byte order.json": (
        '\ufeff{\n"texts": ["a"], "labels": [1.0]}',
        [("a", 1)],
    ),
    "line ends.jsonl": (GOOD_LINE[:-1] + "\r\n\r\n" + GOOD_LINE, [("a", 1)] * 2),
    "nul.jsonl": ('{"text": "a\\u0000", "stars": "1"}', [("a\0", 1)]),
    "nan.jsonl": ('{"text": "a", "stars": 1, "x": NaN}', [("a", 1)]),
    "line ends.csv": (
        '\ufefftext,stars\r\na,1\nb,2\r"c\rd\r\ne\nf",3',
        [("a", 1), ("b", 2), ("c\rd\r\ne\nf", 3)],
    ),
    "nul.csv": ("text,stars\na\0,1\n", [("a\0", 1)]),
    "blanks.csv": ('text,stars,x\n  \n"a","5.0",\nb, 5,1', [("a", 5), ("b", 5)]),
    "latin-1 elsewhere.csv": (b"text,stars,\xe9\na,1,\xe9\n", [("a", 1)]),
    "others twice.csv": ("x,text,x,stars\n1,a,2,3\n", [("a", 3)]),
    "decimals.parquet": (
        parquet_of_stars(Decimal("1.0"), Decimal("5.0")),
        [("a", 1), ("a", 5)],
    ),
    "categories.parquet": (
        parquet_of(("text", pa.array(["a"]).dictionary_encode()), ("stars", ["2"])),
        [("a", 2)],
    ),
    "notes of pandas.parquet": (
        parquet_of(
            ("text", ["a"]),
            ("stars", [2]),
            notes={"pandas": '{"index_columns": ["text"], "columns": []}'},
        ),
        [("a", 2)],
    ),
    "parquet.zip": (
        zip_of(("a.parquet", parquet_of_stars(3, 4))),
        [("a", 3), ("a", 4)],
    ),
}


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_rightly_is_refused_with_its_place(name, tmp_path):
    content, message = REFUSED[name]
    path = written(tmp_path, name, content)
    with pytest.raises(ValueError, match=message) as caught:
        load_reviews(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", READ)
def test_what_is_odd_but_clear_is_read(name, tmp_path):
    content, reviews = READ[name]
    found = load_reviews(written(tmp_path, name, content))
    assert list(found.itertuples(index=False, name=None)) == reviews
    assert list(tmp_path.iterdir()) == [tmp_path / name]  # nothing was unpacked


def test_parquet_in_an_archive_is_unpacked_once(tmp_path, monkeypatch):
    """To go back in an archive is to unpack it from its beginning.

    A file can ask for that often.
    """
    content, reviews = READ["parquet.zip"]
    monkeypatch.setattr(zipfile.ZipExtFile, "seek", lambda *_: pytest.fail("went back"))
    assert len(load_reviews(written(tmp_path, "a.zip", content))) == len(reviews)


def test_parquet_may_not_grow_without_end(tmp_path, monkeypatch):
    """A text is in the file once, and counts as often as it occurs."""
    monkeypatch.setattr(readers, "MOST_GROWTH", 1)  # to 1 MiB, for a small file
    for form in (pa.array, lambda texts: pa.array(texts).dictionary_encode()):
        for count in (90, 110):
            texts, stars = form(["x" * 10_000] * count), [1] * count
            content = parquet_of(("text", texts), ("stars", stars))
            assert len(content) < 5000
            path = written(tmp_path, f"{count}.parquet", content)
            if count == 90:
                assert len(load_reviews(path)) == count
            else:
                with pytest.raises(ValueError, match=f"{path}.* 1,048,576 bytes unpac"):
                    load_reviews(path)


def decoded(path, most_bytes):
    """Run the decoder on a file; return what it did."""
    command = [sys.executable, readers.parquet.__file__, str(most_bytes), "10000"]
    with path.open() as file:
        return subprocess.run(
            [*command, *readers.NEEDED], stdin=file, capture_output=True
        )


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does")
def test_the_decoder_of_parquet_limits_its_own_memory(tmp_path):
    texts = pa.DictionaryArray.from_arrays([0] * 300, ["x" * 10**7])  # 3 GB
    content = parquet_of(("text", texts), ("stars", [1] * 300))
    done = decoded(written(tmp_path, "a.parquet", content), 10**10)
    assert done.returncode == 1
    assert (
        done.stderr
        == b"it takes more than 2,147,483,648 bytes of memory; save it as .jsonl\n"
    )


LIMITED = """
import mmap, resource, sys
sys.path.insert(0, sys.argv[1])
import parquet

many_cores = mmap.mmap(-1, 2**32)  # their threads' stacks, never used
parquet.SECONDS = 2
parquet.limit(0)
assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
enough = mmap.mmap(-1, 2**30)
try:
    mmap.mmap(-1, 2**31)
except OSError:
    print("no more memory", flush=True)
while True:
    pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")
def test_the_decoder_may_take_little_more_than_it_starts_with_and_not_for_long():
    folder = os.path.dirname(readers.parquet.__file__)
    done = run_code(LIMITED, folder, timeout=60)
    assert done.stdout == "no more memory\n"
    assert done.returncode == -signal.SIGXCPU


WATCHED = """
import sys

sys.modules["resource"] = None  # as on Windows
sys.path.insert(0, sys.argv[1])
import parquet

if len(sys.argv) > 2:
    parquet.MEMORY = 2**27
    parquet.main(10**10, 10_000, *sys.argv[2:])
else:
    parquet.SECONDS = 1
    parquet.limit(0)
    while True:
        pass
"""


def test_where_the_system_has_no_limits_the_decoder_watches_itself(tmp_path):
    folder = os.path.dirname(readers.parquet.__file__)
    texts = pa.DictionaryArray.from_arrays([0] * 1000, ["x" * 10**6])  # 1 GB
    content = parquet_of(("text", texts), ("stars", [1] * 1000))
    with written(tmp_path, "a.parquet", content).open() as file:
        done = run_code(WATCHED, folder, *readers.NEEDED, stdin=file, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"{readers.parquet.TOO_LARGE}\n"
    done = run_code(WATCHED, folder, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"{readers.parquet.TOO_LATE}\n"


@pytest.fixture
def as_decoder(tmp_path, monkeypatch):
    """Return a function that puts other code in the decoder's place."""

    def put(code):
        decoder = tmp_path / "decoder.py"
        decoder.write_text(code)
        monkeypatch.setattr(readers.parquet, "__file__", str(decoder))

    return put


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("os.abort()", "the decoder was killed"),
        ('print(\'[["text", "stars"], 9]\', flush=True); os.abort()', ".+"),
        ("sys.stdout.buffer.write(half); os.abort()", ".+"),
        ("sys.exit('it is of another kind')", "it is of another kind"),
        ("sys.exit('x' * 10**6)", "x{500}"),  # more than a pipe holds
        ("sys.exit('\\x1b[2J\\u202e')", "\ufffd\\[2J\ufffd"),
        ("os.kill(os.getpid(), signal.SIGXCPU)", "it takes too long to decode"),
    ],
)
def test_a_decoder_that_crashes_is_a_file_that_cannot_be_read(
    does, said, tmp_path, as_decoder
):
    path = written(tmp_path, "a.parquet", parquet_of_stars(*[1] * 100))
    whole = decoded(path, 10**6).stdout
    half = whole[: len(whole) // 2]
    as_decoder(f"import os, signal, sys\nhalf = {half!r}\n{does}")
    with pytest.raises(ValueError, match=f"cannot be read as Parquet: {said}$"):
        load_reviews(path)


def test_a_decoder_whose_file_is_refused_does_not_go_on(tmp_path):
    path = written(tmp_path, "a.parquet", parquet_of_stars(9, *[1] * 10**6))
    with pytest.raises(ValueError, match="row 1: stars must be"):
        load_reviews(path)
    # from Python 3.14 on, a progress bar starts a helper of multiprocessing
    commands = [child.cmdline() for child in psutil.Process().children()]
    assert [
        command for command in commands if readers.parquet.__file__ in command
    ] == []


def test_nobody_waits_for_a_decoder_whose_file_is_refused(tmp_path, as_decoder):
    path = written(tmp_path, "a.parquet", "")
    as_decoder("import time; print('[[], 0]', flush=True); time.sleep(60)")
    started = time.monotonic()
    with pytest.raises(ValueError, match="has no 'text'"):
        load_reviews(path)
    assert time.monotonic() - started < 30


def test_nothing_leaves_the_decoder_but_plain_types(tmp_path):
    strange = pa.field("text", pa.string(), metadata={"ARROW:extension:name": "x"})
    schema = pa.schema(
        [strange, pa.field("stars", pa.uuid())], metadata={"pandas": "{"}
    )
    table = pa.table([pa.array(["a"]), pa.array([b"0" * 16], pa.uuid())], schema=schema)
    parquet.write_table(table, tmp_path / "a.parquet")
    _, _, stream = decoded(tmp_path / "a.parquet", 10**6).stdout.partition(b"\n")
    plain = pa.schema({"text": pa.string(), "stars": pa.binary(16)})
    assert pa.ipc.open_stream(stream).schema.equals(plain, check_metadata=True)


def test_names_of_columns_are_told_in_few_words(tmp_path):
    names = [f"{number}\x1b{'x' * 10_000}" for number in range(1000)]
    table = {name: [1] for name in names} | {"stars": [1]}
    path = written(tmp_path, "a.parquet", parquet_of(*table.items()))
    with pytest.raises(ValueError, match="has no 'text'; it has: '0") as refused:
        load_reviews(path)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 2000
    assert len(decoded(path, 10**6).stdout) < 20_000


def test_only_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "nowhere.csv").symlink_to(tmp_path / "gone.csv")
    for name in (".", "pipe.csv", "nowhere.csv", "nul\0.csv", "long" * 1000):
        with pytest.raises(FileNotFoundError, match="is neither a file nor one of"):
            load_reviews(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("line.jsonl", "line 3 has more than 100 bytes"),
        ("first line.jsonl", "line 1 has more than 100 bytes"),
        ("object.json", "the file has more than 200 bytes"),
        ("indented.json", "the file has more than 200 bytes"),
        ("field.csv", "in line 3: it has more than 100 characters"),
        ("fields.csv", "in line 3: it has more than 100 characters"),
        ("header.csv", "in line 1: it has more than 100 characters"),
    ],
)
def test_a_row_and_an_object_have_limits(name, place, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LONGEST_ROW", 100)
    monkeypatch.setattr(readers, "LARGEST_OBJECT", 200)
    most, long = "x" * (101 - len(GOOD_LINE)), "x" * 150
    content = {
        "line.jsonl": line_of(most) * 2 + line_of(long),
        "first line.jsonl": line_of(long),
        "object.json": json.dumps({"texts": [long] * 2, "labels": [1] * 2}),
        "indented.json": json.dumps({"texts": [long] * 2, "labels": [1] * 2}, indent=1),
        "field.csv": f'text,stars\n{"x" * 97},1\n"{long}',
        "fields.csv": "text,stars\na,1\n" + '"\n",' * 50,
        "header.csv": long,
    }[name]
    with pytest.raises(ValueError, match=place):
        load_reviews(written(tmp_path, name, content))


class Endless(io.RawIOBase):
    """A file that never ends: a few bytes, and then an x for ever."""

    def __init__(self, content):
        self.content, self.size = content, 0

    def readable(self):
        return True

    def readinto(self, into):
        self.size += len(into)
        assert self.size < 10**6, "read far beyond every limit"
        now, self.content = self.content[: len(into)], self.content[len(into) :]
        into[:] = now.ljust(len(into), b"x")
        return len(into)


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("json", '{"texts": ["'),
        ("json", '{\n"texts": ["'),
        ("json", GOOD_LINE + '{"text": "'),
        ("csv", ""),
        ("csv", "text,stars\na,1\n"),
        ("csv", 'text,stars\na,1\n"'),
    ],
)
def test_no_more_is_read_than_the_limits_allow(form, content, monkeypatch):
    monkeypatch.setattr(readers, "LONGEST_ROW", 1000)
    monkeypatch.setattr(readers, "LARGEST_OBJECT", 2000)
    read = getattr(readers, f"_read_{form}")
    with pytest.raises(ValueError, match=r"endless.* has more than [12],000"):
        list(read(io.BufferedReader(Endless(content.encode())), "endless", 1))


BOUNDED = """
import resource, sys
import psutil
from selfatt_lib.data.sources import load_reviews
held = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (held + int(sys.argv[1]),) * 2)
for path in sys.argv[2:]:
    try:
        print(len(load_reviews(path)))
    except ValueError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does")
def test_what_is_huge_is_refused_in_little_memory(tmp_path):
    long = "x" * 110_000_000
    paths = [
        written(tmp_path, "a.jsonl", GOOD_LINE + line_of(long)),
        written(tmp_path, "a.csv", f'text,stars\na,1\n"{long}",1\n'),
        written(tmp_path, "bomb.json.zip", zip_of(("a.json", '{"texts": ["' + long))),
    ]
    for count in (1, 1000):  # it is in the file once
        texts = pa.DictionaryArray.from_arrays([0] * count, [long])
        stars = ("stars", [1] * count)
        content = parquet_of(("text", texts), stars, compression="zstd")
        paths.append(written(tmp_path, f"{count}.parquet", content))
    done = run_code(BOUNDED, 400 * 10**6, *paths)
    assert done.returncode == 0, done.stderr
    line, row, bomb, one, many = done.stdout.splitlines()
    assert "a.jsonl: line 2 has more than 16,777,216 bytes" in line
    assert "begins in line 3: it has more than 16,777,216 characters" in row
    assert "'a.json' in it has 110,000,012 bytes, too many for" in bomb
    # one of the limits is met first
    for found in (one, many):
        assert re.search("as Parquet: it (has|takes) more than [0-9,]+ bytes", found)


# Fuzzing


soon = settings(deadline=timedelta(seconds=10))

FILES = sorted(
    {*WRITERS, "reviews.csv.zip", "reviews.jsonl.zip", "reviews.parquet.zip"}
)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """Return the content of a valid file of each form, by its name."""
    folder = tmp_path_factory.mktemp("valid")
    for name, write in WRITERS.items():
        write(folder / name)
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in FILES:
        if name.endswith(".zip"):
            member = name.removesuffix(".zip")
            contents[name] = zip_of((member, contents[member]))
    return contents


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


def assert_read_or_refused(path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*reviews without a word were left out")
        try:
            reviews = load_reviews(path)
        except ValueError as error:
            said = str(error)
            reviews = None
    if reviews is None:
        assert str(path) in said
        said.encode()  # it can be printed
        return
    assert reviews["stars"].isin(range(1, 6)).all()
    assert reviews["stars"].dtype == int
    assert all(text.strip() and is_unicode(text) for text in reviews["text"])


MARKS = [
    "\0",
    "\n",
    "\r",
    '"',
    ",",
    "{",
    "[",
    "1e999",
    "\ufeff",
    "\u0301",
    "PK\3\4",
    "PAR1",
]
SOME = st.binary(max_size=8) | st.sampled_from(MARKS).map(str.encode)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "cut", "end", "repeat"]),
        st.floats(0, 1),
        SOME,
    ),
    min_size=1,
    max_size=4,
)


def edited(content, edits):
    for edit, place, some in edits:
        place = int(place * len(content))
        before, after = content[:place], content[place:]
        content = {
            "replace": before + some + after[len(some) :],
            "insert": before + some + after,
            "cut": before + after[len(some) :],
            "end": before,
            "repeat": before + after[: 8 * len(some)] + after,
        }[edit]
    return content


@pytest.mark.parametrize("name", FILES)
@soon
@given(edits=EDITS)
def test_a_damaged_file_is_read_or_refused(name, edits, valid, folder):
    assert_read_or_refused(written(folder, name, edited(valid[name], edits)))


@soon
@given(
    form=st.sampled_from(["json", "jsonl", "csv", "parquet", "zip", "csv.zip"]),
    content=st.lists(SOME | st.sampled_from([GOOD_LINE, GOOD_CSV]).map(str.encode)),
)
def test_any_bytes_are_read_or_refused(form, content, folder):
    assert_read_or_refused(written(folder, f"any.{form}", b"".join(content)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda some: (
        st.lists(some, max_size=3)
        | st.dictionaries(st.sampled_from([*"ab", "text", "stars"]), some, max_size=3)
    ),
    max_leaves=6,
)


@soon
@given(texts=st.lists(JSON, max_size=4), stars=st.lists(JSON, max_size=4))
@example(texts=["a", "b"], stars=[1, 10**400])
def test_any_values_are_read_or_refused(texts, stars, folder):
    whole = json.dumps({"texts": texts, "labels": stars})
    lines = [json.dumps({"text": t, "stars": s}) for t, s in zip(texts, stars)]
    assert_read_or_refused(written(folder, "any.json", whole))
    assert_read_or_refused(written(folder, "any.jsonl", "\n".join(lines)))


# Texts


BLANK = "".join(char for char in map(chr, range(sys.maxunicode)) if char.isspace())
TEXTS = {
    "control characters": "".join(map(chr, range(32))) * 10,
    "from right to left": "abc \u202edef\u202c \u2066x\u2069",
    "zero width": "\u200b\u200c go\u200bod fi\u200dlm \ufeff",
    "a script": "<script>alert('x')</script> <b onclick=\"x()\">&amp;</b>",
    "only white space": BLANK,
    "any white space": BLANK.join("abc"),
    "a word of 10 MB": "x" * 10**7,
    "brackets of 10 MB": "(" * 10**7,
    "10 MB of words": "a " * (5 * 10**6),
    "combining marks": "e" + "\u0301" * 100_000,
    "joined emoji": "\N{MAN}\u200d" * 50_000,
    "not characters": "\ufffe\uffff\U0010ffff \ue000",
}


@pytest.mark.parametrize("name", TEXTS)
def test_any_text_is_tokenized_soon_and_the_same_alone_and_among_others(name):
    started = time.process_time()
    tokens = tokenize(TEXTS[name], 100)
    among = tokenize_all([TEXTS[name], *["good film"] * 30], 100)
    assert time.process_time() - started < 5
    assert [among.words[i] for i in among[0]] == tokens
    assert len(tokens) <= 100
    assert all(token == token.strip() != "" for token in tokens)
    assert bool(tokens) == bool(TEXTS[name].strip())


@soon
@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("'.,-:/@()")))
def test_any_text_has_tokens_unless_it_is_blank(text):
    assert bool(tokenize(text, 100)) == bool(text.strip())
