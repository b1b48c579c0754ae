# make demo, make test, make check, make pocket, make bench: everything a newcomer needs; each installs what it lacks.
PYTHON ?= python3
PROMPT ?= a cat in a meadow
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/pocket
PROCESSES ?= 2
PACE ?= 1

# Where bytecode is not written, each of the tests' processes compiles our modules anew.
unexport PYTHONDONTWRITEBYTECODE
# pip compiles what it installs on one core; COMPILE does it on all.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true

.PHONY: demo test check format lint types tests full scores bench pocket clean

$(VENV)/.core: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("aquatint needs Python 3.11 or newer; try: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	$(COMPILE)
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) -e '.[dev]'
	$(COMPILE)
	touch $@

demo: $(VENV)/.core
	@$(BIN)/aquatint generate "$(PROMPT)" --out pictures/

test: $(VENV)/.dev
	@$(MAKE) --no-print-directory lint types tests

check: format test

format: $(VENV)/.dev
	$(BIN)/ruff format -q .
	$(BIN)/ruff check -q --fix .

lint: $(VENV)/.dev
	@$(BIN)/python -m pip list --format=freeze | grep -iE '^(torchvision|nvidia-)' && { echo 'torchvision and nvidia-* must not be installed: docs/decisions/001'; exit 1; } || true
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .

types: $(VENV)/.dev
	$(BIN)/mypy

# To rewrite every assert, so that it can tell its values, takes each process 11 s: it is done for what failed, again.
tests: $(VENV)/.dev
	$(BIN)/pytest -q -n 2 --assert=plain || { $(BIN)/pytest -q --last-failed --last-failed-no-failures none; exit 1; }

scores: $(VENV)/.dev
	$(BIN)/python benchmarks/scores.py --write README.md

full: $(VENV)/.dev
	$(BIN)/pytest -q -m "full or slow"

# Against the peers, which go into an environment of their own (.bench, 19 GB with the models): an hour or two; what it
# takes is in docs/benchmarks.md, as in make bench ARGS='--peers OpenVINO --sizes 256'.
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.peers --write benchmarks $(ARGS)
	$(BIN)/python -m benchmarks.growth --write benchmarks

# The pocket model from nothing, stage by stage; each goes on where it was stopped. Minutes on a GPU, hours without one
# (times PACE); the scenes take 20 GB of disk.
pocket: $(VENV)/.dev
	for stage in words scenes alignment autoencoder latents detector unet export; do \
	  case $$stage in \
	    alignment|autoencoder|unet) run="$(BIN)/torchrun --standalone --nproc-per-node $(PROCESSES)" ;; \
	    *) run=$(BIN)/python ;; \
	  esac; \
	  $$run -m recipes.pocket $$stage --out $(OUT) --pace $(PACE) || exit 1; \
	done

clean:
	rm -rf $(VENV) .bench dist .pytest_cache .mypy_cache .ruff_cache
