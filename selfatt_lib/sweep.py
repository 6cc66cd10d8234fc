"""Many runs: combinations of parameters, each trained in a folder of its own."""

import json
import re
import warnings
from datetime import datetime
from itertools import product

import pandas as pd

from selfatt_lib.config import TrainingConfig, unknown_parameter
from selfatt_lib.machinery.files import read_json, write_text
from selfatt_lib.machinery.places import locate
from selfatt_lib.machinery.progress import tqdm
from selfatt_lib.run import Busy, RunDirectory
from selfatt_lib.training import fit

# what `results.csv` takes from a run's metrics, beside the parameters that differ
SCORES = ("valid_accuracy", "accuracy", "weighted_f1", "tfidf_accuracy", "parameters")
SCORES += ("best_epoch", "epochs", "seconds", "engine")
BUSY = "another process is training it"


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
        Goes before the plan's own.

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
    _check(plan)
    if common:
        _check(plan | {"common": common})
    common = plan.get("common", {}) | (common or {})
    grid, runs, twins = plan.get("grid", {}), {}, {}
    for listed, *values in product(plan.get("runs", [{}]), *grid.values()):
        combined = dict(zip(grid, values))
        varied = listed | combined
        named = [varied.pop("name")] if "name" in varied else []
        told = (combined if named else varied).items()
        name = ",".join(named + [f"{key}={value}" for key, value in told])
        name = re.sub(r"[^\w.,=+-]+", "-", name)
        if name in runs or name in twins:
            raise ValueError(
                f"two runs are called {name!r}; give each a name of its own"
            )
        try:
            config = TrainingConfig(
                **common | varied, run_dir=str(locate(folder) / name)
            )
        except ValueError as error:
            raise ValueError(f"the run {name!r}: {error}") from None
        if config.model_dump(exclude={"run_dir"}) in twins.values():
            twins[name] = None
        else:
            runs[name] = config
            twins[name] = config.model_dump(exclude={"run_dir"})
    if same := [name for name, parameters in twins.items() if parameters is None]:
        warnings.warn(
            f"runs with the parameters of an earlier one: {', '.join(same)}",
            stacklevel=2,
        )
    return runs


def _check(plan):
    """Refuse a plan that is none, before any value of it is looked at."""
    kinds = {"grid": dict, "runs": list, "common": dict}
    for key, value in plan.items():
        if key not in kinds or not isinstance(value, kinds[key]):
            raise ValueError(
                "a plan has grid (a list of values for each parameter), runs (a list "
                f"of parameters) and common (parameters); got {key}: {value!r:.80}"
            )
    grid, runs = plan.get("grid", {}), plan.get("runs", [{}])
    for name, values in grid.items():
        if not isinstance(values, list):
            raise ValueError(f"grid: {name} must be a list of values; got {values!r}")
    if not (grid or "runs" in plan) or not runs or not all(grid.values()):
        raise ValueError("the plan has no run: grid or runs is missing or empty")
    for given in (plan.get("common", {}), grid, *runs):
        if not isinstance(given, dict):
            raise ValueError(f"runs: expected parameters; got {given!r}")
        for name in given:
            if name in ("run_dir", "resume"):
                raise ValueError(f"{name} is the sweep's own; leave it out")
            if name not in TrainingConfig.model_fields and name != "name":
                raise unknown_parameter(name)


def sweep(runs, folder):
    """Train each run that is not finished yet, and keep all scores in one table.

    A run that was stopped goes on where it was. One that another process is training is
    left to it, so several processes can share a sweep. One that fails is told in the
    column ``error``, and the others go on.

    Parameters
    ----------
    runs : dict of TrainingConfig
        From `expand`.
    folder : str or Path

    Returns
    -------
    pandas.DataFrame
        A row a run: ``run``, the parameters that differ between runs, the scores of
        `SCORES`, ``date``, and ``error``. After each run it is written to
        ``results.csv`` in the folder.

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
    folder, done = locate(folder), {}
    for config in runs.values():
        _look(config)
    with tqdm(total=len(runs), desc="runs", unit="run") as bar:
        for name, config in runs.items():
            bar.set_postfix_str(name)
            done[name] = _run(config)
            folder.mkdir(parents=True, exist_ok=True)
            _keep(runs, done, folder)
            bar.update()
    for name, config in runs.items():  # which another process may have done by now
        if done[name].get("error") == BUSY and _look(config)[2]:
            done[name] = _run(config)
    return _keep(runs, done, folder)


def _look(config):
    """Return the path of a run's folder, whether it has begun, and is finished."""
    try:
        run = RunDirectory(config)
    except Busy:
        return None, False, False
    begun, finished = (run.path / "config.json").exists(), run.is_finished()
    run.release()
    if begun and not finished:
        RunDirectory(config.model_copy(update={"resume": True})).release()
    return run.path, begun, finished


def _run(config):
    """Return a run's metrics, from its folder or from training it: dict."""
    try:
        path, begun, finished = _look(config)
        if path is None:
            return {"error": BUSY}
        if not finished:
            fit(config.model_copy(update={"resume": begun}))
        written = (path / "metrics.json").stat().st_mtime
        date = datetime.fromtimestamp(written).astimezone().isoformat("T", "minutes")
        return read_json(path / "metrics.json") | {"date": date}
    except (RuntimeError, MemoryError, ValueError) as error:
        return {"error": str(error)}


def _keep(runs, done, folder):
    """Write the table of `sweep`, of the runs that are done, and return it."""
    given = {
        name: config.model_dump(exclude={"run_dir"}) for name, config in runs.items()
    }
    told = {
        name: {k: json.dumps(v) for k, v in each.items()}
        for name, each in given.items()
    }
    varied = [
        key
        for key in TrainingConfig.model_fields
        if len({each.get(key) for each in told.values()}) > 1
    ]
    rows = []
    for name, metrics in done.items():
        row = {"run": name} | {key: given[name][key] for key in varied}
        row |= {key: metrics.get(key) for key in SCORES}
        rows.append(row | {"date": metrics.get("date"), "error": metrics.get("error")})
    table = pd.DataFrame(rows)
    write_text(folder / "results.csv", table.to_csv(index=False))
    return table
