"""Every kind of vision tower: its features, the adapters in it, its images, and training with it."""

import json
from types import SimpleNamespace

import pytest
import scripts
import tiny
import torch
import towers
import transformers
from closeness import assert_close, assert_equal
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig

from adem_vl_hf import AdemVLConfig, AdemVLForConditionalGeneration, AdemVLProcessor
from adem_vl_hf.loading import build_model, describe
from adem_vl_hf.modeling.bases import load_vision_tower
from adem_vl_hf.modeling.fingerprints import base_fingerprint
from adem_vl_hf.modeling.towers import TOWERS
from adem_vl_hf.modeling.vision import VisionAdapter, attach_vision_adapters, tower_blocks, vision_features

pytestmark = [pytest.mark.core, pytest.mark.kernels]
each_kind = pytest.mark.parametrize("kind", towers.KINDS, ids=towers.IDS)
each_model = pytest.mark.parametrize("model", towers.MODELS)
LAST_NORM = {"clip_vision_model": "post_layernorm", "siglip_vision_model": "post_layernorm", "dinov3_vit": "norm"}
NORM_OF_MLP = {"clip_vision_model": "layer_norm2", "siglip_vision_model": "layer_norm2"}
NORM_OF_MLP |= {"vit": "layernorm_after", "deit": "layernorm_after"}
SIZES = {"hidden_size": towers.WIDTH, "patch_size": towers.PATCH, "num_hidden_layers": 3}
OTHERS = {"dinov2_with_registers": 2, "dinov3_vit": 2, "deit": 1}  # registers; the distillation token


def inner(tower):
    return getattr(tower, "vision_model", tower)


def owner(adapters):
    """What the hooks ask for the adapters, in the place of a model."""
    return SimpleNamespace(adapter=SimpleNamespace(vision_adapters=adapters))


def test_the_helper_has_every_kind_of_the_table():
    assert list(TOWERS) == list(towers.KINDS)
    for kind, row in TOWERS.items():
        assert (row.config_class, row.model_class) == towers.KINDS[kind][:2]
        assert towers.config(kind).model_type == row.model_type


@torch.no_grad()
@pytest.mark.parametrize("layer", [-2, 1, -1])
@each_kind
@each_model
def test_blocks_behind_the_features_do_not_run(model, kind, layer, bases):
    levels = [1, layer] if layer != 1 else [1]
    layers = {"vision_feature_layer": levels if model == "evlm" else layer}
    made = towers.build(model, bases, towers.tower(kind), image_size=towers.SIDE, **layers).eval()
    ran = []
    for number, block in enumerate(tower_blocks(made.vision_tower)):
        next(block.children()).register_forward_hook(lambda part, args, output, number=number: ran.append(number))
    pixels = tiny.pictures(2)
    stopped = made.get_image_features(pixels)
    assert ran == list(range({-2: 2, 1: 1, -1: 3}[layer]))
    ran.clear()
    whole = made.get_image_features(pixels, output_hidden_states=True)
    assert ran == [0, 1, 2]
    assert len(whole.hidden_states) == 4
    assert torch.equal(stopped.pooler_output, whole.pooler_output)
    assert stopped.hidden_states is None
    before = made.get_image_features(pixels)  # what was asked for once is not kept
    assert torch.equal(before.last_hidden_state, stopped.last_hidden_state)
    assert ran[3:] == ran[: len(ran) - 3]


