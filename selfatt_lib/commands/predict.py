"""``selfatt predict``: labels for texts, for lines, or for a whole file."""

import json
import os

import click

from selfatt_lib.commands import (
    PROGRAM,
    new_file,
    one_sentence,
    padded,
    reading_options,
    typed,
)
from selfatt_lib.commands.lines import read_lines
from selfatt_lib.machinery import printable


class _WithHint(click.Command):
    def parse_args(self, ctx, args):
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            error.message += (
                ' Is it a text? Then write -- first: selfatt predict RUN -- "-5 stars".'
            )
            raise


@click.command(cls=_WithHint)
@click.argument("run")
@click.argument("texts", nargs=-1)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON lines with probabilities, tokens and attention.",
)
@click.option(
    "--file",
    metavar="IN",
    help="Predict the texts of a CSV, JSON lines or Parquet file, plain, .gz or .zst. "
    "All its columns are kept, and two added: predicted, probability.",
)
@click.option("--out", metavar="OUT", help="Where to: .csv, .jsonl or .parquet.")
@reading_options
@click.option("--all-probabilities", is_flag=True, help="Add a column for each label.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def predict(run, texts, as_json, file, out, all_probabilities, overwrite, **given):
    """Predict the labels of TEXTS with the run directory RUN, for example runs/quick.

    Without TEXTS or --file, one a line is read from standard input, and answered as it
    comes, one a line. A text without a word gets dashes, or null, or in a file an empty
    field.
    """
    if file is not None and (texts or as_json or out is None):
        raise click.UsageError("--file needs --out, and goes with no TEXTS and --json.")
    if file is None and any([out, all_probabilities, overwrite, *given.values()]):
        raise click.UsageError("--out and what goes with it need --file.")
    with one_sentence():
        from selfatt_lib.prediction import Classifier

        if file is not None:
            from selfatt_lib.commands import tables

            out = new_file(out, tables.WRITTEN, overwrite)
            classifier = Classifier.load(run)
            with tables.opened(file, run, given) as table:
                click.echo(tables.answer(table, classifier, out, all_probabilities))
            return
        classifier = Classifier.load(run)
        for text in texts:
            if os.path.isfile(text):
                command = typed(PROGRAM, "predict", run)
                click.echo(
                    f"{text} is a file, and its name is predicted. For its lines: "
                    f"{command} < {typed(text)}; for a table: {command} --file "
                    f"{typed(text)} --out …",
                    err=True,
                )
        names = padded(classifier.labels)
        for some in [texts] if texts else read_lines():
            for text, found in zip(some, classifier.predict(some, on_invalid="skip")):
                click.echo(
                    _as_json(text, found) if as_json else _line(text, found, names)
                )


def _line(text, prediction, names):
    width = len(next(iter(names.values())))
    name, probability, note = ("-" * width)[:5].ljust(width), "----", ""
    if prediction:
        name = names[prediction.label]
        probability = f"{prediction.probabilities.max():.2f}"
        if prediction.clipped:
            note = "[not all of it read] "  # too many tokens, or a very long word
    return f"{name}  {probability}  {note}{printable(text)}"


def _as_json(text, prediction):
    line = dict.fromkeys(("label", "probabilities", "tokens", "attention", "clipped"))
    if prediction:
        probabilities = _rounded(prediction.probabilities)
        line = {
            "label": prediction.label,
            "probabilities": dict(zip(prediction.labels, probabilities)),
            "tokens": prediction.tokens,
            "attention": _rounded(prediction.attention),
            "clipped": prediction.clipped,
        }
    return json.dumps({"text": text} | line, ensure_ascii=False)


def _rounded(array):
    return array.astype(float).round(6).tolist()
