"""The tower's features: from either backend, from any block, with and without adapters."""

import sys
from types import SimpleNamespace

import pytest
import scripts
import tiny
import torch
from closeness import assert_close, assert_equal
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import QuickGELU, VisionTransformer
from open_clip_folder import open_clip_folder, randomize
from torch import nn

from adem_vl_hf import AdemVLForConditionalGeneration, EvlmForConditionalGeneration
from adem_vl_hf.modeling.open_clip_tower import OpenClipVisionTower, open_clip_vision_config
from adem_vl_hf.modeling.vision import VisionAdapter, attach_vision_adapters, vision_features

clip_vision_from_open_clip = scripts.load("examples/train_tower.py").clip_vision_from_open_clip
pytestmark = [pytest.mark.core, pytest.mark.kernels]


def open_clip_vit(activation=nn.GELU):
    return randomize(
        VisionTransformer(
            image_size=16, patch_size=4, width=24, layers=3, heads=3, mlp_ratio=2, output_dim=16, act_layer=activation
        )
    )


def adapters(number=2):
    return randomize(nn.ModuleList(VisionAdapter(24, 4, 0.0) for _ in range(number)), std=0.5)


def owner(vision_adapters):
    """What the hooks ask for the adapters, in the place of a model."""
    return SimpleNamespace(adapter=SimpleNamespace(vision_adapters=vision_adapters))


@pytest.mark.parametrize("activation", [nn.GELU, QuickGELU])
@pytest.mark.parametrize("layer", [-1, -2, 2])
def test_both_backends_give_the_same_features(activation, layer):
    visual, pixels = open_clip_vit(activation), tiny.pictures(2)
    clip, tower = clip_vision_from_open_clip(visual), OpenClipVisionTower(visual)
    assert clip.config.hidden_act == ("gelu" if activation is nn.GELU else "quick_gelu")
    with torch.no_grad():
        plain = vision_features(tower, pixels, layer).pooler_output
        assert plain.shape == (2, 17, 24)
        assert_close(vision_features(clip, pixels, layer).pooler_output, plain)
        number = 3 if layer == -1 else 2
        for one in (clip, tower):
            attach_vision_adapters(one, owner(adapters(number)), 0.5)
        adapted = vision_features(tower, pixels, layer).pooler_output
        assert_close(vision_features(clip, pixels, layer).pooler_output, adapted)
    assert (adapted - plain).abs().max() > 1e-2


@pytest.mark.parametrize("layer", [-1, -2, -3, 1, 2, 3])
def test_the_feature_layer_is_the_output_of_a_block_through_the_post_norm(layer):
    visual, pixels = open_clip_vit(), tiny.pictures(2)
    blocks = layer if layer > 0 else 4 + layer
    with torch.no_grad():
        x = visual.conv1(pixels).flatten(2).mT
        x = torch.cat([visual.class_embedding.expand(2, 1, -1), x], 1) + visual.positional_embedding
        x = visual.ln_pre(x)
        for block in visual.transformer.resblocks[:blocks]:
            x = block(x)
        expected = visual.ln_post(x)
        for tower in (OpenClipVisionTower(visual), clip_vision_from_open_clip(visual)):
            assert_close(vision_features(tower, pixels, layer).pooler_output, expected)


def test_an_adapter_stands_beside_its_mlp():
    visual, pixels = open_clip_vit(), tiny.pictures(1)
    tower, beside = clip_vision_from_open_clip(visual), adapters(1)
    attach_vision_adapters(tower, owner(beside), 0.25)
    with torch.no_grad():
        x = visual.ln_pre(
            torch.cat([visual.class_embedding.expand(1, 1, -1), visual.conv1(pixels).flatten(2).mT], 1)
            + visual.positional_embedding
        )
        block = visual.transformer.resblocks[0]
        x = x + block.attention(block.ln_1(x))
        n = block.ln_2(x)
        bottleneck = nn.functional.gelu(n @ beside[0].down.weight.T) @ beside[0].up.weight.T
        expected = visual.ln_post(x + block.mlp(n) + 0.25 * bottleneck)
        assert_close(vision_features(tower, pixels, 1).pooler_output, expected)


