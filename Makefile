PYTHON := $(shell for p in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && echo $$p && exit; done; echo python3)
BIN := .venv/bin
export PARAMETERS ?= quick
CHAPTERS ?= book/*.ipynb
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup train lab test book notebooks lint format bench pretrained evidence torture address lock colab-check clean

help:
	@sed -nE 's/^([a-z-]+):.*## /  make \1 — /p' $(MAKEFILE_LIST)
	@echo
	@echo '  make train RUN=runs/mean ARGS="-p pooling mean"     other parameters (all: under Parameters in book/training.ipynb)'
	@echo '  make train PARAMETERS=tutorial RUN=runs/yelp        other defaults (book/parameters/), another run directory'
	@echo '  make train ARGS="-p resume True -p epochs 12"       go on with a run that was stopped, or for more epochs'
	@echo '  $(BIN)/selfatt train --help                     the same without make'
	@echo '  $(BIN)/selfatt predict runs/quick "The food was great."'
	@echo
	@echo 'To change the book or the library (CONTRIBUTING.md):'
	@sed -nE 's/^([a-z-]+):.*#> /  make \1 — /p' $(MAKEFILE_LIST)

setup:  ## make .venv from a lock, unless that is done (ENGINE=mxnet or pytorch; DEVICE=gpu: MXNet for a GPU; DEVICE=cpu goes back)
	@$(PYTHON) tools/setup.py $(ENGINE) $(DEVICE)

train: setup  ## train on real reviews; results in runs/quick
	@exec $(BIN)/selfatt train --parameters "$$PARAMETERS" $${RUN:+--run "$$RUN"} $(ARGS)

lab: setup  ## open the chapters in JupyterLab
	@$(BIN)/jupyter lab --ServerApp.root_dir=. --FileContentsManager.preferred_dir=book $(ARGS)

book: setup  ## render the book into _build/html; warnings are errors
	@$(BIN)/jupyter-book build . -W -n --keep-going

test: setup  ## run the unit tests, the docstrings' examples, and every chapter against its stored outputs
	@$(BIN)/pytest $(ARGS)

clean:  ## remove what was built, but no run and no environment
	@rm -rf _build .pytest_cache .ruff_cache build *.egg-info

notebooks: setup  #> run every chapter and store its outputs (CHAPTERS=book/penalty.ipynb for that one)
	@$(BIN)/python tools/reproducibly.py $(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False $(ARGS) $(CHAPTERS)
	@$(BIN)/jupyter nbconvert --log-level WARN --coalesce-streams $(CHAPTERS)

format: setup  #> bring code and notebooks into form
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

lint: setup  #> check the form of code and notebooks
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

bench: setup  #> measure speed side by side: benchmarks/results.json (ARGS="step epoch" for some questions, ARGS=--quick for a trial)
	@$(BIN)/python -m benchmarks $(ARGS)

pretrained: setup  #> train anew the run that comes with the library, selfatt_lib/pretrained
	@$(BIN)/python tools/reproducibly.py $(BIN)/python tools/pretrained.py

evidence: setup  #> train the 265 runs of the chapter "evidence" and write its tables, book/results (hours; goes on when it was stopped)
	@TQDM_DISABLE= exec $(BIN)/python tools/reproducibly.py $(BIN)/selfatt evidence $(ARGS)

torture: setup  #> kill training, feed the loaders broken files, alter the stored outputs (ARGS="kills" for one of kills, inputs, alterations)
	@$(BIN)/python tools/torture.py $(ARGS)

address: setup  #> put the repository's address, from _config.yml, wherever it is needed
	@$(BIN)/python tools/address.py

lock: setup  #> rewrite the three requirements*.lock from pyproject.toml (ARGS=--upgrade takes the newest versions)
	@for lock in "mxnet requirements.lock" "mxnet-gpu requirements-gpu.lock" "pytorch requirements-pytorch.lock"; do set -- $$lock; \
		$(BIN)/uv pip compile --universal --generate-hashes --extra $$1 --extra dev --no-annotate --python-version 3.11 \
			--custom-compile-command 'make lock' --quiet $(ARGS) pyproject.toml -o $$2 || exit; done

colab-check: setup  #> run the chapters with Colab's versions (PYTHON=python3.13; ARGS="cpu gpu pytorch" for some; downloads 5 GB)
	@$(BIN)/python tools/colab_check.py $(PYTHON) $(ARGS)
