"""Stops a training whose loss or gradients are no numbers any more, and names the samples of that step."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:  # a mixin stands before the Trainer that it completes
    from transformers import Trainer as _Trainer
else:
    _Trainer = object

NAMES = "sample_names"  # the key of a batch, [B, L]: the ids of its samples in UTF-8, padded with zeros
SHOWN = 8  # ids in a message


class NamedBatches:
    """A collator that adds the ids of the samples to the batches of another one.

    They are a tensor, which reaches the training step by every way that batches take between processes.

    Args:
        collate (Callable[[Sequence[Any]], Mapping[str, Any]]): The other collator.
    """

    def __init__(self, collate: Callable[[Sequence[Any]], Mapping[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Collate B samples.

        Args:
            rows (Sequence[Any]): The samples. Those without an id have an empty name.

        Returns:
            The batch of the other collator with the names.
        """
        ids = [str(row.get("id", "")) if isinstance(row, Mapping) else "" for row in rows]
        names = [name.encode("utf-8", "replace")[:200] for name in ids]
        width = max(map(len, names), default=0)
        padded = torch.tensor([[*name, *bytes(width - len(name))] for name in names], dtype=torch.uint8)  # [B, L]
        return {**self.collate(rows), NAMES: padded}


class StopsWhenBroken(_Trainer):
    """A mixin for ``Trainer`` and its subclasses that ends a run with NaN or infinity before the step is taken.

    The checkpoints that were saved before stay as they are.
    """

    data_collator: Any
    _names: tuple[str, ...] = ()  # of the samples since the last step

    def get_train_dataloader(self) -> Any:
        """Return the loader of ``Trainer``, whose batches have the names of their samples."""
        collate = self.data_collator
        self.data_collator = NamedBatches(collate)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = collate

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Do what ``Trainer`` does, and look at the loss and the gradients.

        Args:
            model (Any): The model.
            inputs (dict[str, Any]): The batch.
            *args (Any): Further arguments of ``Trainer``.
            **kwargs (Any): Further arguments of ``Trainer``.

        Returns:
            The loss.

        Raises:
            FloatingPointError: The loss or a gradient is NaN or infinite.
        """
        names = inputs.pop(NAMES, None)
        if names is not None:
            self._names += tuple(bytes(row).rstrip(b"\0").decode("utf-8", "replace") for row in names.tolist())
        loss = super().training_step(model, inputs, *args, **kwargs)
        # with a scaler, float16 gradients are infinite now and then, and such a step is left out
        looked_at = self.accelerator.sync_gradients and getattr(self.accelerator, "scaler", None) is None
        groups = self.optimizer.param_groups if looked_at and self.optimizer is not None else []
        if found := what_is_broken(model, loss, [one for group in groups for one in group["params"]]):
            self._stop(found)
        if self.accelerator.sync_gradients:
            if _deepspeed_left_out_a_step(getattr(self, "deepspeed", None)):
                self._stop("a gradient is NaN or infinite")
            self._names = ()
        return loss

    def _stop(self, what: str) -> None:
        known = [name for name in self._names if name]
        more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
        samples = f", with the samples {', '.join(map(repr, known[:SHOWN]))}{more}" if known else ""
        raise FloatingPointError(
            f"{what} in step {self.state.global_step + 1}{samples}. The run stops, and its checkpoints stay as they "
            "are: look at these samples, take a lower learning rate or more warm-up, set max_grad_norm, or train in "
            "bfloat16 instead of float16; then resume"
        )


def what_is_broken(model: Any, loss: torch.Tensor, parameters: Sequence[torch.Tensor]) -> str | None:
    """Say what is NaN or infinite after a backward pass.

    Args:
        model (Any): The model, which knows the names of the parameters.
        loss (torch.Tensor): The loss.
        parameters (Sequence[torch.Tensor]): The parameters whose gradients are looked at.

    Returns:
        The description in words, or None if everything is finite.
    """
    if not torch.isfinite(loss).all():
        return f"the loss is {loss.mean().item()}"
    # FSDP2: each process looks at its own part, which may be empty
    local = [(one, getattr(one.grad, "_local_tensor", one.grad)) for one in parameters if one.grad is not None]
    local = [(one, gradient) for one, gradient in local if gradient.numel()]
    if not local:
        return None
    largest = torch._foreach_norm([gradient for _, gradient in local], float("inf"))
    finite = torch.stack([size.float() for size in largest]).isfinite().tolist()  # one of each gradient
    broken = {id(one) for (one, _), is_finite in zip(local, finite, strict=True) if not is_finite}
    names = [name for name, one in model.named_parameters() if id(one) in broken] if broken else []
    return f"the gradient of {names[0] if names else 'a parameter'} is NaN or infinite" if broken else None


def _deepspeed_left_out_a_step(engine: Any) -> bool:
    """Whether DeepSpeed, which keeps the gradients to itself, has left out a step because their norm is no number.

    It does so without a word. With float16, whose gradients are infinite now and then, that is right.
    """
    if engine is None or engine.fp16_enabled():
        return False
    norm = engine.get_global_grad_norm()
    return norm is not None and not math.isfinite(norm)
