# make train   a virtual environment where there is none, then the default run
# make test    the quick tests            make test-slow   those with real processes
# make lint    ruff and mypy              make install     the environment alone
# make test-remotion   types and unit tests of the videos; needs node, which nothing else here does

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
# xdist workers; each test process uses one torch thread. The slow tests wait much for their processes, and those of a
# file share runs and servers.
JOBS ?= 2
SLOW_JOBS ?= 3
# To import the others takes each worker a while.
SLOW_FILES = $(shell grep -rl --include='test_*.py' 'mark\.slow' tests)

.PHONY: train test test-slow test-remotion lint format install
train: $(VENV)/installed
	$(BIN)/python train.py $(ARGS)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow" $(ARGS)

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n $(SLOW_JOBS) --dist loadfile -o testpaths='$(SLOW_FILES)' -m slow $(ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-remotion: remotion/node_modules/installed
	npm --prefix remotion run --silent typecheck
	npm --prefix remotion test --silent

remotion/node_modules/installed: remotion/package-lock.json
	npm ci --prefix remotion --no-audit --no-fund --loglevel=error
	touch $@

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/installed

# With uv, torch comes as the build for this machine's GPU; with pip, as constraints.txt pins it.
ifdef UV
INSTALL := test -d $(VENV) || uv venv $(VENV); uv pip install --python $(BIN)/python --torch-backend=auto
else
INSTALL := test -d $(VENV) || $(PYTHON) -m venv $(VENV); $(BIN)/python -m pip install -q
endif

$(VENV)/installed: pyproject.toml constraints.txt
	$(INSTALL) -e . -c constraints.txt
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt
	$(INSTALL) -e '.[dev]' -c constraints.txt
	touch $(VENV)/installed $@
