"""The experiments on a small scale, and what is asked of the models."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from conftest import SMALL, make_reviews
from selfatt_lib import reference
from selfatt_lib.cli import main
from selfatt_lib.config import TrainingConfig
from selfatt_lib.evidence import experiments, measures
from selfatt_lib.evidence.results import read_results
from selfatt_lib.prediction import Classifier
from selfatt_lib.run import read_settings
from selfatt_lib.training import prepare

FEWER = {
    "ENCODERS": ["attention", "average", "last", "max"],
    "SETTINGS": {"learning_rate": [1e-9, 0.02]},
    "SEEDS": range(2),
    "HOPS": [1, 2],
    "PENALTIES": {"squared": [0.0], "norm": [0.1]},
    "AMOUNTS": [60, 10**6],
    "LENGTHS": [30],
    "PRUNED": [{"pooling": "mean"}],
    "COMMON": experiments.COMMON | {"epochs": 6},
}


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    """What the experiments find on 300 made-up reviews, fewer of each."""
    folder = tmp_path_factory.mktemp("evidence")
    make_reviews(300).to_csv(folder / "reviews.csv", index=False)
    given = {name: SMALL[name] for name in SMALL if name != "epochs"}
    given |= {"dataset": str(folder / "reviews.csv")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in FEWER.items():
            patch.setattr(experiments, name, value)
        command = ["evidence", "--folder", f"{folder}/runs", "--out", f"{folder}/out"]
        for name, value in given.items():
            command += ["-p", name, str(value)]
        said = CliRunner().invoke(main, command)
        assert said.stdout.splitlines()[-1] == f"{folder}/out", said.output
        about, tables = read_results(folder / "out")
        patch.setattr("selfatt_lib.sweep.fit", None)  # nothing is left to train
        again = experiments.Runs(folder / "runs", given)
        again.train(experiments.trials())
        assert (again.table(experiments.trials())["accuracy"] < 1).all()
    name = "learning_rate=0.02"  # attention, seed 0
    return about, tables, folder / "runs" / name


def config_of(run):
    return TrainingConfig(**read_settings(run).training.model_dump())


def test_each_encoder_gets_the_setting_with_the_best_validation_accuracy(gathered):
    _, tables, _ = gathered
    trials, runs = tables["trials"], tables["encoders"]
    for name, rows in trials.groupby("encoder"):
        best = rows.loc[rows["valid_accuracy"].idxmax(), "learning_rate"]
        used = runs[runs["encoder"] == name]["learning_rate"]
        assert set(used) == {best}
    assert set(runs[runs["encoder"] == "attention"]["learning_rate"]) == {0.02}


def test_each_experiment_has_its_runs(gathered):
    _, tables, _ = gathered
    assert len(tables["encoders"]) == 4 * 2
    assert tables["hops"]["attention_hops"].tolist() == [1] * 4 + [2] * 4
    assert tables["penalty"]["penalty_form"].tolist() == ["squared"] * 2 + ["norm"] * 2
    assert tables["class_weights"]["class_weights"].fillna("").tolist() == [
        *["", ""],
        *["auto", "auto"],
    ]
    assert set(tables["amount"]["train_size"]) == {60}  # there is no million
    assert (tables["amount"]["epochs"] > 6).any()  # as many steps as the others have
    assert len(tables["length"]) == 3 * 2
    for name in ("hops", "penalty", "amount", "length", "pruning", "class_weights"):
        assert tables[name]["accuracy"].between(0, 1).all()
    assert tables["hops"]["focus"].between(0, 1).all()


def test_predictions_are_those_that_were_scored(gathered):
    _, tables, _ = gathered
    predictions, runs = tables["predictions"], tables["encoders"]
    for (encoder, seed), run in runs.groupby(["encoder", "seed"]):
        rows = predictions[predictions["seed"] == seed]
        right = (rows[encoder] == rows["label"]).mean()
        assert right == pytest.approx(run["accuracy"].iloc[0], abs=1e-5)
    tfidf = runs[runs["encoder"] == "attention"].set_index("seed")["tfidf_accuracy"]
    for seed, rows in predictions.groupby("seed"):
        assert (rows["tfidf"] == rows["label"]).mean() == pytest.approx(tfidf[seed])


def test_the_order_of_the_words_is_nothing_to_an_average(gathered):
    predictions = gathered[1]["predictions"]
    assert (predictions["average"] == predictions["average_shuffled"]).all()
    assert (predictions["last"] != predictions["last_shuffled"]).any()


def test_reviews_are_named_by_their_row(gathered):
    predictions = gathered[1]["predictions"]
    labels = make_reviews(300)["label"].to_numpy() - 1
    np.testing.assert_array_equal(labels[predictions["review"]], predictions["label"])


def test_words_that_matter_more_are_left_out_with_more_effect(gathered):
    """Here three words of ours decide, and the model has learned it."""
    rows = gathered[1]["explanations"].groupby("ranking").mean()
    assert rows["correlation"]["gradient"] > rows["correlation"]["random"] + 0.2
    assert abs(rows["correlation"]["random"]) < 0.15
    assert rows["kept_5"]["fall"] < rows["kept_5"]["random"]
    weights = gathered[1]["replaced"].set_index(["seed", "weights"])
    assert (weights["same"].xs("learned", level=1) == 1).all()
    runs = gathered[1]["encoders"].query("encoder == 'attention'").set_index("seed")
    for seed in (0, 1):
        learned = weights["accuracy"][seed, "learned"]
        assert learned == pytest.approx(runs["accuracy"][seed], abs=1e-5)


def test_other_weights_are_equal_or_the_same_in_another_order(gathered, monkeypatch):
    """What the classifier gets: M of one review, by hand."""
    config = config_of(gathered[2])
    corpus, given = prepare(config), []
    classify = reference.classify

    def seen(M, weights, pooling):
        given.append(M)
        return classify(M, weights, pooling)

    monkeypatch.setattr(reference, "classify", seen)
    measures.replaced_attention(config, corpus)
    weights, _ = measures.trained_weights(config)
    numbers = corpus.test_batches.in_order[0]
    tokens, n, _ = corpus.test_batches.assemble(numbers)
    H = reference.states(tokens, n, weights)
    learned, permuted, uniform = given[:3]
    for row, length in enumerate(n):
        np.testing.assert_allclose(
            uniform[row], np.tile(H[row, :length].mean(axis=0), (2, 1)), atol=1e-6
        )
    assert not np.allclose(permuted, learned)
    # weights that sum to 1 over the words, in whatever order, of states that are alike
    alike = np.abs(permuted).max() <= np.abs(H).max() + 1e-6
    assert alike


def test_a_fall_is_what_leaving_the_word_out_does(gathered):
    classifier = Classifier.load(gathered[2])
    predictions = classifier.predict(["the film was superb and good", "a weak story"])
    [first, second] = measures.falls(classifier, predictions)
    assert (len(first), len(second)) == (6, 3)
    without = classifier.predict(["the film was and good"])[0].probabilities
    label = predictions[0].probabilities.argmax()
    expected = predictions[0].probabilities[label] - without[label]
    assert first[3] == pytest.approx(expected, abs=1e-5)


def test_gradient_times_input_is_the_logits_slope(gathered):
    """Each word's vector is made longer by a thousandth."""
    config = config_of(gathered[2])
    corpus = prepare(config)
    products = measures.gradients(
        measures.trained_engine(config, corpus), corpus.test_batches
    )
    weights, _ = measures.trained_weights(config)
    tokens, n, _ = corpus.test_batches.assemble([4])
    weights = {name: array.astype(float) for name, array in weights.items()}
    words = weights["embedding.weight"][tokens[0]]

    def logits(vectors):
        own = weights | {"embedding.weight": vectors}
        return reference.forward(np.arange(n[0])[None], n, own)[0][0]

    label = logits(words).argmax()
    for place in range(n[0]):
        longer, shorter = words.copy(), words.copy()
        longer[place] *= 1.001
        shorter[place] *= 0.999
        slope = (logits(longer) - logits(shorter))[label] / 0.002
        assert products[4][place] == pytest.approx(slope, abs=1e-4)


