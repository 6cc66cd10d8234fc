"""``selfatt train``: the training notebook, run with other parameters."""

import os
import sys
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import click

from selfatt_lib.commands import PROGRAM, one_sentence, parameter_option, typed
from selfatt_lib.commands.summary import summarized
from selfatt_lib.machinery import is_shared

NOTEBOOK = Path(__file__).parents[2] / "book" / "training.ipynb"


@click.command()
@click.option(
    "--parameters",
    default="quick",
    metavar="NAME",
    show_default=True,
    help="A file of book/parameters (quick, reviews, tutorial, paper), or YAML.",
)
@click.option("--run", metavar="FOLDER", help="The run directory: run_dir.")
@parameter_option(
    "One parameter. A number, a list, True or null is taken for what it is; "
    "where a text is expected, it is one."
)
@click.option("-y", "texts", multiple=True, metavar="YAML", help="Some, as YAML.")
@click.option("-f", "files", multiple=True, metavar="FILE", help="Some, from a file.")
def train(parameters, run, pairs, texts, files):
    """Run book/training.ipynb through papermill, with other parameters.

    All parameters stand under "Parameters" in that notebook. Of values for one, -p
    counts before -y, -y before -f, and -f before --parameters. Started by torchrun,
    several processes share the run, without the notebook.
    """
    shared = is_shared()
    # of a machine's processes, one says what is wrong with the parameters
    is_quiet = shared and (os.environ.get("LOCAL_RANK") or "0") != "0"
    with quietly() if is_quiet else one_sentence():
        if not NOTEBOOK.is_file():
            raise FileNotFoundError(
                f"there is no {NOTEBOOK}: training runs a notebook of the repository. "
                "Clone that, and run make setup in it (on Windows: py tools/setup.py)."
            )
        given = merge(texts, files, pairs)
        if run is not None and given.setdefault("run_dir", run) != run:
            raise ValueError(
                f"the run directory is given twice: --run {run}, run_dir "
                f"{given['run_dir']}"
            )
        known = sorted(NOTEBOOK.parent.glob("parameters/*.yaml"))
        defaults = {path.stem: path for path in known}.get(parameters, parameters)
        if not os.path.isfile(defaults):
            raise FileNotFoundError(
                f"--parameters {parameters!r} is neither a file nor one of: "
                + ", ".join(path.stem for path in known)
            )
        given = read_parameters(defaults) | given
        from selfatt_lib.config import TrainingConfig, unknown_parameter
        from selfatt_lib.machinery.notebook import run_notebook
        from selfatt_lib.run import RunDirectory

        for name in given:
            if name not in TrainingConfig.model_fields:  # YAML's "on" is True
                raise unknown_parameter(name)
        config = TrainingConfig(**given)
        if not shared:
            directory = RunDirectory(config)
            directory.release()  # the notebook's kernel takes it
    if shared:
        with one_sentence():
            return share(config)
    go_on = [PROGRAM, "train", "--parameters", parameters, "--run", config.run_dir]
    for option, values in (("-f", files), ("-y", texts)):
        for value in values:
            go_on += [option, value]
    for name, value in pairs:
        if name not in ("run_dir", "resume"):
            go_on += ["-p", name, value]
    parameters = {name: value for name, value in vars(config).items() if name in given}
    go_on = typed(*go_on, "-p", "resume", "True")
    with one_sentence():
        if status := run_notebook(NOTEBOOK, directory.path, parameters, go_on):
            sys.exit(status)
    click.echo(summarized(config.run_dir, directory.path))


@contextmanager
def quietly():
    """End without a word at what another process of the machine meets, and tells."""
    try:
        with one_sentence():
            yield
    except click.ClickException:
        time.sleep(60)  # torchrun ends it when the one that tells has ended
        sys.exit(1)


def share(config):
    """Train together with the other processes of torchrun, without the notebook."""
    first = os.environ.get("RANK") == "0"
    if not first:
        warnings.simplefilter("ignore")  # the first says the same
    from selfatt_lib.machinery.places import locate
    from selfatt_lib.torchrun import Quiet, fit_together

    try:
        fit_together(config)
    except Quiet:
        sys.exit(1)
    except KeyboardInterrupt as stopped:
        if first:
            click.echo(f"\n{stopped}", err=True)
        sys.exit(130)
    if first:
        click.echo(summarized(config.run_dir, locate(config.run_dir)))


def merge(texts, files, pairs):
    """Return the parameters that were given, later ones before earlier ones."""
    given = {}
    for file in files:
        given |= read_parameters(file)
    for text in texts:
        given |= _parse(text, "-y")
    return given | dict(pairs)


def read_parameters(file):
    try:
        return _parse(Path(file).read_text(encoding="utf-8"), file)
    except OSError as error:
        raise OSError(f"the parameters could not be read: {error}") from error


def _parse(text, where):
    import yaml

    try:
        parameters = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not YAML: {error}") from error
    if not isinstance(parameters, dict):
        raise ValueError(
            f"{where}: expected parameters, as in 'epochs: 2'; got {parameters!r:.80}"
        )
    return parameters
