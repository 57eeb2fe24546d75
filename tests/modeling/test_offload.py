"""A language model spread over devices by accelerate, some of it on disk: the same answers, the same gradients."""

import json
import warnings

import architectures
import pytest
import tiny
import torch
import training_runs
from closeness import assert_close, assert_equal

pytestmark = architectures.each_family()
MAPS = {
    "layers": {
        "model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
        "model.layers.2": "disk", "model.norm": "cpu", "lm_head": "cpu",
    },
    "ends": {
        "model.embed_tokens": "disk", "model.rotary_emb": "cpu", "model.layers.0": "disk", "model.layers.1": "cpu",
        "model.layers.2": "cpu", "model.norm": "disk", "lm_head": "disk",
    },
}  # fmt: skip
INPUTS = tiny.batch([10, 8], [True, False])
PROMPT = {name: tensor for name, tensor in INPUTS.items() if name != "labels"}


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=MAPS)
def spread(arch, request, saved, tmp_path_factory):
    """The checkpoint with layers on disk; recognising the base gives no warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the language model")
        return arch.model_class.from_pretrained(
            saved, device_map=MAPS[request.param], offload_folder=tmp_path_factory.mktemp("offload")
        )


def gradients(model):
    model.train()
    model(**INPUTS).loss.backward()
    model.eval()
    return tiny.gradients(model)


def test_layers_on_disk_see_the_image(model, spread):
    assert any(parameter.is_meta for parameter in spread.language_model.parameters())
    assert not any(parameter.is_meta for parameter in spread.adapter.parameters())
    assert not any(parameter.is_meta for parameter in spread.vision_tower.parameters())
    with torch.no_grad():
        expected, found = model(**PROMPT).logits, spread(**PROMPT).logits
        other = spread(**{**PROMPT, "pixel_values": tiny.pictures(2, seed=9)}).logits
    assert_close(found, expected)
    assert (other[0] - found[0]).abs().max() > 1e-2
    assert_close(other[1], found[1])  # this row has no image


def test_answers_are_the_same(model, spread):
    for settings in ({"num_beams": 1}, {"num_beams": 3}):
        expected, found = (one.generate(**PROMPT, max_new_tokens=6, do_sample=False, **settings)
                           for one in (model, spread))  # fmt: skip
        assert torch.equal(found, expected)


def test_an_image_token_is_found_in_embeddings(model, spread):
    embeds = model.get_input_embeddings()(PROMPT["input_ids"])
    rest = {name: tensor for name, tensor in PROMPT.items() if name != "input_ids"}
    with torch.no_grad():
        assert_close(spread(inputs_embeds=embeds, **rest).logits, model(**PROMPT).logits)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_same(model, spread, checkpointing):
    expected = gradients(model)
    name = "activation" if hasattr(spread, "activation_checkpointing_enable") else "gradient"
    if checkpointing:
        getattr(spread, f"{name}_checkpointing_enable")()
    found = gradients(spread)
    getattr(spread, f"{name}_checkpointing_disable")()
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert gradient.any()
        assert_close(gradient, expected[name], name=name)


def test_the_adapter_alone_is_saved(arch, model, spread, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*offloaded")
        spread.save_pretrained(tmp_path)
    loaded = arch.model_class.from_pretrained(tmp_path)
    assert_equal(training_runs.adapter(loaded), training_runs.adapter(model))
    assert set(spread.hf_device_map.values()) == {"cpu", "disk"}  # the model itself is left as it was


def test_a_fresh_adapter_on_a_spread_base_trains(bases, arch, model, tmp_path):
    spread = arch.build(bases, device_map=MAPS["layers"], offload_folder=tmp_path / "offload")
    assert spread.config.text_model_fingerprint == model.config.text_model_fingerprint
    before = training_runs.adapter(spread)
    trainer, _ = training_runs.trainer(bases, tmp_path, training_runs.samples(4), model=spread, max_steps=2)
    trainer.train()
    after = training_runs.adapter(spread)
    assert all(not torch.equal(before[key], after[key]) for key in before)
    trainer.save_model(str(tmp_path / "saved"))
    assert "device_map" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def test_auto_fills_memory_and_puts_the_rest_on_disk(arch, model, saved, tmp_path):
    whole = arch.model_class.from_pretrained(saved, device_map="auto")
    size = sum(p.numel() * p.element_size() for p in model.language_model.parameters())
    part = arch.model_class.from_pretrained(
        saved, device_map="auto", max_memory={"cpu": size // 2}, offload_folder=tmp_path
    )
    assert not any(parameter.is_meta for parameter in whole.parameters())
    assert any(parameter.is_meta for parameter in part.parameters())
    with torch.no_grad():
        expected = model(**PROMPT).logits
        for one in (whole, part):
            assert_close(one(**PROMPT).logits, expected)


@pytest.mark.parametrize("arguments", [{}, {"device_map": "cpu"}, {"device_map": MAPS["layers"]}])
def test_dtype_is_that_of_the_bases(arch, saved, tmp_path, arguments):
    half = arch.model_class.from_pretrained(saved, dtype=torch.bfloat16, offload_folder=tmp_path, **arguments)
    assert {p.dtype for p in half.language_model.parameters()} == {torch.bfloat16}
    assert half.vision_tower.dtype == torch.bfloat16
    assert {p.dtype for p in half.adapter.parameters()} == {torch.float32}
    with torch.no_grad():
        assert half(**PROMPT).logits.dtype == torch.bfloat16


def test_a_whole_model_on_disk_sees_the_image(arch, model, tmp_path):
    model.save_pretrained(tmp_path / "whole", save_base=True)
    offloaded = arch.model_class.from_pretrained(
        tmp_path / "whole", device_map={"": "disk"}, offload_folder=tmp_path / "offload"
    )
    assert all(parameter.is_meta for parameter in offloaded.vision_tower.parameters())
    with torch.no_grad():
        assert_close(offloaded(**PROMPT).logits, model(**PROMPT).logits)
