"""The command ``selfatt``: train, use a trained run, look at a machine."""

import json
import os
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import click

NOTEBOOK = Path(__file__).parent.parent / "book" / "training.ipynb"
# on Windows it is selfatt.exe
PROGRAM = sys.argv[0] if Path(sys.argv[0]).stem == "selfatt" else "selfatt"
READ = 2**18  # bytes of standard input at a time
LONGEST_LINE = 2**24  # bytes


@contextmanager
def one_sentence():
    """Turn the library's errors into the command's."""
    try:
        yield
    except BrokenPipeError:  # `| head` has read enough
        raise
    except (
        ImportError,
        MemoryError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise click.ClickException(str(error)) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main():
    """Train, use a trained run, or look at the machine."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # they may be closed
        # the encoding that Windows gives to files and pipes has no "★"
        stream.reconfigure(encoding="utf-8", errors=stream.errors)


def _typed(*words):
    """Return a command as it is typed here."""
    return (subprocess.list2cmdline if os.name == "nt" else shlex.join)(words)


# train


@main.command()
@click.option(
    "--parameters",
    default="quick",
    metavar="NAME",
    show_default=True,
    help="A file of book/parameters (quick, tutorial, paper), or any YAML file.",
)
@click.option("--run", metavar="FOLDER", help="The run directory: run_dir.")
@click.option(
    "-p",
    "-r",
    "pairs",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="One parameter. A number, a list, True or null is taken for what it is; "
    "where a text is expected, it is one.",
)
@click.option("-y", "texts", multiple=True, metavar="YAML", help="Some, as YAML.")
@click.option("-f", "files", multiple=True, metavar="FILE", help="Some, from a file.")
def train(parameters, run, pairs, texts, files):
    """Run book/training.ipynb through papermill, with other parameters.

    All parameters stand under "Parameters" in that notebook. Of values for one, -p
    counts before -y, -y before -f, and -f before --parameters.
    """
    with one_sentence():
        if not NOTEBOOK.is_file():
            raise FileNotFoundError(
                f"there is no {NOTEBOOK}: training runs a notebook of the repository. "
                "Clone that, and run make setup in it (on Windows: py tools/setup.py)."
            )
        given = _merge(texts, files, pairs)
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
        given = _read(defaults) | given
        from selfatt_lib.config import TrainingConfig, unknown_parameter
        from selfatt_lib.machinery.notebook import run_notebook
        from selfatt_lib.run import RunDirectory

        for name in given:
            if name not in TrainingConfig.model_fields:  # YAML's "on" is True
                raise unknown_parameter(name)
        config = TrainingConfig(**given)
        directory = RunDirectory(config)
        directory.release()  # the notebook's kernel takes it
    go_on = [PROGRAM, "train", "--parameters", parameters, "--run", config.run_dir]
    for option, values in (("-f", files), ("-y", texts)):
        for value in values:
            go_on += [option, value]
    for name, value in pairs:
        if name not in ("run_dir", "resume"):
            go_on += ["-p", name, value]
    parameters = {name: value for name, value in vars(config).items() if name in given}
    go_on = _typed(*go_on, "-p", "resume", "True")
    with one_sentence():
        if status := run_notebook(NOTEBOOK, directory.path, parameters, go_on):
            sys.exit(status)
    click.echo(_summary(config.run_dir, directory.path))


def _merge(texts, files, pairs):
    """Return the parameters that were given, later ones before earlier ones."""
    given = {}
    for file in files:
        given |= _read(file)
    for text in texts:
        given |= _parse(text, "-y")
    return given | dict(pairs)


def _read(file):
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


# predict


class _WithHint(click.Command):
    def parse_args(self, ctx, args):
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            error.message += (
                ' Is it a text? Then write -- first: selfatt predict RUN -- "-5 stars".'
            )
            raise


@main.command(cls=_WithHint)
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

    Without TEXTS, one a line is read from standard input, and answered as it comes, one
    a line. A text without a word gets dashes, or null.
    """
    with one_sentence():
        from selfatt_lib.prediction import Classifier

        classifier = Classifier.load(run)
        for text in texts:
            if os.path.isfile(text):
                command = _typed(PROGRAM, "predict", run)
                click.echo(
                    f"{text} is a file, and its name is predicted. For its lines: "
                    f"{command} < {_typed(text)}",
                    err=True,
                )
        if texts:
            answers = zip(texts, classifier.predict(texts, on_invalid="skip"))
        else:
            answers = _answers(classifier)
        for text, prediction in answers:
            click.echo((_as_json if as_json else _as_text)(text, prediction))


def _answers(classifier):
    """Yield each line of standard input with its prediction, a few at a time."""
    if sys.stdin is None:
        raise ValueError("no text was given, and standard input is closed")
    if sys.stdin.isatty():
        keys = "Ctrl-Z and Enter end" if os.name == "nt" else "Ctrl-D ends"
        click.echo(f"One text a line; {keys}.", err=True)
    for lines in _lines(sys.stdin.buffer):
        yield from zip(lines, classifier.predict(lines, on_invalid="skip"))


def _lines(stream):
    """Yield lists of the lines that have come; name the first that cannot be read."""
    number, rest, ended = 0, b"", False
    while not ended:
        some = stream.read1(READ)
        ended = not some
        *lines, rest = (rest + some).split(b"\n")
        if ended and rest:
            lines.append(rest)
        texts = []
        try:
            for line in lines:
                number += 1
                encoding = "utf-8-sig" if number == 1 else "utf-8"
                texts.append(line.removesuffix(b"\r").decode(encoding))
            if len(rest) > LONGEST_LINE:
                number += 1
                raise ValueError(f"it has more than {LONGEST_LINE:,} bytes")
        except ValueError as error:
            yield texts
            mend = ""
            if isinstance(error, UnicodeDecodeError):
                mend = ". To convert them, for example: iconv -f LATIN1 -t UTF-8"
            raise ValueError(
                f"line {number} of standard input cannot be read: {error}. Texts are "
                f"expected in UTF-8, one a line{mend}"
            ) from error
        yield texts


def _as_text(text, prediction):
    stars, probability, note = "-----", "----", ""
    if prediction:
        stars = "★" * prediction.stars + "☆" * (5 - prediction.stars)
        probability = f"{prediction.probabilities.max():.2f}"
        if prediction.clipped:
            note = "[not all of it read] "  # too many tokens, or a very long word
    # one line, and nothing that a terminal would obey
    shown = "".join(char if char.isprintable() else " " for char in text)
    return f"{stars}  {probability}  {note}{shown}"


def _as_json(text, prediction):
    line = dict.fromkeys(("stars", "probabilities", "tokens", "attention", "clipped"))
    if prediction:
        line = {
            "stars": prediction.stars,
            "probabilities": _rounded(prediction.probabilities),
            "tokens": prediction.tokens,
            "attention": _rounded(prediction.attention),
            "clipped": prediction.clipped,
        }
    return json.dumps({"text": text} | line, ensure_ascii=False)


def _rounded(array):
    return array.astype(float).round(6).tolist()


# summary and doctor


@main.command()
@click.argument("run")
def summary(run):
    """Print what the run directory RUN reached."""
    from selfatt_lib.machinery.places import locate

    with one_sentence():
        click.echo(_summary(run, locate(run)))


@main.command()
def doctor():
    """Print what a bug report should say: Python, engines, driver, GPUs, libraries.

    The exit status is 1 if neither MXNet nor PyTorch can be imported.
    """
    from selfatt_lib.engines import choose
    from selfatt_lib.machinery.doctor import main as print_report

    sys.exit(print_report(choose))


def _summary(run, path):
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
    command = _typed(PROGRAM, "predict", str(run))
    return "\n".join([*lines, f'try next            {command} "The food was great."'])


def _table(metrics):
    held_out, trained = (f"{metrics[size]:,}" for size in ("valid_size", "train_size"))
    heading = f"{held_out} held-out reviews, {trained} trained on"
    lines = [f"\n{heading:<48}accuracy  weighted F1"]
    for name, prefix in (
        ("self-attentive BiLSTM", ""),
        ("TF-IDF + logistic regression", "tfidf_"),
        ("always the commonest star", "majority_"),
    ):
        if prefix + "accuracy" in metrics:
            accuracy, f1 = (metrics[prefix + s] for s in ("accuracy", "weighted_f1"))
            lines.append(f"  {name:<46}{accuracy:8.3f}{f1:13.3f}")
    lines.append(
        f"\nepoch {metrics['best_epoch']} of {metrics['epochs']} was the best; "
        f"{metrics['seconds']:.0f} s of training with {metrics['engine']} on "
        f"{metrics['device']}, seed {metrics['seed']}"
    )
    table = "\n".join(lines)
    if not table.replace("\n", "").isprintable():  # a terminal would obey
        raise ValueError("it holds control characters")
    return table
