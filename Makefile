# `make demo` trains, evaluates, saves, reloads and shows; `make test` installs and runs every check that CI runs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

OLDEST := $(VENV)/oldest
SUITE := $(VENV)/transformers-tests
# what the oldest supported Transformers is tried with: the model, its checkpoints, its training
CORE := $(addprefix tests/test_,ablations.py chat.py checkpoint.py checkpoint_errors.py collator.py configuration.py \
	families.py forward.py fusion.py generation.py gradients.py hub.py lora.py parity.py peft.py processor_pictures.py \
	remote_code.py resume.py training.py training_options.py vision.py)

.PHONY: demo test table clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# in front of the same torch
$(OLDEST)/installed: $(VENV)/installed constraints-oldest.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(OLDEST) -r constraints-oldest.txt
	touch $@

# Transformers' own tests: its source distribution has them
$(SUITE)/installed: $(VENV)/installed
	rm -rf $(SUITE)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary transformers \
		-c constraints.txt -d $(SUITE) transformers
	tar xzf $(SUITE)/transformers-*.tar.gz -C $(SUITE) --strip-components=1 --wildcards '*/tests/test_*.py'
	touch $(SUITE)/tests/__init__.py
	rm $(SUITE)/transformers-*.tar.gz
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m adem_vl_hf.demo --output-dir runs/demo

test: $(VENV)/installed $(OLDEST)/installed $(SUITE)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2
	PYTHONPATH=$(CURDIR)/$(OLDEST) $(BIN)/python -m pytest -n 2 $(CORE)

# measures the shipped checkpoint (resumable) and rewrites the tables of README.md
table: $(VENV)/installed
	$(BIN)/python benchmarks/quality.py --write

clean:
	rm -rf $(VENV) runs
