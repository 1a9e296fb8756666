# svdistill: everything a newcomer needs. Each target makes .venv first, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LIBRARIES := $(VENV)/libraries
TRACKERS := $(VENV)/trackers
TOOLS := $(VENV)/dist-tools
UNPACKED := $(VENV)/unpacked

.PHONY: help install demo docs serve-docs test test-trackers test-gpu kill-test lint fuzz bench rehearse dist test-dist clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# Installed once; again only when what is to be installed has changed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "svdistill needs Python 3.11 or newer; set PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(LIBRARIES) $(TRACKERS): $(VENV)/%: tests/%.txt $(STAMP)
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

docs: $(STAMP)  ## build the documentation site into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build

serve-docs: $(STAMP)  ## show the site at http://127.0.0.1:8000, built again whenever a page changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

# A process for each core, of one thread: nearly all tests are too small to gain by more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q --numprocesses auto --maxprocesses 8 --dist loadfile

test: lint docs $(LIBRARIES)  ## lint, the site, then all tests, those of other libraries beside these
	$(PYTEST)
	PYTHONPATH=$(CURDIR)/$(LIBRARIES) $(PYTEST) -k "timm or torchvision or torchdistill"

test-trackers: $(TRACKERS)  ## the tests of MLflow, Weights & Biases and Trackio, with a server on this machine; 320 MB more
	PYTHONPATH=$(CURDIR)/$(TRACKERS) $(BIN)/pytest -q tests/trackers

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

$(TOOLS)/.installed: constraints.txt
	rm -rf $(TOOLS)
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $< build hatchling twine
	@touch $@

dist: $(TOOLS)/.installed  ## build sdist and wheel into dist/ and check them as an index would; TAG=v1.2.3 must be the version
	rm -rf dist
	$(TOOLS)/bin/python -m build --no-isolation
	$(TOOLS)/bin/twine check --strict dist/*
	@test -z "$(TAG)" || test -f "dist/svdistill-$(TAG:v%=%).tar.gz" || { echo "$(TAG) is not the version in src/svdistill/version.py"; exit 1; }

# The wheel in an environment of its own, outside the sources; with the tests of the unpacked sdist.
test-dist: dist  ## install the wheel in a clean environment, run the sdist's tests of what computes, and train; TORCH=2.6.0
	rm -rf $(UNPACKED)
	$(PYTHON) -m venv $(UNPACKED)
	$(UNPACKED)/bin/python -m pip install --quiet --disable-pip-version-check \
	  $(if $(TORCH),torch==$(TORCH),--constraint constraints.txt) dist/*.whl pytest hypothesis
	mkdir $(UNPACKED)/sdist
	tar -xzf dist/*.tar.gz -C $(UNPACKED)/sdist --strip-components 1
	cd $(UNPACKED)/sdist && ../bin/python -m pytest -q tests/linalg tests/losses tests/test_gradients.py tests/test_public.py
	cd $(UNPACKED) && bin/svdistill train digits/svd-recommended train.epochs=2 teacher.overrides.train.epochs=2

clean:  ## remove .venv, site and caches; runs stay
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
