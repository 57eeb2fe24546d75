"""Fields of ``TrainingArguments`` that are refused because they would do something else than they say.

``Trainer`` reaches the check when it is built, before the first step; ``training_arguments`` and ``adem-vl train``
reach it earlier. Every other field works, and ``docs/training_fields.md`` says what each of them was tested for.
"""

from collections.abc import Callable, Mapping, Sized
from typing import Any, NamedTuple

import torch
import transformers
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from .auto_classes import model_type_of

Get = Callable[[str], Any]  # the value of a field, or None
BEFORE_5 = int(transformers.__version__.split(".")[0]) < 5


class Refusal(NamedTuple):
    """A field that is refused.

    Args:
        field (str): The name of the field.
        applies (Callable[[Get, str | None], bool]): Whether it is refused, from the values of all fields and the
            ``model_type`` of the model (None where it is not known yet).
        reason (str): What would happen, and what to do instead.
    """

    field: str
    applies: Callable[[Get, str | None], bool]
    reason: str


def _on_cpu(get: Get) -> bool:
    device = get("device")  # arguments that have been made know it
    return device.type == "cpu" if device is not None else bool(get("use_cpu") or not torch.accelerator.is_available())


def _splits_rows_or_layers(get: Get) -> bool:
    sizes = (getattr(get("parallelism_config"), f"{kind}_size", None) for kind in ("tp", "cp", "sp"))
    return any(size is not None and size > 1 for size in sizes)


def _rounds_the_adapter(name: str) -> Refusal:
    dtype = {"bf16": "bfloat16", "fp16": "float16"}[name]
    return Refusal(
        f"{name}_full_eval",
        lambda get, model_type: bool(get(f"{name}_full_eval")),
        f"an evaluation would round the trained adapter to {dtype}, in memory and in what is saved next; load the "
        f"frozen models with dtype=torch.{dtype} instead, beside which the adapter stays float32",
    )


REFUSALS = (
    Refusal(
        "fp16",
        lambda get, model_type: bool(get("fp16")) and _on_cpu(get),
        "float16 has no effect in training on a CPU; use bf16=True, or leave it out",
    ),
    _rounds_the_adapter("bf16"),
    _rounds_the_adapter("fp16"),
    Refusal(
        "gradient_accumulation_steps",
        lambda get, model_type: (
            get("gradient_accumulation_steps") is not None and get("gradient_accumulation_steps") < 1
        ),
        "a training step has at least one forward pass; give a whole number of at least 1",
    ),
    Refusal(
        "use_liger_kernel",
        lambda get, model_type: bool(get("use_liger_kernel")),
        "Liger has no kernels for this model and would change nothing; leave it out (torch_compile=True saves time)",
    ),
    Refusal(
        "label_smoothing_factor",
        lambda get, model_type: bool(get("label_smoothing_factor") and get("predict_with_generate")),
        "together with predict_with_generate, Seq2SeqTrainer computes the evaluation's loss from labels that are off "
        "by one position; leave one of the two out",
    ),
    Refusal(
        "label_smoothing_factor",
        lambda get, model_type: (
            BEFORE_5 and bool(get("label_smoothing_factor")) and (get("gradient_accumulation_steps") or 1) > 1
        ),
        "together with gradient_accumulation_steps, Transformers 4 adds up the losses of the parts of a batch; leave "
        "one of the two out, or upgrade Transformers",
    ),
    Refusal(
        "save_safetensors",
        lambda get, model_type: get("save_safetensors") is False,
        "its checkpoints would be pickles, which from_pretrained refuses; leave it out",
    ),
    Refusal(
        "debug",
        lambda get, model_type: model_type == "evlm" and "underflow_overflow" in str(get("debug")),
        "underflow_overflow cannot look at the empty tensors that a batch without images has in EVLM; call "
        "torch.autograd.set_detect_anomaly(True) instead",
    ),
    Refusal(
        "hub_token",
        lambda get, model_type: bool(get("hub_token") or get("push_to_hub_token")),
        "Trainer would write the token into training_args.bin of every checkpoint, and upload it; set the environment "
        "variable HF_TOKEN, or log in with `hf auth login`",
    ),
    Refusal(
        "parallelism_config",
        lambda get, model_type: _splits_rows_or_layers(get),
        "this model is not split along its rows (cp_size, sp_size) or inside its layers (tp_size), because images and "
        "text of a row belong together; use data parallelism, FSDP or DeepSpeed",
    ),
    Refusal(
        "activation_offloading",
        lambda get, model_type: bool(get("activation_offloading")) and _on_cpu(get),
        "TRL moves activations from a GPU to the CPU, and this machine has no GPU; leave it out",
    ),
)


