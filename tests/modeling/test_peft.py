"""PEFT around the whole model: ``get_peft_model``, its own files, merging, and what saving does afterwards."""

import shutil
import warnings

import architectures
import pytest
import tiny
import torch
from closeness import assert_close, assert_equal
from families import V5_0
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from adem_vl_hf.loading import load_checkpoint

# PEFT 0.21 asks Transformers 5.23 for a property by its name before
pytestmark = [
    pytest.mark.core,
    pytest.mark.kernels,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
IN_LANGUAGE_MODEL = r"language_model\..*\.(q_proj|v_proj)"
BATCH = tiny.batch([9, 7], [True, False])
# two adapters of each model
ADAPTERS = {
    "adem_vl": ({"vision_adapter_dim": 0}, {"vision_adapter_dim": 4}),
    "evlm": ({"media_tokens": 0}, {"moe_replicas": 2}),
}
PROMPT = {name: tensor for name, tensor in BATCH.items() if name != "labels"}


def lora(**fields):
    """A LoRA that shows from the start."""
    torch.manual_seed(0)
    return LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": IN_LANGUAGE_MODEL, "init_lora_weights": False, **fields}
    )


@torch.no_grad()
def logits(model):
    return model.eval()(**BATCH).logits


def step(model):
    """One step of plain gradient descent; returns the names of the parameters that it moved."""
    model.train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model(**BATCH).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


@architectures.each_family()
@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
def test_lora_of_peft_runs_trains_and_comes_back(bases, arch, model, tmp_path, task_type):
    inner = arch.build(bases)
    wrapped = get_peft_model(inner, lora(task_type=task_type))
    assert (logits(wrapped) - logits(model)).abs().max() > 1e-2
    moved = step(wrapped)
    assert moved == {name for name, p in wrapped.named_parameters() if p.requires_grad}
    assert all("language_model" in name and ".lora_" in name for name in moved)  # our adapter is frozen, too
    assert len(moved) == 2 * 2 * 3
    expected, said = logits(wrapped), wrapped.generate(**PROMPT, max_new_tokens=4, do_sample=False)
    assert said.shape == (2, 13)
    assert torch.equal(inner.generate(**PROMPT, max_new_tokens=4, do_sample=False), said)
    wrapped.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
    loaded = PeftModel.from_pretrained(arch.build(bases), tmp_path)
    assert_equal(loaded.state_dict(), wrapped.state_dict())
    assert_close(logits(loaded), expected)
    assert_close(logits(loaded.merge_and_unload()), expected)


@architectures.each_family()
@pytest.mark.parametrize("adapter", [0, 1])
def test_modules_to_save_trains_and_saves_the_adapter_along(bases, arch, tmp_path, adapter):
    fields = ADAPTERS[arch.model_type][adapter]
    inner = arch.build(bases, **fields)
    own = set(inner.adapter.state_dict())
    wrapped = get_peft_model(inner, lora(modules_to_save=["adapter"]))
    moved = step(wrapped)
    copy = "base_model.model.adapter.modules_to_save.default."
    assert {name.removeprefix(copy) for name in moved if name.startswith(copy)} == own  # the tower's adapters, too
    assert all(name.startswith(copy) or ".lora_" in name for name in moved)
    expected = logits(wrapped)
    wrapped.save_pretrained(tmp_path / "peft")
    saved = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert {"base_model.model.adapter." + name for name in own} <= saved.keys()
    loaded = PeftModel.from_pretrained(arch.build(bases, **fields), tmp_path / "peft")
    assert_equal(loaded.state_dict(), wrapped.state_dict())
    assert_close(logits(loaded), expected)
    merged = loaded.merge_and_unload()
    assert_close(logits(merged), expected)
    assert set(merged.adapter.state_dict()) == own
    with pytest.warns(UserWarning, match="holds every weight"):
        merged.save_pretrained(tmp_path / "whole")
    again = arch.model_class.from_pretrained(tmp_path / "whole")
    assert_equal(again.state_dict(), merged.state_dict())
    assert_close(logits(again), logits(merged))


@architectures.each()
@pytest.mark.parametrize("adapter", [0, 1])
def test_bare_names_match_the_tower_as_well_which_then_trains(bases, arch, tmp_path, adapter):
    fields = ADAPTERS[arch.model_type][adapter]
    wrapped = get_peft_model(arch.build(bases, **fields), lora(target_modules=["q_proj", "v_proj"]))
    moved = step(wrapped)
    parts = {name.split(".")[2] for name in moved}
    untouched = {name for name, p in wrapped.named_parameters() if p.requires_grad} - moved
    if arch is architectures.ADEM_VL:
        assert parts == {"language_model", "vision_tower"}
        # features are taken before the tower's last block
        assert {name.partition("layers.")[2].split(".")[0] for name in untouched} == {"2"}
        assert all("vision_tower" in name for name in untouched)
    else:  # whose cross-attention has matrices of these names, too
        assert parts == {"language_model", "vision_tower", "adapter"}
        assert not untouched
    wrapped.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(arch.build(bases, **fields), tmp_path)
    assert_equal(loaded.state_dict(), wrapped.state_dict())
    assert_close(logits(loaded), logits(wrapped))


