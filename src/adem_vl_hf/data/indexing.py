"""Indexes and names samples: as a list does, so that ``dataset[-1]`` works, and each by a name of its own."""

import operator
from collections.abc import Iterable


def from_start(index: int, size: int) -> int:
    """Count an index from the start.

    Args:
        index (int): The index. A negative one counts from the end.
        size (int): The number of samples.

    Returns:
        The index, 0 or more.

    Raises:
        IndexError: There is no such sample.
        TypeError: The index is no integer.
    """
    number = operator.index(index)
    if not -size <= number < size:
        raise IndexError(f"there is no sample {number}: the data set has {size}")
    return number % size


def names_of_repeated(names: Iterable[tuple[int, str]]) -> dict[int, str]:
    """Give every name that occurred before another one, ``name@position``.

    Args:
        names (Iterable[tuple[int, str]]): The positions and the names.

    Returns:
        The new names by position, of the samples that need one.
    """
    taken: set[str] = set()
    found: dict[int, str] = {}
    again: list[tuple[int, str]] = []
    for position, name in names:
        if name in taken:
            again.append((position, name))
        taken.add(name)
    for position, name in again:
        while name in taken:
            name = f"{name}@{position}"
        taken.add(name)
        found[position] = name
    return found
