"""What is asked of trained models, beyond their scores.

Each function takes runs of several seeds, or what one of them predicted, and returns
rows for a table.
"""

import random
import warnings
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import ConstantInputWarning, spearmanr

from selfatt_lib import reference
from selfatt_lib.data.batches import Batches
from selfatt_lib.machinery.places import locate
from selfatt_lib.machinery.runtime import mx
from selfatt_lib.prediction import Classifier
from selfatt_lib.run import read_settings, read_weights
from selfatt_lib.training import build_engine, evaluate, prepare

FEWEST_WORDS = 5  # of a review whose words are ranked
MOST_REVIEWS = 2_000  # whose words are left out one by one
LEFT_OUT = (1, 2, 3, 5)

PLAIN = "The {} is {}.", "The {} is not {}."
NEGATED = {
    "praise": "good great nice funny beautiful clever perfect easy useful interesting",
    "complaint": "bad terrible boring stupid ugly awful useless slow weak cheap",
    "neither": "long new small black short old loud big simple different",
}
SUBJECTS = "film", "phone"
NEGATION = ["seed", "kind", "word", "plain", "negated"]


def trained_engine(config, corpus):
    """Return an engine with the weights of a finished run."""
    engine = build_engine(config, corpus)
    engine.load_weights(trained_weights(config)[0])
    return engine


def trained_weights(config):
    """Return the weights of a finished run, and the model's sizes."""
    folder = locate(config.run_dir)
    settings = read_settings(folder)
    return read_weights(folder, settings), settings.model


# What is predicted, with the words in order and without


def predict_both_ways(config, corpus):
    """Predict the test reviews as they are, and with their words shuffled.

    Returns
    -------
    predicted, shuffled : ndarray of int, shape (test reviews,)
        Class numbers.
    """
    engine = trained_engine(config, corpus)
    batches = corpus.test_batches
    texts = batches.tokenized
    rng = np.random.default_rng(config.seed)
    places = [
        start + rng.permutation(end - start)
        for start, end in zip(texts.offsets[:-1], texts.offsets[1:])
    ]
    mixed = replace(texts, ids=texts.ids[np.concatenate(places)])
    mixed = Batches(mixed, batches.labels, corpus.vocab)
    return [evaluate(engine, each)[2] for each in (batches, mixed)]


# How alike the hops are


def likeness(predictions):
    """Return how alike the hops are, means over reviews: dict.

    ``overlap``, the cosine of the angle between two hops' rows; ``same_word``, how
    often two hops have their largest weight on the same word; ``focus``, the sum of a
    hop's squared weights, 1 where it looks at one word.
    """
    found = []
    for prediction in predictions:
        A = prediction.attention  # (r, n)
        products = A @ A.T  # (r, r)
        focus, top = np.diag(products), A.argmax(axis=1)
        pairs = np.triu_indices(len(A), 1)
        overlap = (products / np.sqrt(np.outer(focus, focus)))[pairs]
        same = (top == top[:, None])[pairs]
        alike = [overlap.mean(), same.mean()] if len(A) > 1 else [np.nan] * 2
        found.append([*alike, focus.mean()])
    return dict(zip(["overlap", "same_word", "focus"], np.mean(found, axis=0)))


# Is attention an explanation?


def rank_correlation(a, b):
    """Return Spearman's rank correlation, NaN where all values of one are equal."""
    with warnings.catch_warnings(action="ignore", category=ConstantInputWarning):
        return spearmanr(a, b).statistic


def falls(classifier, predictions):
    """Return how far the predicted label's probability falls without each word.

    A list with an array for each prediction, one number a word.
    """
    shorter, bounds = [], [0]
    for prediction in predictions:
        words = prediction.tokens
        shorter += [words[:i] + words[i + 1 :] for i in range(len(words))]
        bounds.append(len(shorter))
    without = classifier.predict_tokens(shorter)
    found = []
    for prediction, start, end in zip(predictions, bounds, bounds[1:]):
        label = prediction.probabilities.argmax()
        left = [p.probabilities[label] for p in without[start:end]]
        found.append(prediction.probabilities[label] - np.array(left))
    return found


