# Everything lives in .venv. `make setup` builds it; the other targets see to it that it is there.
# On another Python: make setup PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
ARGS ?=
CAMPAIGN ?=
PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-engines test-torch verify chaos check format bench bench-recovery bench-endurance lock clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Put everything needed into .venv

$(STAMP): pyproject.toml constraints.txt scripts/install.py scripts/pip_index.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flashq needs Python 3.11 or later; this is " + sys.version)'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python scripts/install.py
	@touch $@

demo: $(STAMP) ## "Ask your Python": a real model on workers that start and stop (ARGS=… are passed on)
	$(BIN)/python examples/ask_your_python/demo.py $(ARGS)

test: $(STAMP) ## The tests (ARGS=… are passed on)
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile -m "not engines and not torch and not chaos and not verify" $(ARGS)

test-engines: $(STAMP) ## The tests that need container engines and other heavy services
	$(BIN)/python -m pytest -m engines $(ARGS)

test-torch: $(STAMP) ## The tests that install PyTorch, some GB (ARGS=… are passed on)
	$(BIN)/python -m pytest -m torch $(ARGS)

verify: $(STAMP) ## The parts of the model search that `make test` leaves out: 15 minutes (ARGS=… are passed on)
	$(BIN)/python -m pytest -n $(PROCESSES) -m verify tests/search $(ARGS)

chaos: $(STAMP) ## The tests that take many minutes, then long campaigns of faults (CAMPAIGN=… are passed on to these)
	$(BIN)/python -m pytest -m chaos $(ARGS)
	$(BIN)/python -m tests.chaos $(CAMPAIGN)

check: $(STAMP) ## What CI checks beside the tests: style, types, layering
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Let ruff repair style and layout
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(STAMP) ## The benchmarks, beside the floor (ARGS=… are passed on)
	$(BIN)/python -m benchmarks $(ARGS)

bench-recovery: $(STAMP) ## Workers killed 200 times, beside RQ, Dramatiq, Celery and Ray; an hour, most of it waiting
	$(BIN)/python -m benchmarks.recovery --peers $(ARGS)

bench-endurance: $(STAMP) ## Rolling restarts, held interpreters, a soak: about 25 minutes (ARGS=… are passed on)
	$(BIN)/python -m benchmarks.endurance $(ARGS)

# Asks the public index, so that the hashes of every platform's files are there.
lock: $(STAMP) ## Renew constraints.txt from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --group dev --all-extras --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate --upgrade --quiet \
		--custom-compile-command "make lock" --output-file constraints.txt

clean: ## Remove .venv, caches and what was built
	rm -rf $(VENV) build dist .coverage htmlcov .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
