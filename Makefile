# make demo    set up and run the demo          make test    every test
# make setup   only install, into .venv         make check   lint, types, docs
# make bench-serve  serving against its peers
# make bench-sql    requests, seconds and memory of SQL, each beside its floor
# make wheel   dist/milepost-*.whl              make picture docs/demo.svg, from a run of the demo
# make bench-checks   how many planted defects of training data the checks find
# make bench-conformance   how much of the SDK's API is served: every route, parameter and field
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

.PHONY: demo setup test test-avx2 check wheel picture bench-checks bench-conformance bench-serve bench-sql clean

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

# The official Node SDK, for the end-to-end tests; without npm they are skipped, in CI they fail.
NODE_SDK := tests/e2e/node/node_modules/.package-lock.json
$(NODE_SDK): tests/e2e/node/package-lock.json
	! command -v npm >/dev/null || npm ci --silent --no-audit --no-fund --prefix tests/e2e/node

test: $(VENV)/.dev $(NODE_SDK)
	$(BIN)/python -m pytest -n auto
	$(BIN)/python -m pytest -m e2e

# As on a processor without AVX-512: the training tests, all of them in fp32 or on tiny models.
test-avx2: $(VENV)/.dev
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(BIN)/python -m pytest tests/training

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

bench-serve: $(VENV)/.dev
	$(BIN)/python bench/serve.py --json bench/serve.json
	$(BIN)/python bench/beside.py --json bench/beside.json

bench-sql: $(VENV)/.dev
	$(BIN)/python bench/sql.py

wheel: $(VENV)/.platform
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .

picture: setup
	$(BIN)/milepost demo --picture docs/demo.svg

bench-checks: $(VENV)/.dev
	$(BIN)/python bench/checks.py

bench-conformance: $(VENV)/.dev
	$(BIN)/python -W ignore -m bench.conformance --check README.md

clean:
	rm -rf $(VENV) dist build
