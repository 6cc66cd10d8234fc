"""What can be a parameter, what is meant by it, and what is said of the others."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from conftest import ENGINE
from selfatt_lib.config import ModelSettings, TrainingConfig


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1; got 0"),
        ({"epochs": 2.5}, "epochs must be a whole number of at least 1; got 2.5"),
        ({"epochs": True}, "epochs must be a whole number of at least 1; got True"),
        (
            {"num_layers": 101},
            "num_layers must be a whole number from 1 to 100; got 101",
        ),
        ({"epochs": "two"}, "epochs must be a whole number of at least 1; got 'two'"),
        ({"epochs": "2.5"}, "epochs must be a whole number of at least 1; got 2.5"),
        ({"epochs": "[" * 9999}, "epochs must be a whole number of at least 1; got"),
        (
            {"train_size": -1},
            "train_size must be a whole number of at least 1 or None; got -1",
        ),
        ({"valid_size": 1.0}, "valid_size must be a share between .*; got 1.0"),
        ({"test_size": "1.0"}, "test_size must be a share between .*; got 1.0"),
        ({"labels": [False, True]}, r"numbers or texts \(in quotes\), the classes"),
        ({"label_column": 1}, r"label_column must be a text .*\(in quotes\), .* got 1"),
        ({"dropout": 1.0}, "dropout must be a number from 0 to below 1; got 1.0"),
        (
            {"learning_rate": float("nan")},
            "learning_rate must be a number above 0; got nan",
        ),
        ({"learning_rate": 0}, "learning_rate must be a number above 0; got 0"),
        (
            {"clip_norm": float("inf")},
            "clip_norm must be a number above 0 or None; got inf",
        ),
        (
            {"embedding": " "},
            "embedding must be a text that is not empty .in quotes., or No",
        ),
        ({"embedding": 50}, "embedding must be a text .*, or None; got 50"),
        (
            {"embedding_size": 100},
            "embedding_size is for embedding=None, .* those of 'glove.6B.50d' have",
        ),
        (
            {"embedding": None, "embedding_size": 0},
            "embedding_size must be a whole number of at least 1 or None; got 0",
        ),
        ({"lower": "yes"}, "lower must be True or False; got 'yes'"),
        (
            {"class_weights": [1]},
            "class_weights must be None, 'auto' or a list with a number above 0 for",
        ),
        ({"class_weights": "yes"}, "class_weights must be .*; got 'yes'"),
        (
            {"pooling": "max"},
            "pooling must be one of 'flatten', 'mean', 'prune'; got 'max'",
        ),
        ({"pooling": "prune"}, "pooling='prune' needs prune_p and prune_q"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"run_dir": " "}, "run_dir must be a text that is not empty"),
        ({"run_dir": 20240501}, r"run_dir must be a text .*-r, not -p\); got 20240501"),
        (
            {"penalty_form": "cubed"},
            (
                "penalty_form must be one of 'squared', 'norm', 'mean_squared'; got "
                "'cubed'"
            ),
        ),
    ],
)
def test_an_impossible_parameter_is_refused_by_name(parameters, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**parameters)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("learning_rate", "1e-3", 0.001),  # a text to YAML
        ("epochs", "8", 8),
        ("epochs", 8.0, 8),
        ("train_size", "1e3", 1000),
        ("vocab_size", "10_000", 10_000),
        ("train_size", "null", None),  # texts to papermill
        ("clip_norm", "None", None),
        ("lower", "true", True),
        ("resume", "False", False),
        ("class_weights", "[1,2,3,4,5]", [1, 2, 3, 4, 5]),
        ("class_weights", (3, 5.3, 4, 2, 1), [3, 5.3, 4, 2, 1]),
        ("class_weights", np.array([1.0, 2, 3, 4, 5]), [1, 2, 3, 4, 5]),
        ("class_weights", [np.float32(2)] * 5, [2.0] * 5),
        ("class_weights", "auto", "auto"),
        ("seed", np.int64(7), 7),
        ("dropout", np.float64(0.25), 0.25),
        ("lower", np.bool_(False), False),
        ("dataset", Path("my reviews.csv"), "my reviews.csv"),
        ("embedding", Path("my.vec.gz"), "my.vec.gz"),
        ("embedding", "None", None),
        ("embedding", "null", None),
        ("run_dir", Path("runs") / "2024", str(Path("runs/2024"))),
        ("run_dir", "2024", "2024"),
        ("run_dir", "null", "null"),
        ("label_column", "1", "1"),
        ("text_column", "true", "true"),
        ("encoding", " Null ", None),
        ("valid_size", "50.0", 50),
    ],
)
def test_a_value_whose_meaning_is_clear_is_taken(name, given, value):
    for config in (
        TrainingConfig(**{name: given}),
        TrainingConfig.from_namespace({name: given}),
    ):
        found = getattr(config, name)
        assert found == value
        assert type(found) is type(value)
        json.dumps(config.model_dump())


def test_a_parameter_of_another_kind_is_not_left_out():
    """A notebook's other objects are; a parameter's name makes it one."""
    with pytest.raises(ValueError, match="epochs must be a whole number"):
        TrainingConfig.from_namespace({"epochs": {8}})


def test_a_notebooks_plain_values_are_the_parameters():
    namespace = {
        "epochs": 2,
        "pooling": "mean",
        "_private": 1,
        "In": [""],
        "Out": {},
        "json": json,
        "exit": exit,
    }
    config = TrainingConfig.from_namespace(namespace)
    assert (config.epochs, config.pooling) == (2, "mean")
    # when the cell is run again, what later cells defined is no parameter
    assert (
        TrainingConfig.from_namespace(namespace | {"config": config, "sentence": "a"})
        == config
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("epohcs", "there is no parameter 'epohcs'; did you mean 'epochs'?"),
        ("xyz", "no parameter 'xyz'; known are: dataset"),
        ("squared_penalty", "write penalty_form: 'squared' for True, 'norm' for False"),
    ],
)
def test_an_unknown_parameter_is_refused_with_the_nearest(name, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        TrainingConfig.from_namespace({name: 3})


def test_the_model_takes_all_settings_and_no_others():
    wanted = inspect.signature(ENGINE.SelfAttentiveBiLSTM.__init__).parameters
    assert {*wanted} - {"self", "kwargs"} == {*ModelSettings.model_fields}


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a", "A"], "must be different, by more than case"),
        (["a", "b", "a"], "must be different"),
        (["1", "01"], "must be different"),
        (["a", " "], r"none be blank; got \['a', ' '\]"),
        ({0: "neg", 1: "Neg", 2: "pos"}, "got .'neg', 'Neg', 'pos'"),
        ({0: "neg", 1: "neg ", 2: "pos"}, "must be different"),
        ({"01": "neg", "1": "pos"}, "must be different, .* got .'01', '1'"),
        ({0: "", 1: "pos"}, "none be blank"),
        ({0: "one", 1: "one"}, "labels must have two names or more; got .'one'"),
    ],
)
def test_classes_have_names_of_their_own(labels, said):
    with pytest.raises(ValueError, match=said):
        TrainingConfig(labels=labels)
    assert TrainingConfig(labels={0: "no", 1: "yes", 2: "yes"}).class_names == [
        "no",
        "yes",
    ]
