"""No network, one thread, and the tiny bases that the tests share."""

import os

# before Transformers and tokenizers are imported, which read them once
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bases(request, tmp_path_factory) -> Path:
    """A folder with ``llama`` (of another family where a test asks for one) and ``clip``."""
    import families

    return families.save_bases(tmp_path_factory.mktemp("bases"), getattr(request, "param", "llama"))


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
