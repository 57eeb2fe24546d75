"""Models that hold a vision tower, and the towers that are refused."""

import copy
import json
import re
from functools import partial

import pytest
import tiny
import torch
import towers
import transformers
from closeness import assert_close
from safetensors.torch import load_file

from adem_vl_hf import AdemVLConfig, AdemVLForConditionalGeneration
from adem_vl_hf.loading import build_model

pytestmark = [pytest.mark.core, pytest.mark.kernels]


def siglip_model():
    small = {**towers.SHAPE, **towers.MLP}
    text = {"vocab_size": 32, "hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 3, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=small))


def clip_model():
    small = {**towers.SHAPE, **towers.MLP}
    text = {"vocab_size": 32, "hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 3, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=small))


def classifier(kind, name):
    return getattr(transformers, name)(towers.config(kind))


WHOLE = {
    "siglip": (siglip_model, "siglip_vision_model"),
    "clip": (clip_model, "clip_vision_model"),
    "clip_with_projection": (
        lambda: transformers.CLIPVisionModelWithProjection(towers.config("clip_vision_model")), "clip_vision_model"
    ),
    "vit_classifier": (partial(classifier, "vit", "ViTForImageClassification"), "vit"),
    "vit_with_pooler": (partial(classifier, "vit", "ViTModel"), "vit"),
    "deit_classifier": (partial(classifier, "deit", "DeiTForImageClassificationWithTeacher"), "deit"),
    "dinov2_classifier": (partial(classifier, "dinov2", "Dinov2ForImageClassification"), "dinov2"),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("siglip", "clip", "vit_classifier") else pytest.param(name, marks=pytest.mark.slow)
        for name in WHOLE
    ],
)
def test_models_that_hold_a_tower_work_as_folders_and_as_objects(name, bases, tmp_path):
    make, kind = WHOLE[name]
    whole = towers.randomize(make())
    whole.save_pretrained(tmp_path / "whole")
    if kind in towers.NAMES and name != "clip_with_projection":  # as on the Hub, whatever this version writes
        assert any(key.startswith("vision_model.") for key in load_file(tmp_path / "whole" / "model.safetensors"))
    fields = {"image_size": 16} if "dino" in kind else {}
    by_folder = tiny.perturb(towers.build("adem_vl", bases, tmp_path / "whole", **fields))
    by_object = tiny.perturb(towers.build("adem_vl", bases, copy.deepcopy(whole), **fields))
    assert by_folder.config.vision_config.model_type == by_object.config.vision_config.model_type == kind
    assert type(by_folder.vision_tower) is type(by_object.vision_tower)
    inputs = towers.rows()
    expected = by_folder(**inputs).logits
    assert_close(by_object(**inputs).logits, expected)
    by_folder.save_pretrained(tmp_path / "saved")
    again = AdemVLForConditionalGeneration.from_pretrained(tmp_path / "saved", vision_tower=whole)
    assert_close(again(**inputs).logits, expected)
    assert_close(AdemVLForConditionalGeneration.from_pretrained(tmp_path / "saved")(**inputs).logits, expected)


KINDS_IN_WORDS = (
    "take one of Transformers' kinds CLIP, SigLIP, SigLIP 2 of fixed resolution, DINOv2, DINOv2 with registers, DINOv3 "
    "ViT, ViT or DeiT, or a plain ViT of open_clip (vision_backend='open_clip')"
)


@pytest.mark.parametrize(
    "model_type", ["siglip2", "siglip2_vision_model", "swin", "convnext", "beit", "dinov3_convnext", "llama", None]
)
def test_every_other_kind_is_refused_by_its_model_type(model_type, bases, tmp_path):
    fields = {} if model_type is None else {"model_type": model_type}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    it_is = repr(model_type) if model_type else "nameless"
    message = f"the vision tower '{tmp_path}' is a {it_is} model, which is not supported: {KINDS_IN_WORDS}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        towers.build("adem_vl", bases, tmp_path)
    with pytest.raises(ValueError, match="which is not supported: take one of Transformers' kinds CLIP"):
        build_model(str(bases / "llama"), str(tmp_path))


def test_objects_and_configurations_of_other_kinds_are_refused(bases):
    shape = {"num_hidden_layers": 1, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 24}
    config = transformers.BeitConfig(**shape, image_size=16, patch_size=4)
    with pytest.raises(ValueError, match="the vision tower BeitModel is a 'beit' model, which is not supported: take"):
        towers.build("adem_vl", bases, transformers.BeitModel(config))
    with pytest.raises(ValueError, match="the vision tower is a 'beit' model, which is not supported: take one of"):
        AdemVLConfig(vision_config=config)
    backbone = transformers.Dinov2Backbone(towers.config("dinov2"))
    with pytest.raises(ValueError, match="a Dinov2Backbone holds no Dinov2Model, which is what the model sees through"):
        towers.build("adem_vl", bases, backbone)
