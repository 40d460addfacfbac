# `make demo` and `make test` are all that a new user needs; both make .venv themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test lint docs clean

demo: $(VENV)/.core
	rm -rf demo && mkdir demo
	$(BIN)/recon simulate -o demo/scan.h5 --accel 4 --coils 8
	$(BIN)/recon info demo/scan.h5
	$(BIN)/recon run demo/scan.h5 -o demo/brain.nii.gz -o demo/brain_dicom/ -o demo/brain.png
	@echo "The pictures are in demo/: brain.png (contact sheet), brain.nii.gz (NIfTI), brain_dicom/ (DICOM series)."

test: $(VENV)/.test lint
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) demo build dist site *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e ".[test]"
	touch $@ $(VENV)/.core

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e ".[docs]"
	touch $@
