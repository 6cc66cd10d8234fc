"""What keeps the book alive and fast, and need not be read to understand it.

===========  =========================================================================
`runtime`    MXNet imported, threads and devices chosen, generators seeded
`compat`     what MXNet needs beforehand of a NumPy that is years newer
`cuda`       the NVIDIA driver, its GPUs, and the libraries of CUDA 11
`hook`       lets a plain ``import mxnet`` work
`install`    installs what a hosted notebook lacks
`doctor`     tells what a bug report should say of the machine
`lstm`       the bidirectional LSTM on a CPU, compiled
`openmp`     processes that are forked while PyTorch computes
`threads`    how many compute, and what they must not be forked in the middle of
`languages`  spaCy's tokenizers
`words`      many texts through it, each word once
`kept`       tokenized corpora on disk
`devices`    what the name of a device means
`settings`   what people and programs write for a value, and what is refused
`readers`    files of reviews, in all their forms, as tables
`decode`     the process that reads them, within limits
`forms`      how it reads each form, with DuckDB
`places`     where files lie, and how they are fetched
`files`      files written whole or not at all, and read as if a stranger made them
`recording`  what stands beside the training loop: bar, readings, signals, savings
`notebook`   a notebook run by papermill, which can be stopped
`progress`   progress bars
===========  =========================================================================
"""

import os


def is_shared():
    """Tell whether torchrun, or the like, started this process as one of a run's."""
    count = os.environ.get("WORLD_SIZE") or "1"
    return "TORCHELASTIC_RUN_ID" in os.environ or count not in ("0", "1")


def printable(text):
    """Return a text as one line, with nothing in it that a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in text)
