"""Chooses how many processes prepare batches while the model trains, and lets them live until the last checkpoint."""

import atexit
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable
from functools import cache, partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ref

if TYPE_CHECKING:  # a mixin stands before the Trainer that it completes
    from transformers import Trainer as _Trainer
else:
    _Trainer = object

MOST_WORKERS = 4
SHARED_MEMORY = Path("/dev/shm")  # where batches travel between processes
CAN_HOLD_BACK = hasattr(signal, "pthread_sigmask")  # not on Windows
ROOM = 2**30  # bytes; a container often has 64 MiB, and what does not fit kills a worker


def default_workers(stream: bool = False) -> int:
    """Choose the number of DataLoader workers of a training.

    There is one for each core that is left beside the training, up to four. There are none with a single core, and
    where a worker would be a new Python that imports PyTorch first (all systems that do not fork). There are none
    where little memory can be shared, as in a container.

    Args:
        stream (bool): Whether the data set is a stream. It has one worker at most, because several keep their places to
            themselves, and a resumed run would read it again from its beginning.

    Returns:
        The number of workers for each process of the training.
    """
    forks = multiprocessing.get_start_method() == "fork" and SHARED_MEMORY.is_dir()
    if not forks or shutil.disk_usage(SHARED_MEMORY).free < ROOM:
        return 0
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(0, min(cores - 1, 1 if stream else MOST_WORKERS))


class DeafToTermination:
    """Starts a worker that neither SIGTERM nor Ctrl-C ends. It ends with its trainer, which saves a checkpoint first.

    A scheduler may send the signal to all processes of a job, and a trainer that lost a worker would end at once. Only
    when the trainer's process exits does a worker obey: after an error it may still be there, and ``multiprocessing``
    would wait for it for ever.

    Args:
        start (Callable[[int], None] | None): What else a worker begins with.
    """

    def __init__(self, start: Callable[[int], None] | None) -> None:
        self.start, self.exits = start, _exits()

    def __call__(self, number: int) -> None:
        """Begin.

        Args:
            number (int): The number of the worker.
        """
        signal.signal(signal.SIGTERM, self._heard)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes, and the trainer ends them
        if CAN_HOLD_BACK:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
        if self.start is not None:
            self.start(number)

    def _heard(self, number: int, frame: Any) -> None:
        """End if the trainer's process exits."""
        if self.exits.value:
            os._exit(0)


@cache
def _exits() -> Any:
    """Return a byte that workers share with their trainer's process, and that is 1 once that exits."""
    value = multiprocessing.RawValue("b", 0)
    # this runs before the exit of multiprocessing, which was registered when that was imported
    atexit.register(setattr, value, "value", 1)
    return value


def said_first(error: BaseException) -> str:
    """Return the message of an error as it was where it was raised.

    Args:
        error (BaseException): An error, maybe one from a worker. PyTorch puts a traceback before the message of such.

    Returns:
        The message alone.
    """
    text = str(error)
    if re.match(r"DataLoader worker \(pid(\(s\))? [\d, ]+\) (is killed|exited)", text):
        return (
            f"{text.rstrip('. ')}. Maybe memory ran out: with dataloader_num_workers=0 the training prepares its "
            "batches itself, and resumed it goes on from the last checkpoint."
        )
    if (caught := re.match(r"Caught (\w+) in DataLoader worker process", text)) is None:
        return text
    # the traceback ends with the name of the error, at the beginning of a line, and its message
    raised = list(re.finditer(rf"^(?:\w+\.)*{caught[1]}: ", text, re.MULTILINE))
    return text[raised[-1].end() :].rstrip() if raised else text


class LastingWorkers(_Trainer):
    """A mixin for ``Trainer`` and its subclasses whose workers outlive SIGTERM, as ``SaveOnTermination`` needs."""

    def get_train_dataloader(self) -> Any:
        """Return the loader of ``Trainer``, whose workers are deaf to SIGTERM."""
        return _lasting(super().get_train_dataloader())

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loader of ``Trainer``, whose workers are deaf to SIGTERM.

        Args:
            *args (Any): As ``Trainer`` takes them.
            **kwargs (Any): As ``Trainer`` takes them.
        """
        return _lasting(super().get_eval_dataloader(*args, **kwargs))


def _lasting(loader: Any) -> Any:
    """Make the workers of a loader deaf to SIGTERM from their beginning, unless they are so already."""
    starts = getattr(loader, "base_dataloader", loader)  # what accelerate wraps starts the workers
    if starts.num_workers and not isinstance(starts.worker_init_fn, DeafToTermination):
        starts.worker_init_fn = DeafToTermination(starts.worker_init_fn)
        starts._get_iterator = partial(_start_deaf, ref(starts))  # which does not keep the loader and its workers alive
    return loader


def _start_deaf(loader: Callable[[], Any]) -> Any:
    """Start the workers of a loader while signals are blocked: until our handlers are set, others' would end them.

    Not with forkserver: its server process starts at the first use, would inherit the block, and pass it on to all of
    its children.
    """
    starts = loader()
    start = partial(type(starts)._get_iterator, starts)
    method = (starts.multiprocessing_context or multiprocessing).get_start_method()
    if method == "forkserver" or not CAN_HOLD_BACK:
        return start()
    if method == "spawn":  # the first such process would start it, and that lets SIGTERM through again
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        return start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
