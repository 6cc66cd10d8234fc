"""``selfatt evaluate``: how good a run is on labelled texts."""

import json

import click

from selfatt_lib.commands import one_sentence, padded, reading_of, reading_options
from selfatt_lib.machinery import printable

CHUNK = 10_000  # reviews
MOST_CLASSES = 12  # of which a terminal shows the confusion matrix
LONGEST_NAME = 10  # above a column of it


@click.command()
@click.argument("run")
@click.argument("dataset")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@reading_options
@click.option("--label-column", metavar="NAME", help="By default as in training.")
def evaluate(run, dataset, as_json, **given):
    """Score the run directory RUN on DATASET, a file or a known name.

    It is read as in training: the same columns, encoding and labels. Printed are the
    accuracy with its 95 % interval, and precision, recall and F1 of each label.
    """
    with one_sentence():
        from selfatt_lib.data.sources import load_reviews
        from selfatt_lib.machinery.places import locate, locate_run
        from selfatt_lib.prediction import Classifier
        from selfatt_lib.run import read_settings

        classifier = Classifier.load(run)
        reviews = load_reviews(dataset, **reading_of(run, given))
        classifier.unescape_html = False  # they are undone
        trained_on = read_settings(locate_run(run)).training.dataset
        if locate(dataset).resolve() == locate(trained_on).resolve():
            click.echo(
                f"{run} was trained on a part of these reviews, so this is no score on "
                "new ones; selfatt summary prints that.",
                err=True,
            )
        found = _scored(classifier, reviews, dataset)
        click.echo(json.dumps(found) if as_json else _table(found, dataset))


def _scored(classifier, reviews, dataset):
    """Return all scores: dict, as --json prints it."""
    import numpy as np
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    from selfatt_lib.labels import class_numbers
    from selfatt_lib.machinery.progress import tqdm
    from selfatt_lib.results import accuracy_interval, scores

    labels = classifier.labels
    try:
        given = class_numbers(reviews["label"], labels)
    except ValueError as error:
        raise ValueError(f"{dataset} has {error}") from None
    texts, predicted = reviews["text"].tolist(), []
    with tqdm(total=len(texts), desc="predicting", unit="text", leave=False) as bar:
        for start in range(0, len(texts), CHUNK):
            for each in classifier.predict(texts[start : start + CHUNK]):
                predicted.append(each.probabilities.argmax())
            bar.update(len(predicted) - bar.n)
    classes = np.arange(len(labels))
    table = precision_recall_fscore_support(
        given, predicted, labels=classes, zero_division=0
    )
    names = ("precision", "recall", "f1", "reviews")
    found = {"reviews": len(texts)} | scores(given, predicted)
    interval = accuracy_interval(found["accuracy"], len(texts))
    return found | {
        "accuracy_interval": interval,
        "labels": labels,
        "classes": [
            {"label": label} | dict(zip(names, row))
            for label, row in zip(labels, zip(*(column.tolist() for column in table)))
        ],
        "confusion_matrix": confusion_matrix(given, predicted, labels=classes).tolist(),
    }


def _table(found, dataset):
    names = padded(found["labels"])
    width = max(len("label"), *map(len, names.values()))
    interval = "{:.3f} to {:.3f}".format(*found["accuracy_interval"])
    lines = [
        f"{found['reviews']:,} reviews of {printable(dataset)}",
        f"accuracy     {found['accuracy']:.3f}, 95 % interval {interval}",
        f"weighted F1  {found['weighted_f1']:.3f}",
        "",
        f"  {'label':<{width}}  precision  recall     F1  reviews",
    ]
    for each in found["classes"]:
        lines.append(
            f"  {names[each['label']]:<{width}}  {each['precision']:9.3f}  "
            f"{each['recall']:6.3f}  {each['f1']:5.3f}  {each['reviews']:7,}"
        )
    if len(names) <= MOST_CLASSES:
        lines += ["", *_confusion(found, names, width)]
    return "\n".join(lines)


def _confusion(found, names, width):
    """Yield the lines of the confusion matrix."""
    heads = [printable(str(label))[:LONGEST_NAME] for label in names]
    counts = [[f"{count:,}" for count in row] for row in found["confusion_matrix"]]
    wide = max(len(field) for row in [heads, *counts] for field in row) + 2
    yield "  given (rows), predicted (columns)"
    yield " " * (width + 2) + "".join(f"{head:>{wide}}" for head in heads)
    for name, row in zip(names.values(), counts):
        yield f"  {name:<{width}}" + "".join(f"{count:>{wide}}" for count in row)
