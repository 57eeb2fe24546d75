"""Reads a data set as a stream: shuffled by a buffer, repeated for ever, and continued at any sample of it."""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from ..modeling.reading import errors_naming
from .sample import Sample
from .stream_notes import StreamNotes

BUFFER = 1000  # rows; a row holds its images as compressed files, of some 100 kB each


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Let every error in the body of the ``with`` statement name the data that are read, as ``errors_naming`` does.

    Args:
        name (str): The data set.

    Yields:
        None: Nothing.

    Raises:
        OSError: The data cannot be reached.
        ValueError: They cannot be used, such as a text in another encoding than UTF-8.
    """
    with errors_naming(name):
        try:
            yield
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}: not UTF-8 text ({error}); save it as UTF-8") from error


class Stream(IterableDataset[Sample]):
    """Gives the rows of a streamed data set as samples, pass after pass.

    So many rows as the buffer holds are read, shuffled and given out, then the next so many. This is less random than a
    buffer that is refilled row by row, and the stream can go on at the right sample after an interruption: it reads the
    rows of one buffer again, whose order follows from the seed, and none of the rows before.

    All processes of a training read the whole stream, and each decodes and trains its own part of every batch. One
    worker of a ``DataLoader`` reads it in the same order as none. Several workers read different shards.

    Args:
        rows (Any): The ``datasets.IterableDataset``.
        make_sample (Callable[[Mapping[str, Any], int], Sample]): Makes a sample of a row and its number in the data.
        seed (int): The seed of the order.
        buffer (int): The number of rows that are shuffled together. 1 keeps their order.
        name (str): Names the data set in errors.

    Raises:
        ValueError: There are no rows, or they cannot be read.
    """

    def __init__(
        self,
        rows: Any,
        make_sample: Callable[[Mapping[str, Any], int], Sample],
        seed: int = 0,
        buffer: int = BUFFER,
        name: str = "the data set that is streamed",
    ) -> None:
        self.rows, self.make_sample, self.seed, self.buffer, self.name = rows, make_sample, seed, buffer, name
        self._beginning = rows.state_dict()  # each pass loads it, because the last one has left its end there
        self._start: dict[str, Any] = {"sample": 0, "first": 0, "row": 0, "rows": self._beginning, "name": name}
        self._buffers = StreamNotes()  # of each the first sample, its first row in this pass, and where its rows are

    def __iter__(self) -> Iterator[Sample]:
        number, place, row = self._start["first"], self._start["rows"], self._start["row"]
        skipped = self._start["sample"] - number  # samples that were given out before, mostly of the first buffer
        self._buffers.clear()
        while True:
            whole = place == self._beginning
            self.rows.load_state_dict(place)
            iterator, read = iter(self.rows), 0
            while taken := self._taken(iterator):
                self._buffers.add(number, row, place)
                place = self.rows.state_dict()
                order = list(range(len(taken)))
                random.Random(f"{self.seed} {number}").shuffle(order)
                for offset in range(skipped, len(taken)):
                    yield self.make_sample(taken[order[offset]], row + order[offset])
                number, row, read = number + len(taken), row + len(taken), read + len(taken)
                skipped = max(0, skipped - len(taken))
            if whole and not read:
                if (worker := get_worker_info()) is not None and worker.num_workers > 1:  # more than shards, maybe
                    return
                raise ValueError(f"{self.name} has no rows")
            place, row = self._beginning, 0

    def _taken(self, iterator: Iterator[Any]) -> list[Any]:
        """Read the rows of one buffer."""
        with reading(self.name):
            return list(itertools.islice(iterator, self.buffer))

    def follow_worker(self, context: str | None = None) -> None:
        """Let the only worker of a ``DataLoader`` tell this process where it reads, so that ``state_dict`` knows it.

        Args:
            context (str | None): How the worker starts, as ``multiprocessing`` names it. None means its default.
        """
        self._buffers.follow_worker(context)

    def state_dict(self, sample: int) -> dict[str, Any]:
        """Describe where the stream stands.

        Args:
            sample (int): The number of samples that were used, which may be fewer than were given out.

        Returns:
            The state, which JSON can hold.

        Raises:
            ValueError: This process has not read so far, or does not know any more where that sample was.
        """
        if sample == self._start["sample"]:
            return self._start
        # a buffer before the right one will do
        note = self._buffers.latest(sample, self._start["first"], self._start["row"], self._start["rows"])
        if note is None:
            raise ValueError(f"the stream does not know where its sample {sample} was read")
        first, row, place = note
        return {"sample": sample, "first": first, "row": row, "rows": place, "name": self.name}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state when the stream is iterated next.

        Args:
            state (dict[str, Any]): What ``state_dict`` returned.

        Raises:
            ValueError: It is the state of other data.
        """
        if "rows" not in state or Path(state.get("name", self.name)).name != Path(self.name).name:
            raise ValueError(_of_others([self], state))  # a folder that has been moved keeps its own name
        self._start = {"row": 0, **state}  # which the states of older versions lack


