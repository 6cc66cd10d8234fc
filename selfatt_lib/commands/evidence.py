"""``selfatt evidence``: what the tutorial and the paper claim, tested."""

import click

from selfatt_lib.commands import one_sentence, parameter_option
from selfatt_lib.commands.sweep import stopped_runs_go_on
from selfatt_lib.evidence import RESULTS


@click.command()
@click.option(
    "--folder",
    default="runs/evidence",
    metavar="FOLDER",
    show_default=True,
    help="Of the runs, which are not trained again.",
)
@click.option(
    "--out",
    metavar="FOLDER",
    help="Of the tables that the chapter reads; for the book's own reviews, by default "
    "book/results.",
)
@parameter_option("A parameter of all runs, such as dataset.")
def evidence(folder, out, pairs):
    """Train the runs of the chapter "evidence", 265 for the book, and write its tables.

    That takes hours, and needs MXNet. Stopped and called anew, it goes on. On reviews
    of your own: give -p dataset, another --folder and another --out, and run the
    chapter with that as its parameter `results`.
    """
    with one_sentence(), stopped_runs_go_on():
        from selfatt_lib.evidence.experiments import gather

        gather(folder, out, dict(pairs))
    click.echo(out or RESULTS)