def refuse(arguments: TrainingArguments | Mapping[str, Any], model_type: str | None = None) -> None:
    """Raise an error for the first field that would do something else than it says.

    Args:
        arguments (TrainingArguments | Mapping[str, Any]): The arguments, or those fields that differ from the defaults.
        model_type (str | None): The ``model_type`` of the model. None means that it is not known yet.

    Raises:
        ValueError: A field is refused. The message names the field, the reason and the remedy.
    """
    get: Get = arguments.get if isinstance(arguments, Mapping) else lambda name: getattr(arguments, name, None)
    for field, applies, reason in REFUSALS:
        if applies(get, model_type):
            raise ValueError(f"{field}: {reason}")


def refuse_without_lengths(arguments: TrainingArguments, *datasets: Any) -> None:
    """Refuse to group rows by their length where nobody knows the lengths.

    Args:
        arguments (TrainingArguments): The arguments.
        *datasets (Any): The data sets that would be grouped. None and streams are never grouped.

    Raises:
        ValueError: A data set has no column of lengths.
    """
    strategy = getattr(arguments, "train_sampling_strategy", None)
    if getattr(arguments, "group_by_length", False):  # before Transformers 5
        strategy = "group_by_length"
    if strategy not in ("group_by_length", "batch_rebalance"):
        return
    column = arguments.length_column_name
    for dataset in datasets:
        if isinstance(dataset, Sized) and column not in (getattr(dataset, "column_names", None) or ()):
            raise ValueError(
                f"{strategy} needs the length of each row before it is collated: a datasets.Dataset with the column "
                f"{column!r}, for which rows.map(lambda row: {{{column!r}: collator([row])['input_ids'].shape[1]}}) "
                "counts the tokens"
            )


def refuse_without_full_batch(arguments: TrainingArguments, batch_size: int, *datasets: Any) -> None:
    """Refuse to leave out incomplete batches where a data set has no other.

    Args:
        arguments (TrainingArguments): The arguments.
        batch_size (int): The number of samples that a process takes at a time.
        *datasets (Any): The data sets that are read in batches of this size. None and streams are not checked.

    Raises:
        ValueError: A data set has fewer samples than the processes take at a time.
    """
    if not arguments.dataloader_drop_last:
        return
    # the processes share a batch with split_batches, and have one each without
    taken = batch_size * (1 if arguments.accelerator_config.split_batches else arguments.world_size)
    for dataset in datasets:
        if isinstance(dataset, Sized) and len(dataset) < taken:
            raise ValueError(
                f"dataloader_drop_last leaves out incomplete batches, and with {len(dataset)} samples there is no "
                f"other: a batch has {taken}; leave the field out, or take a smaller batch size"
            )


def recorded_fields(args: TrainingArguments, state: TrainerState) -> dict[str, Any]:
    """Take what ``training.json`` and the model card say of the arguments of a training.

    Args:
        args (TrainingArguments): The arguments.
        state (TrainerState): The state at the end of the training, or where it stands.

    Returns:
        The number of steps, the number of samples in a step, the peak learning rate and the weight decay.
    """
    return {
        "steps": state.global_step,
        "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "learning_rate": args.learning_rate,
        "weight_decay": args.weight_decay,
    }


# TRL's trainers that hand every model input on to functions with a fixed list of names, by their arguments
KNOW_NO_MASK = {"GRPOConfig", "RLOOConfig"}


class CheckArguments(TrainerCallback):
    """Refuses arguments when a ``Trainer`` of one of our models is built. Every ``Trainer`` has it by default.

    The processor of a trainer that does not know ``image_mask`` leaves it out where every image exists.
    """

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Check the arguments if the model is one of ours.

        Args:
            args (TrainingArguments): The training arguments.
            state (TrainerState): The state of the training, which stays as it is.
            control (TrainerControl): The control flow of the training, which stays as it is.
            **kwargs (Any): The ``model`` and the rest of what ``Trainer`` passes.
        """
        model_type = model_type_of(kwargs.get("model"))
        if model_type is not None:
            refuse(args, model_type)
            if KNOW_NO_MASK & {kind.__name__ for kind in type(args).__mro__}:
                kwargs["processing_class"].always_has_mask = False
