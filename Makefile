# Two commands matter: `make demo` and `make test`. Both set up all they need in .venv.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Settings of the machine's own pip (extra indexes, constraints, link folders) must not change what a lock installs.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := config bundles jobs worker scheduler cli tests bench deploy

.PHONY: help demo test browser check format lint types imports bench real sixty large trust chaos screenshots reference docs lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.runtime ## set up, then fetch a public visualization package into ./demo
	$(BIN)/vizfetch fetch moderne-visualizations-misc --out demo

test: $(VENV)/.dev browser ## set up, then run the tests
	$(BIN)/python -m pytest -n 3 --dist worksteal $(PYTEST_ARGS)

browser: ## the Chromium that the tests of the page drive: the one on PATH, else Debian's
	@command -v chromium > /dev/null || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null \
	    || { echo "The tests of the page need chromium on PATH; as root: apt-get install chromium" >&2; exit 1; }; \
	  apt-get -qq update \
	    && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends chromium; }

check: format lint types imports reference ## everything that reads the code without running it

format: $(VENV)/.dev ## is the code formatted
	$(BIN)/ruff format --check $(SOURCES)

lint: $(VENV)/.dev ## ruff, all rules
	$(BIN)/ruff check $(SOURCES)

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

imports: $(VENV)/.dev ## the floors of the house
	$(BIN)/lint-imports --no-cache

reference: $(VENV)/.dev ## do the documents show the settings as they are
	$(BIN)/python -m config.reference --check
	$(BIN)/python -m bundles.schema --check

docs: $(VENV)/.dev ## write the settings and the schema of bundle.json into the documents
	$(BIN)/python -m config.reference
	$(BIN)/python -m bundles.schema

bench: $(VENV)/.dev ## what it costs, beside what people would use instead; BENCH="cold warm" runs parts
	PYTHONPATH=. $(BIN)/python -m bench $(BENCH_ARGS) $(BENCH)

real: $(VENV)/.dev ## the main job on real input against the public index, and what a release must show
	PYTHONPATH=. $(BIN)/python -m bench.real --batch

trust: $(VENV)/.dev ## ten real versions: installed offline, compared with plain pip, tampered with
	PYTHONPATH=. $(BIN)/python -m bench.trust

sixty: $(VENV)/.dev ## sixty real packages over three workers, each failure beside what plain pip says
	PYTHONPATH=. $(BIN)/python -m bench.sixty

large: $(VENV)/.dev ## a batch of 10,000 tiny packages: submit, status, memory; hours; LARGE_ARGS="--seconds 600" cuts it short
	PYTHONPATH=. $(BIN)/python -m bench.large $(LARGE_ARGS)

chaos: $(VENV)/.dev ## services under random faults, ten minutes at most; CHAOS_ARGS="--seed N" replays
	PYTHONPATH=. timeout 600 $(BIN)/python -m tests.chaos $(CHAOS_ARGS)

screenshots: $(VENV)/.dev browser ## pictures of the page with real data, for the documents
	PYTHONPATH=. $(BIN)/python -m bench.screenshots docs/images

compose: ## the Compose deployment from an empty clone, with a worker killed in the middle; needs Docker
	tests/compose/prove.sh $(COMPOSE_ARGS)

lock: $(VENV)/.dev ## renew the requirements files from pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-header --python-version 3.11 \
	  pyproject.toml --group build --output-file requirements.txt
	$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-header --python-version 3.11 \
	  pyproject.toml --group dev --constraint requirements.txt --output-file requirements-dev.txt

clean: ## remove what the other commands made
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

$(VENV)/.runtime: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --require-hashes -r requirements.txt
	# setuptools warns of every editable installation; this one is what a checkout wants.
	PYTHONWARNINGS=ignore $(INSTALL) --no-deps --no-build-isolation --no-index --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.txt
	$(INSTALL) --require-hashes -r requirements-dev.txt
	touch $@
