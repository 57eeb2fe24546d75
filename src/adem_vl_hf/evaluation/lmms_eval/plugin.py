"""What ``lmms-eval`` asks an installed package for: the entry point ``lmms_eval.models`` (lmms-eval 0.7).

With it ``lmms_eval --model adem_vl --model_args pretrained=FOLDER --tasks gqa`` works where both are installed.
"""

from typing import Any


def manifest() -> Any:
    """The model ``adem_vl`` as a ``ModelManifest``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="adem_vl", simple_class_path="adem_vl_hf.evaluation.lmms_eval.model.AdemVLModel", aliases=("evlm",)
    )
