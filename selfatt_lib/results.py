"""What a run reached: scores, the baselines beside it, and its files."""

import json

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.pipeline import make_pipeline

from selfatt_lib.labels import are_stars
from selfatt_lib.machinery.files import write_text
from selfatt_lib.machinery.progress import tqdm
from selfatt_lib.run import best

# Punctuation counts, as it does for the model.
TERMS = {"ngram_range": (1, 2), "token_pattern": r"\w+|[^\w\s]"}
NUM_TERMS = 50_000
# Counting all pairs of words of more reviews would take gigabytes.
COUNTED_REVIEWS = 50_000
WORTH_TELLING = 0.01  # of the tokens, not read


def scores(labels, predictions):
    """Return ``{"accuracy", "weighted_f1"}`` of predicted classes."""
    f1 = f1_score(labels, predictions, average="weighted", zero_division=0)
    accuracy = accuracy_score(labels, predictions)
    return {"accuracy": float(accuracy), "weighted_f1": float(f1)}


def accuracy_interval(accuracy, count):
    """Return where the accuracy on all such reviews lies, with a confidence of 95 %.

    Wilson's interval: another draw of as many test reviews from the same source would
    give another accuracy. How much seeds differ is not in it.

    Examples
    --------
    >>> accuracy_interval(0.6, 1400)
    [0.574, 0.625]
    """
    right = binomtest(round(accuracy * count), count)
    return [round(float(end), 3) for end in right.proportion_ci(method="wilson")]


def compare(labels, first, second):
    """Compare the predictions of two models on the same reviews: McNemar's test.

    Only the reviews count on which one is right and the other is wrong; if the models
    are as good, each of these is as likely the one's as the other's.

    Parameters
    ----------
    labels, first, second : array, shape (reviews,)

    Returns
    -------
    dict
        ``difference`` of the accuracies, the first's less the second's; ``first_only``
        and ``second_only``, how many reviews one alone has right; ``p``, how likely
        chance parts them so far or further, by the exact test.

    Examples
    --------
    >>> compare([1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 1, 0])
    {'difference': 0.5, 'first_only': 2, 'second_only': 0, 'p': 0.5}
    """
    right = [np.asarray(labels) == predicted for predicted in (first, second)]
    first_only, second_only = ((a & ~b).sum() for a, b in (right, right[::-1]))
    apart = int(first_only + second_only)
    return {
        "difference": float(right[0].mean() - right[1].mean()),
        "first_only": int(first_only),
        "second_only": int(second_only),
        "p": float(binomtest(int(first_only), apart).pvalue) if apart else 1.0,
    }


def baselines(corpus, tfidf=True):
    """Predict the test reviews by what any model has to beat.

    Parameters
    ----------
    corpus : Corpus
    tfidf : bool, default True
        False leaves it out.

    Returns
    -------
    dict
        ``majority`` (always the commonest label of the training reviews); ``tfidf``
        (logistic regression on TF-IDF of one and two words, the commonest 50,000 of the
        first 50,000 reviews); and, where the model does not read the whole of the
        reviews, ``tfidf_clipped``, the same on what it reads. Each is an array of the
        predicted classes, by number.
    """
    labels = corpus.train_batches.labels
    texts = [
        part["text"].tolist() for part in (corpus.train_reviews, corpus.test_reviews)
    ]
    tried = {"majority": (DummyClassifier(), texts)}
    if tfidf:
        tried["tfidf"] = (linear_model(texts[0]), texts)
    if tfidf and corpus.clipped > WORTH_TELLING:
        read = [tokens.texts() for tokens in (corpus.train_tokens, corpus.test_tokens)]
        tried["tfidf_clipped"] = (linear_model(read[0]), read)
    found = {}
    for name, (model, (train, test)) in tqdm(
        tried.items(), desc="baselines", leave=False
    ):
        found[name] = model.fit(train, labels).predict(test)
    return found


