"""LoRA beside the adapter (``config.lora``): one rule for what trains and is saved, PEFT's numbers, merging."""

import copy
import shutil
import sys

import architectures
import pytest
import tiny
import torch
from closeness import assert_close, assert_equal
from safetensors.torch import load_file
from training_runs import adapter, samples, trainer

from adem_vl_hf.loading import describe
from adem_vl_hf.modeling.trained_in_base import attach_lora, lora_layers, lora_parameters, names_in_checkpoint
from adem_vl_hf.training import train

pytestmark = [pytest.mark.core, pytest.mark.kernels]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
BATCH = tiny.batch([9, 7], [True, False])
LAYERS = 3


@pytest.fixture(scope="module")
def with_lora(bases, arch):
    """Adapter and LoRA both show; tests leave it as they found it."""
    return arch.build(bases, lora=LORA)


@torch.no_grad()
def logits(model):
    return model.eval()(**BATCH).logits


def lora_keys(tensors):
    return {key for key in tensors if key.startswith("adapter.lora.")}


def saved_names(model, names):
    """What parameters of the model are called in its checkpoint."""
    renamed = names_in_checkpoint(model)
    return {renamed.get(name, name) for name in names}


def named_lora(model):
    return {name: p for name, p in model.language_model.named_parameters() if "lora_" in name}


@architectures.each_family()
def test_peft_computes_what_the_formula_says(bases, arch, with_lora):
    """The same adapter on a language model whose matrices are W + alpha / r * B A."""
    folded = arch.build(bases)
    assert (logits(folded) - logits(with_lora)).abs().max() > 1e-2
    for name, module in folded.language_model.named_modules():
        if name.endswith(("q_proj", "v_proj")):
            a, b = (with_lora.language_model.get_parameter(f"{name}.lora_{m}.adem_vl.weight").data for m in "AB")
            module.weight.data += 8 / 4 * b @ a
    assert_close(logits(folded), logits(with_lora))


@architectures.each()
def test_a_fresh_lora_changes_nothing(bases, arch, model):
    fresh = arch.build(bases, lora=LORA)
    for name, parameter in named_lora(fresh).items():
        if "lora_B" in name:
            torch.nn.init.zeros_(parameter)
    assert_close(logits(fresh), logits(model))
    made = arch.model_class.from_base_pretrained(bases / "llama", bases / "clip", lora=LORA)
    assert len(named_lora(made)) == 2 * 2 * LAYERS
    for name, parameter in named_lora(made).items():
        assert (parameter == 0).all() if "lora_B" in name else (parameter != 0).all(), name
        assert parameter.abs().max() <= 32**-0.5  # as nn.Linear draws it
    assert made.config.text_model_fingerprint == model.config.text_model_fingerprint


@architectures.each_family()
def test_what_trains_is_what_begins_with_adapter(with_lora):
    trained = {name for name, parameter in with_lora.named_parameters() if parameter.requires_grad}
    assert saved_names(with_lora, trained) == set(with_lora.adapter_state_dict())
    assert lora_keys(with_lora.adapter_state_dict()) == {
        f"adapter.lora.model.layers.{layer}.self_attn.{target}.lora_{matrix}.weight"
        for layer in range(LAYERS) for target in ("q_proj", "v_proj") for matrix in "AB"
    }  # fmt: skip
    assert not [name for name, _ in with_lora.vision_tower.named_modules() if "lora" in name]
    tied = with_lora.get_output_embeddings().weight is with_lora.get_input_embeddings().weight
    tensors = [tensor for tensor in with_lora.state_dict().values() if tensor.numel()]
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors) - tied  # nothing else is registered twice


@architectures.each_family()
def test_a_step_of_training_moves_both_and_the_bases_stay(bases, arch, tmp_path):
    model = arch.build(bases, lora={**LORA, "lora_dropout": 0.1})
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    made, processor = trainer(bases, tmp_path, samples(4), model, max_steps=3, learning_rate=1e-2)
    facts = train(made, processor)
    moved = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert saved_names(model, moved) == set(model.adapter_state_dict())
    assert facts["trained_numbers"] == sum(t.numel() for t in load_file(tmp_path / "model.safetensors").values())
    assert describe(str(tmp_path))["trained_numbers"] == facts["trained_numbers"]
    assert describe(str(tmp_path))["lora"]["r"] == 4


@architectures.each_family()
def test_activation_checkpointing_gives_the_same_gradients(bases, arch):
    model = arch.build(bases, lora=LORA).train()
    model(**BATCH).loss.backward()
    expected = tiny.gradients(model)
    assert saved_names(model, expected) == set(model.adapter_state_dict())
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_enable")()
    model(**BATCH).loss.backward()
    found = tiny.gradients(model)
    assert_close(found, expected)


