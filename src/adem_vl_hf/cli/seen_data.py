"""What ``adem-vl train`` sees of its data before a model loads: every row that can be read without opening images."""

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..terminal import printable, say

FIRST_ROWS = 100  # of a stream, which are fetched again for the training
LONGEST = 60  # characters of a prompt or an answer


@dataclass(frozen=True)
class SeenData:
    """Holds what there is to say about one of the data sets.

    Args:
        name (str): Its name, as it was given.
        size (int | None): The number of its samples. None means that nobody knows it, as of a stream.
        looked_at (int): The number of samples of which it is known whether they have an image.
        with_images (int): How many of these have one, or several, or a video.
        is_of_text (bool): Whether its format is one for texts, or is known to have samples without an image.
        first (str): What its first sample asks and answers.
        is_held_out (bool): Whether it is evaluated on.
        split (str | None): The split that is evaluated on. None means that it has none.
        is_trained_on (bool): Whether it is evaluated on and trained on.
    """

    name: str
    size: int | None
    looked_at: int = 0
    with_images: int = 0
    is_of_text: bool = False
    first: str = ""
    is_held_out: bool = False
    split: str | None = None
    is_trained_on: bool = False

    def __str__(self) -> str:
        size = "a stream" if self.size is None else f"{self.size:,} sample{'' if self.size == 1 else 's'}"
        if self.is_held_out:
            return f"evaluated on {self.name}{f', split {self.split}' if self.split else ''}: {size}"
        of = f" of the first {self.looked_at:,}" if self.size is None else ""
        return f"{self.name}: {size}, {self.with_images:,}{of} with images; first: {self.first}"


def look_at(name: str, dataset: Any) -> SeenData:
    """Look at the samples of a data set without opening images, but for the first one.

    All rows of a table are read, and the first hundred of a stream. Other data sets have read their rows already.

    Args:
        name (str): The name of the data set, as it was given.
        dataset (Any): The data set that was opened.

    Returns:
        What there is to say about it.

    Raises:
        ValueError: A row cannot be used. The message names it.
    """
    from ..data.instructions import Alpaca
    from ..data.scienceqa import HubScienceQA, ScienceQA
    from ..data.stream import Stream
    from ..data.turns import EachTurn

    rows: Any = dataset.dataset if isinstance(dataset, EachTurn) else dataset
    is_of_text = isinstance(rows, Alpaca | ScienceQA | HubScienceQA)
    is_stream = isinstance(rows, Stream)
    first, flags = None, []
    for shows, sample in _samples(rows):
        turns = _turns(sample, dataset)
        first = first or (turns or [sample])[0]
        flags += [shows] * (len(turns) if isinstance(dataset, EachTurn) else 1)
    size = None if is_stream else len(dataset)
    if first is None and size:  # a data set whose samples all have an image, or that knows which have one
        first = dataset[0]
        flags = _known(rows, size)
    return SeenData(name, size, len(flags), sum(flags), is_of_text, "" if first is None else _shown(first))


def _samples(rows: Any) -> Iterator[tuple[bool, Any]]:
    """Yield the samples that nobody has looked at yet, and whether they show something."""
    from tqdm import tqdm

    from ..data.library import LibraryDataset
    from ..data.sample import FIELDS
    from ..data.stream import Stream
    from ..data.without_images import samples_without_images

    found: Iterable[Any] = ()
    if isinstance(rows, LibraryDataset):
        found = tqdm(samples_without_images(rows), "reading --data", len(rows), delay=2)
    elif isinstance(rows, Stream):
        # the rows alone: what the stream itself has read, it would have to remember
        found = (rows.make_sample(row, number) for number, row in enumerate(itertools.islice(rows.rows, FIRST_ROWS)))
    for sample in found:
        yield any(sample.get(field) is not None for field in FIELDS), sample


def _turns(sample: Any, dataset: Any) -> list[Any]:
    """Return the samples that a row becomes; a turn that asks nothing is an error."""
    from ..data.turns import EachTurn, EachTurnOfStream, each_turn

    if isinstance(dataset, EachTurn):
        return list(each_turn(sample, dataset.context))
    return list(each_turn(sample)) if isinstance(dataset, EachTurnOfStream) else [sample]


def _known(rows: Any, size: int) -> list[bool]:
    """Tell which samples show something, of a data set that has read its rows already."""
    from ..data.instructions import Alpaca, Conversations
    from ..data.sample import FIELDS
    from ..data.scienceqa import HubScienceQA, ScienceQA

    if isinstance(rows, Alpaca):
        return [False] * size
    if isinstance(rows, ScienceQA | HubScienceQA):
        return [bool(problem.get("image")) for problem in rows.problems.values()]
    if isinstance(rows, Conversations):
        return [any(sample.get(field) is not None for field in FIELDS) for sample in rows._samples]
    return [True] * size


def _shown(sample: Any) -> str:
    """Write what a sample asks and answers, its first turn if it has several."""
    prompt, answer = sample["prompt"], sample["answer"]
    if "turns" in sample:
        prompt, answer = sample["turns"][0]["prompt"], sample["turns"][0]["answer"]
    if "messages" in sample:
        said = {turn["role"]: turn["content"] for turn in reversed(sample["messages"])}  # the first of each role
        prompt, answer = said.get("user") or prompt, said.get("assistant") or answer
    return f"{_cut(prompt)} -> {_cut(answer)}"


def _cut(text: str) -> str:
    shown = printable(text[: LONGEST + 1], kept="")
    return f'"{shown[:LONGEST]}..."' if len(text) > LONGEST or len(shown) > LONGEST else f'"{shown}"'


def warn_of_missing_images(seen: Sequence[SeenData]) -> None:
    """Say on stderr which samples have no image, unless their format is one for texts.

    Args:
        seen (Sequence[SeenData]): The data that are trained on.
    """
    remedy = "if that is not meant, name the column of the images, --columns image=NAME"
    if not any(part.with_images for part in seen):
        names = ", ".join(part.name for part in seen)
        if all(part.is_of_text for part in seen):
            remedy = "mix in data with images"
        say(f"adem-vl train: no sample of {names} has an image, so that nothing is learned about images; {remedy}",
            sys.stderr)  # fmt: skip
        return
    for part in seen:
        lacking = part.looked_at - part.with_images
        if lacking and not part.is_of_text:
            of = f"{'first ' if part.size is None else ''}{part.looked_at:,} samples of {part.name}"
            number, lack = (f"{lacking:,}", "lack an image") if part.with_images else ("none", "has an image")
            say(
                f"adem-vl train: {number} of the {of} {lack}, so that they are trained as text alone; {remedy}",
                sys.stderr,
            )
