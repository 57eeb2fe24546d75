"""Adapters of PEFT from anywhere: what they ask for is refused by its file and field before PEFT reads it."""

import json
import os
import shutil

import architectures
import pytest
import tiny
import torch
from peft import BOFTConfig, IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from adem_vl_hf import AdemVLForConditionalGeneration
from adem_vl_hf.modeling import base_sizes

# PEFT 0.21 asks Transformers 5.23 for a property by its name before
pytestmark = [
    pytest.mark.core,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
SLOW = "([a-z_.0-9]+)+!"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
load = AdemVLForConditionalGeneration.from_pretrained


def save_beside(model, folder, config):
    """Save a model, and beside it an adapter of PEFT that changes what it computes."""
    model.save_pretrained(folder)
    wrapped = get_peft_model(load(folder), config)
    wrapped.save_pretrained(folder)
    return wrapped


@pytest.fixture(scope="module")
def theirs(bases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs")
    lora = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    wrapped = save_beside(architectures.ADEM_VL.build(bases), folder, lora)
    return folder, logits(wrapped)


@pytest.fixture
def folder(theirs, tmp_path):
    return shutil.copytree(theirs[0], tmp_path / "theirs")


@torch.no_grad()
def logits(model):
    return model.eval()(**tiny.batch([9, 7], [True, False])).logits


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_modules": SLOW}, "target_modules is .* may take for ever"),
        ({"exclude_modules": SLOW}, "exclude_modules is .* may take for ever"),
        ({"rank_pattern": {SLOW: 3}}, "rank_pattern is .* may take for ever"),
        ({"peft_type": "IA3", "feedforward_modules": SLOW}, "may take for ever"),
        ({"peft_type": "LOHA", "alpha_pattern": {SLOW: 3}}, "may take for ever"),
        ({"r": 30_000_000}, "r is 30000000; it must be from 0 to 65,536"),
        ({"peft_type": "LOHA", "r": 10**15}, "r is 10{15}; it must be from 0 to 65,536"),
        ({"r": "x"}, "r is 'x'; it must be a whole number"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"target_modules": 5}, "target_modules is 5"),
        ({"peft_type": "NOPE"}, "peft_type is 'NOPE', which is no adapter"),
        ({"peft_type": ["LORA"]}, r"peft_type is \['LORA'\]"),
        ({"megatron_config": {"a": 1}, "megatron_core": "their_module"}, "megatron_config is .* unchecked"),
        ({"peft_type": "XLORA", "adapters": {"a": "/elsewhere"}}, "adapters is .* unchecked"),
        ({"layer_replication": [[0, 2]] * 1000}, "number of layers is 2000"),
        ({"layer_replication": 7}, "layer_replication is 7"),
        ({"init_lora_weights": "pissa_niter_9999999999999"}, "number of rounds to begin with is 999999999"),
        ({"loftq_config": {"loftq_iter": 10**9}}, "number of rounds to begin with is 1000000000"),
    ],
)
def test_a_field_is_refused_by_its_name(folder, fields, message):
    file = folder / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(ValueError, match=rf"{CONFIG}: (lora: )?.*{message}"):
        load(folder)


@pytest.mark.parametrize("text", ["[1, 2]", "{", "7", "[" * 100_000, "\ud800"], ids=range(5))
@pytest.mark.parametrize("alone", [True, False])
def test_a_configuration_that_is_none_is_named(folder, text, alone):
    (folder / CONFIG).write_text(text, encoding="utf-8", errors="surrogatepass")
    if alone:
        (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=str(folder / CONFIG)):
        load(folder)


def damage(file, kind):
    tensors = load_file(file)
    name = next(iter(tensors))
    if kind == "noise":
        file.write_bytes(b"\xff" * 100)
    elif kind == "nan":
        tensors[name][0, 0] = float("nan")
        save_file(tensors, file)
    elif kind == "shape":
        save_file(tensors | {name: torch.zeros(7, 9)}, file)
    else:
        file.unlink()
        if kind == "pipe":
            os.mkfifo(file)
        elif kind == "pickle":
            torch.save(tensors, file.with_name("adapter_model.bin"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("noise", rf"{WEIGHTS} cannot be used \(SafetensorError"),
        ("nan", rf"{WEIGHTS}: '.*lora_A.*' holds NaN or infinity"),
        ("shape", "the adapter of PEFT in .*theirs cannot be used"),
        ("pipe", f"theirs holds no file {WEIGHTS}"),
        ("gone", f"theirs holds no file {WEIGHTS}"),
        ("pickle", f"theirs holds no file {WEIGHTS}.* never read from a pickle"),
    ],
)
def test_weights_that_cannot_be_used_are_named(folder, kind, message):
    damage(folder / WEIGHTS, kind)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_a_model_with_every_weight_is_checked_too(bases, tmp_path):
    wrapped = get_peft_model(tiny.build(bases), LoraConfig(r=4, target_modules=["q_proj"]))
    tiny.build(bases).save_pretrained(tmp_path, save_base=True)
    wrapped.save_pretrained(tmp_path)
    file = tmp_path / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 30_000_000}))
    with pytest.raises(ValueError, match=f"{CONFIG}: lora: r is 30000000"):
        load(tmp_path)


def test_more_numbers_than_its_file_holds_are_not_allocated(folder, monkeypatch):
    monkeypatch.setattr(base_sizes, "ALWAYS_NUMBERS", 0)
    load(folder)  # the base counts for nothing
    file = folder / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 500}))
    with pytest.raises(ValueError, match="its configuration asks for more than .* numbers, and its files"):
        load(folder)


def test_one_on_the_hub_is_checked_and_read_from_the_files_that_were(theirs, folder, tmp_path):
    cache = tmp_path / "cache" / "models--acme--lora"
    commit = cache / "snapshots" / ("0" * 40)
    commit.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    for name in (CONFIG, WEIGHTS):
        os.rename(folder / name, commit / name)
    where = {"_adapter_model_path": "acme/lora", "cache_dir": str(tmp_path / "cache"), "local_files_only": True}
    assert torch.equal(logits(load(folder, adapter_kwargs=where)), theirs[1])
    file = commit / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": SLOW}))
    with pytest.raises(ValueError, match=rf"snapshots/0+/{CONFIG}: lora: target_modules is .* may take for ever"):
        load(folder, adapter_kwargs=where)


@pytest.mark.parametrize(
    "config",
    [
        IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"],
                  init_ia3_weights=False),
        LoraConfig(r=4, target_modules=r".*layers\.\d+\..*v_proj", rank_pattern={r"layers\.0\..*": 2}, use_dora=True,
                   modules_to_save=["adapter"], init_lora_weights=False),
        # whose large buffers are in no file
        BOFTConfig(boft_block_size=4, target_modules=["q_proj"], init_weights=False),
    ],
)  # fmt: skip
def test_other_adapters_load_as_before(bases, tmp_path, config, monkeypatch):
    monkeypatch.setattr(base_sizes, "ALWAYS_NUMBERS", 0)
    wrapped = save_beside(architectures.ADEM_VL.build(bases), tmp_path, config)
    before = logits(wrapped)
    with wrapped.disable_adapter():
        assert not torch.equal(logits(wrapped), before)
    assert torch.equal(logits(load(tmp_path)), before)
