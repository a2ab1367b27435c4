# Everything runs in one environment folder, made on first use. `make help` lists the targets.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Offline by default: nothing here may fetch a model or a data set.
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow fix check bench wheel-check clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@

demo: $(READY)  ## run familiarity-top50 on the packaged sample with the packaged model, offline
	$(BIN)/curate --recipe familiarity-top50 --out curated/demo
	$(BIN)/curate verify curated/demo

test: $(READY)  ## the test suite
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile

test-slow: $(READY)  ## the long tests: kills, whole data sets
	$(BIN)/python -m pytest -m slow --timeout 3600

fix: $(READY)  ## format and repair style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## measurements behind the figures in docs/
	$(BIN)/python benchmarks/main_job.py
	$(BIN)/python benchmarks/scoring.py --data ../shared/data/familiarity
	$(BIN)/python benchmarks/scoring_profile.py --data ../shared/data/familiarity
	$(BIN)/python benchmarks/measure_filters.py --data ../shared/data/familiarity
	$(BIN)/python benchmarks/recipes.py --data ../shared/data/familiarity
	$(BIN)/python benchmarks/advise.py --data ../shared/data/familiarity
	$(BIN)/python benchmarks/sandbox.py --data ../shared/data/familiarity
	$(BIN)/python benchmarks/normalise.py --data ../shared/data/familiarity --model curate/reference/model
	$(BIN)/python benchmarks/self_bleu.py --data ../shared/data
	$(BIN)/python benchmarks/quality.py --data ../shared/data/regurgitative/translation
	$(BIN)/python benchmarks/detectors.py --data ../shared/data/regurgitative --model curate/reference/model
	$(BIN)/python benchmarks/learned_detector.py --data ../shared/data/regurgitative/detection
	$(BIN)/python benchmarks/trial_statistics.py --data ../shared/data/familiarity
	$(BIN)/python benchmarks/trial.py

# The suite runs from an empty folder against the installed wheel: data files that do not ship make it fail.
wheel-check:  ## build the wheel, install it in a fresh environment, run a copy of the tests against it
	@set -e; d=$$(mktemp -d); trap 'rm -rf "$$d"' EXIT; \
	$(PYTHON) -m venv $$d/env; \
	$$d/env/bin/python -m pip install --quiet build --constraint constraints.txt; \
	$$d/env/bin/python -m build --quiet --wheel --outdir $$d/dist .; \
	$$d/env/bin/python -m pip install --quiet "$$(ls $$d/dist/*.whl)[dev]" --constraint constraints.txt; \
	mkdir $$d/away; cp -r tests scripts benchmarks pyproject.toml $$d/away; \
	cd $$d/away && $$d/env/bin/python -m pytest -m "not slow and not repository" --numprocesses auto --dist loadfile

clean:  ## remove the environment and what tools left
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist curated
