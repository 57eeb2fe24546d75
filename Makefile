# `make demo` trains, evaluates, saves, reloads and shows; `make test` installs and runs every check that CI runs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

OLDEST := $(VENV)/oldest
V5.0 := $(VENV)/5.0
LMMS := $(VENV)/lmms-eval
SUITE := $(VENV)/transformers-tests
# what the older supported versions of Transformers are tried with: the model, its checkpoints, its training
CORE := tests/modeling/test_ablations.py \
	tests/modeling/test_chat.py \
	tests/modeling/test_checkpoint.py \
	tests/modeling/test_checkpoint_errors.py \
	tests/data/test_collator.py \
	tests/modeling/test_configuration.py \
	tests/modeling/test_evlm_forward.py \
	tests/modeling/test_evlm_generation.py \
	tests/modeling/test_experts.py \
	tests/modeling/test_families.py \
	tests/modeling/test_forward.py \
	tests/modeling/test_fusion.py \
	tests/modeling/test_generation.py \
	tests/modeling/test_generation_options.py \
	tests/modeling/test_gradients.py \
	tests/hub/test_upload.py \
	tests/modeling/test_lora.py \
	tests/modeling/test_parity.py \
	tests/modeling/test_peft.py \
	tests/modeling/test_pipelines.py \
	tests/modeling/test_processor_options.py \
	tests/modeling/test_processor_pictures.py \
	tests/modeling/test_published.py \
	tests/modeling/test_remote_code.py \
	tests/training/test_resume.py \
	tests/modeling/test_several_images.py \
	tests/training/test_training.py \
	tests/training/test_training_options.py \
	tests/modeling/test_unfrozen_blocks.py \
	tests/modeling/test_vision.py

.PHONY: demo check docs test test-5.0 table clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# in front of the same torch
$(OLDEST)/installed $(V5.0)/installed $(LMMS)/installed: $(VENV)/%/installed: $(VENV)/installed constraints-%.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/$* -r constraints-$*.txt
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

# style, docstrings, types and links: no test runs
check: docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/flake8 src modeling
	$(BIN)/mypy

# the site, in runs/site
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

test: check $(OLDEST)/installed $(SUITE)/installed $(LMMS)/installed
	$(BIN)/python -m pytest -n 2
	PYTHONPATH=$(CURDIR)/$(LMMS) $(BIN)/python -m pytest tests/evaluation/test_lmms_eval.py
	PYTHONPATH=$(CURDIR)/$(OLDEST) $(BIN)/python -m pytest -n 2 $(CORE)

# the first version 5, between the two that `make test` tries
test-5.0: $(VENV)/installed $(V5.0)/installed
	PYTHONPATH=$(CURDIR)/$(V5.0) $(BIN)/python -m pytest -n 2 $(CORE)

# measures the shipped checkpoint (resumable) and rewrites the tables of README.md
table: $(VENV)/installed
	$(BIN)/python benchmarks/quality.py --write

clean:
	rm -rf $(VENV) runs