@torch.no_grad()
@each_kind
def test_the_features_are_the_librarys_own_hidden_states(kind):
    tower, pixels = towers.tower(kind), tiny.pictures(2)
    out = tower(pixels, output_hidden_states=True)
    others, norm = OTHERS.get(kind, 0), getattr(inner(tower), LAST_NORM.get(kind, "layernorm"))
    for layer in (-1, -2, 1):
        states = norm(out.hidden_states[layer])
        first = inner(tower).head(states)[:, None] if kind == "siglip_vision_model" else states[:, :1]
        found = vision_features(tower, pixels, layer).pooler_output
        assert found.shape == (2, 1 + towers.PATCHES, towers.WIDTH)
        assert_close(found, torch.cat([first, states[:, -towers.PATCHES :]], dim=1))
        assert states.shape[1] == towers.PATCHES + others + (kind != "siglip_vision_model")
    # the last layer is what the library itself calls last_hidden_state, and its pooled output comes first
    last = vision_features(tower, pixels, -1).pooler_output
    if kind != "clip_vision_model":
        assert_close(last[:, 1:], out.last_hidden_state[:, -towers.PATCHES :])
    if kind not in ("vit", "deit"):  # whose pooler is one layer more
        assert_close(last[:, 0], out.pooler_output)
    levels = vision_features(tower, pixels, [1, 3]).pooler_output
    for i, layer in enumerate((1, 3)):
        states = out.hidden_states[layer]
        patches = states[:, -towers.PATCHES :]
        first = patches.mean(1, keepdim=True) if kind == "siglip_vision_model" else states[:, :1]
        assert_close(levels[:, i], torch.cat([first, patches], dim=1))


@torch.no_grad()
def test_a_siglip_without_its_head_has_the_mean_of_its_patches():
    tower, pixels = towers.tower("siglip_vision_model", vision_use_head=False), tiny.pictures(2)
    found = vision_features(tower, pixels, -2).pooler_output
    assert_close(found[:, 0], found[:, 1:].mean(1))


@torch.no_grad()
@each_kind
def test_an_adapter_stands_beside_its_mlp(kind):
    """``x + mlp(n) + scale * adapter(n)``, and behind DINO's layer scale: nothing scales the adapter."""
    extra = {"layerscale_value": 1e-5} if "dino" in kind else {}
    config = towers.config(kind, **extra)
    tower = getattr(transformers, towers.KINDS[kind][1])(config).eval()
    pixels, block = tiny.pictures(2), tower_blocks(tower)[1]
    seen = {}
    getattr(block, NORM_OF_MLP.get(kind, "norm2")).register_forward_hook(
        lambda module, args, output: seen.update(norm=output)
    )
    block.register_forward_hook(lambda module, args, output: seen.update(block=tiny.first(output)))
    plain_features = vision_features(tower, pixels, -1).pooler_output
    norm, plain = seen["norm"], seen["block"]
    adapters = nn.ModuleList(VisionAdapter(towers.WIDTH, 4, 0.0) for _ in range(2))
    for adapter in adapters:
        adapter.reset()
    attach_vision_adapters(tower, owner(adapters), 0.25)
    assert torch.equal(vision_features(tower, pixels, -1).pooler_output, plain_features)  # silent at the start
    nn.init.normal_(adapters[1].up.weight)
    adapted = vision_features(tower, pixels, -1).pooler_output
    beside = 0.25 * adapters[1](norm)
    assert beside.abs().max() > 0.1
    assert_close(seen["block"], plain + beside)
    assert (adapted - plain_features).abs().max() > 0.01


@each_model
@each_kind
def test_a_model_trains_and_is_saved(kind, model, bases, tower_folders, tmp_path):
    made = towers.build(model, bases, tower_folders[kind])
    config = made.config
    assert (config.image_size, config.grid) == (towers.SIDE, tiny.GRID)
    assert config.vision_config.model_type == kind
    inputs = towers.rows()
    with torch.no_grad():
        pixels = inputs["pixel_values"][:2]
        alone = load_vision_tower(str(tower_folders[kind])).eval()
        expected = vision_features(alone, pixels, config.vision_feature_layer).pooler_output
        assert_close(made.get_image_features(pixels).pooler_output, expected)  # the fresh adapters change nothing
        other = inputs | {"pixel_values": inputs["pixel_values"].flip(0)}
        if model == "evlm":  # its gates are shut
            assert torch.equal(made(**inputs).logits, made(**other).logits)
    tiny.perturb(made).train()
    made(**tiny.batch([6, 5], [True, True])).loss.backward()
    for name, parameter in made.named_parameters():
        assert parameter.requires_grad == name.startswith("adapter.")
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.abs().max() > 0, name
    made.eval().save_pretrained(tmp_path)
    again = towers.MODELS[model].from_pretrained(tmp_path)
    assert_equal(again.state_dict(), made.state_dict())
    with torch.no_grad():
        logits = made(**inputs).logits
        assert_close(again(**inputs).logits, logits)
        assert (made(**other).logits - logits)[:2].abs().max() > 1e-3
    assert json.loads((tmp_path / "config.json").read_text())["vision_config"]["model_type"] == kind
    for config in (AutoConfig.from_pretrained(tmp_path), type(made.config).from_dict(made.config.to_dict())):
        assert type(config.vision_config) is type(towers.config(kind))
        for name in set(config.field_names) - {"text_config", "vision_config"}:
            assert getattr(config, name) == getattr(made.config, name), name
        assert base_fingerprint(made.vision_tower)["config"] == config.vision_model_fingerprint["config"]
        assert all(getattr(config.vision_config, name) == value for name, value in SIZES.items())
        assert config.grid == tiny.GRID


