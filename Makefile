# Two commands set everything up on a fresh machine: `make demo` and `make test`.
# The environment goes to $(VENV) and is built again when the dependencies change.

PYTHON ?= python3
VENV ?= .venv
# Test processes; each one computes on a single thread.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ $$n -gt 8 ] && n=8; echo $$n)
PYTEST_ARGS ?=
# Where `make docs` puts the site.
SITE ?= build/site

KEY := $(shell $(PYTHON) tools/env_key.py)
STAMP := $(VENV)/.installed-$(KEY)
PY := $(VENV)/bin/python
SOURCES := fxplastic tests examples tools $(wildcard docs/*.py)

# The checkout comes before any installed copy, whichever environment is used.
export PYTHONPATH := $(CURDIR)

.DEFAULT_GOAL := help
.PHONY: help env demo test check lint format types exact optimizers mutants planted nightly zoo zoo-small \
	approximate evidence parting overhead killed bench bench-env bench-quick \
	same-network saved settings docs look clean

help:
	@echo "make demo     train on long-tailed digits, turn neurons over once, compare (about 4 min)"
	@echo "make test     all tests"
	@echo "make check    format, lint, types, tests and the site: what CI runs"
	@echo "make docs     the documentation site, warnings as errors (half a minute)"
	@echo "make format   rewrite the sources in the project's format"
	@echo "make exact    the exactness table over 31 models: docs/exact.md (resumable)"
	@echo "make nightly  property tests over 2,000 drawn architectures"
	@echo "make mutants  mistakes planted in every rule, and who survives: docs/mutants.md"
	@echo "make planted  mistakes planted around the rules, and who survives: docs/planted.md (about 25 min)"
	@echo "make optimizers  how optimizer state follows: docs/optimizers.md (a minute)"
	@echo "make zoo      every model of timm, torchvision, transformers: docs/zoo.md (hours; resumable)"
	@echo "make zoo-small  the smallest model of each of timm's files, from nothing (about 40 min)"
	@echo "make evidence training runs with and without turnover: docs/results.md (hours; resumable)"
	@echo "make parting  how soon copies part: docs/parting.md (some 10 minutes)"
	@echo "make overhead what scoring and a turnover cost, beside a training step (a minute)"
	@echo "make same-network  a ResNet-18 through turnovers is the plain one throughout (20 minutes)"
	@echo "make saved    ten models saved and loaded in another process: docs/saved.md (5 minutes)"
	@echo "make settings  what works where, from the tests: docs/settings.md (5 minutes)"
	@echo "make killed   the trainer, killed at ten random moments and resumed (2 minutes)"
	@echo "make bench    speed beside Torch-Pruning: docs/speed.md (about an hour; resumable)"
	@echo "make bench-quick  a few of its ratios, compared with the stored ones (3 minutes)"
	@echo "make look     reports in headless Chromium, timed and photographed: docs/look.md (2 minutes)"
	@echo "make approximate  what approximate=True does to functions: docs/approximate.md"

env: $(STAMP)

$(STAMP):
	@test -n "$(KEY)" || { echo "no usable Python: see the message above"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -e ".[test,dev,demo,docs]"
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: $(STAMP)
	$(PY) examples/digits.py

test: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

saved: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) tools/saved.py --out docs/saved.md

settings: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m tools.settings --out docs/settings.md

nightly: $(STAMP)
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=nightly $(PY) -m pytest -n $(JOBS) -m "" tests/test_property*.py $(PYTEST_ARGS)

lint: $(STAMP)
	$(PY) -m ruff format --check $(SOURCES)
	$(PY) -m ruff check $(SOURCES)

types: $(STAMP)
	$(PY) -m mypy

check: lint types test docs

# The site, warnings as errors; pictures are drawn by the build.
docs: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m sphinx -W --keep-going -q -d $(SITE)/.doctrees -b html docs $(SITE)
	@echo "the site is in $(SITE)"

format: $(STAMP)
	$(PY) -m ruff format $(SOURCES)
	$(PY) -m ruff check --fix $(SOURCES)

exact: $(STAMP)
	$(PY) -m tools.exact

optimizers: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m tools.optimizers

mutants: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m tools.mutants

planted: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m tools.planted

# SHARD=1/4 does every fourth model; several shards may run at once.
SHARD ?= 1/1

zoo: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m fxplastic.cli zoo --shard $(SHARD)

zoo-small: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m fxplastic.cli zoo --library timm --rows runs/zoo-small \
		--table runs/zoo-small.md --again $$(cat tests/zoo_small.txt)

approximate: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m tools.approximate

evidence: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m tools.evidence --shard $(SHARD) $(STUDIES)

parting: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m tools.parting

overhead: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m tools.overhead

bench-env: $(STAMP)
	$(PY) -m pip install -q -e ".[bench]"

bench: bench-env
	OMP_NUM_THREADS=1 $(PY) -m tools.bench

bench-quick: bench-env
	OMP_NUM_THREADS=1 $(PY) -m tools.bench --quick

same-network: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m tools.same_network

look: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m tools.look

killed: $(STAMP)
	OMP_NUM_THREADS=1 FXPLASTIC_KILLS=10 $(PY) -m pytest tests/test_training_killed.py

clean:
	rm -rf .venv runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
