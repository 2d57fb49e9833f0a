# Everything is installed into .venv; nothing outside the repository is touched.
# The first run of `make demo` or `make test` downloads TensorFlow and takes some minutes,
# later ones only start what is there.

# The interpreter that creates .venv, 3.11 or newer: make PYTHON=python3.12 test
PYTHON ?= python3
# Test processes. Each imports TensorFlow (some 600 MB of memory).
JOBS ?= 2
# More arguments for pytest: make test ARGS="-k lstm"
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Stamps: an install step runs again only when what it reads has changed.
BASE := $(VENV)/.installed-base
DEMO := $(VENV)/.installed-demo
DEV := $(VENV)/.installed-dev
PEERS := $(VENV)/.installed-peers
ENGINES := $(VENV)-engines/.installed
TRITON := $(VENV)-triton/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-engines lint format typecheck hooks bench docs proto clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) \
		| while IFS='|' read -r target text; do printf '%-18s %s\n' "$$target" "$$text"; done

demo: $(DEMO) ## Train, export, stream and compare a small model; the picture goes to demo/
	$(BIN)/rnnonnx demo --out demo

test: lint ## Lint, type-check and run every test
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(ARGS)

test-engines: $(DEV) $(ENGINES) $(TRITON) ## Test what runs on Ray and in Triton, each in an environment of its own
	timeout 900 $(VENV)-engines/bin/python -m pytest tests/scale $(ARGS)
	RNNONNX_TRITON_ENV=$(VENV)-triton timeout 300 $(BIN)/pytest tests/triton $(ARGS)

lint: $(DEV) ## Check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(DEV) ## Rewrite the files in the project's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

hooks: $(DEV) ## Run the lint commands before every commit from now on
	$(BIN)/pre-commit install

bench: $(PEERS) ## Run the side-by-side measurements; the results go to docs/
	$(BIN)/python benchmarks/node_counts.py
	$(BIN)/python benchmarks/one_step.py --write
	$(BIN)/python benchmarks/pool.py --write
	$(BIN)/python benchmarks/peers.py --write
	$(BIN)/python benchmarks/export_time.py --write
	$(BIN)/python benchmarks/footprint.py --write
	$(BIN)/python benchmarks/precision.py --write
	$(BIN)/python benchmarks/sigkill.py
	$(BIN)/python benchmarks/serve.py --write
	$(BIN)/python benchmarks/store.py --write
	$(BIN)/python benchmarks/store_kill.py

docs: $(DEV) ## Write the generated pages of docs/ again
	$(BIN)/python benchmarks/node_counts.py --write
	$(BIN)/python benchmarks/coverage.py --write

proto: $(DEV) ## Compile the messages of the gRPC server again
	$(BIN)/python -m grpc_tools.protoc -I rnnonnx/serve/rpc \
		--descriptor_set_out=rnnonnx/serve/rpc/inference.pb inference.proto

clean: ## Remove .venv and everything that was built
	rm -rf $(VENV) $(VENV)-engines $(VENV)-triton build dist demo rnnonnx.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find rnnonnx exporters runtime tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

# NOTE: the pip that comes with Python 3.11 knows no dependency groups (PEP 735, pip 25.1).
$(BASE):
	@command -v $(PYTHON) >/dev/null || { \
		echo "error: no interpreter named '$(PYTHON)'; give one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: rnnonnx needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1);" \
			"give another: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "error: '$(PYTHON)' cannot create virtual environments;" \
			"on Debian and Ubuntu install the package python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"
	@touch $@

$(DEMO): $(BASE) pyproject.toml
	@echo "installing TensorFlow and what the demo needs into $(VENV): some minutes the first time"
	$(PIP) install --quiet --editable ".[demo]"
	@touch $@

# NOTE: requirements-nodeps.txt lists packages of which only data files are read; what they
# depend on (torch: gigabytes) is left out.
$(DEV): $(BASE) pyproject.toml tests/requirements-nodeps.txt
	@echo "installing TensorFlow and what the tests need into $(VENV): some minutes the first time"
	$(PIP) install --quiet --editable ".[all]" --group dev
	$(PIP) install --quiet --no-deps --requirement tests/requirements-nodeps.txt
	@touch $@ $(DEMO)

# NOTE: the plain torch of some platforms brings CUDA, gigabytes; the pinned one here does not.
$(PEERS): $(DEV)
	@echo "installing what the measurements compare with into $(VENV)"
	$(PIP) install --quiet --group peers
	@touch $@

# NOTE: Ray pins versions that the rest must not be held to.
$(ENGINES): pyproject.toml
	@echo "installing Ray and what its tests need into $(VENV)-engines: a minute or two the first time"
	$(PYTHON) -m venv --clear $(VENV)-engines
	$(VENV)-engines/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(VENV)-engines/bin/python -m pip install --quiet --editable ".[cpu,ray,redis]" --group engines
	@touch $@

# NOTE: the wheel of nvidia-pytriton holds a server, for Linux on x86_64 alone.
$(TRITON): pyproject.toml
	@echo "installing a Triton server into $(VENV)-triton"
	$(PYTHON) -m venv --clear $(VENV)-triton
	$(VENV)-triton/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(VENV)-triton/bin/python -m pip install --quiet --editable ".[cpu]" --group triton
	@touch $@
