"""Notes of where a stream is read, by this process or by the worker of a ``DataLoader`` that it follows."""

import multiprocessing
from collections import deque
from typing import Any

from torch.utils.data import get_worker_info


class StreamNotes:
    """Holds notes, tuples that begin with the number of a sample, in the order in which a stream is read.

    Args:
        most (int | None): The number of notes that are kept. None means all.
    """

    def __init__(self, most: int | None = None) -> None:
        self._known: deque[tuple[Any, ...]] = deque(maxlen=most)
        self._told: Any = None  # a queue that a worker fills

    def follow_worker(self, context: str | None) -> None:
        """Hear the notes of the only worker of a ``DataLoader``, which starts later.

        Args:
            context (str | None): How the worker starts, as ``multiprocessing`` names it. None means its default.
        """
        self._told = multiprocessing.get_context(context).Queue()

    def clear(self) -> None:
        """Forget all notes."""
        self._known.clear()

    def add(self, *note: Any) -> None:
        """Keep a note, or in a worker tell it to the process that follows.

        Args:
            *note (Any): The number of the sample that is read next, and where that is.
        """
        if get_worker_info() is None:
            self._known.append(note)
        elif self._told is not None:
            self._told.cancel_join_thread()  # a worker whose last notes nobody reads has to end all the same
            self._told.put(note)

    def latest(self, sample: int, *start: Any) -> tuple[Any, ...] | None:
        """Find the latest note that is not behind a sample, and forget those before, which nobody asks for.

        A worker's notes may come later than its samples. So there may be a later note that has not been heard.

        Args:
            sample (int): The number of the sample.
            *start (Any): The note of where the stream began, for when its worker has told nothing yet.

        Returns:
            The note, or None if there is none.
        """
        if self._told is not None:
            if not self._known:
                self._known.append(start)
            while not self._told.empty():
                self._known.append(self._told.get())
        while len(self._known) > 1 and self._known[1][0] <= sample:
            self._known.popleft()
        return self._known[0] if self._known and self._known[0][0] <= sample else None
