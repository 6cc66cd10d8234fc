"""``selfatt sweep``: many runs, by a plan."""

import sys
from contextlib import contextmanager
from pathlib import Path

import click

from selfatt_lib.commands import one_sentence, parameter_option
from selfatt_lib.commands.train import merge, read_parameters


@contextmanager
def stopped_runs_go_on():
    """Say how to go on after a Ctrl-C, and end with its status."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        said = str(stopped).partition(" To go on")[0] or "Stopped."
        click.echo(f"\n{said} The same command goes on.", err=True)
        sys.exit(130)


@click.command()
@click.argument("plan")
@click.option("--folder", metavar="FOLDER", help="Of the runs: runs/NAME-OF-PLAN.")
@parameter_option("A parameter of all runs, before the plan's own.")
def sweep(plan, folder, pairs):
    """Train the runs of PLAN, a YAML file, and print a table of their scores.

    Its grid has lists of values, of which all combinations are run; its runs are single
    ones; common are the parameters of all:

    \b
        common: {epochs: 4}
        grid: {attention_hops: [1, 4], seed: [0, 1, 2]}

    The same command goes on with a sweep that was stopped, and several at a time share
    it. results.csv in the folder has the table.
    """
    with one_sentence(), stopped_runs_go_on():
        content = read_parameters(plan)
        folder = folder or str(Path("runs", Path(plan).stem))
        from selfatt_lib.sweep import expand
        from selfatt_lib.sweep import sweep as train_all

        given = merge((), (), pairs)
        if both := given.keys() & (content.get("grid") or {}):
            raise ValueError(
                f"the plan's grid has {', '.join(both)}, too: leave out -p"
            )
        runs = expand(content, folder, given)
        table = train_all(runs, folder)
    shown = table.drop(columns=["numpy", "date"]).dropna(axis="columns", how="all")
    click.echo(shown.to_string(index=False, float_format="{:.4g}".format))
    click.echo(f"\n{Path(folder, 'results.csv')}")
    sys.exit(int(table["error"].notna().any()))
