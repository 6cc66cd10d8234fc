"""Which runs test which claim."""

import json
import os
import platform
from datetime import datetime
from importlib.metadata import version
from itertools import chain, product

import pandas as pd

from selfatt_lib.config import Encoder, TrainingConfig
from selfatt_lib.data.sources import KNOWN, load_reviews
from selfatt_lib.evidence import measures
from selfatt_lib.labels import are_stars, class_numbers
from selfatt_lib.machinery.files import write_text
from selfatt_lib.machinery.places import locate
from selfatt_lib.machinery.progress import tqdm
from selfatt_lib.prediction import Classifier
from selfatt_lib.sweep import expand, sweep
from selfatt_lib.training import prepare

FORMAT = 1  # of the results
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


def called(parameters):
    """Return the name of a run: the parameters that are not those of all, or usual."""
    usual = TrainingConfig().model_dump() | COMMON
    told = {key: value for key, value in parameters.items() if usual[key] != value}
    if "dataset" in told:
        told["dataset"] = "joined"
    return ",".join(f"{key}={value}" for key, value in told.items()) or "usual"


def gather(folder="runs/evidence", out="book/results", common=None):
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
    common, out = common or {}, locate(out)
    config = TrainingConfig(**COMMON | common)
    reviews = load_reviews(config.dataset, **config.reading)
    locate(folder).mkdir(parents=True, exist_ok=True)
    joined = {}  # a corpus of the reader's own may have long reviews itself
    if config.dataset == "review-snippets":
        joined = longer_reviews(reviews, locate(folder) / "joined.csv")
    runs = _train(settings(), folder, common)
    tables = {"settings": tabulate(settings(), runs)}
    best = best_settings(tables["settings"])
    planned = experiments(best, len(reviews), joined)
    every = [*chain.from_iterable(planned.values())]
    runs |= _train(every, folder, common)
    for name, listed in planned.items():
        tables[name] = tabulate(listed, runs)
        if name in ("hops", "penalty"):
            alike = [_likeness(runs[called(each)][0]) for each in tqdm(listed, name)]
            tables[name] = pd.concat([tables[name], pd.DataFrame(alike)], axis=1)
    trained = {name: config for name, (config, _) in runs.items()}
    measured = _measure(planned, trained, reviews)
    seconds = sum(scores["seconds"] for _, scores in runs.values())
    about = {
        "format": FORMAT,
        "date": datetime.now().astimezone().isoformat("T", "minutes"),
        "dataset": config.dataset if config.dataset in KNOWN else "own",
        "reviews": len(reviews),
        "runs": len(runs),
        "training_seconds": round(seconds),
        "settings": best,
        "python": platform.python_version(),
        "processor": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: version(name) for name in VERSIONS.split()},
    } | measured.pop("about")
    out.mkdir(parents=True, exist_ok=True)
    for name, table in (tables | measured).items():
        write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    write_text(out / "about.json", json.dumps(about, indent=2))


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


def tabulate(listed, runs):
    """Return a table of an experiment: the parameters of its runs, and their scores."""
    given = pd.DataFrame(listed).drop(columns="split_seed", errors="ignore")
    if "dataset" in given:
        given["dataset"] = "joined"
    scores = pd.DataFrame([runs[called(each)][1] for each in listed])
    return pd.concat([given, scores], axis=1)


def _train(listed, folder, common):
    """Return config and scores of each run, by its name; train what is not trained."""
    named = {called(parameters): parameters for parameters in reversed(listed)}
    plan = []
    for name in reversed(named):
        tfidf = named[name]["encoder"] == "attention"  # one baseline for all encoders
        plan.append({"name": name, "tfidf": tfidf} | named[name])
    configs = expand({"common": COMMON | common, "runs": plan}, folder)
    table = sweep(configs, folder)
    if (failed := table[table["error"].notna()]).size:
        run, error = failed.iloc[0][["run", "error"]]
        raise RuntimeError(
            f"{len(failed)} runs failed, the first of them {run!r}: {error}"
        )
    scores = table[["valid_accuracy", "accuracy", "parameters", "epochs", "seconds"]]
    if "tfidf_accuracy" in table:
        scores = scores.join(table["tfidf_accuracy"])
    names = [called(named[name]) for name in reversed(named)]
    return dict(zip(names, zip(configs.values(), scores.to_dict("records"))))


def _measure(planned, configs, reviews):
    """Ask the trained models; return a table for each measure, and what is counted."""
    first_row = {text: row for row, text in reversed([*enumerate(reviews["text"])])}
    encoders = {}
    for parameters in planned["encoders"]:
        config = configs[called(parameters)]
        encoders.setdefault(config.seed, {})[config.encoder] = config
    ours = [each["attention"] for each in encoders.values()]
    tables = {"predictions": [], "explanations": [], "weights": [], "negation": []}
    labels = None
    for seed, each in tqdm(encoders.items(), desc="measuring", unit="seed"):
        corpus = prepare(each["attention"])
        labels = corpus.labels
        texts = corpus.test_reviews["text"]
        tfidf = pd.read_csv(locate(each["attention"].run_dir) / "predictions.csv")
        columns = {
            "seed": seed,
            "review": [first_row[text] for text in texts],
            "words": corpus.test_batches.lengths,
            "label": corpus.test_batches.labels,
            "tfidf": class_numbers(tfidf["tfidf"], labels),
        }
        for name, config in each.items():
            columns[name], columns[f"{name}_shuffled"] = measures.predict_both_ways(
                config, corpus
            )
        tables["predictions"].append(pd.DataFrame(columns))
        tables["explanations"] += measures.explanations(each["attention"], corpus)
        tables["weights"] += measures.replaced_attention(each["attention"], corpus)
        if are_stars(labels) and each["attention"].language == "en":
            tables["negation"] += measures.negations(each["attention"])
    predictions = pd.concat(tables.pop("predictions"), ignore_index=True)
    tables["agreement"] = measures.agreements(ours)
    tables = {name: pd.DataFrame(rows) for name, rows in tables.items()}
    return tables | {"predictions": predictions, "about": {"labels": labels}}


def _likeness(config):
    texts = prepare(config).test_reviews["text"]
    return measures.likeness(Classifier.load(config.run_dir).predict(texts))