def test_towers_that_are_no_plain_vit_are_refused():
    resnet = ModifiedResNet(layers=(1, 1, 1, 1), output_dim=16, heads=2, image_size=32, width=8)
    with pytest.raises(ValueError, match="ModifiedResNet is not a plain ViT"):
        OpenClipVisionTower(resnet)
    pooled = VisionTransformer(
        image_size=16, patch_size=4, width=24, layers=1, heads=3, mlp_ratio=2, output_dim=16, attentional_pool=True,
        attn_pooler_queries=4, attn_pooler_heads=2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="without attentional pooling"):
        open_clip_vision_config(pooled)
    with pytest.raises(ValueError, match="ViT-B-32.*names no weights"):
        OpenClipVisionTower.from_pretrained("ViT-B-32")


def test_a_model_on_an_open_clip_tower_equals_one_on_its_clip_and_survives_saving(bases, tmp_path):
    visual = open_clip_folder(tmp_path / "tower")
    fields = {"projector_dim": 8, "vision_adapter_dim": 4, "image_token_id": tiny.IMAGE_TOKEN_ID, **tiny.SHOWING}
    tower = f"local-dir:{tmp_path / 'tower'}"
    model = AdemVLForConditionalGeneration.from_base_pretrained(
        bases / "llama", tower, vision_backend="open_clip", **fields
    )
    clip = clip_vision_from_open_clip(visual)
    same = AdemVLForConditionalGeneration.from_base_pretrained(bases / "llama", clip, **fields)
    inputs = tiny.batch([6, 5], [True, True])
    with torch.no_grad():
        expected = tiny.perturb(model)(**inputs).logits
        assert_close(tiny.perturb(same)(**inputs).logits, expected)
        model.save_pretrained(tmp_path / "saved")
        loaded = AdemVLForConditionalGeneration.from_pretrained(tmp_path / "saved")
        assert_equal(loaded.state_dict(), model.state_dict())
        assert_close(loaded(**inputs).logits, expected)
        # the tower frozen and in evaluation mode whatever the model's mode
        assert not any(module.training for module in loaded.train().vision_tower.modules())
    assert not any(p.requires_grad for p in loaded.vision_tower.parameters())


@torch.no_grad()
@pytest.mark.parametrize("layers", [[1], [1, 3], [-3, 2, -1]], ids=str)
def test_both_backends_give_the_same_levels(layers):
    """Of several levels each is a block's output as it is."""
    visual, pixels = open_clip_vit(), tiny.pictures(2)
    x = visual.ln_pre(
        torch.cat([visual.class_embedding.expand(2, 1, -1), visual.conv1(pixels).flatten(2).mT], 1)
        + visual.positional_embedding
    )
    states = [x]
    for block in visual.transformer.resblocks:
        states.append(block(states[-1]))
    expected = torch.stack([states[layer] for layer in layers], dim=1)
    for tower in (OpenClipVisionTower(visual), clip_vision_from_open_clip(visual)):
        found = vision_features(tower, pixels, layers).pooler_output
        assert found.shape == (2, len(layers), 17, 24)
        assert_close(found, expected)


def test_evlm_on_an_open_clip_tower_equals_one_on_its_clip_and_survives_saving(bases, tmp_path):
    visual = open_clip_folder(tmp_path / "tower")
    fields = {"vision_feature_layer": [1, 2, 3], "media_tokens": 1, "image_token_id": tiny.IMAGE_TOKEN_ID}
    tower = f"local-dir:{tmp_path / 'tower'}"
    model = EvlmForConditionalGeneration.from_base_pretrained(
        bases / "llama", tower, vision_backend="open_clip", **fields
    )
    same = EvlmForConditionalGeneration.from_base_pretrained(
        bases / "llama", clip_vision_from_open_clip(visual), **fields
    )
    inputs = tiny.batch([6, 5], [True, True])
    with torch.no_grad():
        expected = tiny.perturb(model)(**inputs).logits
        assert_close(tiny.perturb(same)(**inputs).logits, expected)
        model.save_pretrained(tmp_path / "saved")
        loaded = EvlmForConditionalGeneration.from_pretrained(tmp_path / "saved")
        assert_equal(loaded.state_dict(), model.state_dict())
        assert_close(loaded(**inputs).logits, expected)


def test_without_open_clip_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match="pip install open_clip_torch"):
        OpenClipVisionTower.from_pretrained("ViT-B-32/openai")
