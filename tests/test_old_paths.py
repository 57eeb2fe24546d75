"""Imports of the bundle under its old names."""

import importlib

import pytest

from adem_vl_hf.old_paths import BUNDLE, MOVED

USED = {
    "fusion_adem_vl": "AdemVLAdapter VisionAdapter fuse kernel_map pool_scales",
    "inputs_adem_vl": "merge_image_embeds",
    "frozen_adem_vl": "FrozenBasesForConditionalGeneration",
    "distributed_adem_vl": "several_processes",
    "base_configuration_adem_vl": "FrozenBasesConfig",
    "prompts_adem_vl": "prompts_alone VisualGenerationMixin",
    "lora_adem_vl": "attach_lora complete_lora",
    "unfrozen_adem_vl": "unfreeze_blocks",
    "vision_adem_vl": "vision_features tower_blocks",
    "visibility_evlm": "VisualCacheLayer",
    "pipeline_adem_vl": "AdemVLImageToTextPipeline",
}


@pytest.mark.parametrize("name", sorted(MOVED))
def test_an_old_path_warns_and_gives_what_is_there_now(name):
    with pytest.warns(DeprecationWarning, match=rf"{name} is now .*modeling\.{MOVED[name][0]}"):
        old = importlib.reload(importlib.import_module(BUNDLE + name))
    new = [importlib.import_module(BUNDLE + moved) for moved in MOVED[name]]
    for used in USED.get(name, "").split():
        assert getattr(old, used) is next(getattr(one, used) for one in new if hasattr(one, used))


def test_other_names_are_not_found():
    with pytest.raises(ModuleNotFoundError, match="fusion_evlm"):
        importlib.import_module(BUNDLE + "fusion_evlm")
