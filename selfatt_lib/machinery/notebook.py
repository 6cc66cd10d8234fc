"""A notebook run by papermill from Python, which can be stopped."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress

import papermill
from jupyter_client import AsyncKernelManager
from nbclient.exceptions import DeadKernelError

# Ctrl-C in a console of Windows would reach a kernel of the same group as well
OWN_GROUP = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)


def run_notebook(notebook, run, parameters, go_on):
    """Run a notebook, leave it in the run directory, and return the exit status.

    SIGINT, SIGTERM and SIGHUP are passed on to its kernel, which finishes its batch and
    saves. What went wrong is printed, with the command that goes on; a notebook that
    failed lies beside the run directory.
    """
    came, kernels = [], []
    began = saved_at(run)

    class Kernel(AsyncKernelManager):
        async def start_kernel(self, **options):
            kernels.append(self)
            await super().start_kernel(creationflags=OWN_GROUP, **options)

    def stop(number, _):
        came.append(number)
        started = [kernel for kernel in kernels if kernel.has_kernel]
        if not started or len(came) > 1:
            raise KeyboardInterrupt
        os.write(2, b"\nstopping after this batch; once more ends it at once\n")
        with suppress(StopIteration):  # it is done at once, and awaits nothing
            started[0].provisioner.send_signal(signal.SIGINT).send(None)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    run.parent.mkdir(parents=True, exist_ok=True)
    executed = run.with_name(f".{run.name}.{os.getpid()}.ipynb")
    try:
        papermill.execute_notebook(
            notebook,
            executed,
            parameters,
            progress_bar=False,
            stderr_file=sys.stderr,
            kernel_manager_class=Kernel,
        )
    except (Exception, KeyboardInterrupt) as error:
        said = getattr(error, "evalue", str(error)) or "Stopped."
        if isinstance(error, DeadKernelError):
            said = "The kernel died; that it ran out of memory is the likeliest reason."
        failed = run.with_name(f"{run.name}.failed.ipynb")
        if came:
            executed.unlink(missing_ok=True)
        elif executed.exists():
            os.replace(executed, failed)
            said += f"\nThe notebook: {failed}"
        if saved_at(run) != began:
            said += f"\nTo go on: {go_on}"
        print(f"\n{said}", file=sys.stdout if came else sys.stderr)
        return 128 + came[0] if came else 1
    shutil.move(executed, run / "training.ipynb")
    return 0


def saved_at(run):
    """Return when the run in a folder was begun and saved last."""
    files = [run / name for name in ("config.json", "checkpoint.safetensors")]
    return [file.stat().st_mtime_ns for file in files if file.exists()]
