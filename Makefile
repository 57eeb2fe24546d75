# `make demo` trains, evaluates, saves, reloads and shows; `make test` installs and runs every check that CI runs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test table clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m adem_vl_hf.demo --output-dir runs/demo

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

# measures the shipped checkpoint (resumable) and rewrites the tables of README.md
table: $(VENV)/installed
	$(BIN)/python benchmarks/quality.py --write

clean:
	rm -rf $(VENV) runs
