"""Finds the prompt that a training set asks most often, which a checkpoint then takes where no other is given."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

from .columns import sample_of
from .stream import MixedStream, Stream

SAMPLES = 64
LEAST_SHARE = 0.25  # of the samples: what is rarer is one question among many, such as those of ScienceQA


def commonest_prompt(dataset: Any, columns: Mapping[str, str] | None = None) -> str | None:
    """Find the commonest prompt among some samples from all over a training set.

    Args:
        dataset (Any): The training set.
        columns (Mapping[str, str] | None): The names of its columns, as for ``AdemVLCollator``.

    Returns:
        The prompt, or None if no prompt is common, the samples are chats, or the samples cannot be read twice.
    """
    prompts: Counter[str | None] = Counter()
    for position, row in enumerate(_rows(dataset)):
        try:
            sample = sample_of(row, position, columns)
        except (KeyError, TypeError, ValueError):
            return None  # the training will say what is wrong with it
        asked: list[Any] = sample.get("turns") or [sample]
        prompts.update([None] if "messages" in sample else [turn["prompt"] for turn in asked])
    ((prompt, times),) = prompts.most_common(1) or [(None, 0)]
    return prompt if prompt and times >= LEAST_SHARE * prompts.total() else None


def _rows(dataset: Any) -> Iterator[Any]:
    """Yield some rows: from all over a data set with a length, and the first ones of a stream of this package."""
    if isinstance(dataset, MixedStream):
        yield from chain.from_iterable(islice(_rows(stream), SAMPLES // 4) for stream in dataset.streams)
    elif isinstance(dataset, Stream):
        # the rows alone: what the stream itself has read, it would have to remember
        yield from (dataset.make_sample(row, number) for number, row in enumerate(islice(dataset.rows, SAMPLES)))
    elif hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        yield from (dataset[index] for index in range(0, len(dataset), -(-len(dataset) // SAMPLES) or 1))
