"""Saving and loading: what a checkpoint holds, that it comes back bit for bit, and which bases it is loaded on."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, CLIPVisionModel, LlamaForCausalLM

import adem_vl_hf.modeling
from adem_vl_hf import AdemVLConfig, AdemVLForConditionalGeneration, AdemVLProcessor

BUNDLE = {path.name for path in Path(adem_vl_hf.modeling.__file__).parent.glob("*_adem_vl.py")}
INPUTS = tiny.batch([8, 6], [True, False])


@torch.no_grad()
def logits(model):
    return model.eval()(**INPUTS).logits


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return folder


def test_exactly_the_adapter_is_saved(model, saved):
    tensors = load_file(saved / "model.safetensors")
    projectors = [
        f"{p}_projector.{n}" for p in ("visual", "cls") for n in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
    ]
    blocks = [f"vision_adapters.{i}.{n}.weight" for i in range(2) for n in ("down", "up")]
    assert set(tensors) == {f"adapter.{name}" for name in ["key_embedding", "value_embedding", *projectors, *blocks]}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(tensors) == set(trained)
    assert all(torch.equal(tensors[name], p) for name, p in trained.items())


def test_the_files_of_a_checkpoint(saved, bases):
    files = {path.name for path in saved.iterdir()}
    assert files == BUNDLE | {"config.json", "generation_config.json", "model.safetensors"}
    config = json.loads((saved / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_adem_vl.AdemVLForConditionalGeneration"
    assert config["custom_pipelines"]["image-to-text"]["impl"] == "pipeline_adem_vl.AdemVLImageToTextPipeline"
    assert config["text_model_name_or_path"] == str(bases / "llama")
    assert config["vision_model_name_or_path"] == str(bases / "clip")
    assert config["model_type"] == "adem_vl"
    del config["text_model_name_or_path"], config["vision_model_name_or_path"]
    assert str(bases) not in json.dumps(config)  # no other trace of this machine


def test_the_file_is_four_bytes_a_trained_number(bases, tmp_path):
    model = tiny.build(bases, projector_dim=4096, vision_adapter_dim=512)
    model.save_pretrained(tmp_path)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (tmp_path / "model.safetensors").stat().st_size == pytest.approx(4 * trained, rel=0.01)


def test_it_comes_back_bit_for_bit_by_every_name(model, saved):
    expected = logits(model)
    for load in (AdemVLForConditionalGeneration, AutoModel, AutoModelForImageTextToText):
        loaded = load.from_pretrained(saved)
        assert type(loaded) is AdemVLForConditionalGeneration
        assert not loaded.training
        assert torch.equal(logits(loaded), expected)
        assert {name for name, p in loaded.named_parameters() if p.requires_grad} == set(model.adapter_state_dict())
    loaded, info = AdemVLForConditionalGeneration.from_pretrained(saved, output_loading_info=True)
    assert not any(info.values())
    assert loaded.name_or_path == str(saved)


def test_saving_what_was_loaded_gives_the_same_files(saved, tmp_path):
    AdemVLForConditionalGeneration.from_pretrained(saved).save_pretrained(tmp_path)
    for path in saved.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_state_dict_that_is_handed_over_is_filtered(model, tmp_path):
    """Trainer passes a whole one under FSDP."""
    state = {name: tensor + name.startswith("adapter.") for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=state)
    tensors = load_file(tmp_path / "model.safetensors")
    assert set(tensors) == set(model.adapter_state_dict())
    assert all(torch.equal(tensor, state[name]) for name, tensor in tensors.items())


def test_the_processor_travels_too(bases, model, saved, tmp_path):
    processor = AdemVLProcessor.from_base_pretrained(bases / "llama", bases / "clip", model.config)
    shutil.copytree(saved, tmp_path / "whole")
    processor.save_pretrained(tmp_path / "whole")
    loaded = AutoProcessor.from_pretrained(tmp_path / "whole")
    assert type(loaded) is AdemVLProcessor
    picture = tiny.picture()
    rows = [
        p(images=[picture, None], text=["a photo", "hello"], suffix=[" of a cat", " world"])
        for p in (processor, loaded)
    ]
    assert rows[0].keys() == rows[1].keys()
    assert all(torch.equal(rows[0][name], rows[1][name]) for name in rows[0])
    assert loaded.image_token_id == model.config.image_token_id == tiny.IMAGE_TOKEN_ID


@pytest.mark.parametrize("how", ["no names", "save_base"])
def test_a_checkpoint_of_every_weight_needs_no_bases(bases, model, tmp_path, how):
    if how == "no names":
        config = AdemVLConfig.from_dict(
            model.config.to_dict() | {"text_model_name_or_path": None, "vision_model_name_or_path": None}
        )
        whole = AdemVLForConditionalGeneration(config).eval()
        whole.load_state_dict(model.state_dict())
        whole.save_pretrained(tmp_path)
    else:
        model.save_pretrained(tmp_path, save_base=True)
        assert model.config.text_model_name_or_path == str(bases / "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["text_model_name_or_path"] is None
    assert str(bases) not in json.dumps(config)
    loaded = AdemVLForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == set(model.adapter_state_dict())
    # from here on it is one of those that save everything
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(AdemVLForConditionalGeneration.from_pretrained(tmp_path / "again")), logits(model))


def test_loaded_bases_are_used_as_they_are(bases, model, saved):
    parts = {
        "language_model": LlamaForCausalLM.from_pretrained(bases / "llama"),
        "vision_tower": CLIPVisionModel.from_pretrained(bases / "clip"),
    }
    loaded = AdemVLForConditionalGeneration.from_pretrained(saved, **parts)
    assert loaded.language_model is parts["language_model"]
    assert loaded.vision_tower is parts["vision_tower"]
    assert torch.equal(logits(loaded), logits(model))


def test_bases_may_move(bases, model, saved, tmp_path):
    """By an override when loading, or named relative to the checkpoint."""
    shutil.copytree(bases, tmp_path / "bases")
    shutil.copytree(saved, tmp_path / "run")
    moved = {f"{kind}_model_name_or_path": str(tmp_path / "bases" / base)
             for kind, base in (("text", "llama"), ("vision", "clip"))}  # fmt: skip
    loaded = AdemVLForConditionalGeneration.from_pretrained(saved, **moved)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.config.text_model_name_or_path == str(tmp_path / "bases" / "llama")
    config = json.loads((saved / "config.json").read_text())
    names = {"text_model_name_or_path": "../bases/llama", "vision_model_name_or_path": "../bases/clip"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | names))
    loaded = AdemVLForConditionalGeneration.from_pretrained(tmp_path / "run")
    assert torch.equal(logits(loaded), logits(model))
    loaded.save_pretrained(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["text_model_name_or_path"] == "../bases/llama"


def test_half_precision_bases_keep_a_float32_adapter(saved):
    loaded = AdemVLForConditionalGeneration.from_pretrained(saved, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.adapter.parameters()} == {torch.float32}
    assert {p.dtype for p in loaded.language_model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in loaded.vision_tower.parameters()} == {torch.bfloat16}
    assert logits(loaded).dtype == torch.bfloat16
    loaded.train()(**INPUTS).loss.backward()
    assert {tensor.dtype for tensor in tiny.gradients(loaded).values()} == {torch.float32}


@pytest.mark.parametrize(("base", "kind"), [("llama", "language model"), ("clip", "vision tower")])
def test_a_base_of_the_same_shape_with_other_weights_warns(saved, tmp_path, base, kind):
    (tiny.save_llama if base == "llama" else tiny.save_clip)(tmp_path / base, seed=9)
    field = "text_model_name_or_path" if base == "llama" else "vision_model_name_or_path"
    with pytest.warns(UserWarning, match=f"the {kind} .*{base}.* has the shape .* but other weights"):
        AdemVLForConditionalGeneration.from_pretrained(saved, **{field: str(tmp_path / base)})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        AdemVLForConditionalGeneration.from_pretrained(saved)
        AdemVLForConditionalGeneration.from_pretrained(saved, dtype=torch.bfloat16)
