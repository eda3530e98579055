# Everything runs in a virtual environment of its own; only Python (3.10 to 3.14) and make are needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Up to four tests at a time, each on one core: what they solve is too small for more.
TESTS := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: demo test test-torch test-browser test-integrations lint constraints clean

demo: $(VENV)/.demo  ## Build an index of ICD-10-CM with a real cross-encoder and answer from it
	$(BIN)/crossknn demo

test: $(VENV)/.dev lint  ## Lint, types and tests, without torch; what needs torch is not covered here
	$(TESTS) --cov=crossknn --cov-fail-under=90

test-torch: $(VENV)/.torch  ## The tests that need torch and sentence-transformers
	$(TESTS) -m torch

test-browser: $(VENV)/.browser  ## The page in Chromium (Debian's; installed where apt may)
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq -y chromium; }
	$(BIN)/python -m pytest -m browser tests/browser

test-integrations: $(VENV)/.integrations  ## The retrievers for LangChain, LlamaIndex, Haystack, PyTerrier; GAR against PyTerrier's
	$(TESTS) -m integrations tests/integrations tests/search

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml demo/pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable . --editable ./demo
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.demo
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.torch: $(VENV)/.dev
	$(PIP) install --quiet --constraint constraints.txt --editable '.[torch]'
	@touch $@

$(VENV)/.browser: $(VENV)/.dev
	$(PIP) install --quiet --constraint constraints.txt --editable '.[browser]'
	@touch $@

$(VENV)/.integrations: $(VENV)/.dev
	$(PIP) install --quiet --constraint constraints.txt --editable '.[integrations,rivals]'
	@touch $@

constraints: $(VENV)/.dev  ## Take the newest versions that fit together
	$(PIP) install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --no-emit-package crossknn-demo --no-emit-package crossknn \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --upgrade --output-file constraints.txt pyproject.toml

clean:
	rm -rf $(VENV) demo-output
