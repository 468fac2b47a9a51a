# Everything a developer runs.  Needs Python >= 3.11 (with venv), make and a package index;
# `make` alone lists the targets.  The environment is .venv, made from constraints.txt.

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# -bb: comparing bytes with str is an error.
PY := $(BIN)/python -bb
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
FUZZ_SECONDS ?= 36
MUTATIONS ?= 30000
# Tests run side by side, a worker a core: JOBS=0 for one process (a debugger, --durations that mean something).
JOBS ?= auto
PARALLEL := -n $(JOBS) --dist worksteal
PYTEST_ARGS ?=

CORE := $(VENV)/.core
TEST := $(VENV)/.test
LINT := $(VENV)/.lint

.DEFAULT_GOAL := help
.PHONY: help demo test check lint format types contracts rules e2e test-slow rows lab lab-quick bench bench-quick fuzz fuzz-deep coverage package clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  \1|/' | awk -F'|' '{printf "%-14s%s\n", $$1, $$2}'

# --- the environment ---

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "trunnel needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo absent). Try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "This Python has no venv. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(CORE): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing trunnel into $(VENV)"
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(TEST): $(CORE)
	@echo "installing what the tests need"
	@$(PIP) install -c constraints.txt -e '.[test]'
	@touch $@

$(LINT): $(TEST)
	@echo "installing linters and type checkers"
	@$(PIP) install -c constraints.txt -e '.[test,lint]'
	@touch $@

# --- try it ---

demo: $(CORE) ## a relay, an agent and an origin on this machine (ARGS=--once: one request, then exit)
	@$(PY) -m scripts.demo $(ARGS)

# --- the wall ---

test: $(TEST) ## all tests but the slow ones and those of whole processes
	@$(PY) -m pytest -q $(PARALLEL) -m "not e2e and not slow" $(PYTEST_ARGS)

check: lint types contracts fuzz ## everything that must be green before a commit
	@$(PY) -m pytest -q $(PARALLEL) -m "not slow" $(PYTEST_ARGS)

lint: $(LINT) ## style, spelling, formatting
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "unformatted: run 'make format'" >&2; exit 1; }
	@$(BIN)/codespell
	@echo "lint: clean"

format: $(LINT) ## put code and imports into their form
	@$(BIN)/ruff check --quiet --select I --fix .
	@$(BIN)/ruff format .

types: $(LINT) ## mypy and pyright, both strict
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/pyright >$(VENV)/pyright.txt || { cat $(VENV)/pyright.txt; exit 1; }
	@echo "types: clean"

contracts: $(LINT) ## the layers and the forbidden imports
	@$(BIN)/lint-imports --no-cache >$(VENV)/contracts.txt || { cat $(VENV)/contracts.txt; exit 1; }
	@echo "contracts: kept"

rules: $(TEST) ## the source rules alone
	@$(PY) -m pytest -q tests/rules $(PYTEST_ARGS)

e2e: $(TEST) ## the command line as real processes
	@$(PY) -m pytest -q -m "e2e and not slow" $(PYTEST_ARGS)

test-slow: $(TEST) ## the tests marked slow
	@$(PY) -m pytest -q -m slow $(PYTEST_ARGS)

coverage: $(LINT) ## branch coverage of `make test`
	@$(BIN)/python -m coverage run -m pytest -q -m "not e2e and not slow" $(PYTEST_ARGS)
	@$(BIN)/python -m coverage report

# --- measure ---

rows: $(TEST) ## rows of the reliability catalogue (ROWS="LOAD-07 NET-13")
	@$(PY) -m scripts.rows $(ROWS)

lab: $(TEST) ## networks with faults between relay and agent, half an hour (root; ROWS="NET-01 NET-05", ARGS="--transport quic")
	@$(PY) -m scripts.lab $(ROWS) $(ARGS)

lab-quick: $(TEST) ## the same, shortened to two minutes
	@$(PY) -m scripts.lab --quick $(ROWS) $(ARGS)

bench: $(TEST) ## trunnel beside other tunnels and proxies, an hour (ARGS="--only connect --peers haproxy,trunnel*"; --list)
	@$(PY) -m scripts.bench $(ARGS)

bench-quick: $(TEST) ## the same in two minutes: fewer peers, fewer and shorter rounds
	@$(PY) -m scripts.bench --quick $(ARGS)

fuzz: $(TEST) ## every fuzz target and hellos judged beside OpenSSL, a minute in all (FUZZ_SECONDS, ARGS="--target X")
	@$(PY) -m fuzz.run --seconds $(FUZZ_SECONDS) $(ARGS)
	@$(PY) -m fuzz.differential --mutations $(MUTATIONS)

fuzz-deep: $(TEST) ## the same for long
	@$(PY) -m fuzz.run --deep $(ARGS)
	@$(PY) -m fuzz.differential --mutations 1000000 --processes 2

# --- ship ---

package: $(CORE) ## wheel, sdist and a single file for each Python here, in dist/, each tried where nothing else is (ARGS="--python 3.11")
	@$(PIP) install -c constraints.txt -e '.[package]'
	@$(PY) -m scripts.package $(ARGS)

clean: ## remove all that make made
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
