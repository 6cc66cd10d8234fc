"""nbval compares the outputs of the chapters; here we check what it does not see."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import nbformat
import pytest
import yaml
from safetensors.numpy import load_file

from conftest import SMALL, make_reviews
from selfatt_lib.config import TrainingConfig

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
EXEMPT = {"nbval-ignore-output", "nbval-skip", "nbval-raises-exception"}
MACHINE = re.compile(r"/(home|root|Users|tmp|work|var|opt|usr)/\w|[A-Z]:\\\\")


def code_cells(path):
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]


def problems(path):
    """Return what is wrong with a stored notebook: list of str."""
    cells = code_cells(path)
    found = []
    counts = [cell.execution_count for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        found.append(f"{path.name} was not executed from top to bottom: {counts}")
    for number, cell in enumerate(cells, 1):
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(
                    f"{path.name}, cell {number}: an error is stored: {output.ename}"
                )
            if output.get("name") == "stderr":
                found.append(
                    f"{path.name}, cell {number}: text on stderr is stored: "
                    f"{output.text[:80]!r}"
                )
            if here := MACHINE.search(
                json.dumps(
                    {key: value for key, value in output.items() if key != "metadata"}
                )
            ):
                found.append(
                    f"{path.name}, cell {number}: a path of the machine is stored: "
                    f"{here.group()!r}"
                )
    exempt = [
        number
        for number, cell in enumerate(cells, 1)
        if EXEMPT & {tag.lower() for tag in cell.metadata.get("tags", [])}
    ]
    exempt += [
        number
        for number, cell in enumerate(cells, 1)
        if re.search(r"#\s*NBVAL_(IGNORE|SKIP|RAISES)", cell.source)
    ]
    if len(set(exempt)) * 10 > len(cells):
        found.append(
            f"{path.name}: cells {exempt} of {len(cells)} are not compared; one in ten "
            "may be"
        )
    return found


def test_there_are_chapters():
    names = ["data", "evidence", "model", "penalty", "pytorch", "training"]
    names += ["visualization"]
    assert [path.stem for path in CHAPTERS] == names


def left_out_of_contents(book, contents):
    """Return the pages of a book that its table of contents does not list."""
    listed = {Path(file).stem for file in re.findall(r"book/[\w.-]+", contents)}
    pages = [path for path in book.iterdir() if path.suffix in (".ipynb", ".md")]
    return sorted(path.name for path in pages if path.stem not in listed)


def test_every_page_is_in_the_table_of_contents():
    contents = (ROOT / "_toc.yml").read_text()
    assert left_out_of_contents(ROOT / "book", contents) == []


def test_a_page_that_is_not_in_the_table_of_contents_is_found(tmp_path):
    for name in ("intro.md", "data.ipynb", "extra.ipynb", "references.bib"):
        (tmp_path / name).touch()
    contents = "root: book/intro\nchapters:\n  - file: book/data\n"
    assert left_out_of_contents(tmp_path, contents) == ["extra.ipynb"]


def test_all_chapters_begin_with_the_same_set_up():
    cells = [code_cells(path)[:2] for path in CHAPTERS]
    for first, second in cells:
        assert first.metadata.tags == second.metadata.tags == ["setup", "remove-cell"]
        assert first.source.removesuffix(" pytorch") == cells[0][0].source
        assert len(first.source.splitlines()) <= 4
        assert second.source == cells[0][1].source
        assert first.outputs == second.outputs == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_every_picture_of_a_chapter_has_a_name_a_caption_and_words(path):
    for cell in code_cells(path):
        pictures = [o for o in cell.outputs if "image/png" in o.get("data", {})]
        if pictures:
            told = cell.metadata["mystnb"]
            assert len(cell.outputs) == 1, cell.source
            assert told["figure"]["name"].startswith("fig-")
            assert told["figure"]["caption"].endswith(".")
            assert told["image"]["alt"].endswith(".")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_a_chapter_ends_with_a_summary_and_three_to_five_solved_exercises(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    summary, exercises = text.index("\n## Summary\n"), text.index("\n## Exercises\n")
    assert summary < exercises
    labels = re.findall(r":::\{exercise\}\n:label: (\S+)", text)
    assert 3 <= len(labels) <= 5
    assert re.findall(r":::\{solution(?:-start)?\} (\S+)", text) == labels


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_a_chapter_is_stored_as_it_ran(path):
    assert problems(path) == []


def cell(**changes):
    return nbformat.v4.new_code_cell(
        **({"source": "1", "execution_count": 1} | changes)
    )


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([cell(execution_count=None)], "was not executed from top to bottom"),
        ([cell(), cell(execution_count=3)], "was not executed from top to bottom"),
        (
            [cell(outputs=[nbformat.v4.new_output("error", ename="ValueError")])],
            "an error is stored: ValueError",
        ),
        (
            [
                cell(
                    outputs=[
                        nbformat.v4.new_output("stream", name="stderr", text="50%")
                    ]
                )
            ],
            "text on stderr",
        ),
        (
            [
                cell(
                    outputs=[
                        nbformat.v4.new_output(
                            "stream", name="stdout", text="/home/me/x"
                        )
                    ]
                )
            ],
            "a path of the machine",
        ),
        ([cell(metadata={"tags": ["nbval-ignore-output"]})], "are not compared"),
        ([cell(source="# NBVAL_IGNORE_OUTPUT\n1")], "are not compared"),
    ],
)
def test_a_chapter_that_is_not_as_it_ran_is_found(cells, message, tmp_path):
    path = tmp_path / "chapter.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert len(problems(path)) == 1
    assert message in problems(path)[0]
    assert "chapter.ipynb" in problems(path)[0]


# Parameters


def notebook_parameters():
    cell = next(
        cell
        for cell in code_cells(ROOT / "book" / "training.ipynb")
        if "parameters" in cell.metadata.get("tags", [])
    )
    assignments = [
        node for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)
    ]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in assignments}


def load_parameters(name):
    return yaml.safe_load((ROOT / "book" / "parameters" / f"{name}.yaml").read_text())


def test_the_notebooks_parameters_are_the_configurations_fields_and_defaults():
    assert notebook_parameters() == TrainingConfig().model_dump(exclude={"encoder"})


def test_the_quick_parameters_are_the_defaults():
    assert TrainingConfig(**load_parameters("quick")) == TrainingConfig()


def test_the_tutorials_parameters_are_the_tutorials():
    config = TrainingConfig(**load_parameters("tutorial"))
    assert (
        config.train_size,
        config.valid_size,
        config.max_tokens,
        config.vocab_size,
    ) == (198_000, 2_000, 100, 10_000)
    assert (
        config.num_layers,
        config.hidden_size,
        config.attention_units,
        config.attention_hops,
    ) == (2, 300, 300, 2)
    assert (config.classifier_units, config.dropout, config.pooling) == (
        512,
        0.5,
        "flatten",
    )
    assert (config.penalty_coefficient, config.penalty_form) == (0.1, "norm")
    assert (config.clip_norm, config.class_weights) == (0.5, "auto")
    assert (config.batch_size, config.num_buckets, config.bucket_ratio) == (64, 10, 0.5)
    assert (config.epochs, config.learning_rate) == (4, 0.001)
    assert (config.embedding, config.train_embedding) == ("glove.6B.300d", False)


def test_the_papers_parameters_are_the_papers():
    config = TrainingConfig(**load_parameters("paper"))
    assert (config.hidden_size, config.attention_units, config.attention_hops) == (
        300,
        350,
        30,
    )
    assert (config.classifier_units, config.dropout) == (3000, 0.5)
    # the coefficient belongs to the form that the authors' code computes
    assert (config.penalty_coefficient, config.penalty_form) == (1.0, "mean_squared")


# papermill


def small_parameters():
    return [f"{name}={value}" for name, value in SMALL.items()]


def papermill_command(*parameters):
    notebook = str(ROOT / "book" / "training.ipynb")
    command = [sys.executable, "-m", "papermill", notebook, "out.ipynb"]
    command += ["--no-progress-bar"]
    for name, value in (parameter.split("=") for parameter in parameters):
        command += ["-p", name, value]
    return command


def papermill(tmp_path, *parameters):
    command = papermill_command(*parameters)
    return subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=os.environ
    )


@pytest.fixture
def archive(tmp_path):
    reviews = make_reviews(400)
    content = json.dumps(
        {"texts": reviews["text"].tolist(), "labels": reviews["label"].tolist()}
    )
    with zipfile.ZipFile(tmp_path / "reviews.json.zip", "w") as archive:
        archive.writestr("reviews.json", content)
    return tmp_path


def test_papermill_trains_on_the_tutorials_kind_of_file_and_leaves_a_run(archive):
    done = papermill(
        archive,
        *small_parameters(),
        "dataset=reviews.json.zip",
        "pooling=mean",
        "epochs=2",
        "run_dir=runs/mine",
    )
    assert done.returncode == 0, done.stderr
    run = archive / "runs" / "mine"
    expected = "attention.html checkpoint.safetensors config.json metrics.json "
    expected += "metrics.jsonl model.safetensors predictions.csv vocab.json"
    assert sorted(path.name for path in run.iterdir()) == expected.split()
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["epochs"], metrics["train_size"], metrics["valid_size"]) == (
        2,
        320,
        60,
    )
    config = json.loads((run / "config.json").read_text())
    assert config["model"]["pooling"] == "mean"


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("epohcs=2", "there is no parameter 'epohcs'; did you mean 'epochs'?"),
        ("epochs=two", "epochs must be a whole number of at least 1; got 'two'"),
        (
            "pooling=prune",
            (
                "pooling='prune' needs prune_p and prune_q (for example 150 and 10); "
                "got None and None"
            ),
        ),
    ],
)
def test_a_wrong_parameter_stops_papermill_before_any_work(
    parameter, message, tmp_path
):
    failed = papermill(tmp_path, parameter)
    assert failed.returncode != 0
    assert message in failed.stderr
    assert not (tmp_path / "runs").exists()


def test_papermill_itself_trains_with_paths_injected_and_texts_for_values(archive):
    """It makes texts of null, true and lists, and of everything after -r."""
    command = papermill_command(*small_parameters(), "epochs=1", "run_dir=mine")
    command += ["-p", "train_size", "null", "-p", "lower", "true"]
    command += ["-p", "class_weights", "[1,2,3,4,5]"]
    command += ["-r", "dataset", "reviews.json.zip", "-r", "learning_rate", "1e-3"]
    done = subprocess.run(
        [*command, "--inject-paths"], cwd=archive, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((archive / "mine" / "config.json").read_text())["training"]
    assert (config["train_size"], config["lower"]) == (None, True)
    assert config["class_weights"] == [1, 2, 3, 4, 5]
    assert config["learning_rate"] == 0.001


# selfatt train

SELFATT = Path(sys.executable).with_name("selfatt")


def train_command(*arguments):
    command = [SELFATT, "train", *arguments]
    for parameter in small_parameters():
        command += ["-p", *parameter.split("=")]
    return list(map(str, command))


def test_selfatt_train_takes_quotes_and_blanks_from_files_texts_and_pairs(archive):
    (archive / "reviews.json.zip").rename(archive / "my reviews.json.zip")
    mine = archive / "runs" / "my 'run'.ipynb"
    mine.parent.mkdir()
    mine.write_text("a notebook of the user's")
    (archive / "my parameters.yaml").write_text("epochs: 7\npooling: mean\nseed: 7")
    command = train_command("-f", "my parameters.yaml", "--run", "runs/my 'run'")
    command += ["-y", "{seed: 8, class_weights: [3.0, 5.3, 4.0, 2.0, 1.0]}"]
    command += ["-p", "dataset", "my reviews.json.zip", "-p", "epochs", "1"]
    done = subprocess.run(command, cwd=archive, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = archive / "runs" / "my 'run'"
    config = json.loads((run / "config.json").read_text())["training"]
    assert config["class_weights"] == [3.0, 5.3, 4.0, 2.0, 1.0]
    assert (config["epochs"], config["seed"], config["pooling"]) == (1, 8, "mean")
    assert (run / "training.ipynb").is_file()
    assert {path.name for path in run.parent.iterdir()} == {run.name, mine.name}
    assert mine.read_text() == "a notebook of the user's"
    # the command that it closes with works as it is printed
    assert "self-attentive BiLSTM" in done.stdout
    last = done.stdout.splitlines()[-1].removeprefix("try next").strip()
    said = subprocess.run(
        last, cwd=archive, capture_output=True, text=True, shell=True, check=True
    )
    assert said.stdout.endswith("The food was great.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "epohcs", "2"], "no parameter 'epohcs'; did you mean 'epochs'?"),
        (
            ["-y", "epochs: two"],
            "epochs must be a whole number of at least 1; got 'two'",
        ),
        (["-y", "epochs: ["], "-y is not YAML"),
        (["-y", "epochs"], "-y: expected parameters, as in 'epochs: 2'; got 'epochs'"),
        (["-f", "nowhere.yaml"], "the parameters could not be read"),
        (
            ["--parameters", "tutoria"],
            "neither a file nor one of: paper, quick, reviews, tut",
        ),
        (["-y", "on: 2"], "there is no parameter True; known are: dataset"),
        (["-p", "_epochs", "2"], "there is no parameter '_epochs'; did you mean 'ep"),
        (["--run", "/proc/nowhere/run"], "No such file or directory: '/proc/nowhere'"),
        (["--run", "a", "-r", "run_dir", "b"], "given twice: --run a, run_dir b"),
        (["-p", "resume", "true"], "holds no run. Start it with resume=False"),
        (
            ["-p", "run_dir", "2024_05_01", "-y", "resume: true"],
            "'2024_05_01' holds no",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence_before_any_work(arguments, message, tmp_path):
    done = subprocess.run(
        [SELFATT, "train", *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_selfatt_train_that_is_ended_lets_the_kernel_save_and_says_how_to_go_on(
    archive,
):
    command = train_command("--run", "my run", "-p", "dataset", "reviews.json.zip")
    command += ["-p", "resume", "False", "-p", "epochs"]
    process = subprocess.Popen(
        [*command, "1000"],
        cwd=archive,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    history = archive / "my run" / "metrics.jsonl"
    while process.poll() is None and not history.exists():
        time.sleep(0.1)
    process.terminate()
    said, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "came. Stopped and saved after" in said  # a batch or an epoch
    assert "Traceback" not in said
    checkpoint = load_file(archive / "my run" / "checkpoint.safetensors")
    assert ("batches" in checkpoint) == ("after batch" in said)
    done = len(history.read_text().splitlines())
    go_on = said.split("To go on: ")[-1].strip()
    assert "'my run'" in go_on
    resumed = subprocess.run(
        go_on.replace("epochs 1000", f"epochs {done + 1}"),
        cwd=archive,
        shell=True,
        capture_output=True,
        text=True,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert len(history.read_text().splitlines()) == done + 1


def test_make_hands_its_arguments_on_as_they_are(tmp_path):
    stand_in = tmp_path / "selfatt"
    tell = "import json, sys; print(json.dumps(sys.argv[1:]))"
    stand_in.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{tell}' \"$@\"\n")
    stand_in.chmod(0o755)
    # what the make that runs these tests was given is not for this one
    passed_on = ("MAKE", "MFLAGS", "ARGS", "RUN", "PARAMETERS", "CHAPTERS")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(passed_on)}

    def made(*variables):
        command = ["make", "-s", "train", f"BIN={tmp_path}", "PYTHON=true", *variables]
        done = subprocess.run(
            command, cwd=ROOT, env=clean, capture_output=True, check=True
        )
        return json.loads(done.stdout)

    quick = ["train", "--parameters", "quick"]
    assert made() == quick
    weights = "class_weights: [3.0, 5.3, 4.0, 2.0, 1.0]"
    assert made(f"ARGS=-y '{weights}'") == [*quick, "-y", weights]
    assert made("RUN=runs/my 'own' run", 'ARGS=-p dataset "my file.csv"') == [
        *(*quick, "--run", "runs/my 'own' run"),
        *("-p", "dataset", "my file.csv"),
    ]
    assert made("PARAMETERS=tutorial")[-1] == "tutorial"