def gradients(engine, batches):
    """Return gradient times input of each word, for the predicted label's logit.

    It is how fast the logit would grow if the word's vector did: a list with an array
    for each review, one number a word.
    """
    model, found = engine.model, [None] * len(batches.labels)
    for numbers in batches.in_order:
        tokens, valid_length, _ = map(mx.nd.from_numpy, batches.assemble(numbers))
        x = model.embedding(tokens)  # (B, T, E)
        x.attach_grad()
        with mx.autograd.record():  # none of the layers below drops anything
            hidden = x
            for layer in model.layers:
                hidden = layer(hidden, valid_length)
            embedding, _ = model.attention(hidden, valid_length)
            if model.pooling == "mean":
                embedding = embedding.mean(axis=1)
            logits = model.output(model.hidden(embedding))  # (B, C)
            largest = logits.max(axis=1)
        largest.backward()
        products = (x.grad * x).sum(axis=2).asnumpy()  # (B, T)
        for row, number in enumerate(numbers):
            found[number] = products[row, : batches.lengths[number]]
    return found


def explanations(config, corpus):
    """Hold rankings of a review's words against leaving them out.

    Of the test reviews, at most the first `MOST_REVIEWS` that have some words.

    Returns
    -------
    list of dict
        A row a ranking: ``correlation``, Spearman's, with the size of the change when
        a word is left out; ``first``, how often both put the same word first; ``rest``,
        the correlation without the word that has most attention; ``kept_1`` to
        ``kept_5``, how often the label stays when so many words are left out.
    """
    classifier = Classifier.load(config.run_dir)
    numbers = np.flatnonzero(corpus.test_batches.lengths >= FEWEST_WORDS)
    numbers = numbers[:MOST_REVIEWS]
    texts = corpus.test_reviews["text"].to_numpy()[numbers]
    predictions = classifier.predict(texts)
    changes = falls(classifier, predictions)
    products = gradients(trained_engine(config, corpus), corpus.test_batches)
    rng = np.random.default_rng(config.seed)
    attention = [p.attention.sum(axis=0) for p in predictions]
    # the words that speak for the label come first, where a ranking knows them
    rankings = {
        "attention": attention,
        "gradient": [products[number] for number in numbers],
        "rarity": [np.array(corpus.vocab[p.tokens]) for p in predictions],
        "random": [rng.random(len(fall)) for fall in changes],
        "fall": changes,  # the change itself, downwards
    }
    for places in rankings["rarity"]:
        places[places == 0] = len(corpus.vocab)  # unknown: rarer than all others
    rows = []
    for name, values in rankings.items():
        found = []
        for value, fall, weight in zip(values, changes, attention):
            # of how much a word counts, whether for the label or against it
            value, change, most = np.abs(value), np.abs(fall), weight.argmax()
            rest = rank_correlation(np.delete(value, most), np.delete(change, most))
            same = value.argmax() == change.argmax()
            found.append([rank_correlation(value, change), same, rest])
        row = dict(zip(["correlation", "first", "rest"], np.nanmean(found, axis=0)))
        order = [np.argsort(-value, kind="stable") for value in values]
        for count in LEFT_OUT:
            shorter = [
                [word for i, word in enumerate(p.tokens) if i not in first[:count]]
                for p, first in zip(predictions, order)
            ]
            again = classifier.predict_tokens([words or ["."] for words in shorter])
            same = [p.label == q.label for p, q in zip(predictions, again)]
            row[f"kept_{count}"] = np.mean(same)
        rows.append({"seed": config.seed, "ranking": name} | row)
    return rows


