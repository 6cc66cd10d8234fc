"""The command ``selfatt``: use a trained run from the shell."""

import json
import sys
from contextlib import contextmanager
from pathlib import Path

import click

PREFIXES = {
    "self-attentive BiLSTM": "",
    "TF-IDF + logistic regression": "tfidf_",
    "always the commonest star": "majority_",
}
SCORES = ("accuracy", "weighted_f1")


@contextmanager
def one_sentence():
    """Turn the library's errors into the command's."""
    try:
        yield
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main():
    """Use a trained run."""


@main.command()
@click.argument("run")
@click.argument("texts", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines with probabilities, tokens and attention.")
def predict(run, texts, as_json):
    """Predict the stars of TEXTS with the run directory RUN, for example runs/quick.

    Without TEXTS, one a line is read from standard input.
    """
    from selfatt_lib.prediction import Classifier

    with one_sentence():
        classifier = Classifier.load(run)
        texts = texts or [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
        predictions = classifier.predict(texts)
    for prediction in predictions:
        if as_json:
            line = {
                "text": prediction.text,
                "stars": prediction.stars,
                "probabilities": prediction.probabilities.astype(float).round(6).tolist(),
                "tokens": prediction.tokens,
                "attention": prediction.attention.astype(float).round(6).tolist(),
            }
            click.echo(json.dumps(line, ensure_ascii=False))
        else:
            stars = "★" * prediction.stars + "☆" * (5 - prediction.stars)
            click.echo(f"{stars}  {prediction.probabilities.max():.2f}  {prediction.text}")


@main.command()
@click.argument("run")
def summary(run):
    """Print what the run directory RUN reached."""
    folder = Path(run)
    with one_sentence():
        if not (folder / "metrics.json").is_file():
            raise FileNotFoundError(f"{run!r} holds no finished run: it has no metrics.json")
        from selfatt_lib.training import read_json

        metrics = read_json(folder / "metrics.json")
        needed = ("valid_size", "train_size", "best_epoch", "epochs", "seconds", "device", "seed")
        missing = [
            name
            for name in (*needed, *(prefix + score for prefix in PREFIXES.values() for score in SCORES))
            if name not in metrics
        ]
        if missing:
            raise ValueError(f"{folder / 'metrics.json'} is damaged: it has no {', '.join(missing)}")

    heading = f"{metrics['valid_size']:,} held-out reviews, {metrics['train_size']:,} trained on"
    click.echo(f"\n{heading:<48}accuracy  weighted F1")
    for name, prefix in PREFIXES.items():
        click.echo(f"  {name:<46}{metrics[prefix + 'accuracy']:8.3f}{metrics[prefix + 'weighted_f1']:13.3f}")
    click.echo(
        f"\nepoch {metrics['best_epoch']} of {metrics['epochs']} was the best; "
        f"{metrics['seconds']:.0f} s of training on {metrics['device']}, seed {metrics['seed']}"
    )
    for name, file in (("executed notebook", "training.ipynb"), ("attention", "attention.html")):
        if (folder / file).exists():
            click.echo(f"{name:<20}{folder / file}")
    click.echo(f'try next            .venv/bin/selfatt predict {run} "The food was great."')
