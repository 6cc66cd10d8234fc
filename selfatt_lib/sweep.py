"""Many runs: combinations of parameters, each trained in a folder of its own."""

import json
import re
import warnings
from datetime import datetime
from importlib.metadata import version
from itertools import product

import pandas as pd
from filelock import FileLock

from selfatt_lib.config import TrainingConfig, unknown_parameter
from selfatt_lib.machinery.files import read_json, write_text
from selfatt_lib.machinery.places import locate
from selfatt_lib.machinery.progress import tqdm
from selfatt_lib.run import Busy, RunDirectory
from selfatt_lib.training import fit

# What `results.csv` takes from a run's metrics, beside the parameters that differ
SCORES = ("valid_accuracy", "accuracy", "weighted_f1", "tfidf_accuracy", "parameters")
SCORES += ("best_epoch", "epochs", "seconds", "engine")
BUSY = "another process is training it"
LONGEST_NAME = 120


def expand(plan, folder, common=None):
    """Return the runs of a plan, checked: dict of name → TrainingConfig.

    Parameters
    ----------
    plan : dict
        ``grid``, a dict of parameters, each with the list of its values, of which all
        combinations are run; ``runs``, a list of dicts of parameters, each of which is
        combined with the grid, and may have a ``name``; ``common``, parameters of all.
    folder : str or Path
        Where the runs' folders are to be.
    common : dict, optional
        Goes before the plan's ``common``.

    Raises
    ------
    ValueError
        A key or a parameter is unknown, a value impossible, the plan has no run, or two
        of one name. Runs with the very parameters of an earlier one are left out, with
        a warning.

    Examples
    --------
    >>> list(expand({"grid": {"seed": [0, 1], "epochs": [2]}}, "runs/seeds"))
    ['seed=0,epochs=2', 'seed=1,epochs=2']
    """
    plan = plan | {"common": plan.get("common", {}) | (common or {})}
    _check(plan)
    grid, runs, twins, names = plan.get("grid", {}), {}, {}, set()
    for listed, *values in product(plan.get("runs", [{}]), *grid.values()):
        varied = listed | dict(zip(grid, values))
        name = _name(varied, grid)
        if name.casefold() in names:
            raise ValueError(
                f"two runs are called {name!r}; give each a name of its own"
            )
        names.add(name.casefold())
        given = plan["common"] | varied | {"run_dir": str(locate(folder) / name)}
        try:
            config = TrainingConfig(**given)
        except ValueError as error:
            raise ValueError(f"the run {name!r}: {error}") from None
        same = json.dumps(config.model_dump(exclude={"run_dir"}))
        if twins.setdefault(same, name) == name:
            runs[name] = config
        else:
            warnings.warn(
                f"{name!r} has the parameters of {twins[same]!r} and is left out",
                stacklevel=2,
            )
    return runs


def _name(varied, grid):
    """Take the name out of a run's parameters, or make one of them: str."""
    named = [str(varied.pop("name"))] if "name" in varied else []
    told = {key: varied[key] for key in grid} if named else varied
    name = ",".join(named + [f"{key}={value}" for key, value in told.items()])
    name = re.sub(r"[^\w.,=+-]+", "-", name) or "usual"
    if not re.search(r"\w", name) or len(name) > LONGEST_NAME:
        raise ValueError(
            f"a run cannot be called {name!r:.{LONGEST_NAME}}; give it a name of at "
            f"most {LONGEST_NAME} letters and digits"
        )
    return name