def replaced_attention(config, corpus):
    """Give a trained model other attention weights, and see what it predicts then.

    Returns
    -------
    list of dict
        A row for the weights that it ``learned``; the same in another order, for all
        hops alike (``permuted``); and all equal (``uniform``): ``accuracy``, and
        ``same``, how often it predicts what it does with its own.
    """
    weights, sizes = trained_weights(config)
    rng, answers = np.random.default_rng(config.seed), {}
    for numbers in corpus.test_batches.in_order:
        tokens, n, _ = corpus.test_batches.assemble(numbers)
        H = reference.states(tokens, n, weights)
        A = reference.attention(H, n, weights)
        permuted = np.zeros_like(A)
        for row, length in enumerate(n):
            permuted[row, :, rng.permutation(length)] = A[row, :, :length].T
        is_word = np.arange(H.shape[1]) < n[:, None]
        uniform = np.broadcast_to((is_word / n[:, None])[:, None], A.shape)
        for name, each in (
            ("learned", A),
            ("permuted", permuted),
            ("uniform", uniform),
        ):
            M = each.astype(H.dtype) @ H
            logits = reference.classify(M, weights, sizes.pooling)
            answers.setdefault(name, []).append(logits.argmax(axis=1))
    given = corpus.test_batches.labels[np.concatenate(corpus.test_batches.in_order)]
    answers = {name: np.concatenate(each) for name, each in answers.items()}
    return [
        {
            "seed": config.seed,
            "weights": name,
            "accuracy": (answer == given).mean(),
            "same": (answer == answers["learned"]).mean(),
        }
        for name, answer in answers.items()
    ]


def agreements(configs):
    """Ask whether two seeds look at the same words, on reviews new to both.

    Returns
    -------
    DataFrame
        A row for each two seeds: how many ``reviews``; ``attention``, the rank
        correlation of the attention that they give the words; ``first``, how often they
        give most to the same word, and ``chance``, how often two draws would; ``fall``,
        the rank correlation of what leaving a word out does; ``labels``, how often they
        predict the same label.
    """
    seen = {}
    for config in configs:
        corpus = prepare(config)
        unseen = pd.concat([corpus.valid_reviews, corpus.test_reviews])["text"]
        seen[config.seed] = config, set(unseen)
    rows = []
    for (one, first_texts), (other, second_texts) in combinations(seen.values(), 2):
        texts = sorted(first_texts & second_texts)
        texts = random.Random(0).sample(texts, min(len(texts), MOST_REVIEWS))
        both = []
        for config in (one, other):
            classifier = Classifier.load(config.run_dir)
            predictions = classifier.predict(texts)
            both.append((predictions, falls(classifier, predictions)))
        found = []
        for p, q, f, g in zip(both[0][0], both[1][0], both[0][1], both[1][1]):
            if len(p.tokens) >= FEWEST_WORDS:
                a, b = (each.attention.sum(axis=0) for each in (p, q))
                found.append(
                    {
                        "attention": rank_correlation(a, b),
                        "first": a.argmax() == b.argmax(),
                        "chance": 1 / len(a),
                        "fall": rank_correlation(np.abs(f), np.abs(g)),
                        "labels": p.label == q.label,
                    }
                )
        means = pd.DataFrame(found).astype(float).mean().to_dict()
        seeds = {"seed": one.seed, "other": other.seed, "reviews": len(found)}
        rows.append(seeds | means)
    return pd.DataFrame(rows)


def negations(config):
    """Predict sentences with and without `not`: a row for each pair.

    ``plain`` and ``negated`` are the stars that the model expects, the mean over its
    probabilities.
    """
    classifier = Classifier.load(config.run_dir)
    stars, rows = np.array(classifier.labels), []
    for kind, words in NEGATED.items():
        for number, word in enumerate(words.split()):
            subject = SUBJECTS[number % len(SUBJECTS)]
            pair = classifier.predict([each.format(subject, word) for each in PLAIN])
            plain, negated = (float(p.probabilities @ stars) for p in pair)
            values = config.seed, kind, word, plain, negated
            rows.append(dict(zip(NEGATION, values)))
    return rows
