# Every target sets up .venv by itself. The two that a newcomer needs: quickstart and test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export RAY_ENABLE_UV_RUN_RUNTIME_ENV := 0

.PHONY: help quickstart test lint bench s3 clean
help: ## list the targets
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("gradattr needs Python 3.11 or newer: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing gradattr into $(VENV) (PyTorch is large: about two minutes, once) ..."
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "Installing the test tools ..."
	$(PIP) install --quiet --constraint constraints.txt --group dev
	@touch $@

quickstart: $(VENV)/.runtime ## train on digits, attribute them, verify, query, draw
	$(BIN)/python -m jobs.run_quickstart

test: $(VENV)/.dev ## what CI runs: lint, types and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev ## repair what can be repaired, then check style and types
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

bench: $(VENV)/.dev ## speed and memory against Captum and bare torch (an hour)
	$(BIN)/python tests/bench/run_all.py

s3: $(VENV)/.dev ## a local S3 server to try things on (Ctrl-C stops it)
	$(BIN)/python -m jobs.serve_s3

clean: ## remove what the targets made, but not .venv
	rm -rf quickstart results dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
