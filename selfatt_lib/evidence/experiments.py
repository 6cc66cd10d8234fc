"""Which runs test which claim."""

import os
import platform
from datetime import datetime
from importlib.metadata import version
from itertools import chain, product

import numpy as np
import pandas as pd

from selfatt_lib.config import Encoder, TrainingConfig
from selfatt_lib.data.sources import KNOWN, load_reviews
from selfatt_lib.evidence import RESULTS, measures
from selfatt_lib.evidence.results import write_results
from selfatt_lib.labels import are_stars, class_numbers, label_text
from selfatt_lib.machinery.files import write_text
from selfatt_lib.machinery.places import locate
from selfatt_lib.machinery.progress import tqdm
from selfatt_lib.prediction import Classifier
from selfatt_lib.sweep import SCORES, expand, sweep
from selfatt_lib.training import prepare

ENCODERS = Encoder.__args__
SEEDS = [{"seed": seed, "split_seed": seed} for seed in range(5)]
FEW_SEEDS = SEEDS[:3]

# Of all runs: they stop three epochs after their best
COMMON = {"engine": "mxnet", "device": "cpu", "epochs": 12, "patience": 3}
# Every encoder may choose among these, on the validation reviews of seed 0
SETTINGS = [
    {"learning_rate": rate, "embedding_dropout": dropout}
    for rate, dropout in product([0.002, 0.005], [0.3, 0.5])
]
HOPS = [1, 2, 4, 8, 16, 30]
PENALTIES = [("squared", 0.0)]
PENALTIES += [("squared", coefficient) for coefficient in (0.003, 0.03, 0.3)]
PENALTIES += [("norm", coefficient) for coefficient in (0.01, 0.1, 1.0)]
PENALTIES += [("mean_squared", coefficient) for coefficient in (1.0, 10.0, 100.0)]
AMOUNTS = [500, 2_000, 8_000]
LENGTHS = [25, 50, 100, 200, 400]
JOINED = 8  # sentences of one label
COMPARED = ["attention", "max", "last"]
PRUNED = [{"pooling": "flatten"}, {"pooling": "mean"}] + [
    {"pooling": "prune", "prune_p": p, "prune_q": q}
    for p, q in ((4, 1), (16, 1), (16, 4))
]

VERSIONS = "mxnet numpy scikit-learn spacy scipy"


def settings():
    """Each encoder with each setting, from which it is given the best."""
    return [{"encoder": name} | each for name, each in product(ENCODERS, SETTINGS)]


def experiments(best, reviews, joined):
    """Return the runs of each experiment: dict of list of parameters.

    `best` has the settings of each encoder, `reviews` how many there are, and `joined`
    which data set the longer ones are from, with its sizes.
    """
    ours = {"encoder": "attention"} | best["attention"]
    held_out = max(reviews // 10, 1)
    held_out = {"valid_size": held_out, "test_size": held_out}
    amounts = [size for size in AMOUNTS if size < 0.8 * reviews]
    found = {
        "encoders": [
            {"encoder": name} | best[name] | seed
            for name, seed in product(ENCODERS, SEEDS)
        ],
        "hops": [
            ours | {"attention_hops": hops, "penalty_coefficient": coefficient} | seed
            for hops, coefficient, seed in product(HOPS, [0.0, 0.03], FEW_SEEDS)
        ],
        "penalty": [
            ours | {"penalty_form": form, "penalty_coefficient": coefficient} | seed
            for (form, coefficient), seed in product(PENALTIES, FEW_SEEDS)
        ],
        "amount": [
            {"encoder": name, "train_size": size} | best[name] | held_out | seed
            for size, name, seed in product(
                amounts, ["attention", "max", "average"], FEW_SEEDS
            )
        ],
        "length": [
            {"encoder": name, "max_tokens": length} | best[name] | joined | seed
            for length, name, seed in product(LENGTHS, COMPARED, FEW_SEEDS)
        ],
        "pruning": [
            ours | {"attention_hops": 16} | each | seed
            for each, seed in product(PRUNED, FEW_SEEDS)
        ],
    }
    return found


class Runs:
    """Trained runs, found by the parameters in which they differ from the others."""

    def __init__(self, folder, common):
        self.folder, self.common = folder, COMMON | common
        self.usual = TrainingConfig(**self.common).model_dump()
        self.configs, self.scores = {}, {}

    def name(self, parameters):
        """Return the name of a run, which is also its folder's."""
        usual = self.usual.items()
        told = {k: v for k, v in parameters.items() if (k, v) not in usual}
        if "dataset" in told:
            told["dataset"] = "joined"
        return ",".join(f"{key}={value}" for key, value in told.items()) or "usual"

    def train(self, listed):
        """Train those that are not trained yet; return a table of their scores."""
        plan = {}
        for parameters in listed:
            name = self.name(parameters)
            # one baseline for all encoders
            tfidf = {"tfidf": parameters["encoder"] == "attention"}
            plan[name] = {"name": name} | tfidf | parameters
        plan = {"common": self.common, "runs": [*plan.values()]}
        configs = expand(plan, self.folder)
        table = sweep(configs, self.folder)
        failed = table[table["error"].notna()]
        for run, error in zip(failed["run"], failed["error"]):
            raise RuntimeError(
                f"{len(failed)} of {len(table)} runs failed, as {run!r} did: {error}"
            )
        self.configs |= configs
        self.scores |= dict(zip(table["run"], table[[*SCORES]].to_dict("records")))
        given = pd.DataFrame(listed).drop(columns="split_seed", errors="ignore")
        if "dataset" in given:
            given["dataset"] = "joined"
        found = pd.DataFrame([self.scores[self.name(each)] for each in listed])
        return pd.concat([given, found], axis=1)

    def config(self, parameters):
        """Return the configuration of a run."""
        return self.configs[self.name(parameters)]


def gather(folder="runs/evidence", out=RESULTS, common=None):
    """Train all runs, ask of them what is to be asked, and write the tables.

    What is trained already is not trained again, so it can be stopped and called anew.

    Parameters
    ----------
    folder : str or Path
        Of the runs.
    out : str or Path
        Of the tables: ``settings.csv``, one for each of `experiments`,
        ``predictions.csv``, one for each of `measures`, and ``about.json``.
    common : dict, optional
        Parameters of all runs, such as ``dataset``.

    Raises
    ------
    ValueError
        A parameter is unknown or impossible, or `folder` has runs of other parameters.
    RuntimeError
        A run failed; it is named.
    """
    common = common or {}
    config = TrainingConfig(**COMMON | common)
    reviews = load_reviews(config.dataset, **config.reading)
    locate(folder).mkdir(parents=True, exist_ok=True)
    joined = {}  # a corpus of the reader's own may have long reviews itself
    if config.dataset == "review-snippets":
        joined = longer_reviews(reviews, locate(folder) / "joined.csv")
    runs = Runs(folder, common)
    tables = {"settings": runs.train(settings())}
    best = best_settings(tables["settings"])
    planned = experiments(best, len(reviews), joined)
    runs.train([*chain.from_iterable(planned.values())])  # under one bar
    for name, listed in planned.items():
        tables[name] = runs.train(listed)
        if name in ("hops", "penalty", "pruning"):
            more = [details(runs.config(each)) for each in tqdm(listed, name)]
            tables[name] = tables[name].join(pd.DataFrame(more))
    tables |= ask([runs.config(each) for each in planned["encoders"]], reviews)
    seconds = sum(scores["seconds"] for scores in runs.scores.values())
    about = {
        "date": datetime.now().astimezone().isoformat("T", "minutes"),
        "dataset": config.dataset if config.dataset in KNOWN else "own",
        "reviews": len(reviews),
        "labels": [*map(label_text, prepare(config).labels)],
        "runs": len(runs.scores),
        "training_seconds": round(seconds),
        "settings": best,
        "python": platform.python_version(),
        "processor": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: version(name) for name in VERSIONS.split()},
    }
    write_results(out, tables, about)


