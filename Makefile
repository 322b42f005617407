# `make demo` and `make test` work on a fresh machine: they set up their own virtual environment and reuse it.
PYTHON ?= python3
VENV ?= .venv
BEAM_VENV ?= .venv-beam
AUDIT_VENV ?= .venv-audit
DOCS_VENV ?= .venv-docs
BIN := $(VENV)/bin
DEMO_DIR ?= .demo
JOBS ?= 2

.PHONY: setup demo docs notebooks test test-slow test-beam bench audit lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       set up, then pretrain on the bundled digits and compare with an untrained control"
	@echo "make docs       build the documentation as a site: open site/index.html"
	@echo "make test       set up, then run the tests"
	@echo "make test-slow  the longer checks"
	@echo "make test-beam  what runs on Apache Beam, in an environment of its own"
	@echo "make bench      measure speed against what else one would run, and print the table"
	@echo "make audit      are the installed versions consistent, and free of known vulnerabilities?"
	@echo "make notebooks  write examples/*.ipynb anew from the scripts of the same names"
	@echo "make lint       style checks;  make format  mend what can be mended"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run-ready: setup.py | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test-ready: setup.py | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.run-ready

setup: $(VENV)/.run-ready

demo: $(VENV)/.run-ready
	$(BIN)/rfd train --config=digits_lt --workdir=$(DEMO_DIR)/digits_lt
	$(BIN)/rfd report --workdir=$(DEMO_DIR)/digits_lt --summary

test: $(VENV)/.test-ready
	$(BIN)/python -m pytest -n $(JOBS) --dist=loadfile

test-slow: $(VENV)/.test-ready
	$(BIN)/python -m pytest -n $(JOBS) --dist=worksteal -m slow

# Apache Beam holds back protobuf and pyarrow, so it has an environment of its own.
$(BEAM_VENV)/.ready: setup.py
	$(PYTHON) -m venv $(BEAM_VENV)
	$(BEAM_VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[beam]' 'pytest>=8.2,<10'
	@touch $@

test-beam: $(BEAM_VENV)/.ready
	$(BEAM_VENV)/bin/python -m pytest tests/extraction

bench: $(VENV)/.test-ready
	$(BIN)/python -m benchmarks

$(AUDIT_VENV)/.ready:
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/pip install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3'
	@touch $@

# The first two checks need no network; the third asks PyPI's advisory service about every installed version.
audit: $(VENV)/.test-ready $(AUDIT_VENV)/.ready
	$(BIN)/pip check
	$(BIN)/python -m pytest -q tests/faults/test_pins.py
	$(BIN)/pip freeze --exclude-editable > $(AUDIT_VENV)/pins.txt
	$(AUDIT_VENV)/bin/pip-audit --strict --disable-pip --no-deps --progress-spinner=off -r $(AUDIT_VENV)/pins.txt || \
	  { echo "make audit: vulnerabilities were found (listed above), or the advisory service cannot be reached" >&2; exit 1; }

# MkDocs has an environment of its own: it reads our docstrings without importing them.
$(DOCS_VENV)/.ready: docs/requirements.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	@touch $@

# Strict: a link or an anchor that leads nowhere, or a page that is in no menu, is an error. Needs no network.
docs: $(DOCS_VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet

# Without outputs; a cell that stays as it was keeps its id.
KERNEL := {"jupytext": null, "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
notebooks: $(VENV)/.test-ready
	$(BIN)/python -m jupytext --quiet --update --to ipynb --update-metadata '$(KERNEL)' $(patsubst %.ipynb,%.py,$(wildcard examples/*.ipynb))

lint: $(VENV)/.test-ready docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test-ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(BEAM_VENV) $(AUDIT_VENV) $(DOCS_VENV) $(DEMO_DIR) *.egg-info build site
