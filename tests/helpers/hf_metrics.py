"""``evaluate.load`` of the metrics of this package."""

import sys
from pathlib import Path

import evaluate
import pytest

import adem_vl_hf

FOLDER = Path(adem_vl_hf.__file__).parent / "evaluation" / "hf_metrics"


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Load one metric of this package with ``evaluate.load``, whose copies and tables go to a folder of these tests."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(folder / "modules"))
        patch.syspath_prepend(str(folder / "modules"))
        yield lambda name: evaluate.load(str(FOLDER / name), cache_dir=str(folder / "cache"))
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
        del sys.modules[name]  # they belong to that folder
