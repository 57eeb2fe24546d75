"""Saving and loading: what a checkpoint holds, that it comes back whole, and which bases it is loaded on."""

import json
import shutil
import warnings

import architectures
import pytest
import tiny
import torch
from closeness import assert_close, assert_equal
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, CLIPVisionModel, LlamaForCausalLM

pytestmark = [pytest.mark.core, architectures.each()]
INPUTS = tiny.batch([8, 6], [True, False])


@torch.no_grad()
def logits(model):
    return model.eval()(**INPUTS).logits


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return folder


def names_of(arch):
    """What the adapter is made of."""
    if arch is architectures.ADEM_VL:
        projectors = [
            f"{p}_projector.fc{n}.{kind}" for p in ("visual", "cls") for n in (1, 2) for kind in ("weight", "bias")
        ]
        blocks = [f"vision_adapters.{i}.{n}.weight" for i in range(2) for n in ("down", "up")]
        return ["key_embedding", "value_embedding", *projectors, *blocks]
    matrices = ["attn_norm", "q_proj", "k_proj", "v_proj", "o_proj", "ffn_norm", "ffn.fc1", "ffn.fc2"]
    parts = [*(f"{name}.weight" for name in matrices), "attn_gate", "ffn_gate"]
    layers = [f"cross_attention.{i}.{part}" for i in range(3) for part in parts]
    norms = [f"level_norms.{i}.{kind}" for i in range(2) for kind in ("weight", "bias")]
    return ["media_tokens", *layers, *norms]


def test_exactly_the_adapter_is_saved(arch, model, saved):
    tensors = load_file(saved / "model.safetensors")
    assert set(tensors) == {f"adapter.{name}" for name in names_of(arch)}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(tensors) == set(trained)
    assert all(torch.equal(tensors[name], p) for name, p in trained.items())


