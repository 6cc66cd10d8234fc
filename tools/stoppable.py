"""papermill for `make train`: SIGTERM ends it as Ctrl-C does, which lets the kernel finish its batch and save. Then it says how to go on.

``GO_ON`` in the environment is the command to say, ``RUN`` the run directory.
"""

import os
import signal
from pathlib import Path

from papermill.__main__ import papermill

came = []


def interrupt(number, _):
    came.append(number)
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        papermill()
    finally:
        if came and Path(os.environ["RUN"], "config.json").exists():
            print(f"\nStopped. To go on: {os.environ['GO_ON']}")
