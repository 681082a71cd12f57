# The two commands: `make demo` and `make test`. Both set up what they need.
# PYTHON: the interpreter that makes the environment. VENV: where it is made.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help setup demo parity quick test witnesses sdks servers toolkits answers live attack drip check lint types contracts matrix options clean

help:
	@echo "make demo       the main job on this machine and on an emulated cloud:"
	@echo "                train, deploy, batch, chat, embed"
	@echo "make parity     one program here and on three emulated clouds, compared"
	@echo "make quick      the tests of pure functions and wire formats, in half a minute"
	@echo "make test       all tests, offline"
	@echo "make witnesses  programs that are not ours, on what we hand over: AWS's toolkits, the SDKs"
	@echo "make attack     the attacks among them: archives, doors, recordings, what travels"
	@echo "make live       the conformance suite against a real account, within a budget"
	@echo "make check      lint, types and import contracts"
	@echo "make clean      removes $(VENV)"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "pip>=25.1"

# What the local provider needs; enough for the demo.
$(VENV)/.local: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[local]' --group demo
	$(BIN)/cloudai local setup
	@touch $@

# And what one emulated cloud needs: Vertex AI, whose packages are the lightest.
$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/.local
	$(PIP) --editable '.[vertex]' 'werkzeug>=3.1' 'cryptography>=43'
	@touch $@

# Every extra and the tools.
$(VENV)/.all: pyproject.toml constraints.txt | $(VENV)/.local
	$(PIP) --editable '.[all,testing]' --group dev
	@touch $@

setup: $(VENV)/.all

demo: $(VENV)/.demo
	$(BIN)/python examples/digits/program.py --profile dev
	$(BIN)/python examples/digits/program.py --profile fake
	$(BIN)/python examples/parity/parity.py vertex

parity: $(VENV)/.all
	$(BIN)/python examples/parity/parity.py

# Three workers: many tests wait for a process or a server, and do not fill a core; of two cores
# two workers leave a fifth idle, three a tenth.
test: $(VENV)/.all
	$(BIN)/python -m pytest --numprocesses 3 --dist worksteal

# What a change is tried with while it is written: pure functions, wire formats, golden files and
# the shape of the house.
quick: $(VENV)/.all
	$(BIN)/python -m pytest --quiet --numprocesses 2 -m "not slow" tests/unit tests/schemas \
		tests/test_house.py tests/test_parity.py $(wildcard tests/providers/*/test_*wire*.py)

# Programs that are not ours, on what we hand over, in environments of their own (4 GB, made once
# from the package index). What this machine lacks (a Java, a Python) is skipped, and says so.
WITNESSES ?= /tmp/cloudai-witnesses
witnesses: sdks servers toolkits answers

# The vendors' SDKs at the emulators; what travels under each Python that the image tables name, and
# Vertex AI's server with the real pip.
sdks: $(VENV)/.all
	CLOUDAI_WITNESSES=1 $(BIN)/python -m pytest -rs tests/witnesses \
		$(wildcard tests/providers/*/test_*_sdk.py) tests/providers/vertex/test_vertex_emulator.py \
		tests/providers/vertex/test_vertex_travel.py

# Azure ML's inference server and the kserve client beside our server.
servers: $(VENV)/.all
	$(BIN)/python tests/server/interop/run.py --environments $(WITNESSES)

# AWS's inference toolkits, under TorchServe and multi-model-server, on a Java of the system's.
toolkits: $(VENV)/.all
	$(BIN)/python tests/witnesses/sagemaker_toolkits.py --environments $(WITNESSES)

# Two models, two families of handlers, at all of these places: the same answers.
answers: $(VENV)/.all
	$(BIN)/python tests/witnesses/answers.py --environments $(WITNESSES)
# The conformance suite against a real account: make live PROVIDER=aws BUDGET=5. It costs money, at
# most the budget in dollars, and asks for CLOUDAI_LIVE_OK=PROVIDER. LIVE is where it is kept.
LIVE ?= live-run
live: $(VENV)/.all
	$(BIN)/python tests/live/run.py $(PROVIDER) --budget $(BUDGET) --folder $(LIVE)

# Attacks on every door, archive and recording: bounded, and on loopback alone.
# PYTHONS: interpreters under which the archives are tried as well.
PYTHONS ?=
attack: $(VENV)/.all
	$(BIN)/python tests/attack/pythons.py $(PYTHONS)
	$(BIN)/python -m pytest -m attack

# Services that drip, at a timeout of three seconds: what each call took.
drip: $(VENV)/.all
	DRIP=3 $(BIN)/python -m pytest -q -s -k k10 tests/calls/test_deadlines.py

lint: $(VENV)/.all
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.all
	$(BIN)/pyright --pythonpath $(BIN)/python

contracts: $(VENV)/.all
	$(BIN)/lint-imports

check: lint types contracts

# Writes the capability matrix into the README; a test compares it.
matrix: $(VENV)/.local
	$(BIN)/cloudai providers --update README.md

# Writes each command's options into docs/cli.md; a test compares them.
options: $(VENV)/.local
	$(BIN)/python tests/cli/options.py

clean:
	rm -rf $(VENV)
