"""Puts a model into evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode, and back into the mode that it was in.

    Args:
        model (Any): The model.

    Yields:
        The pass is the body of the ``with`` statement.
    """
    training = model.training
    if training:  # which looks at every module
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
