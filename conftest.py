"""For tests and chapters alike: what differs from run to run or by machine is off."""

import os
from importlib.machinery import PathFinder

from tools.reproducibly import settle

settle(os.environ)

# GPUs: the stored outputs are the CPU's. tests/test_gpu.py brings them back.
if "CUDA_VISIBLE_DEVICES" in os.environ:
    os.environ["HIDDEN_CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
os.environ["CUDA_VISIBLE_DEVICES"] = ""

NEEDING = {
    "mxnet": """
        book/data.ipynb book/model.ipynb book/penalty.ipynb
        selfatt_lib/model.py selfatt_lib/penalty.py selfatt_lib/encoders.py
        selfatt_lib/engines/mxnet.py selfatt_lib/evidence/experiments.py
        selfatt_lib/evidence/measures.py
        selfatt_lib/machinery/compat.py selfatt_lib/machinery/runtime.py
        selfatt_lib/machinery/lstm.py
        tests/test_model.py tests/test_penalty.py tests/test_lstm.py
        tests/test_encoders.py tests/test_evidence.py tests/test_runtime.py
        tests/test_gluonnlp.py""",
    "torch": """
        book/pytorch.ipynb selfatt_lib/pytorch.py selfatt_lib/engines/pytorch.py
        selfatt_lib/torchrun.py tests/test_pytorch.py tests/test_torchrun.py""",
}
LEFT_OUT = {
    name: paths for name, paths in NEEDING.items() if not PathFinder.find_spec(name)
}
collect_ignore = " ".join(LEFT_OUT.values()).split()
# their stored outputs are of a run with MXNet
RUN_ONLY = ("training.ipynb",) if "mxnet" in LEFT_OUT else ()


def pytest_report_header():
    """Say what is left out."""
    lines = [
        f"{name} is not installed; left out: {' '.join(paths.split())}"
        for name, paths in LEFT_OUT.items()
    ]
    if RUN_ONLY:
        lines.append(f"run, and not compared: {' '.join(RUN_ONLY)}")
    return lines


def pytest_collection_modifyitems(items):
    """Have nbval compare no outputs of another engine."""
    for item in items:
        if item.path.name in RUN_ONLY:
            item.options["check"] = False
