# PYTHON: the Python that creates .venv; 3.11 or newer.
PYTHON ?= python3
# PORT: where `make ui` serves; empty: 5000, or a free one.
PORT ?=
# TORCH: the build of torch to install: cpu, cuda or default (pip's choice). Empty: tools/torch_build.py decides.
TORCH ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# PROCESSORS: options for tools/processors.py, such as --tables default --processors Haswell,EPYC
PROCESSORS ?=
# SLOW: `no` skips the parts of `make bench` that take minutes. PARTS: the parts to measure, such as `sweeps peers`; empty: all.
SLOW ?=
PARTS ?=
# How often `make chaos` kills the pipeline, starts sixteen stages at once, and alters records.
KILLS ?= 50
STARTS ?= 20
ALTERATIONS ?= 40

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup ray repro test acceptance acceptance-long lint ui bench chaos processors newest resolve docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

setup: .venv/installed .dvc/tmp/vega.js ## create .venv with the packages pinned in constraints.txt

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	@python tools/torch_build.py '$(TORCH)' '$(TORCH_INDEX)'
	pip install --quiet --editable '.[dev]'
	python -m pipeline.tracking.store.location
	grep -q MLFLOW_DISABLE_TELEMETRY .venv/bin/activate || echo 'export MLFLOW_DISABLE_TELEMETRY=true' >> .venv/bin/activate
	touch $@

.dvc/tmp/vega.js: .venv/installed tools/vega.py
	@python tools/vega.py

ray: .venv-ray/installed ## create .venv-ray: the same packages and Ray, for PIPELINE_ENGINE=ray

# Each extra's environment has the packages of constraints.txt, and those that its own constraints add.
.venv-ray/installed .venv-bench/installed: .venv-%/installed: pyproject.toml constraints.txt constraints-%.txt
	$(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/python tools/torch_build.py '$(TORCH)' '$(TORCH_INDEX)'
	.venv-$*/bin/pip install --quiet --constraint constraints-$*.txt --editable '.[$*]'
	touch $@

repro: setup ## prepare, train, evaluate and track whatever has changed; print the leaderboard
	@pipeline doctor --mend
	PIPELINE_SUMMARY=no dvc repro
	@echo
	@pipeline leaderboard -n 20
	@echo
	@pipeline sync
	@echo "These pages are served by: make ui"

test: lint ## check format, lint, types and names; run the tests
	pytest

acceptance: setup ## run the longer tests: real servers, a browser, and the documents' commands one by one
	pytest tests/acceptance -m 'not long'

acceptance-long: setup ray ## run what takes too long for every push: repeated kills, a cluster, older commits, all processors
	pytest tests/acceptance -m long
	$(MAKE) chaos KILLS=6 STARTS=3 ALTERATIONS=20
	$(MAKE) processors

lint: setup ## check format, lint, types and names
	ruff format --check .
	ruff check .
	mypy
	python tools/names.py

ui: setup ## serve MLflow's pages on this machine, and open the leaderboard
	@pipeline ui $(if $(PORT),--port $(PORT))

bench: repro $(if $(filter no,$(SLOW)),,.venv-bench/installed) ## measure sweeps, storing, growth and reading, and compare with other tools
	SLOW='$(SLOW)' PYTHONPATH=$(CURDIR)/tests:$(CURDIR)/tools python -m bench $(PARTS)

chaos: setup ## kill the pipeline, start stages at once, alter records; print the tally
	PYTHONPATH=tests:tools python tools/chaos.py --kills $(KILLS) --starts $(STARTS) --alterations $(ALTERATIONS)

processors: setup ## train and evaluate here and on emulated processors; compare every byte of the outs
	PYTHONPATH=tests:tools python tools/processors.py $(PROCESSORS)

docs: setup ## write the reference, and the guide's outputs and pictures, from real runs in a temporary clone
	python docs/reference.py
	PYTHONPATH=docs:tests:tools python docs/render.py

newest: setup ## install the newest release of every direct dependency in .newest, run the tests, say what broke
	python tools/newest.py '$(TORCH_INDEX)'

resolve: setup ## resolve constraints.txt for each Python and platform; install nothing
	python tools/resolve.py

clean: ## remove outs, checkpoints and tools' caches; keep MLflow's store, DVC's cache and .venv
	rm -rf data/prepared data/trained data/evaluated plots dvc_plots leaderboard.csv metrics.json report.html
	rm -rf .dvc/tmp/checkpoints .dvc/tmp/bad_cells.csv
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find pipeline tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
