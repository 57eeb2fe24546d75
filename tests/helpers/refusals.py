"""A refusal that comes before time and memory are spent on what is refused."""

import resource
import time
from collections.abc import Callable

import pytest

MOST_SECONDS, MOST_KILOBYTES = 5, 200 * 1024  # at most 0.7 s here


def refused_at_once(
    error: type[Exception], read: Callable[[], object], message: str, clock: Callable[[], float] = time.perf_counter
) -> None:
    """Something is refused within 5 s and 200 MB.

    Args:
        error (type[Exception]): the kind of error.
        read (Callable[[], object]): what is refused.
        message (str): a pattern that is in the error.
        clock (Callable[[], float]): gives the time in seconds.
    """
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, clock()
    with pytest.raises(error, match=message):
        read()
    assert clock() - start < MOST_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_KILOBYTES
