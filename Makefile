# make demo    set up and run the demo          make test    every test
# make setup   only install, into .venv         make check   lint, types, docs
# make bench-serve  serving against its peers
# make wheel   dist/milepost-*.whl              make picture docs/demo.svg, from a run of the demo
#
# Needs Python 3.11 or newer and make. PYTHON=python3.12 make … picks another interpreter.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

# Where no GPU is found, PyTorch's own index has a CPU build a tenth the size of PyPI's. It is asked once; whatever it
# does not give, pip looks for as usual.
TORCH       := $(shell grep '^torch==' constraints.txt)
TORCH_INDEX := https://download.pytorch.org/whl/cpu
HAS_GPU     := $(shell command -v nvidia-smi >/dev/null 2>&1 || test -e /dev/nvidia0 && echo yes)

.PHONY: demo setup test check bench-serve wheel picture clean

demo: setup
	$(BIN)/milepost demo $(DEMO)

setup: $(VENV)/.platform

$(VENV)/.platform: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Milepost needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"
ifneq ($(HAS_GPU),yes)
	$(PIP) install --quiet --no-deps --retries 0 --timeout 5 --index-url $(TORCH_INDEX) $(TORCH) || true
endif
	$(PIP) install --quiet --constraint constraints.txt --editable ".[server]"
	touch $@

$(VENV)/.dev: $(VENV)/.platform
	$(PIP) install --quiet --constraint constraints.txt --group dev
	touch $@

test: $(VENV)/.dev
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest -m e2e

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

bench-serve: $(VENV)/.dev
	$(BIN)/python bench/serve.py --json bench/serve.json
	$(BIN)/python bench/beside.py --json bench/beside.json

wheel: $(VENV)/.platform
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .

picture: setup
	$(BIN)/milepost demo --picture docs/demo.svg

clean:
	rm -rf $(VENV) dist build
