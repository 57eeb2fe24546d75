"""Mixes several data sets into one, each with a weight."""

import random
from collections.abc import Sequence
from typing import Any

from torch.utils.data import ConcatDataset, Dataset, Subset

from .sample import Sample
from .stream import MixedStream, Stream


def mix(parts: Sequence[Dataset[Sample]], weights: Sequence[float] = (), seed: int = 0) -> Any:
    """Mix data sets, whose samples ``Trainer`` shuffles.

    Args:
        parts (Sequence[Dataset[Sample]]): The data sets, all of them streams or none.
        weights (Sequence[float]): A number above 0 for each: how often its samples come in an epoch. With 2 each comes
            twice, with 0.25 a random quarter comes once. Of streams, how often a sample is taken from one, relative to
            the others. Empty means 1 for all.
        seed (int): The seed of the choice of samples.

    Returns:
        The mixture. A single data set without a weight is returned as it is.

    Raises:
        ValueError: A weight leaves none of the samples of its data set.
    """
    weights = list(weights) or [1.0] * len(parts)
    if isinstance(parts[0], Stream):
        return parts[0] if len(parts) == 1 else MixedStream(parts, weights, seed)  # type: ignore[arg-type]
    weighted = [
        part if weight == 1 else _weighted(part, weight, seed) for part, weight in zip(parts, weights, strict=True)
    ]
    return weighted[0] if len(weighted) == 1 else ConcatDataset(weighted)


def _weighted(part: Any, weight: float, seed: int) -> Dataset[Sample]:
    """Repeat a data set so many times, the rest of the number as a random part of it."""
    indices = list(range(len(part)))
    rest = random.Random(seed).sample(indices, round(weight % 1 * len(part)))
    if not rest and weight < 1:
        raise ValueError(
            f"the weight {weight} leaves nothing of a data set of {len(part)}; give at least {1 / len(part):.2g}"
        )
    return Subset(part, indices * int(weight) + sorted(rest))
