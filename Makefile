# What people run. `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-soak test-peers check bench theorem clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev-installed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.bench-installed: $(VENV)/.dev-installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	@touch $@

$(VENV)/.peers-installed: $(VENV)/.bench-installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[peers]'
	@touch $@

install: $(VENV)/.installed ## create .venv and install camcli, as constraints.txt pins it

demo: $(VENV)/.installed ## explain the sample photographs, offline
	@$(BIN)/camcli explain samples --output demo-output --overwrite
	@echo "Look at the pictures in $(CURDIR)/demo-output/overlays"

test: $(VENV)/.dev-installed ## run the everyday tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not soak and not peers"

test-slow: $(VENV)/.dev-installed ## run the tests that take minutes
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow

test-soak: $(VENV)/.dev-installed ## run what takes many minutes: hundreds of kills and signals, long runs
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m soak

test-peers: $(VENV)/.peers-installed ## compare with pytorch-grad-cam, torchcam, captum, Quantus
	$(BIN)/python -m pytest -m peers

check: $(VENV)/.dev-installed ## lint, types, import contract, then the everyday tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

bench: $(VENV)/.bench-installed ## measure what explaining costs beside predicting, and beside peers
	$(BIN)/python -m tests.benchmarks.engine --output build/benchmarks/engine.md
	$(BIN)/python -m tests.benchmarks.files --output build/benchmarks/files.md
	$(BIN)/python -m tests.benchmarks.folder --output build/benchmarks/folder.md

theorem: $(VENV)/.dev-installed ## measure which methods show the places that a network used
	$(BIN)/python -m tests.benchmarks.theorem

clean: ## remove what make created
	rm -rf $(VENV) demo-output build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
