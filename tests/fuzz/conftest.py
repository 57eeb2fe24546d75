"""Prints the table of outcomes behind the tests of this folder, and writes it to the file ``FUZZ_TABLE``."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _quiet():
    """Hundreds of loads would print a bar each."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    yield
    logging.set_verbosity(before)
    logging.enable_progress_bar()


def pytest_terminal_summary(terminalreporter):
    import fuzzing

    if fuzzing.OUTCOMES:
        terminalreporter.write_line("")
        terminalreporter.write_line(fuzzing.table())
        if path := os.environ.get("FUZZ_TABLE"):
            Path(path).write_text(fuzzing.table() + "\n", encoding="utf-8")