@architectures.each_family()
def test_one_file_holds_both_and_loads_both(bases, arch, with_lora, tmp_path):
    with_lora.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == with_lora.adapter_state_dict().keys()
    assert not list(tmp_path.glob("adapter_config.json"))
    loaded, info = arch.model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert loaded.config.lora == {"lora_dropout": 0.0, "use_rslora": False, **LORA}
    assert not any(info.values())
    assert_equal(loaded.state_dict(), with_lora.state_dict())
    assert_close(logits(loaded), logits(with_lora))
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace('"r": 4', '"r": 2'))
    with pytest.raises(ValueError, match=r"adapter\.lora\.\S+ is \(4, 32\) where the config needs \(2, 32\)"):
        arch.model_class.from_pretrained(tmp_path)


@architectures.each()
def test_lora_is_float32_on_a_base_in_half_precision(bases, arch, with_lora, tmp_path):
    with_lora.save_pretrained(tmp_path)
    half = arch.model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
    dtypes = {p.dtype for p in half.adapter.parameters()} | {p.dtype for p in lora_parameters(half.language_model)}
    assert dtypes == {torch.float32}
    assert {p.dtype for p in half.language_model.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert_close(logits(half), logits(with_lora))


@architectures.each()
def test_a_run_goes_on_to_the_same_bits_and_not_with_another_lora(bases, arch, tmp_path):
    def run(**lora):
        model = arch.build(bases, lora={**LORA, "lora_dropout": 0.1, **lora})
        made, processor = trainer(
            bases, tmp_path, samples(7), model, max_steps=4, save_strategy="steps", save_steps=2, learning_rate=1e-2
        )
        train(made, processor, resume=True)
        return adapter(model)

    whole = run()
    shutil.rmtree(tmp_path / "checkpoint-4")  # as if killed after step 2
    assert_equal(run(), whole)
    with pytest.raises(ValueError, match=r"checkpoint-4 was trained with lora=.*'r': 4.* and this run has .*'r': 2"):
        run(r=2)


@architectures.each()
def test_the_best_model_brings_its_lora_back(bases, arch, tmp_path):
    made, processor = trainer(
        bases, tmp_path, samples(4), arch.build(bases, lora=LORA), eval_dataset=samples(4), max_steps=4,
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        greater_is_better=True, learning_rate=3e-2, save_total_limit=None,
    )  # fmt: skip
    train(made, processor)
    losses = {entry["step"]: entry["eval_loss"] for entry in made.state.log_history if "eval_loss" in entry}
    best = max(losses, key=losses.get)
    assert best != 4
    assert_equal(adapter(made.model), load_file(tmp_path / f"checkpoint-{best}" / "model.safetensors"))


@architectures.each()
def test_a_self_contained_checkpoint_holds_every_tensor_once(arch, with_lora, tmp_path):
    with_lora.save_pretrained(tmp_path, save_base=True)
    saved = load_file(tmp_path / "model.safetensors")
    others = {name for name in with_lora.state_dict() if "lora_" not in name}
    assert saved.keys() == others | lora_keys(with_lora.adapter_state_dict())
    assert "language_model.model.layers.0.self_attn.q_proj.base_layer.weight" in saved
    assert sum(t.numel() for t in saved.values()) == sum(p.numel() for p in with_lora.parameters())
    loaded = arch.model_class.from_pretrained(tmp_path)
    assert not loaded.config.has_external_bases
    assert_equal(loaded.state_dict(), with_lora.state_dict())
    assert_close(logits(loaded), logits(with_lora))
    trained = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    assert saved_names(loaded, trained) == set(with_lora.adapter_state_dict())
    loaded.save_pretrained(tmp_path / "again")
    assert_equal(load_file(tmp_path / "again" / "model.safetensors"), saved)
    loaded.merge_and_unload()
    assert_close(logits(loaded), logits(with_lora))


@architectures.each()
def test_lora_on_disk_with_its_layer_is_brought_into_memory_and_trains(arch, with_lora, tmp_path):
    with_lora.save_pretrained(tmp_path / "adapter")
    with_lora.save_pretrained(tmp_path / "whole", save_base=True)
    layers = {f"model.layers.{layer}": "disk" if layer else "cpu" for layer in range(LAYERS)}
    of_text = {**layers, **dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"), "cpu")}
    of_all = {f"language_model.{name}": place for name, place in of_text.items()} | {
        "vision_tower": "cpu",
        "adapter": "cpu",
    }
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    for name, device_map in (("adapter", of_text), ("whole", of_all)):
        spread = arch.model_class.from_pretrained(
            tmp_path / name, device_map=device_map, offload_folder=tmp_path / f"{name} on disk"
        )
        assert any(parameter.is_meta for parameter in spread.language_model.parameters())
        assert not any(parameter.is_meta for parameter in spread.parameters() if parameter.requires_grad)
        assert_close(logits(spread), logits(with_lora))
        with_lora(**BATCH).loss.backward()
        spread(**BATCH).loss.backward()
        assert_close(tiny.gradients(spread), tiny.gradients(with_lora))
        spread.save_pretrained(tmp_path / "again", save_base=True)
        assert_equal(load_file(tmp_path / "again" / "model.safetensors"), expected)


def test_blocks_of_the_tower_train_beside_it(bases, tmp_path):
    model = architectures.EVLM.build(bases, lora=LORA, train_vision_blocks=1)
    for block in model.unfrozen_vision_blocks().values():
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert saved_names(model, trained) == set(model.adapter_state_dict())
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert {key.split(".")[1] for key in saved} >= {"lora", "vision_blocks", "cross_attention"}
    loaded = architectures.EVLM.model_class.from_pretrained(tmp_path)
    assert_equal(loaded.state_dict(), model.state_dict())


@architectures.each_family()
def test_merged_the_model_answers_the_same_and_is_saved_whole(bases, arch, with_lora, tmp_path):
    with_lora.save_pretrained(tmp_path / "lora")
    merged = arch.model_class.from_pretrained(tmp_path / "lora")
    assert merged.merge_and_unload() is merged
    assert merged.config.lora is None
    assert not merged.config.has_external_bases
    assert not [key for key in merged.state_dict() if "lora" in key or "base_layer" in key]
    assert_close(logits(merged), logits(with_lora))
    merged.save_pretrained(tmp_path / "merged")
    loaded = arch.model_class.from_pretrained(tmp_path / "merged")
    assert_equal(loaded.state_dict(), merged.state_dict())
    assert_close(logits(loaded), logits(merged))
    assert str(bases) not in (tmp_path / "merged" / "config.json").read_text()
    with pytest.raises(ValueError, match="no LoRA to merge"):
        loaded.merge_and_unload()


@architectures.each()
def test_a_merge_that_would_write_nan_is_refused(bases, arch):
    model = arch.build(bases, lora=LORA)
    for name, parameter in named_lora(model).items():
        if "layers.1.self_attn.q_proj" in name:
            torch.nn.init.constant_(parameter, 1e38)
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_and_unload()
    assert model.config.lora is not None


@architectures.each()
def test_a_merge_into_a_quantised_language_model_is_refused(bases, arch):
    model = arch.build(bases, lora=LORA)
    before, model.language_model.quantization_method = logits(model), "bitsandbytes"
    with pytest.raises(ValueError, match="load the checkpoint without quantization_config, then merge"):
        model.merge_and_unload()
    assert torch.equal(logits(model), before)


@architectures.each()
def test_a_copy_has_matrices_of_its_own(bases, arch):
    model = arch.build(bases, lora=LORA)
    before, other = logits(model), copy.deepcopy(model)
    for parameter in lora_parameters(other.language_model):
        torch.nn.init.zeros_(parameter)
    assert torch.equal(logits(model), before)
    assert (logits(other) - before).abs().max() > 1e-2


@architectures.each()
@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 4}, "lora: the field 'rank' is not one of r, lora_alpha"),
        ({"bias": "all"}, "'bias' is not one of"),
        ({"r": 0}, "lora: r is 0; it must be an integer of at least 1"),
        ({"lora_alpha": 0}, "lora_alpha is 0; it must be a number above 0"),
        ({"lora_dropout": 1.0}, "lora_dropout is 1.0"),
        ("q_proj", "lora is 'q_proj'; it must be an object"),
    ],
)
def test_fields_that_cannot_be_are_named(arch, lora, message):
    with pytest.raises(ValueError, match=message):
        arch.config_class(lora=lora)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj", "query"], r"names 'query', which LlamaForCausalLM does not have; its linear layers are .*q_proj"),
        ("no_such_.*", r"does not fit LlamaForCausalLM: .*no_such_"),
        (["embed_tokens"], r"reaches model\.embed_tokens; name linear layers"),
        (["q_proj", "lm_head"], r"reaches lm_head; name linear layers"),
    ],
)
def test_targets_that_the_language_model_lacks_are_named(bases, targets, message):
    with pytest.raises(ValueError, match=message):
        attach_lora(tiny.language_model(bases), {**LORA, "target_modules": targets})


@architectures.each()
def test_targets_are_recorded_where_peft_chose_them(bases, arch):
    config = arch.config_class(lora={"target_modules": {"v_proj", "k_proj"}})
    assert config.lora["target_modules"] == ["k_proj", "v_proj"]
    model = arch.build(bases, lora={})
    assert model.config.lora["target_modules"] == ["q_proj", "v_proj"]
    every = arch.build(bases, lora={"target_modules": "all-linear"})
    assert len(lora_layers(every.language_model)) == 7 * LAYERS  # and not the head
    one = arch.build(bases, lora={**LORA, "layers_to_transform": [1]})
    assert {path.split(".")[2] for path in lora_layers(one.language_model)} == {"1"}


@architectures.each()
def test_without_peft_the_error_says_what_to_install(bases, arch, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert arch.config_class(lora=LORA).lora["r"] == 4  # a config can be read all the same
    with pytest.raises(ImportError, match=r"pip install 'adem-vl-hf\[peft\]'"):
        arch.build(bases, lora=LORA)