def test_the_files_of_a_checkpoint(arch, saved, bases):
    files = {path.name for path in saved.iterdir()}
    assert files == arch.files | {"config.json", "generation_config.json", "model.safetensors"}
    config = json.loads((saved / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == f"modeling_{arch}.{arch.model_class.__name__}"
    assert config["custom_pipelines"]["image-to-text"]["impl"] == "pipeline.AdemVLImageToTextPipeline"
    assert config["text_model_name_or_path"] == str(bases / "llama")
    assert config["vision_model_name_or_path"] == str(bases / "clip")
    assert config["model_type"] == arch.model_type
    del config["text_model_name_or_path"], config["vision_model_name_or_path"]
    assert str(bases) not in json.dumps(config)  # no other trace of this machine


def test_the_file_is_four_bytes_a_trained_number(bases, arch, tmp_path):
    model = arch.build(bases, **arch.large)
    model.save_pretrained(tmp_path)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (tmp_path / "model.safetensors").stat().st_size == pytest.approx(4 * trained, rel=0.01)


def test_it_comes_back_by_every_name(arch, model, saved):
    expected = logits(model)
    for load in (arch.model_class, AutoModel, AutoModelForImageTextToText):
        loaded = load.from_pretrained(saved)
        assert type(loaded) is arch.model_class
        assert not loaded.training
        assert_equal(loaded.state_dict(), model.state_dict())
        assert_close(logits(loaded), expected)
        assert {name for name, p in loaded.named_parameters() if p.requires_grad} == set(model.adapter_state_dict())
    loaded, info = arch.model_class.from_pretrained(saved, output_loading_info=True)
    assert not any(info.values())
    assert loaded.name_or_path == str(saved)


def test_saving_what_was_loaded_gives_the_same_files(arch, saved, tmp_path):
    arch.model_class.from_pretrained(saved).save_pretrained(tmp_path)
    for path in saved.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_state_dict_that_is_handed_over_is_filtered(model, tmp_path):
    """Trainer passes a whole one under FSDP."""
    state = {name: tensor + name.startswith("adapter.") for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=state)
    tensors = load_file(tmp_path / "model.safetensors")
    assert set(tensors) == set(model.adapter_state_dict())
    assert all(torch.equal(tensor, state[name]) for name, tensor in tensors.items())


def test_the_processor_travels_too(bases, arch, model, saved, tmp_path):
    processor = arch.processor(bases, model)
    shutil.copytree(saved, tmp_path / "whole")
    processor.save_pretrained(tmp_path / "whole")
    loaded = AutoProcessor.from_pretrained(tmp_path / "whole")
    assert type(loaded) is arch.processor_class
    picture = tiny.picture()
    rows = [
        p(images=[picture, None], text=["a photo", "hello"], suffix=[" of a cat", " world"])
        for p in (processor, loaded)
    ]
    assert rows[0].keys() == rows[1].keys()
    assert all(torch.equal(rows[0][name], rows[1][name]) for name in rows[0])
    assert loaded.image_token_id == model.config.image_token_id == tiny.IMAGE_TOKEN_ID


@pytest.mark.parametrize("how", ["no names", "save_base"])
def test_a_checkpoint_of_every_weight_needs_no_bases(bases, arch, model, tmp_path, how):
    if how == "no names":
        config = arch.config_class.from_dict(
            model.config.to_dict() | {"text_model_name_or_path": None, "vision_model_name_or_path": None}
        )
        whole = arch.model_class(config).eval()
        whole.load_state_dict(model.state_dict())
        whole.save_pretrained(tmp_path)
    else:
        model.save_pretrained(tmp_path, save_base=True)
        assert model.config.text_model_name_or_path == str(bases / "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["text_model_name_or_path"] is None
    assert str(bases) not in json.dumps(config)
    loaded = arch.model_class.from_pretrained(tmp_path)
    assert_equal(loaded.state_dict(), model.state_dict())
    assert_close(logits(loaded), logits(model))
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == set(model.adapter_state_dict())
    # from here on it is one of those that save everything
    loaded.save_pretrained(tmp_path / "again")
    assert_close(logits(arch.model_class.from_pretrained(tmp_path / "again")), logits(model))


def test_loaded_bases_are_used_as_they_are(bases, arch, model, saved):
    parts = {
        "language_model": LlamaForCausalLM.from_pretrained(bases / "llama"),
        "vision_tower": CLIPVisionModel.from_pretrained(bases / "clip"),
    }
    loaded = arch.model_class.from_pretrained(saved, **parts)
    assert loaded.language_model is parts["language_model"]
    assert loaded.vision_tower is parts["vision_tower"]
    assert_close(logits(loaded), logits(model))


def test_bases_may_move(bases, arch, model, saved, tmp_path):
    """By an override when loading, or named relative to the checkpoint."""
    shutil.copytree(bases, tmp_path / "bases")
    shutil.copytree(saved, tmp_path / "run")
    moved = {f"{kind}_model_name_or_path": str(tmp_path / "bases" / base)
             for kind, base in (("text", "llama"), ("vision", "clip"))}  # fmt: skip
    loaded = arch.model_class.from_pretrained(saved, **moved)
    assert_close(logits(loaded), logits(model))
    assert loaded.config.text_model_name_or_path == str(tmp_path / "bases" / "llama")
    config = json.loads((saved / "config.json").read_text())
    names = {"text_model_name_or_path": "../bases/llama", "vision_model_name_or_path": "../bases/clip"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | names))
    loaded = arch.model_class.from_pretrained(tmp_path / "run")
    assert_close(logits(loaded), logits(model))
    loaded.save_pretrained(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["text_model_name_or_path"] == "../bases/llama"


def test_half_precision_bases_keep_a_float32_adapter(arch, saved):
    loaded = arch.model_class.from_pretrained(saved, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.adapter.parameters()} == {torch.float32}
    assert {p.dtype for p in loaded.language_model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in loaded.vision_tower.parameters()} == {torch.bfloat16}
    assert logits(loaded).dtype == torch.bfloat16
    loaded.train()(**INPUTS).loss.backward()
    assert {tensor.dtype for tensor in tiny.gradients(loaded).values()} == {torch.float32}


@pytest.mark.parametrize(("base", "kind"), [("llama", "language model"), ("clip", "vision tower")])
def test_a_base_of_the_same_shape_with_other_weights_warns(arch, saved, tmp_path, base, kind):
    (tiny.save_llama if base == "llama" else tiny.save_clip)(tmp_path / base, seed=9)
    field = "text_model_name_or_path" if base == "llama" else "vision_model_name_or_path"
    with pytest.warns(UserWarning, match=f"the {kind} .*{base}.* has the shape .* but other weights"):
        arch.model_class.from_pretrained(saved, **{field: str(tmp_path / base)})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        arch.model_class.from_pretrained(saved)
        arch.model_class.from_pretrained(saved, dtype=torch.bfloat16)
