# `make demo` and `make test` need Python 3.11 or newer and nothing else: the environment is made on first use, and
# made again only when pyproject.toml or constraints.txt change.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help demo test checks assets clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(INSTALLED)  ## post-train the embedded FLUX pipeline with OTCA: CPU, minutes, no download
	$(BIN)/stepcredit train $(FLAGS)

test: $(INSTALLED) checks  ## lint, import floors, types, then every test
	$(BIN)/python -m pytest

checks: $(INSTALLED)  ## lint, import floors, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright --pythonpath $(BIN)/python

assets: $(INSTALLED)  ## train every embedded model again (hours on two cores; resumes when stopped)
	$(BIN)/python scripts/assets/autoencoder.py
	$(BIN)/python scripts/assets/rewards.py
	$(BIN)/python scripts/assets/generator.py
	$(BIN)/python scripts/assets/video_autoencoder.py
	$(BIN)/python scripts/assets/video_judge.py
	$(BIN)/python scripts/assets/video_generator.py
	$(BIN)/python scripts/assets/card.py

clean:  ## remove the environment and build leftovers; runs stay
	rm -rf .venv build dist

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which with: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	@touch $@
