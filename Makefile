# `make demo` and `make test` are all that a new user needs; both make .venv themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q
# Processes that share the tests, one more than there are cores, since many tests wait for a program that they started:
# make test JOBS=0 runs them in one.
CORES  := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1)
JOBS   ?= $(shell test $(CORES) -lt 8 && expr $(CORES) + 1 || echo 8)

.PHONY: demo test lint docs soak clean bench-peers

demo: $(VENV)/.core
	rm -rf demo && mkdir demo
	$(BIN)/recon simulate -o demo/scan.h5 --accel 4 --coils 8
	$(BIN)/recon info demo/scan.h5
	$(BIN)/recon run demo/scan.h5 -o demo/brain.nii.gz -o demo/brain_dicom/ -o demo/brain.png
	@echo "The pictures are in demo/: brain.png (contact sheet), brain.nii.gz (NIfTI), brain_dicom/ (DICOM series)."

# Tests start a hundred processes: each module is compiled once, whatever the environment says.
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/.test lint
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

# A hundred sessions, one after the other; fails where memory, open files or threads of the server rise.
soak: $(VENV)/.test
	$(PIP) install -c constraints.txt "matplotlib>=3.8"
	cd bench && ../$(BIN)/python soak.py --json results/soak.json --picture ../docs/pictures/soak.png

# Where a machine has no GPU, torch's own index spares gigabytes: make bench-peers TORCH="--index-url https://download.pytorch.org/whl/cpu"
PEERS  := .venv-peers
TORCH  ?=
PEERS_PIP := $(PEERS)/bin/python -m pip --disable-pip-version-check -q install -c bench/peers/requirements.txt

bench-peers: $(PEERS)/.done
	@command -v bart >/dev/null || echo "BART is missing: apt-get install bart, or build it from https://mrirecon.github.io/bart"
	@cd bench && ../$(PEERS)/bin/python peers/check.py

$(PEERS)/.done: bench/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS_PIP) $(TORCH) torch
	$(PEERS_PIP) -r bench/peers/requirements.txt
	$(PEERS_PIP) --no-deps fastmri==0.3.0
	$(PEERS_PIP) --no-deps --ignore-requires-python espirit==0.2.1
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) demo build dist site *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e ".[test]"
	$(PIP) install --no-deps fastmri==0.3.0 # its own list names torchvision and lightning, which no test needs
	touch $@ $(VENV)/.core

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e ".[docs]"
	touch $@