@torch.no_grad()
@each_kind
def test_a_checkpoint_of_every_weight_has_the_names_of_the_hub(kind, bases, tower_folders, tmp_path):
    """Each version of Transformers reads them, whatever it calls the weights itself."""
    made = tiny.perturb(towers.build("adem_vl", bases, tower_folders[kind]))
    made.save_pretrained(tmp_path / "first", save_base=True)
    loaded = AdemVLForConditionalGeneration.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    inputs = towers.rows()
    again = AdemVLForConditionalGeneration.from_pretrained(tmp_path / "second")
    assert_equal(loaded.state_dict(), made.state_dict())
    assert_close(again(**inputs).logits, made(**inputs).logits)
    on_the_hub = {name.removeprefix("vision_model.") for name in load_file(tower_folders[kind] / "model.safetensors")}
    for folder in ("first", "second"):
        saved = load_file(tmp_path / folder / "model.safetensors")
        names = {name.removeprefix("vision_tower.").removeprefix("vision_model.") for name in saved if "_tower" in name}
        assert names == {name for name in on_the_hub if not name.startswith("pooler.")}


@torch.no_grad()
@each_kind
def test_blocks_that_train_have_the_names_of_the_hub(kind, bases, tower_folders, tmp_path):
    made = tiny.perturb(towers.build("evlm", bases, tower_folders[kind], train_vision_blocks=1))
    for block in made.unfrozen_vision_blocks().values():
        for parameter in block.parameters():
            parameter.add_(0.1)
    made.save_pretrained(tmp_path)
    again = towers.MODELS["evlm"].from_pretrained(tmp_path)
    assert_equal(again.state_dict(), made.state_dict())
    on_the_hub = load_file(tower_folders[kind] / "model.safetensors")
    saved = [name for name in load_file(tmp_path / "model.safetensors") if name.startswith("adapter.vision_blocks.2.")]
    assert len(saved) == len(tower_blocks(made.vision_tower)[2].state_dict())
    for name in saved:
        last = name.removeprefix("adapter.vision_blocks")  # .2.mlp.fc1.weight
        assert any(key.endswith(last) for key in on_the_hub), name


@each_kind
def test_a_frozen_tower_stays_in_evaluation_mode(kind, bases, tower_folders):
    """DINOv3 moves its patches at random in training, and others could drop some."""
    made = towers.build("adem_vl", bases, tower_folders[kind])
    pixels = tiny.pictures(2)
    with torch.no_grad():
        plain = made.get_image_features(pixels).pooler_output
        made.train()
        assert torch.equal(made.get_image_features(pixels).pooler_output, plain)
    blocks = tower_blocks(made.vision_tower)
    assert all(block.training for block in blocks)  # gradient checkpointing asks for it
    inside = [module for module in made.vision_tower.modules() if not any(module is block for block in blocks)]
    assert not any(module.training for module in inside)
    way = "activation" if hasattr(made, "activation_checkpointing_enable") else "gradient"
    getattr(made, f"{way}_checkpointing_enable")()
    inputs = tiny.batch([6, 5], [True, True])
    made(**inputs).loss.backward()
    checkpointed = tiny.gradients(made)
    getattr(made, f"{way}_checkpointing_disable")()
    made(**inputs).loss.backward()
    assert_close(checkpointed, tiny.gradients(made))
    assert not any(module.training for module in made.eval().vision_tower.modules())


