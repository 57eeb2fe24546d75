"""Chooses the checkpoint that a training goes on from, the newest that is complete, and what its optimizer brings."""

import logging
import math
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from transformers import AutoConfig, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import ADAPTER_CONFIG_NAME

from .json_files import read_object
from .modeling.configuration_base import FrozenBasesConfig
from .modeling.fingerprints import differing_part
from .whole_checkpoints import MANIFEST, checkpoints, lack_of, order_of, tidy

logger = logging.getLogger("adem_vl_hf")
PEFT_SETTINGS = ("peft_type", "r", "lora_alpha", "target_modules", "modules_to_save")


def newest_complete(trainer: Trainer) -> Path | None:
    """Find the newest checkpoint with everything that is needed to go on to the same bits.

    Those that are passed over are named in warnings, with what is wrong with each.

    Args:
        trainer (Trainer): The trainer. All processes call this together.

    Returns:
        The checkpoint, or None if there is none.

    Raises:
        ValueError: The checkpoints were saved with ``save_only_model=True``.
    """
    arguments, output = trainer.args, Path(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        tidy(output)
    trainer.accelerator.wait_for_everyone()
    there = checkpoints(output)
    if arguments.save_only_model and there:
        raise ValueError(
            f"{output} cannot be resumed: save_only_model=True leaves out the optimizer, the scheduler and the random "
            "state. Train with save_only_model=False, or begin another run with the adapter of the checkpoint"
        )
    limit = max(there, default=0)
    lacks: dict[int, str] = {}
    while True:
        step = 0
        for number, folder in there.items():
            if number > limit:
                continue
            lack = lacks.get(number) or lack_of(folder, arguments.process_index, arguments.world_size)
            if lack is None:
                step = number
                break
            lacks[number] = lack
        steps = gather_object([step])
        limit = min(steps)
        if limit == max(steps):
            break
    everywhere: dict[int, str] = {}
    for found in gather_object([lacks]):
        everywhere |= {number: lack for number, lack in found.items() if number > step}
    if trainer.is_world_process_zero():
        for number, lack in everywhere.items():
            logger.warning("passed over %s, which cannot be resumed from: %s", output / f"checkpoint-{number}", lack)
        if everywhere:
            logger.warning("the run goes on from step %d", step)
        if step:
            _warn_of_other_samples(there[step], trainer)
    return there[step] if step else None


def _warn_of_other_samples(checkpoint: Path, trainer: Trainer) -> None:
    manifest = read_object(checkpoint / MANIFEST) if (checkpoint / MANIFEST).is_file() else {}
    processes = trainer.args.world_size
    saved_by = manifest.get("processes", processes)
    if saved_by != processes:
        logger.warning(
            "%s was saved by %d processes and this run has %d: it goes on with the weights and the optimizer, but with "
            "other random numbers, and not to the same bits", checkpoint, saved_by, processes,
        )  # fmt: skip
    before, now = manifest.get("order"), order_of(trainer)
    if not isinstance(before, dict):  # an earlier version of this package noted none
        return
    for name in now:
        if name in before and before[name] != now[name]:
            logger.warning(
                "%s was saved with %s=%s and this run has %s: it goes on with the weights and the optimizer, but the "
                "samples come in another order, and some may come twice or not at all", checkpoint, name,
                before[name], now[name],
            )  # fmt: skip


def check_same_settings(config: FrozenBasesConfig, checkpoint: Path) -> None:
    """Refuse to continue from an adapter that was trained with other settings or bases, even if its tensors would fit.

    Args:
        config (FrozenBasesConfig): The configuration of this run.
        checkpoint (Path): The checkpoint.

    Raises:
        ValueError: A setting differs, or a frozen model. The message names it.
    """
    saved = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    if saved.model_type != config.model_type:
        raise ValueError(f"{checkpoint} holds a {saved.model_type!r} and this run has a {config.model_type!r}")
    for name in config.adapter_fields:
        _refuse_another(checkpoint, name, getattr(saved, name), getattr(config, name))
    for kind, prefix in (("language model", "text_model"), ("vision tower", "vision_model")):
        before, now = (getattr(one, f"{prefix}_fingerprint") for one in (saved, config))
        if before and now and (part := differing_part(before, now)) is not None:
            name = getattr(config, f"{prefix}_name_or_path")
            raise ValueError(
                f"{checkpoint} was trained on another {kind} than {name} now is (first seen in {part}); resume with "
                "the same one, or choose another output folder, where --from-checkpoint may begin with this adapter"
            )


def _refuse_another(checkpoint: Path, name: str, before: Any, now: Any) -> None:
    if before != now:
        raise ValueError(
            f"{checkpoint} was trained with {name}={before} and this run has {now}; resume with the same settings, or "
            "choose another output folder"
        )


def peft_files(checkpoint: Path) -> dict[str, Path]:
    """Find the settings of PEFT's adapters in a checkpoint; a ``PeftModel`` saves no ``config.json``.

    Args:
        checkpoint (Path): The checkpoint.

    Returns:
        Their files by the adapters' names, of which PEFT's ``default`` lies in no folder of its own.
    """
    found = (*checkpoint.glob(ADAPTER_CONFIG_NAME), *sorted(checkpoint.glob(f"*/{ADAPTER_CONFIG_NAME}")))
    return {"default" if file.parent == checkpoint else file.parent.name: file for file in found}


def check_same_peft(model: Any, files: dict[str, Path]) -> None:
    """Refuse to continue from adapters of PEFT that were trained with other settings.

    Args:
        model (Any): The model of this run.
        files (dict[str, Path]): What ``peft_files`` found.

    Raises:
        ValueError: The model lacks an adapter of that name, or a setting differs. The message names it.
    """
    for adapter, file in files.items():
        saved = read_object(file, "choose another output folder")
        config = getattr(model, "peft_config", {}).get(adapter)
        if config is None:
            raise ValueError(
                f"{file.parent} holds an adapter of PEFT ({adapter!r}) and this run has none of that name; give the "
                "model the same one, or choose another output folder"
            )
        for name in PEFT_SETTINGS:
            _refuse_another(file.parent, name, _plain(saved.get(name)), _plain(getattr(config, name, None)))


def _plain(value: Any) -> Any:
    """The value of a setting as JSON has it; names of modules have no order."""
    return sorted(value) if isinstance(value, list | set | tuple) else getattr(value, "value", value)


class SettingsOfOptimizer(TrainerCallback):
    """Says that a resumed run goes on with the learning rate and the weight decay of its checkpoint.

    The state of the optimizer and that of the schedule bring both, and ``Trainer`` passes over what its arguments say.
    """

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Compare the arguments with the optimizer, and put what it has into them, so that the record is right.

        Args:
            args (TrainingArguments): The training arguments.
            state (TrainerState): The state of the training.
            control (TrainerControl): The control flow of the training, which stays as it is.
            optimizer (Any): The optimizer, with the state of the checkpoint.
            **kwargs (Any): The rest of what ``Trainer`` passes, which is ignored.
        """
        groups = getattr(optimizer, "param_groups", [])
        for name, key in (("learning_rate", "initial_lr"), ("weight_decay", "weight_decay")):
            values = [group[key] for group in groups if group.get(key) is not None]
            if not values or math.isclose(asked := getattr(args, name), saved := max(values)):
                continue
            setattr(args, name, saved)
            if state.is_world_process_zero:
                logger.warning(
                    "the run goes on with the %s of its checkpoint, %g, and not with %g; to change it, begin another "
                    "run from the adapter of the checkpoint (--from-checkpoint)", name.replace("_", " "), saved, asked,
                )  # fmt: skip
