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
from test_sources import TABLE, tutorial_json

from conftest import run_code
from selfatt_lib.data.sources import load_reviews
from selfatt_lib.data.tokens import is_unicode, tokenize, tokenize_all
from selfatt_lib.machinery import decode, readers


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

REFUSED = {
    # archives
    "link.zip": (zip_of((LINK, "/etc/passwd")), "'reviews.csv' is a link"),
    "nested.zip": (
        zip_of(("a.zip", PACKED)),
        r"0 files of reviews \(of 1: a.zip\); exactly one should end in .json",
    ),
    "nested.csv.zip": (zip_of(("a.csv", PACKED)), "a.csv has no 'text'"),
    "twice.zip": (
        zip_of(("a.csv", GOOD_CSV), ("a.csv", GOOD_CSV)),
        r"2 files of reviews \(of 2: a.csv, a.csv\)",
    ),
    "empty.zip": (b"", "not a whole zip archive"),
    "no member.zip": (zip_of(), "0 files of reviews"),
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
        "'reviews.csv' has 4,294,967,294 bytes, more than 104,857,600. Unpack it",
    ),
    "elsewhere.zip": (altered(PACKED, 42, "<I", 2**30), "is damaged: Truncated"),
    "other name.zip": (altered(PACKED, 46, "c", b"x"), "is damaged: File name"),
    "name not unicode.zip": (
        altered(altered(PACKED, 8, "<H", 0x800), 46, "c", b"\xff"),
        "not a whole zip archive",
    ),
    # JSON
    **{
        f"deep {number}.jsonl": (
            f'{GOOD_LINE}{{"text": "a", "stars": 1, "x": {nested}',
            "row 2: it is not valid JSON",
        )
        for number, nested in enumerate(NESTED)
    },
    **{
        f"deep {number}.json": (nested, "its reviews are lists|it is not valid JSON")
        for number, nested in enumerate(NESTED)
    },
    "deep stars.json": (
        f'{{"texts": ["a"], "labels": [{"[" * 500}{"]" * 500}]}}',
        "row 1: label must be a number or a text; got ",
    ),
    **{
        f"stars {stars[:9]}.jsonl": (
            f'{GOOD_LINE}{{"text": "a", "stars": {stars}}}\n',
            "row 2: (the label is missing|label must be|it is not valid JSON)",
        )
        for stars in (
            *("NaN", "-Infinity", "1e999", '"1e999"', '"nan"', '""'),
            *("[]", "[1]", "{}", '{"a": 1}', "[[1], [2]]", '"\\ud800"'),
        )
    },
    "a key twice.jsonl": (
        GOOD_LINE + '{"text": "a", "stars": 1, "stars": 5}\n',
        "row 2: text or label is in it twice",
    ),
    "a key twice.json": (
        '{"texts": ["a"], "labels": [1], "labels": [2]}',
        "row 1: text or label is in it twice",
    ),
    "latin-1.jsonl": (
        GOOD_LINE.encode() + '{"text": "café", "stars": 1}\n'.encode("latin-1"),
        "row 2: it is not valid JSON in UTF-8",
    ),
    "utf-16.jsonl": (GOOD_LINE.encode("utf-16"), 'say encoding="utf-16"'),
    "utf-16.json": (
        '{"texts": ["a"], "labels": [1]}'.encode("utf-16"),
        'it is not UTF-8; say encoding="utf-16"',
    ),
    "nul.jsonl": (
        GOOD_LINE + '{"text": "a\0b", "stars": 1}\n',
        "row 2: it is not valid JSON",
    ),
    "nuls.jsonl": (b"\0" * 50, "not valid JSON"),
    "carriage return.jsonl": (
        GOOD_LINE + '{"a": 1}\r{"a": 1}',
        "row 2: it is not valid JSON",
    ),
    "half a character.json": (
        '{"texts": ["a", "\\ud800"], "labels": [1, 1]}',
        "row 2: it is not valid JSON in UTF-8",
    ),
    "half a character as a key.jsonl": (
        '{"\\ud800": 1}\n',
        "row 1: it is not valid JSON in UTF-8",
    ),
    "long keys.jsonl": (
        '{"%s": 1}' % ("x" * 10**6),
        r"it has: 'x{12}\.\.\.x{13}'\. Say",
    ),
    "an array as a line.jsonl": (
        GOOD_LINE + "[1]\n",
        r"row 2: expected one object a review; got \[1\]",
    ),
    "a number as a line.jsonl": (
        GOOD_LINE + "5\n",
        "row 2: expected one object a review; got 5",
    ),
    "more lines.json": (
        '\n{"texts": ["a"], "labels": [1]}\n\n' + GOOD_LINE,
        "nothing may follow the object",
    ),
    # CSV
    "latin-1.csv": (
        "text,stars\na,1\ncafé,1\n".encode("latin-1"),
        'row 2: it is not UTF-8; say what the file is in, as encoding="cp1252"',
    ),
    "utf-16.csv": (GOOD_CSV.encode("utf-16"), 'say encoding="utf-16"'),
    "nuls.csv": ("\0" * 50, r"it has: '\\x00"),
    "unclosed.csv": (
        'text,stars\na,1\n"b\nc,2\nd,3\n',
        "row 2: a quote in it is not closed within 16,777,216 bytes, or not doubled",
    ),
    "unclosed and opened again.csv": (
        'text,stars\na,1\n"b,2\nc,3\n"d,4\n',
        "row 2: a quote in it is not closed",
    ),
    "text twice.csv": ("text,text,stars\na,b,1\n", "has 'text' more than once"),
    "stars twice.csv": ("text,stars,stars\na,1,2\n", "has 'stars' more than once"),
    "too few.csv": (
        'text,stars\n"a\nb",1\nc\n',
        "row 2: it should have 2 fields; got 1",
    ),
    "too many.csv": (
        "text,stars\n\na,1\nb,2,3\n",
        "row 2: it should have 2 fields; got 3",
    ),
    **{
        f"stars {number}.csv": (
            f"text,stars\na,1\nb,{stars}\n",
            "row 2: (the label is missing|label must be finite)",
        )
        for number, stars in enumerate(("NaN", "inf", "1e999", ""))
    },
    # Parquet
    "no rows.parquet": (
        parquet_of(("text", pa.array([], "str")), ("stars", pa.array([], "i8"))),
        "holds no review",
    ),
    "empty.parquet": (b"", "too small to be a Parquet file"),
    "truncated.parquet": (parquet_of_stars(1, 2)[:-20], "No magic bytes"),
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
            f"row 1: {expected}; got ",
        )
        for name, expected in (
            ("text", "text must be a string"),
            ("stars", "label must be a number or a text"),
        )
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
        "Invalid string encoding",
    ),
    **{
        f"stars {number}.parquet": (
            parquet_of_stars(stars),
            "row 1: (the label is missing|label must be)",
        )
        for number, stars in enumerate((b"1", None, float("nan"), float("inf")))
    },
    "stars of nanoseconds.parquet": (
        parquet_of_stars(pa.scalar(1, pa.time64("ns"))),
        "label must be a number or a text; got TIME_NS",
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
        [("a", 1), ("b", 2), ("c\nd\ne\nf", 3)],  # rows end in three ways here
    ),
    "line ends in quotes.csv": (
        'text,stars\r\n"a\nb\rc\r\nd",1\r\n',
        [("a\nb\rc\r\nd", 1)],
    ),
    "a number too long.jsonl": (
        '{"text": "a", "stars": 1, "x": %s}' % ("9" * 5000),
        [("a", 1)],
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


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does")
def test_the_decoder_limits_its_own_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MOST_GROWTH", 10**6)
    texts = pa.DictionaryArray.from_arrays([0] * 300, ["x" * 10**7])  # 3 GB
    content = parquet_of(("text", texts), ("stars", [1] * 300))
    with pytest.raises(ValueError, match="takes more than 2,147,483,648 bytes of mem"):
        load_reviews(written(tmp_path, "a.parquet", content))


LIMITED = """
import mmap, resource
from selfatt_lib.machinery import decode

many_cores = mmap.mmap(-1, 2**32)  # their threads' stacks, never used
decode.SECONDS = 2
decode.limit(0)
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
    done = run_code(LIMITED, timeout=60)
    assert done.stdout == "no more memory\n"
    assert done.returncode == -signal.SIGXCPU


WATCHED = """
import sys
from selfatt_lib.machinery import decode

sys.modules["resource"] = None  # as on Windows
decode.SECONDS, decode.MEMORY = 1, int(sys.argv[1])
decode.limit(0)
while True:
    pass
"""


@pytest.mark.parametrize(
    ("memory", "said"), [(2**40, decode.TOO_LATE), (2**20, decode.TOO_LARGE)]
)
def test_where_the_system_has_no_limits_the_decoder_watches_itself(memory, said):
    done = run_code(WATCHED, memory, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"{said}\n"


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("os.abort()", "its reader was killed"),
        ("sys.stdout.write('nonsense'); sys.stdout.flush()", "its reader was killed"),
        ("sys.exit('it is of another kind')", "it is of another kind"),
        ("sys.exit('x' * 10**6)", "x{500}"),  # more than a pipe holds
        ("sys.exit('\\x1b[2J\\u202e')", " \\[2J "),
        ("os.kill(os.getpid(), signal.SIGXCPU)", "it takes too long to read"),
    ],
)
def test_a_decoder_that_crashes_is_a_file_that_cannot_be_read(
    does, said, tmp_path, monkeypatch
):
    path = written(tmp_path, "a.csv", GOOD_CSV)
    monkeypatch.setattr(readers, "DECODER", f"import os, signal, sys\n{does}")
    with pytest.raises(ValueError, match=f"a.csv: {said}$"):
        load_reviews(path)


CRASHING = readers.DECODER.replace(
    "run()",
    """
import os
from selfatt_lib.machinery import decode
told = []
def tell(stream, *arguments, tell=decode.tell, **what):
    tell(stream, *arguments, **what)
    told.append(what)
    if len(told) == 3:  # after the first reviews
        sys.stdout.buffer.flush()
        os.abort()
decode.tell = tell
run()
""",
)


def test_a_decoder_that_crashes_in_the_middle_is_no_short_file(tmp_path, monkeypatch):
    path = written(tmp_path, "a.csv", GOOD_CSV * 10_000)
    monkeypatch.setattr(readers, "DECODER", CRASHING)
    with pytest.raises(ValueError, match=r"a.csv: its reader was killed$"):
        list(readers.read_files(path, lambda names, where: [0, 1]))


def test_a_decoder_whose_file_is_refused_does_not_go_on(tmp_path):
    path = written(
        tmp_path, "a.parquet", parquet_of_stars(float("nan"), *[1.0] * 10**6)
    )
    with pytest.raises(ValueError, match="row 1: the label is missing"):
        load_reviews(path)
    # from Python 3.14 on, a progress bar starts a helper of multiprocessing
    commands = [child.cmdline() for child in psutil.Process().children()]
    assert [command for command in commands if readers.DECODER in command] == []


def test_names_of_columns_are_told_in_few_words(tmp_path):
    names = [f"{number}\x1b{'x' * 10_000}" for number in range(1000)]
    table = {name: [1] for name in names} | {"stars": [1]}
    path = written(tmp_path, "a.parquet", parquet_of(*table.items()))
    with pytest.raises(ValueError, match=r"has no 'text', .*it has: '0") as refused:
        load_reviews(path)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 2000


REACHING = """
import sys
from selfatt_lib.machinery import decode
con = decode.connect(sys.argv[1])
for query in (
    "SELECT * FROM read_text('/etc/hostname')",
    "COPY (SELECT 1) TO '{folder}/b.csv'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
):
    try:
        con.execute(query.format(folder=sys.argv[2])).fetchall()
        print("allowed", query)
    except Exception as error:
        print("refused")
"""


def test_duckdb_reaches_nothing_but_the_file(tmp_path):
    done = run_code(REACHING, written(tmp_path, "a.csv", GOOD_CSV), tmp_path)
    assert done.stdout == "refused\n" * 5, done.stderr


def test_only_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "nowhere.csv").symlink_to(tmp_path / "gone.csv")
    for name in (".", "pipe.csv", "nowhere.csv", "nul\0.csv", "long" * 1000):
        with pytest.raises(
            FileNotFoundError, match=r"is neither a file, a folder or pa"
        ):
            load_reviews(tmp_path / name)


BOUNDED = """
import resource, sys
from selfatt_lib.data.sources import load_reviews
def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = most()
for path in sys.argv[1:]:
    try:
        print(len(load_reviews(path)))
    except ValueError as error:
        print(error)
print(most() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in kB there")
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
    done = run_code(BOUNDED, *paths)
    assert done.returncode == 0, done.stderr
    line, row, bomb, one, many, kilobytes = done.stdout.splitlines()
    assert int(kilobytes) < 400_000
    assert "a.jsonl: a review has more than 16,777,216 bytes" in line
    assert "a.csv: row 2: a quote in it is not closed within 16,777,216 bytes" in row
    assert "'a.json' has 110,000,012 bytes, more than 104,857,600" in bomb
    # one of the limits is met first
    for found in (one, many):
        assert re.search("parquet: it (has|takes) more than [0-9,]+ bytes", found)


# Fuzzing


soon = settings(deadline=timedelta(seconds=10))
# a process for each file
fewer = settings(soon, max_examples=settings.default.max_examples // 10)

WRITERS = {
    "tutorial.json": tutorial_json,
    "indented.json": lambda path: path.write_text(
        json.dumps({"texts": ["a", "b"], "labels": [1, 2]}, indent=2)
    ),
    "reviews.jsonl": lambda path: TABLE.to_json(path, orient="records", lines=True),
    "reviews.csv": lambda path: TABLE.to_csv(path, index=False),
    "reviews.parquet": lambda path: TABLE.assign(user="x").to_parquet(path),
}
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
        warnings.filterwarnings("ignore", ".*rows left out|.*differ by case")
        try:
            reviews = load_reviews(path)
        except ValueError as error:
            said = str(error)
            reviews = None
    if reviews is None:
        assert str(path) in said
        said.encode()  # it can be printed
        return
    assert reviews["label"].notna().all()
    assert 1 <= reviews["label"].nunique() <= 1000
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
@fewer
@given(edits=EDITS)
def test_a_damaged_file_is_read_or_refused(name, edits, valid, folder):
    assert_read_or_refused(written(folder, name, edited(valid[name], edits)))


@fewer
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


@fewer
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
