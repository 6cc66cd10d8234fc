"""What a run reached: scores, the baselines beside it, ``metrics.json``."""

import json

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.pipeline import make_pipeline

from selfatt_lib.machinery.files import write_text
from selfatt_lib.machinery.progress import tqdm
from selfatt_lib.run import best

STARS = [1, 2, 3, 4, 5]

# Punctuation counts, as it does for the model.
TERMS = {"ngram_range": (1, 2), "token_pattern": r"\w+|[^\w\s]"}
NUM_TERMS = 50_000
# Counting all pairs of words of more reviews would take gigabytes.
COUNTED_REVIEWS = 50_000


def scores(stars, predictions):
    """Return ``{"accuracy", "weighted_f1"}`` of predicted stars."""
    f1 = f1_score(stars, predictions, average="weighted", zero_division=0)
    accuracy = accuracy_score(stars, predictions)
    return {"accuracy": float(accuracy), "weighted_f1": float(f1)}


def baselines(train_reviews, valid_reviews, tfidf=True):
    """Score what any model has to beat, on the same held-out reviews.

    Parameters
    ----------
    train_reviews, valid_reviews : DataFrame
        With ``text`` and ``stars``.
    tfidf : bool, default True
        False leaves it out.

    Returns
    -------
    dict
        ``majority`` (always the commonest star of the training reviews) and ``tfidf``
        (logistic regression on TF-IDF of one and two words, the commonest 50 000 of the
        first 50 000 reviews), each a dict from `scores`.
    """
    stars = train_reviews["stars"]
    classifiers = {"majority": DummyClassifier()}
    if tfidf and stars.nunique() == 1:  # nothing to regress
        classifiers["tfidf"] = DummyClassifier()
    elif tfidf:
        terms = TfidfVectorizer(**TERMS, vocabulary=commonest_terms(train_reviews))
        # Newton's method ends so near the optimum that every machine predicts the same.
        regression = LogisticRegression(C=3, solver="newton-cg", tol=1e-8)
        classifiers["tfidf"] = make_pipeline(terms, regression)
    found = {}
    for name, classifier in tqdm(classifiers.items(), desc="baselines", leave=False):
        classifier.fit(train_reviews["text"].tolist(), stars)
        predictions = classifier.predict(valid_reviews["text"].tolist())
        found[name] = scores(valid_reviews["stars"], predictions)
    return found


def commonest_terms(reviews):
    """Return words and pairs of words: array of str.

    Of equally common ones, scikit-learn's ``max_features`` keeps others on other
    processors.
    """
    counter = CountVectorizer(**TERMS)
    counted = counter.fit_transform(reviews["text"].iloc[:COUNTED_REVIEWS])
    counts = np.asarray(counted.sum(axis=0))[0]
    commonest = np.argsort(-counts, kind="stable")[:NUM_TERMS]
    return counter.get_feature_names_out()[commonest]


def write_metrics(
    run, history, stars, predictions, train_size, chosen, baseline_scores=None
):
    """Write ``metrics.json`` and return it. The run is finished then.

    Called once as soon as the model is trained, and again with the scores of the
    baselines, which may take long and much memory. Then others may have the folder.

    Parameters
    ----------
    run : RunDirectory
    history : DataFrame
        From `train`.
    stars, predictions : ndarray of int, shape (valid_size,)
        Of the best epoch.
    train_size : int
    chosen : engines.Chosen
        What it was computed with.
    baseline_scores : dict, optional
        From `baselines`.

    Returns
    -------
    dict
        ``seconds`` are those of all epochs, before and after a resume.
    """
    matrix = confusion_matrix(stars, predictions, labels=STARS)
    metrics = scores(stars, predictions) | {"confusion_matrix": matrix.tolist()}
    for name, values in (baseline_scores or {}).items():
        metrics |= {f"{name}_{score}": value for score, value in values.items()}
    metrics |= {
        "epochs": len(history),
        "best_epoch": int(best(history.to_dict("records"))["epoch"]),
        "train_size": train_size,
        "valid_size": len(stars),
        "seconds": round(float(history["seconds"].sum()), 1),
        "engine": chosen.library,
        "device": ", ".join(chosen.devices),
        "seed": run.config.seed,
    }
    write_text(run.path / "metrics.json", json.dumps(metrics, indent=2))
    run.drop_equal_copy()
    if baseline_scores is not None:
        run.release()
    return metrics
