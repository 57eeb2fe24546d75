"""Saves a last checkpoint when a scheduler takes the machine away, which it announces with SIGTERM."""

import signal
import threading
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

TERMINATED = 128 + signal.SIGTERM  # the exit code of a process that SIGTERM ended


class SaveOnTermination(TrainerCallback):
    """After SIGTERM, ends the training at the end of its step, with a checkpoint.

    All processes of a training agree on the step, even if the signal reaches one of them alone.
    """

    def __init__(self) -> None:
        self.asked = self.ended = False
        self._before: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the signal.

        Args:
            args (TrainingArguments): The training arguments.
            state (TrainerState): The state of the training.
            control (TrainerControl): The control flow of the training, which stays as it is.
            **kwargs (Any): The model and the rest of what ``Trainer`` passes, which are ignored.
        """
        # Python allows handlers in the main thread alone; Transformers' own callback has taken the signal already
        if threading.current_thread() is threading.main_thread() and not getattr(args, "enable_jit_checkpoint", False):
            self._before = signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """End the training with a checkpoint if the signal has arrived.

        Args:
            args (TrainingArguments): The training arguments.
            state (TrainerState): The state of the training.
            control (TrainerControl): The control flow of the training.
            **kwargs (Any): The model and the rest of what ``Trainer`` passes, which are ignored.

        Returns:
            The control flow.
        """
        if _anywhere(self.asked, args) and state.global_step < state.max_steps:
            self.ended = control.should_save = control.should_training_stop = True
            control.should_evaluate = False  # the time until SIGKILL is for the checkpoint
        return control

    def give_back(self) -> None:
        """Leave the signal to whoever had it before."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None


def _anywhere(asked: bool, args: TrainingArguments) -> bool:
    """Say whether one of the processes was asked to end."""
    if args.world_size == 1 or not torch.distributed.is_initialized():
        return asked
    flag = torch.tensor(float(asked), device=args.device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag.item())
