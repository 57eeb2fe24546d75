"""Programs leave out what DeepSpeed and bitsandbytes tell about a machine without a GPU, and nothing else."""

import logging
import os
import subprocess
import sys

import pytest

from adem_vl_hf.quiet import NO_GPU, quiet_libraries

IMPORT = """
import sys
if sys.argv[1] == "quiet":
    from adem_vl_hf.quiet import quiet_libraries
    quiet_libraries()
from deepspeed.accelerator import get_accelerator
print(get_accelerator().device_name())
"""


@pytest.fixture
def loggers():
    """The two loggers, which are as they were after the test."""
    found = [logging.getLogger(name) for name in ("DeepSpeed", "bitsandbytes")]
    before = [(logger.level, list(logger.filters)) for logger in found]
    yield found
    for logger, (level, filters) in zip(found, before, strict=True):
        logger.setLevel(level)
        logger.filters[:] = filters


def test_other_messages_are_not_left_out(loggers):
    deepspeed, bitsandbytes = loggers
    told = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    quiet_libraries()
    quiet_libraries()
    assert len(deepspeed.filters) == 1
    for logger in loggers:
        logger.addHandler(handler)
    try:
        deepspeed.warning(f"{NO_GPU}. If you have GPU or other accelerator, we were unable to detect it.")
        deepspeed.warning("the optimizer overflowed")
        bitsandbytes.warning("no kernel for this processor")
        bitsandbytes.error("no weights")
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    assert told == ["the optimizer overflowed", "no weights"]


@pytest.mark.slow
def test_deepspeed_says_nothing_of_the_cpu():
    pytest.importorskip("deepspeed")
    env = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    said = {}
    for how in ("quiet", "as it is"):
        command = [sys.executable, "-c", IMPORT, how]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        said[how] = done.stdout + done.stderr
    device = said["quiet"].splitlines()[-1]
    assert NO_GPU not in said["quiet"]
    assert (NO_GPU in said["as it is"]) == (device == "cpu")  # where a GPU is found there is nothing to leave out
