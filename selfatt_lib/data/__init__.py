"""From raw reviews to batches: sources → texts and stars → tokens → ids → buckets → batches."""

from selfatt_lib.data.batches import Batches, on_devices
from selfatt_lib.data.kept import tokenize_kept
from selfatt_lib.data.sources import cache_dir, load_reviews, locate, split_reviews
from selfatt_lib.data.text import (
    TokenizedTexts,
    build_vocab,
    coverage,
    load_glove,
    tokenize_all,
)
from selfatt_lib.data.tokens import tokenize

__all__ = [
    "Batches",
    "TokenizedTexts",
    "build_vocab",
    "cache_dir",
    "coverage",
    "load_glove",
    "load_reviews",
    "locate",
    "on_devices",
    "split_reviews",
    "tokenize",
    "tokenize_all",
    "tokenize_kept",
]
