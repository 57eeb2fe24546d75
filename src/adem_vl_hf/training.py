"""Fine-tunes with the stock ``Trainer``: the paper's recipe, adapter-only checkpoints, exact resume.

The recipe is that of the authors' README commands for LLaMA-7B: AdamW with betas 0.9 and 0.95, weight decay 0.02 for
all tensors but those with one dimension, linear warm-up, cosine decay to zero, and no gradient clipping. The module
``recipe`` has the peak learning rate.
"""

import logging
import math
import os
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from .broken_runs import StopsWhenBroken
from .callbacks import JsonLinesLog, LearningWatch, StreamPlace
from .data.collator import AdemVLCollator
from .data.prompts import commonest_prompt
from .data.stream import MixedStream, Stream
from .files import write_json
from .json_files import read_object
from .modeling.configuration_adem_vl import AdemVLConfig
from .modeling.configuration_base import FrozenBasesConfig
from .modeling.modeling_base import FrozenBasesForConditionalGeneration
from .modeling.one_save import naming_full_disk
from .modeling.processing_adem_vl import AdemVLProcessor
from .named_classes import OwnClassNames
from .precision import fastest_setting, launched_processes
from .preemption import TERMINATED, SaveOnTermination
from .recipe import paper_learning_rate, peak_learning_rate
from .resuming import SettingsOfOptimizer, check_same_peft, check_same_settings, newest_complete, peft_files
from .training_fields import recorded_fields, refuse, refuse_without_full_batch, refuse_without_lengths
from .whole_checkpoints import WholeCheckpoints
from .workers import LastingWorkers

__all__ = [
    "IN_ORDER",
    "SafeSeq2SeqTrainer",
    "SafeTrainer",
    "build_trainer",
    "fastest_setting",
    "train",
    "training_arguments",
]

logger = logging.getLogger("adem_vl_hf")
WARMUP = 0.1  # the share of all steps: 2 of 20 epochs on ScienceQA

# Samples come in the data set's own order if Transformers has that option (since version 5). The OpenMoji mixture is
# ordered so that a batch has little padding.
IN_ORDER: dict[str, Any] = (
    {"train_sampling_strategy": "sequential"} if hasattr(TrainingArguments, "train_sampling_strategy") else {}
)
FEWEST_BETWEEN_SAVES = 20  # steps
# fields of TrainingArguments that training_arguments has under names of its own
OWN_NAMES = {"per_device_train_batch_size": "batch_size", "num_train_epochs": "epochs"}


class SafeTrainer(OwnClassNames, LastingWorkers, StopsWhenBroken, WholeCheckpoints, Trainer):
    """The stock ``Trainer``, which saves whole checkpoints or none, and stops at NaN."""


class SafeSeq2SeqTrainer(OwnClassNames, LastingWorkers, StopsWhenBroken, WholeCheckpoints, Seq2SeqTrainer):
    """The stock ``Seq2SeqTrainer``, which saves whole checkpoints or none, and stops at NaN."""

    def evaluation_loop(self, *args, **kwargs):
        # evaluate has set a function that keeps the samples with which several processes fill up the last batch
        self.gather_function = self.accelerator.gather_for_metrics
        return super().evaluation_loop(*args, **kwargs)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **gen_kwargs):
        # generate asks for the tokenizer where a base's own generation_config.json has stop_strings
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        gen_kwargs = {"tokenizer": tokenizer, **(gen_kwargs or getattr(self, "_gen_kwargs", {}))}
        # a PeftModel would keep what it is given to itself
        owner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        before = deepcopy(owner.generation_config)
        try:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys, **gen_kwargs)
        finally:  # Transformers fills in defaults, of which it warns at the next batch, and which would be saved
            owner.generation_config = before


