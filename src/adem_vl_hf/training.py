"""Fine-tuning with the stock ``Trainer``: the paper's recipe as defaults, adapter-only checkpoints, exact resume.

The authors' recipe (their README commands for LLaMA-7B): AdamW with betas 0.9 and 0.95, weight decay 0.02 on everything
but 1-D tensors, a peak learning rate of 9e-3 x batch / 256, linear warm-up, half a cosine down to zero, no clipping.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from .data.collator import AdemVLCollator
from .files import write_json
from .modeling.configuration_base import FrozenBasesConfig
from .modeling.modeling_base import FrozenBasesForConditionalGeneration
from .modeling.processing_adem_vl import AdemVLProcessor

BASE_LEARNING_RATE = 9e-3  # at a batch of 256
WARMUP = 0.1  # of all steps: 2 of 20 epochs on ScienceQA
PROCESSES = int(os.environ.get("WORLD_SIZE", 1))  # that torchrun or accelerate started


def training_arguments(
    output_dir: str | os.PathLike[str],
    samples: int,
    batch_size: int = 32,
    epochs: float = 1.0,
    max_steps: int = -1,
    learning_rate: float | None = None,
    **overrides: Any,
) -> TrainingArguments:
    """The paper's recipe as stock ``TrainingArguments``.

    Args:
        samples: size of the training set, from which the number of warm-up steps follows.
        batch_size: per process and forward pass; a step takes that times the processes of the launcher times
            ``gradient_accumulation_steps``.
        learning_rate: peak; default 9e-3 x samples per step / 256.
        overrides: any other field of ``TrainingArguments``. With ``predict_with_generate=True`` (a field of
            ``Seq2SeqTrainingArguments``) evaluation generates, and ``compute_metrics`` sees the answers.
    """
    batch = batch_size * PROCESSES * overrides.get("gradient_accumulation_steps", 1)
    steps = max_steps if max_steps > 0 else int(epochs * -(-samples // batch))
    recipe: dict[str, Any] = {
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": batch_size,
        "num_train_epochs": epochs,
        "max_steps": max_steps,
        "learning_rate": BASE_LEARNING_RATE * batch / 256 if learning_rate is None else learning_rate,
        "warmup_steps": max(1, int(WARMUP * steps)),
        "lr_scheduler_type": "cosine",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "weight_decay": 0.02,
        "max_grad_norm": 0.0,
        "logging_steps": max(1, min(50, steps // 20)),
        "save_total_limit": 2,
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,  # the collator needs the pictures
        "label_names": ["labels"],
        "ddp_find_unused_parameters": False,  # every process uses every trained tensor in every step
    }
    kind = Seq2SeqTrainingArguments if "predict_with_generate" in overrides else TrainingArguments
    return kind(output_dir=str(output_dir), **{**recipe, **overrides})


class JsonLinesLog(TrainerCallback):
    """Everything Trainer logs, one JSON object per line, in ``log.jsonl`` of the output folder."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs:
            with (Path(args.output_dir) / "log.jsonl").open("a", encoding="utf-8") as file:
                print(json.dumps({"step": state.global_step, **logs}), file=file)


def build_trainer(
    model: FrozenBasesForConditionalGeneration,
    processor: AdemVLProcessor,
    train_dataset: Dataset,
    arguments: TrainingArguments,
    max_length: int | None = None,
    **trainer_kwargs: Any,
) -> Trainer:
    """A stock ``Trainer`` (or ``Seq2SeqTrainer``, by its arguments) with this package's collator and a log."""
    callbacks = [*(trainer_kwargs.pop("callbacks", None) or []), JsonLinesLog()]
    kind = Seq2SeqTrainer if isinstance(arguments, Seq2SeqTrainingArguments) else Trainer
    return kind(
        model=model,
        args=arguments,
        train_dataset=train_dataset,
        data_collator=AdemVLCollator(processor, max_length=max_length),
        processing_class=processor,
        callbacks=callbacks,
        **trainer_kwargs,
    )


def train(trainer: Trainer, processor: AdemVLProcessor, resume: bool = False) -> dict[str, Any]:
    """Run the training and save the adapter, the processor and ``training.json`` in the output folder.

    Args:
        resume: go on from the last checkpoint in the output folder, if there is one.

    Returns:
        What ``training.json`` records: data size, steps, batch, learning rate, last logged loss, seconds.
    """
    arguments = trainer.args
    output = Path(arguments.output_dir)
    checkpoint = get_last_checkpoint(str(output)) if resume and output.is_dir() else None
    if checkpoint is not None and isinstance(trainer.model.config, FrozenBasesConfig):
        _check_same_settings(trainer.model.config, checkpoint)
    output.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    result = trainer.train(resume_from_checkpoint=checkpoint)
    # the mean that Trainer returns is wrong after a resume: this leg's sum over the steps of all
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    facts: dict[str, Any] = {
        "samples": len(trainer.train_dataset),  # type: ignore[arg-type]
        "steps": trainer.state.global_step,
        "batch_size": arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size,
        "learning_rate": arguments.learning_rate,
        "weight_decay": arguments.weight_decay,
        "trained_numbers": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "train_loss": round(logged[-1] if logged else result.training_loss, 4),
        "seconds": round(time.perf_counter() - began, 1),
        "seed": arguments.seed,
    }
    if checkpoint is not None:
        facts["resumed_at_step"] = int(checkpoint.rsplit("-", 1)[-1])  # the seconds are those since then
    trainer.save_model(str(output))
    if trainer.is_world_process_zero():
        processor.save_pretrained(output)
        write_json(output / "training.json", facts)
    return facts


def _check_same_settings(config: FrozenBasesConfig, checkpoint: str) -> None:
    """Refuse to go on with an adapter that was trained to be used in another way; its tensors might well fit."""
    saved = AutoConfig.from_pretrained(checkpoint)
    if saved.model_type != config.model_type:
        raise ValueError(f"{checkpoint} holds a {saved.model_type!r} and this run has a {config.model_type!r}")
    for name in config.adapter_fields:
        before, now = getattr(saved, name), getattr(config, name)
        if before != now:
            raise ValueError(
                f"{checkpoint} was trained with {name}={before} and this run has {now}; resume with the same settings, "
                "or choose another output folder"
            )


# samples in the data set's own order, where Transformers can (5 and newer): the OpenMoji mixture is made so that a
# batch then holds little padding
IN_ORDER: dict[str, Any] = (
    {"train_sampling_strategy": "sequential"} if hasattr(TrainingArguments, "train_sampling_strategy") else {}
)


def fastest_setting(seconds: float = 0.3) -> dict[str, Any]:
    """Precision and attention of the frozen bases for training on this machine, measured where it is in doubt.

    With a GPU: bfloat16 and the library's default attention. On a CPU bfloat16 is several times faster where the
    processor multiplies matrices in it and slower where it does not; the fused attention has the slower backward.
    """
    if torch.cuda.is_available():
        return {"dtype": torch.bfloat16}
    if PROCESSES > 1:  # each would measure for itself, and all have to choose the same
        return {"dtype": torch.float32, "attn_implementation": "eager"}
    speeds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(512, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
        a @ b  # the first one sets up
        began, runs = time.perf_counter(), 0
        while time.perf_counter() - began < seconds / 2:
            a @ b
            runs += 1
        speeds[dtype] = runs / (time.perf_counter() - began)
    dtype = torch.bfloat16 if speeds[torch.bfloat16] > 1.2 * speeds[torch.float32] else torch.float32
    return {"dtype": dtype, "attn_implementation": "eager"}
