# Targets of the root and of every paper folder. A paper's Makefile sets PAPER and includes this file; the root
# sets nothing, and its targets run those of all built papers (the folders with a train.py).
# Paths stay relative, so that a clone may lie in a folder with spaces in its name.

PYTHON ?= python3
ARGS ?=
ROOT := $(if $(PAPER),..,.)
VENV := $(ROOT)/.venv
PY := $(VENV)/bin/python
PAPERS := adactrl alignment_study tool_env_rl resip_assembly cls_rl
BUILT := $(patsubst $(ROOT)/%/train.py,%,$(wildcard $(PAPERS:%=$(ROOT)/%/train.py)))
UNBUILT := $(if $(PAPER),$(if $(filter $(PAPER),$(BUILT)),,yes))
# The environment is kept while the pins and the clone's place stay the same: their checksum is the stamp's name.
STAMP := $(VENV)/.stamp-$(shell cd $(ROOT) && { cat pyproject.toml constraints.txt; pwd -P; } | cksum | tr ' ' '-')
# Without node pyright would download one, and nothing here opens a socket after the install.
PYRIGHT = if command -v node >/dev/null; then cd $(ROOT) && .venv/bin/python -m pyright $(PAPER); \
	else echo "pyright skipped: it needs node on the PATH"; fi
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint train reproduce tables bench clean

help:  ## this list
	@echo 'make TARGET [ARGS="--option value"] [PYTHON=python3.11]'
	@echo "$(if $(PAPER),$(PAPER) is $(if $(UNBUILT),not )built$(if $(UNBUILT), yet),papers built: $(BUILT))"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## the environment in .venv (2-3 min; again only when the pins change)

$(STAMP):
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python %d.%d is too old: make $(MAKECMDGOALS) PYTHON=python3.11, or newer" % v[:2])'
	@if ! $(PY) -m pip --version >/dev/null 2>&1; then \
		echo "setup: making .venv with $(PYTHON)"; $(PYTHON) -m venv --clear $(VENV); fi
	@echo "setup: installing the pinned packages into .venv (2-3 minutes the first time)"
	@cd $(ROOT) && .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@rm -f $(VENV)/.stamp-* && touch $@ && echo "setup: done; to activate it: . $(VENV)/bin/activate"

clean:  ## delete caches, at the root .venv too (seconds; runs/ and results/ stay)
	@find . \( -name .git -o -name .venv -o -name runs \) -prune -o -type d \
		\( -name __pycache__ -o -name .pytest_cache -o -name .ruff_cache -o -name .hypothesis \) -prune -exec rm -rf {} +
	@$(if $(PAPER),true,rm -rf .venv)

ifneq ($(UNBUILT),)
lint: setup
	@$(PY) -m ruff check --quiet . && $(PY) -m ruff format --check --quiet .
	@echo "$(PAPER) is not built yet: there is no code to check."

demo test train reproduce tables bench: setup
	@echo "$(PAPER) is not built yet: there is nothing to $@ (the status of all papers: ../README.md)." >&2; exit 1
else ifneq ($(PAPER),)
demo: setup  ## train at small scale and print the table (up to 10 min on two cores)
	@$(PY) train.py $(ARGS)

test: setup  ## pytest, CPU only and offline (up to 10 min on two cores)
	@cd .. && .venv/bin/python -m pytest tests/$(PAPER) $(ARGS)

lint: setup  ## ruff and pyright (1 min)
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .
	@$(PYRIGHT)

train: setup  ## train.py with your ARGS, as "--preset pretrained" (small: up to 10 min)
	@$(PY) train.py $(ARGS)

ifneq ($(wildcard reproduce.py),)
reproduce: setup  ## every row of RESULTS.md at small scale, 3 seeds, resumable (1 to 3 h; ARGS=--dry-run)
	@$(PY) reproduce.py $(ARGS)

tables: setup  ## render RESULTS.md and the README's blocks from results/ (seconds)
	@$(PY) reproduce.py --tables
else
reproduce tables: setup
	@echo "$(PAPER) has no reproduce.py yet, so nothing to $@"
endif

bench: setup  ## benchmarks/*.py: ours against stock, interleaved (about 10 min)
	@$(MAKE) -C .. bench
endif
