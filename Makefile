# phasejax: `make help` lists the targets.
, := ,
PYTHON ?= python3
PRESET ?= desk
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Where there is an NVIDIA GPU, JAX comes with what it needs to use it.
EXTRAS := dev$(if $(shell command -v nvidia-smi 2>/dev/null),$(,)cuda)

.PHONY: help resumed paper-figures benchmark docs notebooks test test-long test-slurm browser lint format clean
.DELETE_ON_ERROR:
# Not even make may delete a run because the command that made it failed or was stopped.
.PRECIOUS: runs/%.nc

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

paper-figures: runs/$(PRESET).nc ## run the desk preset (PRESET=quick, desk or paper), or reuse or resume it, and draw the figures
	$(BIN)/python -m experiments.paper_figures $<

# A finished run is reused; one that was interrupted has its folder, and goes on, whatever file may stand beside it.
$(patsubst %/experiment.toml,%.nc,$(wildcard runs/*/experiment.toml)): resumed
runs/%.nc: | $(READY)
	@if [ -e runs/$*/experiment.toml ]; then from="--resume runs/$*"; else from="--preset $* --out runs/$*"; fi; \
	set -x; $(BIN)/python -m experiments.grid $$from

benchmark: $(READY) ## measure student-steps per second on this machine, beside JAX, PyTorch and C (minutes, on an idle machine)
	$(BIN)/python -m experiments.benchmark
	$(BIN)/python -m experiments.networks

docs: $(READY) ## make a site of docs/ and the docstrings, build/site/index.html; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d build/doctrees docs build/site

notebooks: $(READY) ## run notebooks/*.ipynb (minutes) and keep their outputs in them
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

test: $(READY) ## run the tests (minutes)
	$(BIN)/python -m pytest -m "not long"

test-long: $(READY) ## run the tests that take longer: more kills, more orders and precisions, larger data
	$(BIN)/python -m pytest -m long

test-slurm: $(READY) ## try the job array on a SLURM of this machine alone (as root installs slurm-wlm and munge)
	$(BIN)/python tests/slurm.py

browser: ## install what the explorer's tests drive (as root, on Debian); without it they are skipped
	command -v chromium >/dev/null || { apt-get -qq update && apt-get -qq install --yes --no-install-recommends chromium; }

lint: $(READY) ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY) ## put the code in the house format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## delete the environment and caches; runs and figures stay
	rm -rf $(VENV) .pytest_cache .ruff_cache *.egg-info

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("phasejax needs Python 3.11 or newer; name one with make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@
