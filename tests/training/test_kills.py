"""A few of the moments that ``make kills`` stops saves and trainings at. ADEM_VL_KILLS has more arguments for it."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import scripts

pytestmark = pytest.mark.slow


COMMON = ("model", "processor", "training")


@pytest.mark.skipif(shutil.which("cc") is None or sys.platform != "linux", reason="needs a C compiler and LD_PRELOAD")
@pytest.mark.parametrize(
    ("kinds", "moments"), [(COMMON, "--saves 4 --trainings 1"), (("ddp",), "--trainings 1 --modes killed")], ids=str
)
def test_nothing_is_lost_at_any_moment(kinds, moments, tmp_path):
    arguments = [*moments.split(), *os.environ.get("ADEM_VL_KILLS", "").split(), "--only", *kinds]
    command = [sys.executable, scripts.ROOT / "tests/helpers/kills.py", "--json", tmp_path / "counts.json", *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert tuple(counts) == kinds
    for modes in counts.values():
        for ended in modes.values():
            whole = {"old", "new", "bit-equal"}
            assert {key for key, number in ended.items() if number} <= {*whole, "moments"}, done.stderr[-4000:]
            assert sum(ended.get(key, 0) for key in whole) > 0
    # both ways of ending were met
    assert "model" not in counts or sum(ended.get("old", 0) for ended in counts["model"].values()) > 0
