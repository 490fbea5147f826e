# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs in .venv by itself, once; the second time it starts at once and needs no network.
#   make PYTHON=python3.12 demo     chooses the interpreter (3.11 or newer)
#   make test PYTEST='-k fold -x'   hands options to pytest

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

PYTHON ?= python3
PYTEST ?=

# CUDA code for the GPU of this machine alone; `pip install .` compiles for all architectures, which takes minutes more.
export TORCH_CUDA_ARCH_LIST ?= $(or $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -u | paste -sd ';' -),9.0+PTX)

BIN := .venv/bin
STAMPS := .venv/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check
NATIVE := $(shell find csrc CMakeLists.txt setup.py -type f 2>/dev/null)

# The requirements of the named tables of pyproject.toml, one a line: `build` is what the build needs, any other an extra.
REQUIREMENTS := $(BIN)/python -c 'import sys, tomllib; \
  config = tomllib.load(open("pyproject.toml", "rb")); \
  project = config["project"]; \
  tables = {"build": config["build-system"]["requires"], "runtime": project["dependencies"]} | project["optional-dependencies"]; \
  print(*(requirement for name in sys.argv[1:] for requirement in tables[name]), sep="\n")'

# For `make report`; see docs/results/README.md.
DATA ?=
FIT_DATA ?=
AUTHORS ?=
REPORT ?=

.PHONY: help demo test test-all bench report lint format clean distclean

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

demo: $(STAMPS)/built  ## upscale the bundled photograph: pictures in demo/, figures on the screen
	@$(BIN)/python examples/demo.py

test: $(STAMPS)/built $(STAMPS)/test  ## all tests but the slow ones
	@$(BIN)/python -m pytest -m "not slow" $(PYTEST)

test-all: $(STAMPS)/built $(STAMPS)/test  ## all tests
	@$(BIN)/python -m pytest $(PYTEST)

bench: $(STAMPS)/built $(STAMPS)/bench  ## time the operators and the whole against their peers, on this machine
	@$(BIN)/python bench/kernels.py
	@$(BIN)/python bench/upscale.py

report: $(STAMPS)/built $(STAMPS)/eval  ## docs/results, from DATA=image-sets FIT_DATA=training-images
	@[ -z "$(AUTHORS)" ] || $(BIN)/python -m enaf import "$(AUTHORS)" --backbone fsrcnn -o build/authors-fsrcnn.safetensors
	@$(BIN)/python -m enaf reproduce --data "$(DATA)" --out docs/results $(if $(FIT_DATA),--fit-data "$(FIT_DATA)") \
	  $(if $(AUTHORS),--compare build/authors-fsrcnn.safetensors) $(REPORT)

lint: $(STAMPS)/lint  ## ruff, mypy, clang-format: report only
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@git ls-files -z 'csrc/*' 'tests/native/*' | grep -zE '\.(h|cpp|cu|cuh)$$' | xargs -0r $(BIN)/clang-format --dry-run --Werror

format: $(STAMPS)/lint  ## let ruff and clang-format mend what they can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@git ls-files -z 'csrc/*' 'tests/native/*' | grep -zE '\.(h|cpp|cu|cuh)$$' | xargs -0r $(BIN)/clang-format -i

clean:  ## remove what building, testing and the demo left; keep .venv
	rm -rf build dist demo reports .mypy_cache .pytest_cache .ruff_cache .hypothesis enaf_ext/*.so $(STAMPS)/built
	find . \( -name .venv -o -name .git \) -prune -o \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +

distclean: clean  ## ... and .venv
	rm -rf .venv

$(STAMPS)/runtime: constraints.txt pyproject.toml
	@if [ ! -x $(BIN)/python ]; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "This needs Python 3.11 or newer; name one, for instance: make PYTHON=python3.12"; exit 1; }; \
	  echo "Creating .venv"; \
	  $(PYTHON) -m venv .venv || { echo "python3 cannot make environments; on Debian and Ubuntu: apt install python3-venv"; rm -rf .venv; exit 1; }; \
	fi
	@mkdir -p $(STAMPS)
	@echo "Installing PyTorch and what the build needs into .venv (once; mostly the download)"
	@$(PIP) install --quiet --constraint constraints.txt torch
	@$(REQUIREMENTS) build runtime | $(PIP) install --quiet --constraint constraints.txt --requirement /dev/stdin
	@touch $@

# The build tree stays in build/, so that only what changed is compiled again.
$(STAMPS)/built: $(STAMPS)/runtime $(NATIVE)
	@echo "Building the operators (a minute or two where CUDA is compiled too)"
	@$(PIP) install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

$(STAMPS)/test: $(STAMPS)/runtime
	@echo "Installing what the tests need"
	@$(REQUIREMENTS) test train eval | $(PIP) install --quiet --constraint constraints.txt --requirement /dev/stdin
	@touch $@

$(STAMPS)/lint $(STAMPS)/bench $(STAMPS)/eval: $(STAMPS)/%: $(STAMPS)/runtime
	@echo "Installing what make needs for it ($*)"
	@$(REQUIREMENTS) $* | $(PIP) install --quiet --constraint constraints.txt --requirement /dev/stdin
	@touch $@
