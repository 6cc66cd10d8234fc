"""The command ``selfatt``: use a trained run from the shell."""

import argparse
import json
import sys
from pathlib import Path


def main(arguments=None):
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="selfatt", description="Use a trained run.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    predict = commands.add_parser(
        "predict", help="predict the stars of texts", description="Predict the stars of texts."
    )
    predict.add_argument("run", help="run directory, for example runs/quick")
    predict.add_argument("texts", nargs="*", help="reviews; without any, one a line is read from standard input")
    predict.add_argument(
        "--json", action="store_true", help="print JSON lines with probabilities, tokens and attention"
    )
    predict.set_defaults(action=_predict)

    summary = commands.add_parser("summary", help="print what a run reached", description="Print what a run reached.")
    summary.add_argument("run", help="run directory, for example runs/quick")
    summary.set_defaults(action=_summary)

    options = parser.parse_args(arguments)
    try:
        options.action(options)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"selfatt: {error}", file=sys.stderr)
        return 1
    return 0


def _predict(options):
    from selfatt_lib.prediction import Classifier

    classifier = Classifier.load(options.run)
    texts = options.texts or [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
    for prediction in classifier.predict(texts):
        if options.json:
            print(
                json.dumps(
                    {
                        "text": prediction.text,
                        "stars": prediction.stars,
                        "probabilities": prediction.probabilities.round(6).tolist(),
                        "tokens": prediction.tokens,
                        "attention": prediction.attention.round(6).tolist(),
                    },
                    ensure_ascii=False,
                )
            )
        else:
            stars = "★" * prediction.stars + "☆" * (5 - prediction.stars)
            print(f"{stars}  {prediction.probabilities.max():.2f}  {prediction.text}")


def _summary(options):
    run = Path(options.run)
    try:
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{options.run!r} holds no finished run: it has no metrics.json") from None
    rows = {
        "self-attentive BiLSTM": (metrics["accuracy"], metrics["weighted_f1"]),
        "TF-IDF + logistic regression": (metrics["tfidf_accuracy"], metrics["tfidf_weighted_f1"]),
        "always the commonest star": (metrics["majority_accuracy"], metrics["majority_weighted_f1"]),
    }
    print(
        f"\n{metrics['valid_size']:,} held-out reviews, {metrics['train_size']:,} trained on".ljust(48)
        + "accuracy  weighted F1"
    )
    for name, (accuracy, weighted_f1) in rows.items():
        print(f"  {name:<46}{accuracy:8.3f}{weighted_f1:13.3f}")
    print(
        f"\nepoch {metrics['best_epoch']} of {metrics['epochs']} was the best; {metrics['seconds']:.0f} s on {metrics['device']}, seed {metrics['seed']}"
    )
    files = {"executed notebook": "training.ipynb", "attention": "attention.html"}
    for name, file in files.items():
        if (run / file).exists():
            print(f"{name:<20}{run / file}")
    print(f'try next            {Path(sys.argv[0])} predict {options.run} "The food was great."')


if __name__ == "__main__":
    sys.exit(main())