def _check(plan):
    """Refuse a plan that is none, before any value of it is looked at."""
    kinds = {"grid": dict, "runs": list, "common": dict}
    for key, value in plan.items():
        if key not in kinds or not isinstance(value, kinds[key]):
            raise ValueError(
                "a plan has grid (a list of values for each parameter), runs (a list "
                f"of parameters) and common (parameters); got {key}: {value!r:.80}"
            )
    grid, runs, common = plan.get("grid", {}), plan.get("runs", [{}]), plan["common"]
    for name, values in grid.items():
        if not isinstance(values, list):
            raise ValueError(f"grid: {name} must be a list of values; got {values!r}")
    if not (grid or "runs" in plan) or not runs or not all(grid.values()):
        raise ValueError("the plan has no run: grid or runs is missing or empty")
    for given in (common, grid, *runs):
        if not isinstance(given, dict):
            raise ValueError(f"runs: expected parameters; got {given!r}")
        for name in given:
            if name in ("run_dir", "resume"):
                raise ValueError(f"{name} is the sweep's own; leave it out")
            if name == "name" and (given is common or given is grid):
                raise ValueError("a name is for one of the runs; leave it out")
            if name not in TrainingConfig.model_fields and name != "name":
                raise unknown_parameter(name)


def sweep(runs, folder):
    """Train each run that is not finished yet, and keep all scores in one table.

    A run that was stopped goes on where it was. One that another process is training is
    left to it, so several processes can share a sweep. One that fails is told in the
    column ``error``, and the others go on. A finished run is not trained again, even if
    its file of reviews has changed since.

    Parameters
    ----------
    runs : dict of TrainingConfig
        From `expand`.
    folder : str or Path

    Returns
    -------
    pandas.DataFrame
        A row a run: ``run``, the parameters that differ between runs, the scores of
        `SCORES`, ``date`` and ``numpy``, its version now, and ``error``. After each run
        it is written to ``results.csv`` in the folder.

    Raises
    ------
    ValueError
        One of the folders holds something else, or a run with other parameters: before
        any work.
    OSError
        The folder cannot be written to.
    KeyboardInterrupt
        SIGINT or SIGTERM came; the run is saved. The same call goes on.
    """
    folder = locate(folder)
    folder.mkdir(parents=True, exist_ok=True)
    done = {name: _finished(config) for name, config in runs.items()}
    with tqdm(total=len(runs), desc="runs", unit="run") as bar:
        for name, config in runs.items():
            bar.set_postfix_str(name)
            done[name] = done[name] or _finished(config) or _train(config)
            _keep(runs, done, folder)
            bar.update()
    for name, config in runs.items():  # which another process may have done by now
        if done[name].get("error") == BUSY:
            done[name] = _finished(config) or done[name]
    return _keep(runs, done, folder)


def _finished(config):
    """Return a finished run's metrics, None if it is not; refuse what is another's."""
    try:
        run = RunDirectory(config)
    except Busy:
        return None
    finished = run.is_finished()
    run.release()
    path = run.path / "metrics.json"
    if finished:
        metrics = read_json(path)
        date = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
        if "tfidf_accuracy" in metrics or not config.tfidf:
            return metrics | {"date": date.isoformat("T", "minutes")}
    if (run.path / "config.json").exists():  # could it go on?
        RunDirectory(config.model_copy(update={"resume": True})).release()
    return None


def _train(config):
    """Train a run, or go on with it; return its metrics, or what went wrong."""
    begun = (locate(config.run_dir) / "config.json").exists()
    try:
        fit(config.model_copy(update={"resume": begun}))
        return _finished(config)
    except Busy:
        return {"error": BUSY}
    except (ImportError, MemoryError, OSError, RuntimeError, ValueError) as error:
        return {"error": str(error)}


def _keep(runs, done, folder):
    """Write the table of `sweep`, of the runs that are done, and return it."""
    given = {
        name: config.model_dump(exclude={"run_dir"}) for name, config in runs.items()
    }
    varied = [
        key
        for key in TrainingConfig.model_fields
        if len({json.dumps(each.get(key)) for each in given.values()}) > 1
    ]
    rows = []
    for name, metrics in done.items():
        row = {"run": name} | {key: given[name][key] for key in varied}
        metrics = metrics or {"error": "not trained yet"}
        row |= {key: metrics.get(key) for key in (*SCORES, "date")}
        row |= {"numpy": version("numpy"), "error": metrics.get("error")}
        rows.append(row)
    table = pd.DataFrame(rows)
    with FileLock(folder / ".results.lock"):
        write_text(folder / "results.csv", table.to_csv(index=False))
    return table
