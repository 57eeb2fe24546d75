"""What one may do with any model of the library: pickle it, shard it, resize it, move it, compile its generation."""

import copy
import io
import json
import pickle

import architectures
import pytest
import tiny
import torch
from closeness import assert_close, assert_equal
from safetensors.torch import load_file, save_file

from adem_vl_hf import AdemVLConfig, AdemVLForConditionalGeneration

STEPS = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 3}


@pytest.fixture(scope="module")
def inputs():
    return tiny.batch([9, 7], [True, False], side="left")


@pytest.fixture(scope="module")
def whole(model):
    """A model built from its config alone: no external bases."""
    config = copy.deepcopy(model.config)
    config.text_model_name_or_path = config.vision_model_name_or_path = None
    torch.manual_seed(0)
    return tiny.perturb(AdemVLForConditionalGeneration(config)).eval()


def logits(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def by_torch(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("again", [by_pickle, by_torch, copy.deepcopy])
def test_a_copy_computes_the_same_with_an_adapter_of_its_own(bases, inputs, again):
    # made before the first forward: Transformers 5.23 leaves functions on a tower that ran which pickle refuses
    model = tiny.build(bases)
    other, only_tower = again(model), again(model)
    assert [type(module) for module in other.modules()] == [type(module) for module in model.modules()]
    assert_equal(other.state_dict(), model.state_dict())
    expected = logits(model, inputs)
    assert_close(logits(other, inputs), expected)
    tiny.perturb(other, seed=5)
    assert (logits(other, inputs) - expected).abs().max() > 1e-3
    assert torch.equal(logits(model, inputs), expected)
    for adapter in only_tower.adapter.vision_adapters:
        adapter.up.weight.data.zero_()
    assert (logits(only_tower, inputs) - expected).abs().max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("again", [by_pickle, copy.deepcopy])
@architectures.each()
def test_a_copied_model_and_its_copy_compile_to_one_graph(bases, arch, again):
    """The library's hooks are in both, as ``torch.compile`` needs it; pickle alone takes them from the original."""
    model = arch.build(bases).train()
    other = again(model)
    for one in [other] if again is by_pickle else [other, again(other), model]:
        torch.compiler.reset()
        torch.compile(one, backend="eager", fullgraph=True)(**tiny.batch([9, 6], [True, False])).loss.backward()


def test_a_compiled_model_is_saved_with_its_own_state_dict(bases, inputs, tmp_path):
    model = tiny.build(bases)
    compiled = torch.compile(model, backend="eager")
    model.save_pretrained(tmp_path, state_dict=compiled.state_dict())
    assert_close(logits(type(model).from_pretrained(tmp_path), inputs), logits(model, inputs))


def test_a_random_model_is_saved_in_shards(whole, inputs, tmp_path):
    whole.save_pretrained(tmp_path, max_shard_size="40KB")
    shards = set(json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"].values())
    assert len(shards) > 2
    assert all((tmp_path / name).stat().st_size < 60_000 for name in shards)
    again = AdemVLForConditionalGeneration.from_pretrained(tmp_path)
    assert_equal(again.state_dict(), whole.state_dict())
    assert_close(logits(again, inputs), logits(whole, inputs))


@pytest.mark.parametrize("number", [330, 300])
def test_the_embeddings_can_be_resized_and_the_model_is_then_saved_whole(bases, inputs, tmp_path, number):
    model = tiny.build(bases)
    before = logits(model, inputs)
    known = min(before.shape[-1], number)
    model.resize_token_embeddings(number, mean_resizing=False)
    after = logits(model, inputs)
    assert after.shape[-1] == number == model.config.text_config.vocab_size == model.language_model.config.vocab_size
    assert_close(after[..., :known], before[..., :known])
    with pytest.warns(UserWarning, match="holds every weight and not the adapter alone"):
        model.save_pretrained(tmp_path)
    again = AdemVLForConditionalGeneration.from_pretrained(tmp_path)
    assert_equal(again.state_dict(), model.state_dict())
    assert_close(logits(again, inputs), after)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_it_moves_to_another_dtype_as_one(model, inputs, dtype):
    moved = copy.deepcopy(model).to(dtype)
    assert {tensor.dtype for tensor in moved.parameters()} == {dtype}
    assert moved.dtype == dtype
    out = logits(moved, inputs)
    assert out.dtype == dtype
    assert_close(out, logits(model, inputs))


def test_it_can_be_emptied(model):
    empty = copy.deepcopy(model).to("meta")
    assert empty.device.type == "meta"
    assert all(tensor.is_meta for tensor in empty.parameters())


def test_data_parallel_is_refused_with_the_remedy(model):
    with pytest.raises(ValueError, match="nn.DataParallel cannot replicate.*torchrun"):
        model._replicate_for_data_parallel()


def test_unknown_fields_are_kept(tmp_path):
    """Those of a saved configuration; a call with one is an error (``test_unknown_names.py``)."""
    fields = AdemVLConfig(text_config={"model_type": "llama", "its_field": 3}).to_dict() | {"my_field": [1, {"a": 2}]}
    with pytest.warns(UserWarning, match="my_field"):
        config = AdemVLConfig.from_dict(fields)
    config.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="my_field"):
        read = AdemVLConfig.from_pretrained(tmp_path)
    for again in (config, read):
        assert again.my_field == [1, {"a": 2}]
        assert again.text_config.its_field == 3


def test_the_difference_to_the_defaults_is_enough_to_build_it_again():
    config = AdemVLConfig(kernel="relu", text_config={"model_type": "mistral", "hidden_size": 64}, lora=None)
    difference = config.to_diff_dict()
    assert difference["kernel"] == "relu"
    assert difference["text_config"]["model_type"] == "mistral"
    again = AdemVLConfig.from_dict(difference)
    assert again.to_dict() == config.to_dict()
    assert again.text_config.hidden_size == 64


@pytest.mark.slow
def test_generation_compiles_and_says_the_same(model, inputs):
    prompt = {name: tensor for name, tensor in inputs.items() if name != "labels"}
    expected = model.generate(**prompt, **STEPS)
    compiled = copy.deepcopy(model)
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled.forward = torch.compile(compiled.forward, fullgraph=True, backend=backend)
    assert torch.equal(compiled.generate(**prompt, **STEPS, cache_implementation="static"), expected)
    assert graphs


def test_a_weight_that_is_missing_is_an_error(model, tmp_path):
    model.save_pretrained(tmp_path, save_base=True)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = next(key for key in tensors if key.startswith("vision_tower."))
    del tensors[gone]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights of .*drawn at random"):
        type(model).from_pretrained(tmp_path)
    _, info = type(model).from_pretrained(tmp_path, output_loading_info=True)  # who asks judges
    assert set(info["missing_keys"]) == {gone}