@torch.no_grad()
@each_kind
def test_the_processor_makes_what_the_model_takes(kind, bases, tower_folders, tmp_path):
    made, processor = build_model(str(bases / "llama"), str(tower_folders[kind]), **towers.FIELDS["adem_vl"])
    own = transformers.AutoImageProcessor.from_pretrained(tower_folders[kind])
    inputs = processor(images=[tiny.picture()], text=["a photo of"])
    assert inputs["pixel_values"].shape[-2:] == (towers.SIDE, towers.SIDE)
    expected = own(images=[tiny.picture()], return_tensors="pt")["pixel_values"]
    assert_close(inputs["pixel_values"].reshape(expected.shape), expected)
    logits = made(**inputs).logits
    made.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AdemVLProcessor.from_pretrained(tmp_path)
    assert_close(again(images=[tiny.picture()], text=["a photo of"]), inputs)
    assert_close(AdemVLForConditionalGeneration.from_pretrained(tmp_path)(**inputs).logits, logits)
    assert describe(str(tmp_path))["tower"] == f"{kind}, 3 blocks of width 24, grid 4 x 4"


@torch.no_grad()
@each_kind
def test_without_an_image_processor_pixels_are_as_the_kind_is_used_to(kind, bases, tower_folders, tmp_path):
    mean = {"clip_vision_model": 0.48145466, "siglip_vision_model": 0.5, "vit": 0.5}.get(kind, 0.485)
    towers.tower(kind, image_size=towers.SIDE).save_pretrained(tmp_path)
    made = towers.build("adem_vl", bases, towers.tower(kind, image_size=towers.SIDE))
    processor = AdemVLProcessor.from_base_pretrained(str(bases / "llama"), str(tmp_path), made.config)
    assert processor.image_processor.image_mean[0] == pytest.approx(mean)
    assert made(**processor(images=[tiny.picture()], text=["a photo"])).logits.isfinite().all()


@torch.no_grad()
def test_a_tower_that_takes_any_size_gets_the_one_that_is_asked_for(bases, tower_folders):
    for kind in ("dinov2", "dinov3_vit"):
        tower = str(tower_folders[kind])
        made, processor = build_model(str(bases / "llama"), tower, image_size=24, **towers.FIELDS["adem_vl"])
        assert (made.config.grid, made.config.visual_token_counts) == (6, [36, 9])
        inputs = processor(images=[tiny.picture()], text=["a photo of"])
        assert inputs["pixel_values"].shape[-2:] == (24, 24)
        assert made(**inputs).logits.isfinite().all()
        with pytest.raises(ValueError, match="pixel_values has images of 16 x 16 pixels, and the model takes 24 x 24"):
            made(**towers.rows())
    # of a tower that nobody loaded from anywhere, only its configuration is known: 28 pixels in this one
    assert towers.build("adem_vl", bases, towers.tower("dinov2")).config.grid == 7
    with pytest.raises(ValueError, match="image_size is 24, and this vit takes images of 16 pixels alone"):
        build_model(str(bases / "llama"), str(tower_folders["vit"]), image_size=24)
    with pytest.raises(ValueError, match="image_size is 3; give at least the 4 pixels of a patch"):
        AdemVLConfig(vision_config=towers.config("dinov2"), image_size=3)
    with pytest.raises(ValueError, match="not square"):
        AdemVLConfig(vision_config=towers.config("vit", image_size=[16, 32]))


def test_the_page_has_the_table_of_the_code():
    left_out = {0: "nothing", 1: "the distillation token", "num_register_tokens": "the registers"}
    expected = [
        " | ".join((
            row.name,
            ", ".join(f"`{one}`" for one in (row.model_type, row.part_of) if one),
            f"`{row.model_class}`",
            "its own" if row.has_class_token else "the output of its pooling head",
            left_out[row.left_out],
            " or ".join(f"`{path}`" for path in row.blocks),
            f"`{row.norm}`",
            "any" if row.any_size else "`image_size` of the tower",
        ))
        for row in TOWERS.values()
    ]  # fmt: skip
    page = (scripts.ROOT / "docs" / "towers.md").read_text(encoding="utf-8")
    page, _ = page.split("## Towers without a model hub")
    _, _, *found = [line.strip("| ") for line in page.splitlines() if line.startswith("|")]
    assert found == expected
