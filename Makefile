# Everything from a fresh clone: `make train` runs the main job, `make test` the tests. Needs only Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_DIR ?= runs/ppo-cartpole

.PHONY: train test lint benchmark benchmark-peers clean

train: $(VENV)/.installed
	$(BIN)/python -m rljax.experiments.train --agent=ppo --env=gymnax/CartPole-v1 --steps=500000 --num_seeds=16 --seed=0 \
		--run_dir=$(RUN_DIR) --resume

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

benchmark: $(VENV)/.installed
	$(BIN)/python -m rljax.experiments.benchmark

benchmark-peers: $(VENV)/.installed .venv-peers/.installed
	$(BIN)/python -m rljax.experiments.benchmark --peers=.venv-peers/bin/python

.venv-peers/.installed: experiments/benchmarks/requirements-peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet torch==2.13.0
	.venv-peers/bin/pip install --quiet -r $<
	touch $@

$(VENV)/.installed: setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rljax needs Python 3.11 or newer; give it as PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[dev,gymnasium]'
	touch $@

clean:
	rm -rf $(VENV) .venv-peers build *.egg-info
