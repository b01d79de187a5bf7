# Everything a developer types; `make help` lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
DEMO_DB ?= sqlite:///fedleague.sqlite

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test test-fast test-slow check format bench clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[dev,privacy,ray,yolo,xgboost,postgresql]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed  ## make the virtual environment and install fedleague

install-dev: $(VENV)/.installed-dev  ## the same, with everything that the tests need

demo: $(VENV)/.installed  ## run a federated competition on four simulated hospitals
	$(BIN)/fl-server usecase=breast_cancer board.url=$(DEMO_DB)
	@echo "leaderboard in $(DEMO_DB); look at it with: $(BIN)/fedleague board --db $(DEMO_DB)"

test: $(VENV)/.installed-dev  ## all tests, the slow ones too, on two cores
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-fast: $(VENV)/.installed-dev  ## without real processes, sockets, browsers
	$(BIN)/python -m pytest -q -m "not slow"

check: $(VENV)/.installed-dev  ## linter, formatter, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## let ruff format and sort
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev  ## the benchmarks, each beside its peer (long)
	$(BIN)/python benchmarks/simulation.py
	$(BIN)/python benchmarks/deployment.py
	$(BIN)/python benchmarks/memory.py

clean:  ## remove what tests and runs left
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
