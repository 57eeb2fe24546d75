"""Runs of the stock ``Trainer`` with one field changed, and what a run without the change does."""

import dataclasses
import os

import torch
from accelerate.state import AcceleratorState
from training_runs import adapter, processor_of, samples
from transformers import Trainer, TrainingArguments

from adem_vl_hf.data.collator import AdemVLCollator

KNOWN = {field.name for field in dataclasses.fields(TrainingArguments)}
EACH_STEP = {"eval_strategy": "steps", "eval_steps": 1}


def known(cases):
    """Leave out cases with fields that this version of Transformers does not have."""
    return [case for case in cases if case.keys() <= KNOWN]


def name(fields):
    """What a test with these fields is called."""
    return "-".join(f"{field}={value}" for field, value in fields.items()).replace(" ", "")


def stock(bases, arch, folder, train=True, model=None, data=None, trainer=Trainer, arguments=TrainingArguments,
          around=None, **fields):  # fmt: skip
    """A ``Trainer`` as a user of Transformers writes it: three steps of two rows, some with an image.

    Args:
        bases: folder of the tiny bases. arch: which model. folder: output. train: whether to run it at once.
        model, data: others than the usual. trainer, arguments: the classes. around: further arguments of the trainer.
    """
    # both outlive a trainer: the precision in the environment (Transformers 4.57), the state in accelerate
    for variable in [variable for variable in os.environ if variable.startswith("ACCELERATE_")]:
        del os.environ[variable]
    AcceleratorState._reset_state(reset_partial_state=True)
    around = dict(around or {})
    if "model_init" not in around:
        around["model"] = model if model is not None else arch.build(bases)
    processor = processor_of(bases, around["model"] if "model" in around else around["model_init"]())
    usual = {
        "per_device_train_batch_size": 2, "max_steps": 3, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
        "remove_unused_columns": False, "learning_rate": 1e-2, "logging_steps": 1, "report_to": "none",
        "optim": "adamw_torch", "seed": 0,
    }  # fmt: skip
    usual |= {"train_dataset": samples(8, "some") if data is None else data, "eval_dataset": samples(5, "some")}
    split = {key: usual.pop(key) for key in ("train_dataset", "eval_dataset")}
    made = trainer(
        args=arguments(output_dir=str(folder), **{**usual, **fields}),
        **{"data_collator": AdemVLCollator(processor), "processing_class": processor, **split, **around},
    )
    if train:
        made.train()
    return made


def logged(trainer, key):
    """The values of a key in the log, in order."""
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def distance(one, other):
    """The largest difference between two adapters."""
    return max((one[key] - other[key]).abs().max().item() for key in one)


def trained(trainer):
    """A copy of the adapter after the run."""
    return adapter(trainer.model)


def frozen(model):
    """Everything of a model but its adapter."""
    return {key: tensor.clone() for key, tensor in model.state_dict().items() if not key.startswith("adapter.")}


def assert_frozen(model, before):
    for key, tensor in frozen(model).items():
        assert torch.equal(tensor, before[key]), key