def test_likeness_by_hand():
    def model(rows):
        return [SimpleNamespace(attention=np.array(rows))]

    apart = measures.likeness(model([[1.0, 0, 0], [0, 1.0, 0]]))
    assert apart == {"overlap": 0, "same_word": 0, "focus": 1}
    spread = measures.likeness(model([[0.5, 0.5, 0], [0.5, 0, 0.5]]))
    assert spread == pytest.approx({"overlap": 0.5, "same_word": 1, "focus": 0.5})


def test_a_seed_agrees_with_itself(gathered):
    config = config_of(gathered[2])
    corpus = prepare(config)
    lengths = np.r_[corpus.valid_batches.lengths, corpus.test_batches.lengths]
    twin = config.model_copy(update={"seed": 7})
    found = measures.agreements([config, twin]).loc[0]
    assert found["reviews"] == (lengths >= measures.FEWEST_WORDS).sum()
    other = config.model_copy(update={"seed": 7, "split_seed": 7})
    new = [{*prepare(each).train_reviews["text"]} for each in (config, other)]
    texts = {*make_reviews(300)["text"]} - new[0] - new[1]
    fewer = measures.agreements([config, other]).loc[0]
    assert 0 < fewer["reviews"] <= len(texts) < found["reviews"]
    for name in ("attention", "first", "fall", "labels"):
        assert found[name] == pytest.approx(1)
    assert 0.03 < found["chance"] < 0.2


