"""Which runs test which claim."""

import os
import platform
from datetime import datetime
from importlib.metadata import version
from itertools import chain, product

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
SEEDS = range(5)  # each with weights and parts of its own

# Of all runs: they stop three epochs after their best
COMMON = {"engine": "mxnet", "device": "cpu", "epochs": 30, "patience": 3}
# Every encoder may choose among these, on the validation reviews of seed 0
SETTINGS = {"learning_rate": [0.002, 0.005], "embedding_dropout": [0.1, 0.3, 0.5]}

HOPS = [1, 2, 4, 8, 16, 30]
PENALTIES = {
    "squared": [0.0, 0.003, 0.03, 0.3],
    "norm": [0.01, 0.1, 1.0],
    "mean_squared": [1.0, 10.0, 100.0],
}
AMOUNTS = [500, 2_000, 8_000]
LENGTHS = [25, 100, 400]
JOINED = 8  # sentences of one label
PRUNED = [{"pooling": "flatten"}, {"pooling": "mean"}]
PRUNED += [{"pooling": "prune", "prune_p": p, "prune_q": 1} for p in (4, 16)]

# what follows from an experiment's other parameters, and is in no run's name
FOLLOWING = {"valid_size", "test_size", "batch_size", "epochs", "patience"}
# what the experiments set themselves
OWN = {"seed", "split_seed", "tfidf", "test_dataset", "encoder", "run_dir", "resume"}


def combinations(**lists):
    """Return all combinations of values: list of dict."""
    return [dict(zip(lists, values)) for values in product(*lists.values())]


def trials():
    """Return the runs among which each encoder has its settings chosen."""
    return combinations(encoder=ENCODERS, **SETTINGS, seed=[0])


def experiments(best, reviews, joined):
    """Return the runs of each experiment: dict of list of parameters.

    `best` has the settings of each encoder, `reviews` is how many there are, and
    `joined` the parameters of runs on longer texts, none on those of the reader's own.
    """
    part = max(reviews // 10, 1)
    lists = {
        "encoders": combinations(encoder=ENCODERS, seed=SEEDS),
        "hops": combinations(
            attention_hops=HOPS, penalty_coefficient=[0.0, 0.03], seed=SEEDS
        ),
        "penalty": [
            {"penalty_form": form} | rest
            for form, coefficients in PENALTIES.items()
            for rest in combinations(penalty_coefficient=coefficients, seed=SEEDS)
        ],
        "class_weights": combinations(class_weights=[None, "auto"], seed=SEEDS),
        "pruning": [
            {"attention_hops": 16} | each | {"seed": seed}
            for each, seed in product(PRUNED, SEEDS)
        ],
        # the test reviews are others for each amount
        "amount": [
            each | as_many_steps(each["train_size"], reviews)
            for each in combinations(
                train_size=[size for size in AMOUNTS if size < 0.8 * reviews],
                valid_size=[part],
                test_size=[part],
                encoder=["attention", "max", "average"],
                seed=SEEDS,
            )
        ],
        "length": [
            each | joined
            for each in combinations(
                max_tokens=LENGTHS, encoder=["attention", "max", "last"], seed=SEEDS
            )
        ],
    }
    full = {"encoder": "attention"}
    return {
        name: [full | best[(full | each)["encoder"]] | each for each in listed]
        for name, listed in lists.items()
        if listed
    }


def as_many_steps(size, reviews):
    """Return epochs and patience for as many steps as with all reviews: dict."""
    times = 0.8 * reviews / size
    return {key: round(times * COMMON[key]) for key in ("epochs", "patience")}


class Runs:
    """Trained runs, found by the parameters in which they differ from the others."""

    def __init__(self, folder, common):
        self.folder, self.common = folder, COMMON | common
        self.usual = TrainingConfig(**self.common).model_dump()
        self.configs, self.scores = {}, {}

    def name(self, parameters):
        """Return the name of a run, which is also its folder's."""
        told = {k: v for k, v in parameters.items() if (k, v) not in self.usual.items()}
        told = {k: v for k, v in told.items() if k not in FOLLOWING}
        if "dataset" in told:
            told["dataset"] = "joined"
        return ",".join(f"{key}={value}" for key, value in told.items()) or "usual"

    def train(self, listed):
        """Train those that are not trained yet.

        RuntimeError: one failed, or another process is training one; it is named.
        """
        plan = {}
        for parameters in listed:
            name = self.name(parameters)
            own = {"name": name, "split_seed": parameters["seed"]}
            # one baseline for all encoders
            own["tfidf"] = parameters["encoder"] == "attention"
            plan[name] = own | parameters
        plan = {"common": self.common, "runs": [*plan.values()]}
        configs = expand(plan, self.folder)
        table = sweep(configs, self.folder)
        failed = table[table["error"].notna()]
        for run, error in zip(failed["run"], failed["error"]):
            raise RuntimeError(
                f"{len(failed)} of {len(table)} runs are not trained. {run!r}: {error}"
            )
        self.configs |= configs
        self.scores |= dict(zip(table["run"], table[[*SCORES]].to_dict("records")))

    def table(self, listed):
        """Return parameters and scores of trained runs: DataFrame."""
        found = pd.DataFrame([self.scores[self.name(each)] for each in listed])
        given = pd.DataFrame(listed)
        if "dataset" in given:
            given["dataset"] = "joined"
        return given[given.columns.difference(found.columns, sort=False)].join(found)

    def config(self, parameters):
        """Return the configuration of a run."""
        return self.configs[self.name(parameters)]


def gather(folder="runs/evidence", out=None, common=None):
    """Train all runs, ask of them what is to be asked, and write the tables.

    What is trained already is not trained again, so it can be stopped and called anew.

    Parameters
    ----------
    folder : str or Path
        Of the runs.
    out : str or Path, optional
        Of the tables: ``trials.csv``, one for each of `experiments`, those of `ask`,
        and ``about.json``. By default ``book/results``, for the default data set only.
    common : dict, optional
        Parameters of all runs, such as ``dataset``.

    Raises
    ------
    ValueError
        A parameter is unknown, impossible, or one that the experiments set themselves;
        `folder` has runs of other parameters; `out` is missing.
    RuntimeError
        A run failed, or another process is training it; it is named.
    """
    common = common or {}
    config = TrainingConfig(**COMMON | common)
    if own := OWN & common.keys():
        raise ValueError(
            f"the experiments set {', '.join(own)} themselves; leave it out"
        )
    if out is None and common:
        raise ValueError(
            f"with {', '.join(common)}, give an --out of its own: book/results has the "
            "tables of the book"
        )
    reviews = load_reviews(config.dataset, **config.reading)
    locate(folder).mkdir(parents=True, exist_ok=True)
    joined = {}
    if config.dataset == "review-snippets":
        joined = longer_reviews(reviews, locate(folder) / "joined.csv")
    runs = Runs(folder, common)
    runs.train(trials())
    tables = {"trials": runs.table(trials())}
    best = best_settings(tables["trials"])
    planned = experiments(best, len(reviews), joined)
    runs.train([*trials(), *chain.from_iterable(planned.values())])
    tables |= {name: runs.table(listed) for name, listed in planned.items()}
    for name in ("hops", "penalty"):
        alike = [likeness(runs.config(each)) for each in tqdm(planned[name], name)]
        tables[name] = tables[name].join(pd.DataFrame(alike))
    tables |= ask([runs.config(each) for each in planned["encoders"]], reviews)
    versions = {name: version(name) for name in ("numpy", "scikit-learn", "spacy")}
    corpus = prepare(config)
    about = {
        "date": datetime.now().astimezone().isoformat("T", "minutes"),
        "dataset": config.dataset if config.dataset in KNOWN else "own",
        "reviews": len(reviews),
        "training_reviews": len(corpus.train_reviews),
        "test_reviews": len(corpus.test_reviews),
        "labels": [*map(label_text, corpus.labels)],
        "runs": len(runs.scores),
        "training_seconds": round(sum(n["seconds"] for n in runs.scores.values())),
        "python": platform.python_version(),
        "processor": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"mxnet": measures.mx.__version__} | versions,
    }
    write_results(RESULTS if out is None else out, tables, about)


