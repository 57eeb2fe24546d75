"""The two models of the package, for tests that hold for both: each takes the fixture ``arch`` (``conftest.py``)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import evlm
import families
import pytest
import tiny

import adem_vl_hf.modeling
from adem_vl_hf import (
    AdemVLConfig,
    AdemVLForConditionalGeneration,
    AdemVLProcessor,
    EvlmConfig,
    EvlmForConditionalGeneration,
    EvlmProcessor,
)

FILES = {path.name for path in Path(adem_vl_hf.modeling.__file__).parent.glob("*.py")} - {"__init__.py"}
OF_EVLM_ALONE = {f"{n}_evlm.py" for n in ("adapter", "configuration", "modeling", "processing")}
OF_EVLM_ALONE |= {"cross_attention.py", "visibility.py"}
OF_ADEM_VL_ALONE = {f"{n}_adem_vl.py" for n in ("adapter", "configuration", "modeling")}
OF_ADEM_VL_ALONE |= {"fused_layers.py", "fusion.py", "drop_kernel.py"}


@dataclass(frozen=True)
class Architecture:
    """One of the models.

    Args:
        model_type: as in its configuration. build: from a folder of bases (``llama`` or another, and ``clip``), with an
            adapter that shows. One image token an image, as ``tiny.batch`` has it. files: what travels with it.
        large: fields that make the adapter larger than all else. setting: a field, the value it has and another one,
            with which the same tensors mean something else.
        learns_from_text: what of the adapter gets a gradient from text without images.
    """

    model_type: str
    config_class: type
    model_class: type
    processor_class: type
    build: Callable[..., Any]
    files: frozenset[str]
    large: dict[str, Any]
    setting: tuple[str, Any, Any]
    learns_from_text: frozenset[str]

    def __str__(self) -> str:
        return self.model_type

    def processor(self, bases: Path, model) -> Any:
        """The processor of a model on these bases."""
        return self.processor_class.from_base_pretrained(str(bases / "llama"), str(bases / "clip"), model.config)


ADEM_VL = Architecture(
    "adem_vl",
    AdemVLConfig,
    AdemVLForConditionalGeneration,
    AdemVLProcessor,
    tiny.build,
    files=frozenset(FILES - OF_EVLM_ALONE),
    large={"projector_dim": 4096, "vision_adapter_dim": 512},
    setting=("fusion_scale", 1.0, 0.3),
    learns_from_text=frozenset({"adapter.key_embedding", "adapter.value_embedding"}),
)
EVLM = Architecture(
    "evlm",
    EvlmConfig,
    EvlmForConditionalGeneration,
    EvlmProcessor,
    partial(evlm.build, media_tokens=1),
    files=frozenset(FILES - OF_ADEM_VL_ALONE),
    large={"ffn_ratio": 100.0},
    setting=("mask_mode", "previous_image", "all_frames"),
    learns_from_text=frozenset(),  # what sees no image passes through
)
BOTH = (ADEM_VL, EVLM)


def each() -> pytest.MarkDecorator:
    """Runs a test once for each model."""
    return pytest.mark.parametrize("arch", BOTH, ids=str, indirect=True, scope="module")


def each_family(fixture: str = "bases") -> pytest.MarkDecorator:
    """Runs a test on ADEM-VL for each family of the feature table, and on EVLM for Llama.

    Of the families, `make test` runs Llama. EVLM's other families are in ``test_evlm_families.py``.
    """
    rows = [
        pytest.param(family, ADEM_VL, id=family, marks=[] if family == "llama" else pytest.mark.slow)
        for family in families.TABLE
    ]
    rows.append(pytest.param("llama", EVLM, id="evlm"))
    return pytest.mark.parametrize((fixture, "arch"), rows, indirect=True, scope="module")
