"""Turns whatever a library raises about a file into one error that names the file and says what to do.

Libraries raise what they like about a damaged file: safetensors and tokenizers have classes of their own (the latter
also a ``PanicException``, which is no ``Exception``), others let a ``KeyError`` or a ``RecursionError`` through.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .arguments import ArgumentError

PASSED_ON = (ArgumentError, ImportError, MemoryError, NotImplementedError)  # these say what is wrong by themselves
NOT_OF_FILES = ("meta device context", "out of memory")  # what such a RuntimeError says is true of the caller
AGAIN = "fetch or save it again"


@contextmanager
def errors_naming(what: Any, remedy: str = AGAIN) -> Iterator[None]:
    """Let every error in the body of the ``with`` statement name the file or the field that it is about.

    Args:
        what (Any): The file, the folder or the field. An error that names it already stays as it is, and so does an
            error of the operating system that has a file name.
        remedy (str): What to do about it.

    Yields:
        None: Nothing.

    Raises:
        OSError: The file cannot be reached.
        ValueError: What is in it cannot be used.
    """
    try:
        yield
    except PASSED_ON:
        raise
    except OSError as error:
        if error.filename is not None or str(what) in str(error):
            raise
        raise OSError(_named(what, error, remedy)) from error
    except Exception as error:
        if isinstance(error, ValueError) and str(what) in str(error):
            raise
        if isinstance(error, RuntimeError) and any(words in str(error) for words in NOT_OF_FILES):
            raise
        raise ValueError(_named(what, error, remedy)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # such as KeyboardInterrupt
            raise
        raise ValueError(_named(what, error, remedy)) from error


def _named(what: Any, error: BaseException, remedy: str) -> str:
    """Write the message: an error of ours is a sentence already, others say little without their class."""
    text = " ".join(str(error).split())[:400]
    is_ours = type(error) is ValueError or type(error).__module__.startswith(str(__package__))
    if is_ours and text:
        return f"{what}: {text}"
    return f"{what} cannot be used ({type(error).__name__}{': ' if text else ''}{text}); {remedy}"