def longer_reviews(reviews, path):
    """Join sentences of one label, drawn at random, into texts, and write these.

    Returns the parameters of a run on them.
    """
    texts = []
    for label, group in reviews.groupby("label"):
        sentences = group["text"].sample(frac=1, random_state=0).to_numpy()
        whole = len(sentences) // JOINED * JOINED
        for each in sentences[:whole].reshape(-1, JOINED):
            texts.append({"text": " ".join(each), "label": label})
    write_text(path, pd.DataFrame(texts).to_csv(index=False))
    return {"dataset": str(path), "valid_size": 0.15, "test_size": 0.3}


def best_settings(table):
    """Return the settings of each encoder with the best validation accuracy: dict."""
    best = {}
    for name, rows in table.groupby("encoder", sort=False):
        row = rows.loc[rows["valid_accuracy"].idxmax()]  # the first of several
        best[name] = {key: float(row[key]) for key in SETTINGS[0]}
    return best


def details(config):
    """Return how alike a run's hops are, and which test reviews it has right: dict.

    ``right`` has a letter for each, x for yes and o for no.
    """
    texts = prepare(config).test_reviews["text"]
    alike = measures.likeness(Classifier.load(config.run_dir).predict(texts))
    predicted = pd.read_csv(locate(config.run_dir) / "predictions.csv")
    right = np.where(predicted["label"] == predicted["model"], "x", "o")
    return alike | {"right": "".join(right)}


def ask(configs, reviews):
    """Ask the trained encoders; return a table for each question: dict of DataFrame."""
    first_row = {text: row for row, text in reversed([*enumerate(reviews["text"])])}
    seeds = {}
    for config in configs:
        seeds.setdefault(config.seed, {})[config.encoder] = config
    attention = [encoders["attention"] for encoders in seeds.values()]
    predictions, explanations, weights, negation = [], [], [], []
    for ours in tqdm(attention, desc="asking the models", unit="seed"):
        corpus = prepare(ours)
        tfidf = pd.read_csv(locate(ours.run_dir) / "predictions.csv")["tfidf"]
        columns = {
            "seed": ours.seed,
            "review": [first_row[text] for text in corpus.test_reviews["text"]],
            "words": corpus.test_batches.lengths,
            "label": corpus.test_batches.labels,
            "tfidf": class_numbers(tfidf, corpus.labels),
        }
        for name, config in seeds[ours.seed].items():
            both = measures.predict_both_ways(config, corpus)
            columns[name], columns[f"{name}_shuffled"] = both
        predictions.append(pd.DataFrame(columns))
        explanations += measures.explanations(ours, corpus)
        weights += measures.replaced_attention(ours, corpus)
        if are_stars(corpus.labels) and ours.language == "en":
            negation += measures.negations(ours)
    return {
        "predictions": pd.concat(predictions, ignore_index=True),
        "explanations": pd.DataFrame(explanations),
        "weights": pd.DataFrame(weights),
        "negation": pd.DataFrame(negation, columns=measures.NEGATION),
        "agreement": measures.agreements(
            [each["attention"] for each in seeds.values()]
        ),
    }
