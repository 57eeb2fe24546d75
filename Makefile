# `make demo` trains, evaluates, saves, reloads and shows. `make test` installs and tests every feature once.
# `make check` checks style and types, `make test-all` tests the rest. CI (.ci/run) runs them all.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

OLDEST := $(VENV)/oldest
V5.0 := $(VENV)/5.0
LMMS := $(VENV)/lmms-eval
APP := $(VENV)/app
SUITE := $(VENV)/transformers-tests
# the tests of a file stay on one process, which makes their fixtures once; files go out in the order of tests/conftest.py;
# three processes keep two cores busy, as some tests wait for processes of their own
PYTEST := -m pytest -n 3 --dist loadscope --no-loadscope-reorder
# tests start many processes, which would compile the package anew each time
export PYTHONDONTWRITEBYTECODE :=
# the kernels of a processor without AVX-512, which round otherwise
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2

.PHONY: demo check types style docs test fuzz kills test-all test-slow test-lmms-eval test-browser screenshot chromium \
	test-oldest test-5.0 test-avx2 table clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# in front of the same torch
$(OLDEST)/installed $(V5.0)/installed $(LMMS)/installed $(APP)/installed: $(VENV)/%/installed: $(VENV)/installed constraints-%.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/$* -r constraints-$*.txt
	touch $@

# Transformers' own tests: its source distribution has them
$(SUITE)/installed: $(VENV)/installed
	rm -rf $(SUITE)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary transformers \
		-c constraints.txt -d $(SUITE) transformers
	tar xzf $(SUITE)/transformers-*.tar.gz -C $(SUITE) --strip-components=1 --wildcards '*/tests/test_*.py'
	touch $(SUITE)/tests/__init__.py
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m adem_vl_hf.demo --output-dir runs/demo

# style, docstrings, types and links, two at a time: no test runs
check: $(VENV)/installed
	$(MAKE) --no-print-directory -j 2 --output-sync types style docs

# the bundle is a part of the package, but lies elsewhere: together they are checked as they are installed
types: $(VENV)/installed
	rm -rf runs/types && mkdir -p runs/types && cp -r src/adem_vl_hf runs/types && cp -r modeling runs/types/adem_vl_hf
	$(BIN)/mypy

style: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/flake8 src modeling

# the site, in runs/site
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# every feature once, in a few minutes (the markers are explained in pyproject.toml)
test: $(VENV)/installed
	$(BIN)/python $(PYTEST) -m "not slow"

# damaged inputs for every reader, ten times as many as in `make test-slow` and others each night; the table of outcomes is in
# runs/fuzz.md
fuzz: $(VENV)/installed
	mkdir -p runs
	FUZZ_EXAMPLES=10 FUZZ_SEED=$(shell date +%j) FUZZ_TABLE=runs/fuzz.md $(BIN)/python -m pytest -s tests/fuzz

# what `make test` leaves out
test-all: test-slow test-lmms-eval test-browser test-oldest test-5.0 test-avx2

# more families, several processes, Transformers' own suites, damaged inputs, kills
test-slow: $(SUITE)/installed
	$(BIN)/python $(PYTEST) -m slow

test-lmms-eval: $(LMMS)/installed
	PYTHONPATH=$(CURDIR)/$(LMMS) $(BIN)/python -m pytest tests/evaluation/test_lmms_eval.py

# the page of `adem-vl app` in Chromium, which Debian packages; `$(CHROMIUM)` may name another
CHROMIUM ?= chromium
test-browser: $(APP)/installed chromium
	CHROMIUM=$(CHROMIUM) PYTHONPATH=$(CURDIR)/$(APP) $(BIN)/python $(PYTEST) -m slow tests/app

# the picture of the page, for README.md
screenshot: $(APP)/installed chromium
	CHROMIUM=$(CHROMIUM) PYTHONPATH=$(CURDIR)/$(APP) $(BIN)/python docs/app_screenshot.py

chromium:
	command -v $(CHROMIUM) || { test "$$(id -u)" = 0 && apt-get update -q && apt-get install -q -y chromium; } \
		|| { echo "this needs Chromium: install it, or name it with CHROMIUM=PATH"; exit 1; }

test-oldest: $(OLDEST)/installed
	PYTHONPATH=$(CURDIR)/$(OLDEST) $(BIN)/python $(PYTEST) -m "core and not slow"

# the first version 5, between the oldest and the newest
test-5.0: $(V5.0)/installed
	PYTHONPATH=$(CURDIR)/$(V5.0) $(BIN)/python $(PYTEST) -m "core and not slow"

# (where a processor has no AVX-512, `make test` runs on these kernels already)
test-avx2: $(VENV)/installed
	grep -qs avx2 /proc/cpuinfo && ! grep -qs avx512f /proc/cpuinfo || $(AVX2) $(BIN)/python $(PYTEST) -m "kernels and not slow"

# stops saves at every event and trainings at random moments, and prints what became of them: the table of
# docs/reliability.md (hours)
kills: $(VENV)/installed
	$(BIN)/python tests/helpers/kills.py --saves 0 --trainings 34 --seed 1

# measures the shipped checkpoint (resumable) and rewrites its card and the tables of README.md and docs/results.md
table: $(VENV)/installed
	$(BIN)/python benchmarks/quality.py --card
	$(BIN)/python benchmarks/write_tables.py

clean:
	rm -rf $(VENV) runs
