"""Run a command with all settled that makes outputs differ: reproducibly.py COMMAND ….

`make notebooks` stores the chapters' outputs this way; for pytest, conftest.py does the
same. Float32 sums depend on the order in which a processor's own routines add; over a
whole training that shows in the third digit. So all use one processor's routines, and
two threads.
"""

import os
import sys
from pathlib import Path

SETTLED = {
    "OPENBLAS_CORETYPE": "Haswell",  # NumPy's, SciPy's and MXNet's matrix products
    "MKL_CBWR": "AVX2",  # PyTorch's
    "DNNL_MAX_CPU_ISA": "AVX2",  # MXNet's other operators, and PyTorch's
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # their name for it today
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own
    "OMP_NUM_THREADS": "2",
    # On a busy machine, threads that wait by counting take the cores that they wait for
    "GOMP_SPINCOUNT": "1000",
    "TQDM_DISABLE": "1",  # progress bars
    # where the chapters' runs are, apart from those of `make train`
    "SELFATT_CHAPTERS": str(Path(__file__).parents[1].resolve() / "build/chapters"),
}


def settle(environment):
    """Settle what is not set otherwise."""
    for name, value in SETTLED.items():
        environment.setdefault(name, value)


if __name__ == "__main__":
    settle(os.environ)
    os.execvp(sys.argv[1], sys.argv[1:])
