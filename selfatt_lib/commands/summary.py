"""``selfatt summary``: what a run reached."""

from pathlib import Path

import click

from selfatt_lib.commands import PROGRAM, one_sentence, typed


@click.command()
@click.argument("run")
def summary(run):
    """Print what the run directory RUN reached."""
    from selfatt_lib.machinery.places import locate_run

    with one_sentence():
        click.echo(summarized(run, locate_run(run)))


def summarized(run, path):
    """Return the scores of a run, where its files are and what to try next: str."""
    from selfatt_lib.machinery.files import read_json

    metrics = path / "metrics.json"
    if not metrics.is_file():
        raise FileNotFoundError(
            f"{run!r} holds no finished run: it has no metrics.json"
        )
    try:
        lines = [_table(read_json(metrics))]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{metrics} is damaged: {error!r}") from error
    for name, file in (
        ("executed notebook", "training.ipynb"),
        ("attention", "attention.html"),
    ):
        if (path / file).exists():
            lines.append(f"{name:<20}{Path(run, file)}")
    command = typed(PROGRAM, "predict", str(run))
    return "\n".join([*lines, f'try next            {command} "The food was great."'])


def _table(metrics):
    from selfatt_lib.results import score_rows

    sizes = ("test_size", "train_size", "valid_size")
    test, train, valid = (f"{metrics[size]:,}" for size in sizes)
    lines = [
        f"\n{test} test reviews, {train} trained on, {valid} to choose the epoch\n",
        f"{'':<37}accuracy   95 % interval  weighted F1",
    ]
    for name, accuracy, interval, f1 in score_rows(metrics):
        lines.append(f"  {name:<35}{accuracy:>8}{interval:>16}{f1:>13}")
    lines.append(
        f"\nepoch {metrics['best_epoch']} of {metrics['epochs']} was chosen, with an "
        f"accuracy of {metrics['valid_accuracy']:.3f} on the reviews for that;\n"
        f"{metrics['seconds']:.0f} s of training with {metrics['engine']} on "
        f"{metrics['device']}, seed {metrics['seed']}"
    )
    table = "\n".join(lines)
    if not table.replace("\n", "").isprintable():  # a terminal would obey
        raise ValueError("it holds control characters")
    return table
