"""Reads the index of a sample as a list does, so that ``dataset[-1]`` and ``for sample in dataset`` work."""

import operator


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
