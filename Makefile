# svdistill: everything a newcomer needs. Each target makes .venv first, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LIBRARIES := $(VENV)/libraries

.PHONY: help install demo test test-gpu kill-test lint fuzz bench rehearse clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# Installed once; again only when what is to be installed has changed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "svdistill needs Python 3.11 or newer; set PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(LIBRARIES): tests/libraries.txt $(STAMP)
	rm -rf $@
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ --requirement $<
	@touch $@

install: $(STAMP)  ## make .venv and install svdistill with its development tools

demo: $(STAMP)  ## the whole story on embedded data, in about two minutes on two CPU cores
	$(BIN)/svdistill demo

lint: $(STAMP)  ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A process for each core, of one thread: nearly all tests are too small to gain by more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q --numprocesses auto --maxprocesses 8 --dist loadfile

test: lint $(LIBRARIES)  ## lint, then all tests, those of other libraries beside these
	$(PYTEST)
	PYTHONPATH=$(CURDIR)/$(LIBRARIES) $(PYTEST) -k "timm or torchvision or torchdistill"

test-gpu: $(STAMP)  ## the tests of what computes, on a GPU; skipped where there is none
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; \
	then SVDISTILL_TEST_DEVICE=cuda $(BIN)/pytest -q tests/gpu; \
	else echo "skipped: no CUDA device is visible"; fi

KILLS ?= 100
kill-test: $(STAMP)  ## kill trainings at KILLS random moments (100, ten minutes), resume them, count what differs
	$(BIN)/python -m tests.kill --kills $(KILLS)

fuzz: $(STAMP)  ## damage files of every kind in a million ways, and read them; INPUTS=N for another number
	$(BIN)/python -m tests.fuzz --inputs $(or $(INPUTS),1000000)

bench: $(STAMP)  ## time loss, decomposition, step, input pipeline and scaling; writes bench-results/*.json
	$(BIN)/python -m benchmarks

rehearse: $(STAMP)  ## try the benchmarks for a GPU, tiny, on a CPU, in two minutes; measures nothing
	$(BIN)/python -m benchmarks gpu --rehearse --out bench-results/rehearsal

clean:  ## remove .venv and caches; runs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
