"""No network, one thread, and the tiny bases that the tests share."""

import gc
import os
import re

# before Transformers and tokenizers are imported, which read them once
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# in the processes that tests start, too: two tests at a time with two threads each wait for one another
os.environ["OMP_NUM_THREADS"] = "1"

from collections import Counter
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # which Triton reads when it is imported, by whomever
# What the tests import stays until they end. Nothing of it is garbage, and to look for garbage there takes a large part
# of a second each time, which Trainer asks for at the start of every training.
gc.disable()

TESTS = Path(__file__).parent
# Files that take longest, by their processor seconds (slow ones 230 to 40, then 58 to 8). With the short ones last, no
# process is left alone with a long one while the others have nothing to do.
LONGEST = (
    "training/test_distributed", "training/test_two_hosts", "training/test_kills", "training/test_fields_run",
    "library/test_library_families", "training/test_fields_optimizers", "benchmarks/test_compare",
    "docs/test_notebook", "test_distribution", "app/test_app_checkpoints", "serving/test_command",
    "test_imports", "docs/test_examples", "training/test_training", "modeling/test_compiled_generation",
    "benchmarks/test_speed_benchmarks", "hub/test_upload", "modeling/test_remote_code", "docs/test_readme",
    "training/test_trl", "training/test_resume", "training/test_training_options", "benchmarks/test_benchmarks",
    "cli/test_cli", "training/test_demo", "training/test_compiled_training",
)  # fmt: skip


def pytest_ignore_collect(collection_path, config):
    """Leave files unread that have not the marker asked for: importing what they need takes each process ten seconds.

    Only for the markers that are never put on a test by another file.
    """
    wanted = re.match(r"(core|kernels)\b", config.option.markexpr)
    if wanted and collection_path.match("test_*.py"):
        return True if f"mark.{wanted[1]}" not in collection_path.read_text(encoding="utf-8") else None
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Put the longest files first, then those of most tests (pytest-xdist gives files out in this order)."""
    files = [item.path.relative_to(TESTS).with_suffix("").as_posix() for item in items]
    number, rank = Counter(files), {file: place for place, file in enumerate(LONGEST)}
    order = sorted(zip(files, items, strict=True), key=lambda one: (rank.get(one[0], len(rank)), -number[one[0]]))
    items[:] = [item for _, item in order]


def pytest_collection_finish():
    """Collect garbage from here on, without what was imported so far."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def bases(request, tmp_path_factory) -> Path:
    """A folder with ``llama`` (of another family where a test asks for one) and ``clip``."""
    import families

    return families.save_bases(tmp_path_factory.mktemp("bases"), getattr(request, "param", "llama"))


@pytest.fixture(scope="session")
def tower_folders(tmp_path_factory) -> dict[str, Path]:
    """The tiny vision towers in folders, by kind."""
    import towers

    root = tmp_path_factory.mktemp("towers")
    return {kind: towers.save(kind, root / kind) for kind in towers.KINDS}


@pytest.fixture(scope="session")
def arch(request):
    """The model that a test is about: ADEM-VL, or where a test asks for it (``architectures.each``) EVLM."""
    import architectures

    return getattr(request, "param", architectures.ADEM_VL)


@pytest.fixture(scope="module")
def model(bases, arch):
    """A model whose adapter shows, in evaluation mode; tests leave it as they found it."""
    return arch.build(bases)


@pytest.fixture(scope="session", params=["default", "no_drop_no_cls"])
def golden(request, tmp_path_factory):
    """The golden files by name: bases, and the authors' adapter file converted to a checkpoint."""
    import golden_files

    return golden_files.load(request.param, tmp_path_factory.mktemp(request.param))
