# `make demo` and `make test` set everything up by themselves; every other target uses the same environment.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# compiled modules are kept: without them each of the tests' processes compiles the package anew, seconds of it
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo docs test test-ray test-core test-all check format bench cluster-test wheel clean

setup: $(READY)

$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(READY)

demo: setup
	$(BIN)/rechub-ray demo

# into site/, which opens without a network (`python -m http.server -d site` for its search)
docs: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,docs]"
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# on two cores side by side: what uses Ray waits for processes half of its time
test: setup
	@echo "Two runs of pytest side by side, about ten minutes; each one's output comes when it ends."
	@$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target test-ray test-core

# of the files that name the marker: to find all other tests takes ten seconds
test-ray: setup
	$(BIN)/python -m pytest -m "ray and not long and not cluster and not gpu and not bench" $$(grep -rl --include="test_*.py" "mark\.ray\b" tests)

# in two processes that give way to those of Ray's tests
test-core: setup
	nice -n 10 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not ray and not long and not cluster and not gpu and not bench"

test-all: setup
	$(BIN)/python -m pytest -m "not cluster and not gpu and not bench"

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not ray and not slow and not long and not cluster and not gpu and not bench"

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,bench]"
	$(BIN)/python -m benchmarks

cluster-test: setup
	$(BIN)/python -m pytest tests/cluster -m cluster -v

wheel: setup
	$(BIN)/python -m build --wheel

clean:
	rm -rf dist build demo runs site .mypy_cache .ruff_cache .pytest_cache .hypothesis
