"""Registers the model with ``lmms-eval`` 0.7, through the entry point ``lmms_eval.models``.

If both packages are installed, ``lmms_eval --model adem_vl --model_args pretrained=FOLDER --tasks gqa`` works.
"""

from typing import Any


def manifest() -> Any:
    """Describe the model ``adem_vl`` to the harness.

    Returns:
        A ``ModelManifest``.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="adem_vl", simple_class_path="adem_vl_hf.evaluation.lmms_eval.model.AdemVLModel", aliases=("evlm",)
    )