@architectures.each_family()
def test_a_merge_is_never_left_out_of_a_checkpoint(bases, arch, tmp_path):
    merged = get_peft_model(arch.build(bases), lora()).merge_and_unload()
    expected = logits(merged)
    with pytest.warns(UserWarning, match=r"q_proj\.weight is not what was loaded: .* holds every weight"):
        merged.save_pretrained(tmp_path / "whole")
    loaded = arch.model_class.from_pretrained(tmp_path / "whole")
    assert not loaded.config.has_external_bases
    assert_equal(loaded.state_dict(), merged.state_dict())
    assert_close(logits(loaded), expected)
    assert merged.config.has_external_bases  # only what was saved is another kind of checkpoint
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merged.save_pretrained(tmp_path / "adapter", save_base=False)
    assert all(key.startswith("adapter.") for key in load_file(tmp_path / "adapter" / "model.safetensors"))


@architectures.each()
def test_a_merge_into_the_tower_is_found_too(bases, arch, tmp_path):
    wrapped = get_peft_model(arch.build(bases), lora(target_modules=r"vision_tower\..*layers\.0\..*v_proj"))
    with pytest.warns(UserWarning, match=r"vision_tower\.\S*v_proj\.weight is not what was loaded"):
        wrapped.merge_and_unload().save_pretrained(tmp_path)


@architectures.each()
@pytest.mark.parametrize("way", ["unload", "cast", "dtype", "moved"])
def test_bases_that_are_what_was_loaded_are_not_saved(bases, arch, tmp_path, way):
    built = arch.build(bases)
    if way == "unload":
        built = get_peft_model(built, lora()).unload()
    elif way == "cast":
        built.to(torch.bfloat16)
    elif way == "dtype":
        built = arch.build(bases, dtype=torch.bfloat16).float()
    else:
        built.language_model = built.language_model.to("cpu").requires_grad_(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        built.save_pretrained(tmp_path)
    assert all(key.startswith("adapter.") for key in load_file(tmp_path / "model.safetensors"))


@architectures.each()
@pytest.mark.parametrize("fields", [{}, {"modules_to_save": ["adapter"]}])
def test_the_inside_of_a_peft_model_is_not_saved_without_what_peft_trains(bases, arch, tmp_path, fields):
    wrapped = get_peft_model(arch.build(bases), lora(**fields))
    with pytest.raises(ValueError, match="is wrapped by PEFT: save the PeftModel itself"):
        wrapped.get_base_model().save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@architectures.each()
@pytest.mark.parametrize("targets", ["q_proj", "v_proj"])
def test_peft_does_not_switch_off_the_shortcuts_lora(bases, arch, targets):
    built = arch.build(bases, lora={"r": 4, "target_modules": ["q_proj"]})
    with pytest.raises(ValueError, match=r"q_proj has LoRA from config\.lora, .* call merge_and_unload\(\)"):
        get_peft_model(built, lora(target_modules=rf"language_model\..*\.{targets}"))
    merged = arch.build(bases, lora={"r": 4, "target_modules": ["q_proj"]}).merge_and_unload()
    wrapped = get_peft_model(merged, lora())
    assert step(wrapped) == {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}


@architectures.each()
@pytest.mark.parametrize("save_base", [False, True])
def test_from_pretrained_loads_an_adapter_of_peft_with_its_model(bases, arch, tmp_path, save_base):
    arch.build(bases).save_pretrained(tmp_path / "model", save_base=save_base)
    wrapped = get_peft_model(arch.model_class.from_pretrained(tmp_path / "model"), lora())
    wrapped.save_pretrained(tmp_path / "lora")
    shutil.copytree(tmp_path / "model", tmp_path / "both")
    shutil.copytree(tmp_path / "lora", tmp_path / "both", dirs_exist_ok=True)
    for kind in (AutoModelForImageTextToText, arch.model_class):
        for folder in ("lora", "both"):
            if save_base and V5_0:  # the library loads these itself, and that version misses the adapter's weights
                with pytest.raises(ValueError, match=r"lacks .*lora_A"):
                    kind.from_pretrained(tmp_path / folder)
                continue
            loaded = kind.from_pretrained(tmp_path / folder)
            assert type(loaded) is arch.model_class
            assert_close(logits(loaded), logits(wrapped))
    with pytest.raises(ValueError, match=r"lora holds an adapter of PEFT alone: load it with AutoModel"):
        load_checkpoint(tmp_path / "lora")
    settings = tmp_path / "lora" / "adapter_config.json"
    settings.write_text(settings.read_text().replace(str(tmp_path / "model"), ""))
    with pytest.raises(ValueError, match="an adapter of PEFT that does not name its model: load the model first"):
        arch.model_class.from_pretrained(tmp_path / "lora")
