"""The script for a machine with a GPU: on another one it says so, and the commands in it are right."""

import os
import re
import subprocess
import sys

import pytest
import scripts
import torch

SCRIPT = scripts.ROOT / "benchmarks" / "gpu.sh"


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would run for minutes")
@pytest.mark.slow
def test_without_a_gpu_it_says_so():
    env = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run([SCRIPT], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "this needs a GPU" in done.stderr


def test_its_commands_name_what_exists():
    text = SCRIPT.read_text(encoding="utf-8").replace("\\\n", " ")
    for file in re.findall(r"(?:tests|benchmarks)/\S+\.py", text):
        assert (scripts.ROOT / file).is_file(), file
    known = scripts.load("benchmarks/efficiency.py")
    for command in re.findall(r"efficiency\.py(.*)", text):
        assert re.search(r"--backbones (\S+)", command)[1] in known.BACKBONES
        assert set(re.search(r"--arms ([a-z_ ]+?)(?= --|$)", command)[1].split()) <= set(known.ARMS)