def _of_others(streams: Sequence[Stream], state: dict[str, Any]) -> str:
    """Say that a state is that of other data."""
    known = [one.get("rows_used", one).get("name", "?") for one in state.get("streams", [state])]
    return (
        f"this run reads {' and '.join(stream.name for stream in streams)}, and the checkpoint was saved by one that "
        f"read {' and '.join(known)}; resume with the same data, or begin another run with that checkpoint's adapter"
    )


class MixedStream(IterableDataset[Sample]):
    """Takes its samples from several streams at random.

    Args:
        streams (Sequence[Stream]): The streams.
        weights (Sequence[float]): How often a sample is taken from each, relative to the others.
        seed (int): The seed of the choice.
    """

    def __init__(self, streams: Sequence[Stream], weights: Sequence[float], seed: int = 0) -> None:
        self.streams, self.weights, self.seed = list(streams), list(weights), seed
        self._first = 0
        self._counted: Any = None  # up to which sample choices were counted, what goes on from there, and the counts

    def __iter__(self) -> Iterator[Sample]:
        iterators = [iter(stream) for stream in self.streams]
        for chosen in itertools.islice(self._choices(random.Random(self.seed)), self._first, None):
            sample = next(iterators[chosen], None)
            if sample is None:  # in a worker that has none of its shards
                raise ValueError(
                    f"{self.streams[chosen].name} is in fewer parts than there are workers; "
                    "take one worker at most (dataloader_num_workers)"
                )
            yield sample

    def _choices(self, rng: random.Random) -> Iterator[int]:
        """Yield the stream of each sample, from where the generator stands."""
        positions = range(len(self.streams))
        while True:
            yield rng.choices(positions, self.weights)[0]

    def follow_worker(self, context: str | None = None) -> None:
        """Follow a worker as ``Stream.follow_worker`` does.

        Args:
            context (str | None): As there.
        """
        for stream in self.streams:
            stream.follow_worker(context)

    def state_dict(self, sample: int) -> dict[str, Any]:
        """Describe where all streams stand.

        Args:
            sample (int): The number of samples that were used.

        Returns:
            The state, which JSON can hold.

        Raises:
            ValueError: As ``Stream.state_dict``.
        """
        if self._counted is None or self._counted[0] > sample:
            self._counted = (0, random.Random(self.seed), Counter())
        before, rng, taken = self._counted
        taken.update(itertools.islice(self._choices(rng), sample - before))
        self._counted = (sample, rng, taken)
        states = [stream.state_dict(taken[index]) for index, stream in enumerate(self.streams)]
        return {"sample": sample, "streams": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state when the mixture is iterated next.

        Args:
            state (dict[str, Any]): What ``state_dict`` returned.

        Raises:
            ValueError: It is the state of other data.
        """
        if len(state.get("streams", ())) != len(self.streams):
            raise ValueError(_of_others(self.streams, state))
        self._first = state["sample"]
        for stream, own in zip(self.streams, state["streams"], strict=True):
            stream.load_state_dict(own)
