# All of these need Python 3.11 or newer and nothing else: an environment is made on first use, and
# made again only when pyproject.toml or constraints.txt change.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DOCS := build/docs-env

.PHONY: help demo test checks docs wheel surface assets clean

# Copied, each to its place, so that the links of a page hold in the repository and on the site.
PAGES := README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md LICENSE docs examples src/stepcredit

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(INSTALLED)  ## post-train the embedded FLUX pipeline with OTCA: CPU, minutes, no download
	$(BIN)/stepcredit train $(FLAGS)

test: $(INSTALLED) checks  ## lint, import floors, types, then every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --dist loadfile

checks: $(INSTALLED)  ## lint, import floors, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright --pythonpath $(BIN)/python

docs: $(DOCS)/.installed  ## the site, in build/docs: strict, a broken link is an error
	rm -rf build/pages build/docs
	mkdir -p build/pages
	tar -cf - --exclude=__pycache__ --exclude='*.safetensors' --exclude=card.md $(PAGES) | tar -xf - -C build/pages
	$(DOCS)/bin/zensical build --strict

wheel:  ## the wheel, in build/wheel, installed and used from an empty environment elsewhere
	rm -rf build/wheel
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) scripts/check_wheel.py build/wheel/stepcredit-*.whl --constraint constraints.txt

surface: $(INSTALLED)  ## write down again what is public, after a change on purpose
	$(BIN)/python -m pytest tests/habits/test_public_surface.py --update-surface

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

$(DOCS)/.installed: pyproject.toml constraints.txt constraints-docs.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(DOCS)/bin/python -m pip install --quiet --constraint constraints.txt --constraint constraints-docs.txt --group docs
	@touch $@