def test_not_is_put_before_praise_complaint_and_neither(gathered):
    table = gathered[1]["negation"]
    assert table.groupby("seed")["kind"].value_counts().unique().tolist() == [10]
    assert table["plain"].between(1, 5).all()
    plain = table.groupby("word")["plain"].mean()
    assert plain["good"] > plain["weak"] + 0.2
    assert (table["plain"] != table["negated"]).mean() > 0.5


def test_texts_are_joined_from_sentences_of_one_label_and_of_no_common_review(tmp_path):
    reviews = make_reviews(400)
    reviews["text"] = [f"{n} {label} ." for n, label in enumerate(reviews["label"])]
    reviews["source"] = [f"film {n}" if n % 4 else "camera" for n in range(400)]
    found = experiments.longer_reviews(reviews, tmp_path / "joined.csv")
    joined = pd.read_csv(found["dataset"])
    numbers = []
    for text, label in zip(joined["text"], joined["label"]):
        sentences = text.removesuffix(" .").split(" . ")
        assert [int(each.split()[1]) for each in sentences] == [label] * 8
        numbers += [int(each.split()[0]) for each in sentences]
    assert len(numbers) == len(set(numbers))
    assert all(number % 4 for number in numbers)


@pytest.mark.parametrize(
    ("given", "out", "said"),
    [
        ({"epoch": 1}, "out", "did you mean 'epochs'"),
        ({"seed": 1}, "out", "the experiments set seed themselves; leave it out"),
        ({"epochs": 1}, None, "with epochs, give an --out of its own: book/results"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(given, out, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        experiments.gather(tmp_path / "runs", out and tmp_path / out, given)
    assert not (tmp_path / "runs").exists()


def test_few_reviews_have_no_experiment_on_their_amount():
    best = {name: {} for name in experiments.ENCODERS}
    assert "amount" not in experiments.experiments(best, 600, {})
    found = experiments.experiments(best, 14_313, {"batch_size": 32})
    assert len(found["amount"]) == 3 * 3 * 5
    assert all(each["batch_size"] == 32 for each in found["length"])
    [first, *_] = found["amount"]
    assert (first["epochs"], first["patience"]) == (687, 69)


def test_a_stored_row_comes_back(tmp_path):
    about, tables = read_results()
    best = experiments.best_settings(tables["trials"])
    planned = experiments.experiments(best, about["reviews"], {})["encoders"]
    quickest = tables["encoders"]["epochs"].idxmin()
    row = tables["encoders"].loc[quickest]
    runs = experiments.Runs(tmp_path, {})
    runs.train([planned[quickest]])
    again = runs.table([planned[quickest]]).iloc[0]
    same = ["encoder", "seed", "learning_rate", "parameters"]
    assert again[same].to_dict() == row[same].to_dict()
    # equal where it was made; elsewhere, rounding tells after a while
    assert again["accuracy"] == pytest.approx(row["accuracy"], abs=0.02)
