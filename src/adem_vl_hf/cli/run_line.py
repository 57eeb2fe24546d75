"""The line that says before the first step of ``adem-vl train`` what is trained, and the one that says what is kept."""

import sys
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from ..terminal import printable, say
from .seen_data import SeenData


class SaysWhatIsTrained(TrainerCallback):
    """Says on stderr before the first step what the data are, and the number, size and rate of the steps.

    Args:
        seen (Sequence[SeenData]): The data.
    """

    def __init__(self, seen: Sequence[SeenData]) -> None:
        self.seen = seen

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say it, in the first process.

        Args:
            args (Any): The training arguments.
            state (Any): The state of the training.
            control (Any): The control flow of the training, which stays as it is.
            **kwargs (Any): The rest of what ``Trainer`` passes, which is ignored.
        """
        if not state.is_world_process_zero:
            return
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        steps = f"{state.max_steps:,} step{'' if state.max_steps == 1 else 's'} of {batch:,}"
        parts = [printable(part, kept="") for part in self.seen]
        say(f"adem-vl train: {'; '.join([*parts, steps])}, peak rate {args.learning_rate:.1e}", sys.stderr)


def what_is_kept(state: Any, metric: str | None) -> str | None:
    """Say which step is kept, and whether the training stopped because nothing better came.

    Args:
        state (Any): The state of the trainer at the end.
        metric (str | None): What --best gives.

    Returns:
        The sentence, or None if the last step is kept because nobody asked for the best.
    """
    if metric is None or state.best_model_checkpoint is None:
        return None
    best = int(str(state.best_model_checkpoint).rsplit("-", 1)[-1])
    if state.global_step < state.max_steps:
        return (f"stopped at step {state.global_step:,} of {state.max_steps:,}: {metric} is no better than at step "
                f"{best:,}, which is kept")  # fmt: skip
    return f"of {state.max_steps:,} steps, step {best:,} is kept, the best by {metric} ({state.best_metric:.4g})"
