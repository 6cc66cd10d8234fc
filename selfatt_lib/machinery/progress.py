"""Progress bars: widgets where somebody has a notebook open, else text."""

import os
import sys
import threading

from selfatt_lib.machinery import is_shared
from selfatt_lib.machinery.threads import at_fork


def _notebook_is_open():
    """Tell whether an editor shows this notebook: papermill, nbval show no widgets."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    # tqdm's widgets do not heed TQDM_DISABLE
    if not hasattr(shell, "kernel") or "TQDM_DISABLE" in os.environ:
        return False
    return (
        # JupyterLab, Notebook 7 and VS Code say which cell they run
        "cellId" in shell.kernel.get_parent().get("metadata", {})
        or "google.colab" in sys.modules
        or os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Interactive"
    )


if is_shared() and os.environ.get("RANK", "0") != "0":
    os.environ["TQDM_DISABLE"] = "1"  # of torchrun's processes, the first has the bars
if _notebook_is_open():
    from tqdm.auto import tqdm
else:
    from tqdm import tqdm

# a thread that is not in the child may have held the lock
at_fork(after_in_child=lambda: tqdm.set_lock(threading.RLock()))

__all__ = ["tqdm"]
