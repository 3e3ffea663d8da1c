include common.mk
.PHONY: pretrained-model

# The demonstration is AdaCtrl's; another paper's: make -C PAPER demo
demo: setup
	@$(MAKE) -C adactrl demo

test: setup
	@$(PY) -m pytest $(ARGS)

lint: setup
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .
	@$(PYRIGHT)

train reproduce: setup
	@set -e; for paper in $(BUILT); do $(MAKE) -C $$paper $@; done

tables: setup
	@set -e; for paper in $(BUILT); do $(MAKE) -C $$paper $@; done
	@$(PY) benchmarks/_records.py

bench: setup
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(PY) $$script $(ARGS); done

pretrained-model: setup  ## fetch SmolLM2-135M-Instruct once for --preset pretrained (93 MB, 1 min)
	@$(PY) -m shared.pretrained