def linear_model(texts):
    """Return a logistic regression on TF-IDF of the commonest terms of texts."""
    terms = TfidfVectorizer(**TERMS, vocabulary=commonest_terms(texts))
    # Newton's method ends so near the optimum that every machine predicts the same.
    return make_pipeline(terms, LogisticRegression(C=3, solver="newton-cg", tol=1e-8))


def commonest_terms(texts):
    """Return words and pairs of words: array of str.

    Of equally common ones, scikit-learn's ``max_features`` keeps others on other
    processors.
    """
    counter = CountVectorizer(**TERMS)
    counted = counter.fit_transform(texts[:COUNTED_REVIEWS])
    counts = np.asarray(counted.sum(axis=0))[0]
    commonest = np.argsort(-counts, kind="stable")[:NUM_TERMS]
    return counter.get_feature_names_out()[commonest]


def score_rows(metrics):
    """Yield the model's scores and the baselines' for people, as tuples of str.

    Name, accuracy, its interval and weighted F1; `metrics` is what `write_metrics`
    returns.
    """
    commonest = "star" if are_stars(metrics["labels"]) else "label"
    for name, prefix in (
        ("self-attentive BiLSTM", ""),
        ("TF-IDF + logistic regression", "tfidf_"),
        ("the same on what the model reads", "tfidf_clipped_"),
        (f"always the commonest {commonest}", "majority_"),
    ):
        if prefix + "accuracy" in metrics:
            accuracy, f1 = (metrics[prefix + s] for s in ("accuracy", "weighted_f1"))
            low, high = accuracy_interval(accuracy, metrics["test_size"])
            yield name, f"{accuracy:.3f}", f"{low:.3f} to {high:.3f}", f"{f1:.3f}"


def write_metrics(run, history, labels, predictions, corpus, chosen, others=None):
    """Write ``metrics.json`` and return it. The run is finished then.

    Beside it lies ``predictions.csv``, the label of each test review and what was
    predicted. Called once as soon as the model is trained, and again with the
    baselines, which may take long and much memory. Then others may have the folder.

    Parameters
    ----------
    run : RunDirectory
    history : DataFrame
        From `train`.
    labels, predictions : ndarray of int, shape (test reviews,)
        Of the best epoch, in the order of `corpus`.
    corpus : Corpus
    chosen : engines.Chosen
        What it was computed with.
    others : dict, optional
        From `baselines`.

    Returns
    -------
    dict
        ``seconds`` are those of all epochs, before and after a resume.
    """
    epochs = history.to_dict("records")
    metrics = scores(labels, predictions)
    metrics["accuracy_interval"] = accuracy_interval(metrics["accuracy"], len(labels))
    for name, predicted in (others or {}).items():
        found = scores(labels, predicted)
        metrics |= {f"{name}_{score}": value for score, value in found.items()}
    matrix = confusion_matrix(labels, predictions, labels=range(len(corpus.labels)))
    metrics |= {
        "labels": corpus.labels,
        "confusion_matrix": matrix.tolist(),
        "valid_accuracy": best(epochs)["valid_accuracy"],
        "parameters": sum(array.size for array in run.best_weights().values()),
        "epochs": len(history),
        "best_epoch": int(best(epochs)["epoch"]),
        "train_size": len(corpus.train_reviews),
        "valid_size": len(corpus.valid_reviews),
        "test_size": len(labels),
        "seconds": round(float(history["seconds"].sum()), 1),
        "engine": chosen.library,
        "device": ", ".join(chosen.devices),
        "seed": run.config.seed,
    }
    predicted = {"label": labels, "model": predictions} | (others or {})
    names = np.array(corpus.labels)
    table = pd.DataFrame({name: names[numbers] for name, numbers in predicted.items()})
    write_text(run.path / "predictions.csv", table.to_csv(index=False))
    write_text(run.path / "metrics.json", json.dumps(metrics, indent=2))
    run.drop_equal_copy()
    if others is not None:
        run.release()
    return metrics
