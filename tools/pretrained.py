"""Make the run that comes with the library, selfatt_lib/pretrained: make pretrained.

It is the default run, trained anew, with weights of 16 bits, and what such a run needs
to predict. about.json says how it was made, and how sure it is of its answers.
"""

import json
import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from selfatt_lib.config import TrainingConfig
from selfatt_lib.machinery.files import write_arrays, write_text
from selfatt_lib.prediction import Classifier
from selfatt_lib.run import MODEL, read_run
from selfatt_lib.training import fit, prepare

TRAINED = Path("runs/pretrained")
TARGET = Path(__file__).parents[1] / "selfatt_lib" / "pretrained"
SURE = 0.9


def calibration(predictions, labels):
    """Return in a sentence how probable answers were held, and how many were right."""
    sure = np.array([found.probabilities.max() for found in predictions])
    right = np.array([found.label for found in predictions]) == labels
    very = sure >= SURE
    return (
        f"On {len(labels):,} sentences that it had not seen, this model held its "
        f"answers to be {sure.mean():.0%} probable on average, and {right.mean():.0%} "
        f"were right; of the {very.sum()} that it held to be {SURE:.0%} probable or "
        f"more, {right[very].mean():.0%} were."
    ).replace("%", " %")


def main():
    config = TrainingConfig(run_dir=str(TRAINED), device="cpu")
    corpus = prepare(config)
    metrics = fit(config, corpus)
    settings, _, weights = read_run(TRAINED)
    TARGET.mkdir(exist_ok=True)
    for name in ("config.json", "vocab.json", "metrics.json"):
        shutil.copyfile(TRAINED / name, TARGET / name)
    halves = {name: array.astype(np.float16) for name, array in weights.items()}
    write_arrays(TARGET / MODEL, halves, run=settings.run)

    test = corpus.test_reviews
    predictions = Classifier.load(TARGET).predict(test["text"].tolist())
    about = {
        "made": "make pretrained",
        "date": datetime.now(UTC).date().isoformat(),
        "engine": metrics["engine"],
        "numpy": version("numpy"),
        "calibration": calibration(predictions, test["label"].to_numpy()),
    }
    write_text(TARGET / "about.json", json.dumps(about, indent=2) + "\n")
    print(about["calibration"])


if __name__ == "__main__":
    main()