def training_arguments(
    output_dir: str | os.PathLike[str],
    samples: int | None,
    batch_size: int = 32,
    epochs: float = 1.0,
    max_steps: int = -1,
    learning_rate: float | None = None,
    model: FrozenBasesForConditionalGeneration | None = None,
    **overrides: Any,
) -> TrainingArguments:
    """Make stock ``TrainingArguments`` with the paper's recipe, and a learning rate that suits the model.

    Args:
        output_dir (str | os.PathLike[str]): The output folder.
        samples (int | None): The size of the training set, from which the number of warm-up steps follows. None means
            that nobody knows it, as of a stream; the number of steps has to be given then.
        batch_size (int): The number of samples per process and forward pass. A training step has as many samples as
            this, times the number of launched processes, times ``gradient_accumulation_steps``.
        epochs (float): The number of epochs.
        max_steps (int): The number of training steps, which replaces ``epochs`` if it is positive.
        learning_rate (float | None): The peak learning rate. None means the one that suits the model, see
            ``peak_learning_rate``, or without a model the paper's, 9e-3 x samples per step / 256.
        model (FrozenBasesForConditionalGeneration | None): The model to train.
        **overrides (Any): Any other field of ``TrainingArguments``. With ``predict_with_generate=True`` (a field of
            ``Seq2SeqTrainingArguments``) an evaluation generates answers, and ``compute_metrics`` is given them.

    Returns:
        The arguments, or ``Seq2SeqTrainingArguments`` with ``predict_with_generate``.

    Raises:
        ValueError: Neither the size of the training set nor the number of steps is known, a field is refused
            (``training_fields``) or is an argument here under another name, or several processes were launched and are
            not connected.
    """
    refuse(overrides, None if model is None else model.config.model_type)
    for field, own in OWN_NAMES.items():
        if overrides.get(field) is not None:
            raise ValueError(f"{field}: give {own}, from which the warm-up and the learning rate follow, too")
    # a number of steps would overrule it in Transformers 4, and newer versions do not have it
    ratio = overrides.pop("warmup_ratio", None)
    batch = batch_size * launched_processes() * overrides.get("gradient_accumulation_steps", 1)
    if samples is None and max_steps <= 0:
        raise ValueError("a data set without a length has no epochs; give the number of training steps, max_steps")
    steps = max_steps if max_steps > 0 else int(epochs * -(-(samples or 0) // batch))
    if learning_rate is None:
        learning_rate = paper_learning_rate(batch) if model is None else peak_learning_rate(model.config)
    recipe: dict[str, Any] = {
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": batch_size,
        "num_train_epochs": epochs,
        "max_steps": max_steps,
        "learning_rate": learning_rate,
        "warmup_steps": max(1, int(WARMUP * steps)) if ratio is None else math.ceil(ratio * steps),
        "lr_scheduler_type": "cosine",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "weight_decay": 0.02,
        "max_grad_norm": 0.0,
        "logging_steps": max(1, min(50, steps // 20)),
        "save_total_limit": 2,
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,  # the collator needs the images
        "label_names": ["labels"],
        "ddp_find_unused_parameters": False,  # every process uses every trainable tensor in every step
    }
    if model is not None and not isinstance(model.config, AdemVLConfig):
        recipe["max_grad_norm"] = 1.0  # EVLM's gradients jump while its gates open
    if not overrides.get("load_best_model_at_end"):  # whose checkpoints are saved when it is evaluated
        recipe["save_steps"] = max(FEWEST_BETWEEN_SAVES, min(500, steps // 10))  # 500 is the library's own default
    if samples is None:  # each process collates its own part of a stream; batches of one process cannot be cut evenly
        recipe["accelerator_config"] = {"dispatch_batches": False}
    kind = Seq2SeqTrainingArguments if "predict_with_generate" in overrides else TrainingArguments
    arguments = kind(output_dir=str(output_dir), **{**recipe, **overrides})
    _refuse_unconnected(arguments)
    return arguments


def build_trainer(
    model: FrozenBasesForConditionalGeneration,
    processor: AdemVLProcessor,
    train_dataset: Dataset,
    arguments: TrainingArguments,
    max_length: int | None = None,
    **trainer_kwargs: Any,
) -> Trainer:
    """Build a ``Trainer`` with this package's collator, a log and warnings, which is hard to damage.

    Its checkpoints appear whole or not at all (``WholeCheckpoints``), and it stops at a loss or a gradient that is NaN
    or infinite (``StopsWhenBroken``).

    Args:
        model (FrozenBasesForConditionalGeneration): The model.
        processor (AdemVLProcessor): Its processor.
        train_dataset (Dataset): The training set, whose items are samples.
        arguments (TrainingArguments): The training arguments. ``Seq2SeqTrainingArguments`` make a ``Seq2SeqTrainer``.
        max_length (int | None): The greatest length of a sequence in tokens. None means the limit of the tokenizer.
        **trainer_kwargs (Any): Further arguments of ``Trainer``, such as ``eval_dataset``.

    Returns:
        The trainer.

    Raises:
        ValueError: A field is refused (``training_fields``), such as grouping by length without lengths, or leaving out
            incomplete batches where there is no other; nothing in the model trains; or it has a module that no
            checkpoint can hold.
    """
    if isinstance(model, FrozenBasesForConditionalGeneration):
        model.check_parts()  # and not when the first checkpoint is saved
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "nothing in the model trains: none of its parameters requires gradients. PEFT's "
            "prepare_model_for_kbit_training freezes the adapter, too; leave it out, or call "
            "model.adapter.requires_grad_(True) after it"
        )
    eval_dataset = trainer_kwargs.get("eval_dataset")
    held_out = eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset]
    refuse_without_lengths(arguments, train_dataset, *held_out)
    refuse_without_full_batch(arguments, arguments.train_batch_size, train_dataset)
    refuse_without_full_batch(arguments, arguments.eval_batch_size, *held_out)
    callbacks = [*(trainer_kwargs.pop("callbacks", None) or []), JsonLinesLog(), LearningWatch()]
    kind = SafeSeq2SeqTrainer if isinstance(arguments, Seq2SeqTrainingArguments) else SafeTrainer
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
    """Run a training and save the adapter, the processor and ``training.json`` in the output folder.

    After SIGTERM the run saves a checkpoint at the end of its step and exits with the code 143.

    Args:
        trainer (Trainer): The trainer, as ``build_trainer`` makes it.
        processor (AdemVLProcessor): The processor to save beside the adapter.
        resume (bool): Whether to continue from the newest complete checkpoint in the output folder, if there is one.
            Those that are passed over are named in warnings.

    Returns:
        The content of ``training.json``: the number of samples (None for a stream) and of steps, the batch size, the
        learning rate, the number of trainable parameters, the last logged loss, the duration in seconds and so on.

    Raises:
        ValueError: The checkpoint to continue from was trained with other settings of the adapter, or with
            ``save_only_model=True``; or several processes were launched and are not connected.
        FloatingPointError: The loss or a gradient is NaN or infinite. The message names the step and its samples.
        OSError: The disk is full. The checkpoints of before are whole.
        SystemExit: SIGTERM ended the run, and its checkpoint is saved.
    """
    arguments = trainer.args
    output = Path(arguments.output_dir)
    _refuse_unconnected(arguments)
    checkpoint = newest_complete(trainer) if resume else None
    if checkpoint is not None and isinstance(trainer.model.config, FrozenBasesConfig):
        if of_peft := peft_files(checkpoint):  # the config of a PeftModel is ours, and is not saved
            check_same_peft(trainer.model, of_peft)
        else:
            check_same_settings(trainer.model.config, checkpoint)
    of_this_call: list[TrainerCallback] = [] if checkpoint is None else [SettingsOfOptimizer()]
    if isinstance(trainer.train_dataset, (Stream, MixedStream)):
        context = getattr(arguments, "dataloader_multiprocessing_context", None)  # not in all versions of Transformers
        place = StreamPlace(trainer.train_dataset, arguments.dataloader_num_workers, context)
        if checkpoint is not None:
            arguments.ignore_data_skip = place.resume(checkpoint)
        of_this_call.append(place)
    output.mkdir(parents=True, exist_ok=True)
    # before the first checkpoint is saved, with which the processor is
    processor.prompt = commonest_prompt(trainer.train_dataset, getattr(trainer.data_collator, "columns", None))
    began = time.perf_counter()
    termination = SaveOnTermination()
    of_this_call.append(termination)
    for callback in of_this_call:
        trainer.add_callback(callback)
    try:
        result = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        termination.give_back()
        for callback in of_this_call:
            trainer.remove_callback(callback)
    if termination.ended:
        logger.warning("SIGTERM: saved checkpoint-%d; resume to go on from it", trainer.state.global_step)
        raise SystemExit(TERMINATED)
    # After a resume, the mean that Trainer returns is wrong: it divides the sum since then by the number of all steps.
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    facts: dict[str, Any] = {
        "samples": _size(trainer.train_dataset),
        **recorded_fields(arguments, trainer.state),
        "trained_numbers": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "train_loss": round(logged[-1] if logged else result.training_loss, 4),
        "seconds": round(time.perf_counter() - began, 1),
        "seed": arguments.seed,
    }
    if processor.prompt is not None:
        facts["prompt"] = processor.prompt
    if checkpoint is not None:
        facts["resumed_at_step"] = int(checkpoint.name.rsplit("-", 1)[-1])  # the seconds are counted from there
        record = output / "training.json"
        if facts["resumed_at_step"] == trainer.state.global_step and record.is_file():  # it had ended before
            before = read_object(record, "remove it")
            if before.get("steps") == trainer.state.global_step:  # else it died before it could write its own
                facts = before
    with naming_full_disk(output):
        trainer.save_model(str(output))
    if trainer.is_world_process_zero():
        processor.save_pretrained(output)
        write_json(output / "training.json", facts)
    trainer.accelerator.wait_for_everyone()  # a process that goes on from here finds what the first one saved
    return facts


def _refuse_unconnected(arguments: TrainingArguments) -> None:
    """Refuse processes that do not know of each other: all of them would write the same checkpoints."""
    if (launched := launched_processes()) > arguments.world_size:
        raise ValueError(
            f"{launched} processes were launched, but they are not connected: each would train by itself, and all "
            f"would write into {arguments.output_dir}; on CPUs set ACCELERATE_USE_CPU=true (see docs/distributed.md)"
        )


def _size(dataset: Any) -> int | None:
    """Count the samples of a data set; a stream has no length."""
    try:
        return len(dataset)
    except TypeError:
        return None
