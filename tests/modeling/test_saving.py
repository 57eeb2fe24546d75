"""What saving leaves alone: the model may be in use, or be saved elsewhere at the same time."""

import json
import threading

import architectures
import pytest
import transformers
from closeness import assert_equal
from safetensors.torch import load_file

pytestmark = architectures.each()


def state(model) -> tuple:
    """All that saving could touch: the model's class and attributes, and its configurations, by value and by object."""
    configs = [model.config, model.config.text_config, model.config.vision_config, model.generation_config]
    parts = [(name, type(part), {key: id(value) for key, value in vars(part).items()})
             for name, part in model.named_modules()]  # fmt: skip
    return parts, [id(config) for config in configs], [dict(vars(config)) for config in configs], model.config.to_dict()


@pytest.fixture
def writing(monkeypatch):
    """Calls a function whenever the library writes a configuration or tensors."""
    called = []

    def spy(owner, name):
        original = getattr(owner, name)

        def write(*args, **kwargs):
            called.append(name)
            writing.call()
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, write)

    def writing(function):
        writing.call = function
        spy(transformers.modeling_utils, "safe_save_file")
        spy(transformers.PretrainedConfig, "save_pretrained")
        spy(transformers.GenerationConfig, "save_pretrained")
        return called

    return writing


@pytest.mark.parametrize("save_base", [False, True])
def test_nothing_of_the_model_is_different_while_it_is_saved(bases, arch, writing, tmp_path, save_base):
    model = arch.build(bases)
    if not save_base:  # notes of how the bases were loaded, which a checkpoint of the adapter leaves out
        model.hf_device_map = {"": "cpu"}
        model.config.text_config.quantization_config = {"quant_method": "gguf"}
        model.config.text_config._pre_quantization_dtype = "float32"
    before, seen = state(model), []
    called = writing(lambda: seen.append(state(model)))
    model.save_pretrained(tmp_path / "checkpoint", save_base=save_base)
    assert {"safe_save_file", "save_pretrained"} <= set(called)
    assert all(found == before for found in [*seen, state(model)])
    written = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert written["text_config"].keys().isdisjoint({"quantization_config", "_pre_quantization_dtype"})
    assert (written["text_model_name_or_path"] is None) == save_base
    assert written["auto_map"] == arch.model_class.auto_map


def test_a_model_is_saved_in_two_ways_at_the_same_time(bases, arch, writing, tmp_path):
    model = arch.build(bases)
    both = threading.Barrier(2, timeout=60)
    writing(both.wait)  # each save waits for the other before each of its files
    ways = {"adapter": False, "whole": True}
    threads = [threading.Thread(target=model.save_pretrained, args=(tmp_path / name,), kwargs={"save_base": save_base})
               for name, save_base in ways.items()]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, save_base in ways.items():
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert (config["text_model_name_or_path"] is None) == save_base
        saved = load_file(tmp_path / name / "model.safetensors").keys()
        assert saved == (model.state_dict() if save_base else model.adapter_state_dict()).keys()


def test_an_adapter_is_one_file_whatever_a_shard_may_hold(bases, arch, tmp_path):
    model = arch.build(bases)
    model.save_pretrained(tmp_path, max_shard_size="1KB")
    assert_equal(arch.model_class.from_pretrained(tmp_path).state_dict(), model.state_dict())


@pytest.mark.parametrize("save_base", [False, True])
def test_variants_which_nothing_reads_are_not_written(bases, arch, tmp_path, save_base):
    with pytest.raises(ValueError, match="no use for variant='fp16', .* a folder of its own"):
        arch.build(bases).save_pretrained(tmp_path / "new", variant="fp16", save_base=save_base)
    assert not (tmp_path / "new").exists()


def test_a_process_that_is_not_the_main_one_writes_nothing(bases, arch, tmp_path):
    """As accelerate's examples call it in each process."""
    model = arch.build(bases)
    model.save_pretrained(tmp_path / "out", is_main_process=False, save_function=lambda *args, **kwargs: None)
    assert not (tmp_path / "out").exists()
    model.save_pretrained(tmp_path / "out", is_main_process=True)
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), model.adapter_state_dict())


def test_what_from_pretrained_would_not_read_is_not_written(bases, arch, tmp_path):
    model = arch.build(bases)
    with pytest.raises(ValueError, match="safe_serialization=False would write a pickle"):
        model.save_pretrained(tmp_path / "out", safe_serialization=False)
    model._hf_peft_config_loaded = True  # as after model.add_adapter
    with pytest.raises(ValueError, match="was added to a model that is in no checkpoint yet.*: save the model first"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
