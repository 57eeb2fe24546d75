"""A frozen model whose configuration asks for more than its files hold is refused before the memory for it is taken."""

import json
import shutil
import threading
import time
from functools import partial

import pytest
import refusals
import tiny
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from adem_vl_hf.loading import build_model
from adem_vl_hf.modeling import base_sizes
from adem_vl_hf.modeling.bases import load_language_model, load_vision_tower

pytestmark = pytest.mark.core
refused_at_once = partial(refusals.refused_at_once, ValueError, clock=time.process_time)


def hostile(folder, into, fields):
    copy = shutil.copytree(folder, into)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **fields}))
    return str(copy)


MORE_NUMBERS = r"its configuration asks for more than [0-9,]+ numbers, and its files with weights have [0-9,]+ bytes"
MORE_TENSORS = MORE_NUMBERS.replace("numbers", "tensors")
MORE_LAYERS = r"config\.json: num_hidden_layers is 1000000000; it must be from 1 to 512"
TEXT = {
    "layers": ({"num_hidden_layers": 10**9}, MORE_LAYERS),
    "labels": ({"num_labels": 10**9}, r"num_labels is 1000000000; it must be from 0 to"),
    "inside": ({"rope_parameters": {"n_layers": 10**9}}, r"config\.json: rope_parameters\.n_layers is 1000000000"),
    "deep": ({"num_hidden_layers": 512, "intermediate_size": 2**14}, MORE_NUMBERS),
    "wide": ({"intermediate_size": 2**20}, MORE_NUMBERS),
    "table": ({"vocab_size": 2**26}, MORE_NUMBERS),
    "all": ({"hidden_size": 2**20, "intermediate_size": 2**20, "head_dim": 2**18}, MORE_NUMBERS),
    "quantised": ({"vocab_size": 2**24, "quantization_config": {"quant_method": "fp8"}}, "language model"),
    "kind": ({"model_type": "gpt2", "max_position_embeddings": 2**26}, MORE_NUMBERS),
    "experts": ({"model_type": "mixtral", "num_local_experts": 4096, "num_hidden_layers": 512}, "asks for more than"),
}
# 4.57 asks for the memory, without touching it, before it looks at the parameter; this much is nowhere
VISION = {
    "layers": ({"num_hidden_layers": 10**9}, MORE_LAYERS),
    "wide": ({"intermediate_size": 2**20, "hidden_size": 3 * 2**10}, MORE_NUMBERS),
    "table": ({"image_size": 2**20, "patch_size": 4}, f"{MORE_NUMBERS}|can't allocate memory"),
    "patch": ({"image_size": 2**20, "patch_size": 2**20}, f"{MORE_NUMBERS}|can't allocate memory"),
}


@pytest.mark.parametrize("case", TEXT)
def test_a_language_model(bases, tmp_path, case):
    fields, message = TEXT[case]
    name = hostile(bases / "llama", tmp_path / "base", fields)
    refused_at_once(lambda: load_language_model(name), message)
    with pytest.raises(ValueError, match="base"):
        build_model(name, str(bases / "clip"))


@pytest.mark.parametrize("case", VISION)
def test_a_vision_tower(bases, tmp_path, case):
    fields, message = VISION[case]
    name = hostile(bases / "clip", tmp_path / "base", fields)
    refused_at_once(lambda: load_vision_tower(name), message)
    with pytest.raises(ValueError, match="base"):
        build_model(str(bases / "llama"), name)


def test_many_small_parts(bases, tmp_path, monkeypatch):
    monkeypatch.setattr(base_sizes, "ALWAYS_TENSORS", 20)
    monkeypatch.setattr(base_sizes, "BYTES_OF_A_TENSOR", 10**9)
    refused_at_once(lambda: load_language_model(str(bases / "llama")), MORE_TENSORS)


def test_a_checkpoint_that_holds_every_weight(bases, tmp_path):
    model = tiny.build(bases)
    model.save_pretrained(tmp_path / "whole", save_base=True)
    text = model.config.text_config.to_dict() | {"intermediate_size": 2**20}
    name = hostile(tmp_path / "whole", tmp_path / "hostile", {"text_config": text})
    refused_at_once(lambda: type(model).from_pretrained(name), MORE_NUMBERS)
    type(model).from_pretrained(tmp_path / "whole")


def test_models_that_other_threads_build_are_not_counted(bases, monkeypatch):
    monkeypatch.setattr(base_sizes, "ALWAYS_NUMBERS", 0)
    config = AutoModelForCausalLM.from_pretrained(bases / "llama").config
    with base_sizes.no_larger_than_its_files(str(bases / "llama"), {}):
        config.vocab_size *= 100
        thread = threading.Thread(target=AutoModelForCausalLM.from_config, args=(config,))
        thread.start()
        thread.join()
        with pytest.raises(ValueError, match=MORE_NUMBERS):
            AutoModelForCausalLM.from_config(config)
    AutoModelForCausalLM.from_config(config)


OPEN_CLIP = {
    "layers": ("vision_cfg", {"layers": 10**9}, "more than"),
    "wide": ("vision_cfg", {"width": 2**16, "head_width": 2**15}, MORE_NUMBERS),
    "table": ("vision_cfg", {"image_size": 2**20, "patch_size": 1}, MORE_NUMBERS),
    "mask": ("text_cfg", {"context_length": 2**20}, MORE_NUMBERS),
    "words": ("text_cfg", {"vocab_size": 2**30}, MORE_NUMBERS),
    "kind": ("vision_cfg", {"width": "x"}, "cannot be used"),
    "inside": ("vision_cfg", [1], "cannot be used"),
}


@pytest.mark.parametrize("case", OPEN_CLIP)
def test_a_tower_of_open_clip(tmp_path, case):
    pytest.importorskip("open_clip")
    from open_clip_folder import open_clip_folder

    part, fields, message = OPEN_CLIP[case]
    open_clip_folder(tmp_path / "tower")
    path = tmp_path / "tower" / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"][part] = config["model_cfg"][part] | fields if isinstance(fields, dict) else fields
    path.write_text(json.dumps(config))
    name = f"local-dir:{path.parent}"
    refused_at_once(lambda: load_vision_tower(name, "open_clip"), rf"open_clip_config\.json.*{message}")


@pytest.mark.parametrize("part", ["", "text_config", "vision_config"])
@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation"])
def test_a_configuration_reaches_no_repository_of_kernels(bases, tmp_path, part, field):
    """Transformers would fetch and run the code of a repository that is named like this."""
    model = tiny.build(bases)
    model.save_pretrained(tmp_path / "ours")
    file = tmp_path / "ours" / "config.json"
    config = json.loads(file.read_text())
    (config[part] if part else config)[field] = "user/kernels"
    file.write_text(json.dumps(config))
    for kind in (AutoConfig, AutoModelForImageTextToText, type(model)):
        with pytest.raises(ValueError, match=f"config.json: {field} is 'user/kernels', a repository whose code would"):
            kind.from_pretrained(tmp_path / "ours")
    base = hostile(bases / "llama", tmp_path / "llama", {field: "user/kernels"})
    with pytest.raises(ValueError, match=f"config.json: {field} is 'user/kernels', a repository whose code would"):
        load_language_model(base)
