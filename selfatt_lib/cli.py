"""The command ``selfatt``: use a trained run from the shell, say what is wrong with a machine."""

import json
import sys
from contextlib import contextmanager
from pathlib import Path

import click


@contextmanager
def one_sentence():
    """Turn the library's errors into the command's."""
    try:
        yield
    except (ImportError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main():
    """Use a trained run, or look at the machine."""


@main.command()
@click.argument("run")
@click.argument("texts", nargs=-1)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON lines with probabilities, tokens and attention.",
)
def predict(run, texts, as_json):
    """Predict the stars of TEXTS with the run directory RUN, for example runs/quick.

    Without TEXTS, one a line is read from standard input.
    """
    with one_sentence():
        from selfatt_lib.prediction import Classifier

        classifier = Classifier.load(run)
        texts = texts or [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
        predictions = classifier.predict(texts)
    for prediction in predictions:
        if as_json:
            line = {
                "text": prediction.text,
                "stars": prediction.stars,
                "probabilities": prediction.probabilities.astype(float)
                .round(6)
                .tolist(),
                "tokens": prediction.tokens,
                "attention": prediction.attention.astype(float).round(6).tolist(),
            }
            click.echo(json.dumps(line, ensure_ascii=False))
        else:
            stars = "★" * prediction.stars + "☆" * (5 - prediction.stars)
            click.echo(
                f"{stars}  {prediction.probabilities.max():.2f}  {prediction.text}"
            )


@main.command()
@click.argument("run")
def summary(run):
    """Print what the run directory RUN reached."""
    from selfatt_lib.params import read_json

    path = Path(run, "metrics.json")
    with one_sentence():
        if not path.is_file():
            raise FileNotFoundError(
                f"{run!r} holds no finished run: it has no metrics.json"
            )
        try:
            table = _table(read_json(path))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error!r}") from error
    click.echo(table)
    for name, file in (
        ("executed notebook", "training.ipynb"),
        ("attention", "attention.html"),
    ):
        if Path(run, file).exists():
            click.echo(f"{name:<20}{Path(run, file)}")
    click.echo(
        f'try next            .venv/bin/selfatt predict {run} "The food was great."'
    )


@main.command()
def doctor():
    """Print what a bug report should say: Python, MXNet, driver, GPUs, libraries.

    The exit status is 1 if MXNet cannot be imported.
    """
    from selfatt_lib.doctor import main as print_report

    sys.exit(print_report())


def _table(metrics):
    heading = f"{metrics['valid_size']:,} held-out reviews, {metrics['train_size']:,} trained on"
    lines = [f"\n{heading:<48}accuracy  weighted F1"]
    for name, prefix in (
        ("self-attentive BiLSTM", ""),
        ("TF-IDF + logistic regression", "tfidf_"),
        ("always the commonest star", "majority_"),
    ):
        lines.append(
            f"  {name:<46}{metrics[prefix + 'accuracy']:8.3f}{metrics[prefix + 'weighted_f1']:13.3f}"
        )
    lines.append(
        f"\nepoch {metrics['best_epoch']} of {metrics['epochs']} was the best; "
        f"{metrics['seconds']:.0f} s of training on {metrics['device']}, seed {metrics['seed']}"
    )
    table = "\n".join(lines)
    if not table.replace("\n", "").isprintable():  # a terminal would obey
        raise ValueError("it holds control characters")
    return table