def longer_reviews(reviews, path):
    """Join sentences of one label, drawn at random, into texts, and write these.

    Returns the parameters of a run on them. Sentences that are of one product review
    are left out: they could lie in texts of several parts.
    """
    alone = reviews[~reviews["source"].duplicated(keep=False)]
    texts = []
    for label, group in alone.groupby("label"):
        sentences = group["text"].sample(frac=1, random_state=0).to_numpy()
        whole = len(sentences) // JOINED * JOINED
        for each in sentences[:whole].reshape(-1, JOINED):
            texts.append({"text": " ".join(each), "label": label})
    write_text(path, pd.DataFrame(texts).to_csv(index=False))
    # there are few of them: smaller batches and more epochs make as many steps
    steps = {"batch_size": 32, "epochs": 60, "patience": 12}
    return {"dataset": str(path), "valid_size": 0.2, "test_size": 0.3} | steps


def best_settings(table):
    """Return the settings of each encoder with the best validation accuracy: dict."""
    best = {}
    for name, rows in table.groupby("encoder", sort=False):
        row = rows.loc[rows["valid_accuracy"].idxmax()]  # the first of several
        best[name] = {key: float(row[key]) for key in SETTINGS}
    return best


def likeness(config):
    """Return how alike the hops of a trained run are, on its test reviews: dict."""
    texts = prepare(config).test_reviews["text"]
    return measures.likeness(Classifier.load(config.run_dir).predict(texts))


def ask(configs, reviews):
    """Ask the trained encoders; return a table for each question: dict of DataFrame."""
    rows = [*enumerate(reviews["text"])]
    first_row = {text: row for row, text in reversed(rows)}  # of equal texts
    seeds = {}
    for config in configs:
        seeds.setdefault(config.seed, {})[config.encoder] = config
    attention = [encoders["attention"] for encoders in seeds.values()]
    predictions, explanations, replaced, negation = [], [], [], []
    for ours in tqdm(attention, desc="asking the models", unit="seed"):
        corpus = prepare(ours)
        path = locate(ours.run_dir) / "predictions.csv"
        tfidf = pd.read_csv(path, dtype=str, keep_default_na=False)["tfidf"]
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
        replaced += measures.replaced_attention(ours, corpus)
        if are_stars(corpus.labels) and ours.language == "en":
            negation += measures.negations(ours)
    return {
        "predictions": pd.concat(predictions, ignore_index=True),
        "explanations": pd.DataFrame(explanations),
        "replaced": pd.DataFrame(replaced),
        "negation": pd.DataFrame(negation, columns=measures.NEGATION),
        "agreement": measures.agreements(attention),
    }
