"""How many threads compute."""

import os
from functools import cache


@cache
def num_threads():
    """Return OMP_NUM_THREADS, or the number of cores that we may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    import joblib

    return joblib.cpu_count()
