# On a fresh clone with nothing but Python 3.11+ and make: `make quickstart`, or `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Threads are the tests' and the studies' to set; more than the cores only slows them down.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

# One more than the cores of a small machine: tests of studies mostly wait.
WORKERS := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: quickstart test plugin lint docs dist nightly survival fuzz clean

quickstart: $(VENV)/.run  ## train with tricks on embedded data, compare them over seeds, write a report
	$(BIN)/finetricks sweep examples/quickstart.yaml --out runs/quickstart --resume

test: $(VENV)/.dev  ## the tests, in minutes on two cores
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m "not nightly" $(WORKERS)

PLUGIN := examples/plugin
plugin: $(VENV)/.dev  ## the example of a third party's plugin, installed as anyone would
	$(PIP) --no-deps $(PLUGIN)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 0 -c $(PLUGIN)/pyproject.toml $(PLUGIN)/tests

nightly: $(VENV)/.dev  ## the tests that take longer
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q $(WORKERS)

survival: $(VENV)/.dev  ## what runs and studies survive, with counts
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q $(WORKERS) tests/test_input_*.py \
		$(addprefix tests/test_,$(addsuffix .py,kills determinism long_runs storage survival))

SECONDS ?= 600
fuzz: $(VENV)/.fuzz  ## the readers of files, by coverage: make fuzz SECONDS=3600; keeps what it finds in tests/corpus/found
	$(BIN)/python tests/fuzz.py --seconds $(SECONDS)

lint: $(VENV)/.dev  ## format, lint, types, the import contract
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	PYTHONPATH=core:plugins:tuning $(BIN)/lint-imports

docs: $(VENV)/.docs  ## the site, into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(VENV)/.release  ## wheel and sdist, checked, into dist/; the wheel is built from the sdist
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

clean:  ## remove the virtual environment and what runs left
	rm -rf $(VENV) runs site dist

# torch first and alone: its pinned build decides what else is compatible with it.
$(VENV)/.base: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "finetricks needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	@touch $@

$(VENV)/.run: $(VENV)/.base pyproject.toml
	$(PIP) --editable '.[tune,demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) --editable '.[tune,demo,test,lint]'
	@touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	$(PIP) --editable '.[tune,demo,test,lint,fuzz]'
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(PIP) --editable '.[tune,demo,test,lint,docs]'
	@touch $@

$(VENV)/.release: $(VENV)/.base pyproject.toml
	$(PIP) build twine
	@touch $@
