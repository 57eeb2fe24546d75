"""A value that cannot be is refused where it enters: by its field, at once, and before anything is allocated."""

import json
import re
import resource
import shutil
import time

import architectures
import pytest
import tiny
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save_file

from adem_vl_hf import AdemVLConfig, EvlmConfig
from adem_vl_hf.loading import describe, load_config
from adem_vl_hf.modeling.bases import locate_base
from adem_vl_hf.modeling.configuration_base import FrozenBasesConfig
from adem_vl_hf.modeling.field_values import constructor_hints, fits

pytestmark = pytest.mark.core
NAN, INFINITY = float("nan"), float("inf")
NUMBERS = {int: [NAN, INFINITY, 1.5, "8", [], True, None, 10**400], float: [NAN, -INFINITY, "0.1", [], True, None]}
OTHERS = {str: [5, None, [], "\ud83d"], bool: [1, "true", None]}


@pytest.mark.parametrize("config_class", [AdemVLConfig, EvlmConfig])
def test_every_field_refuses_every_other_type_by_its_name(config_class):
    tried = 0
    for name, hint in constructor_hints(config_class, FrozenBasesConfig).items():
        values = {**NUMBERS, **OTHERS}.get(hint) or [value for value in (5.5, {1}, object()) if not fits(value, hint)]
        for value in values:
            with pytest.raises(ValueError, match=rf"^{name} is "):
                config_class(**{name: value})
            tried += 1
    assert tried > 80


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"projector_dim": 5_000_000}, r"projector_dim is 5000000; .* raise AdemVLConfig\.ranges\['projector_dim'\]"),
        ({"fusion_scale": 2.0**63}, "fusion_scale is 9.2"),
        (
            {"text_config": {"num_hidden_layers": 10**9}},
            r"text_config\.num_hidden_layers is 10+; .* raise SIZES",
        ),
        ({"text_config": {"model_type": "qwen3", "num_hidden_layers": 10**8}}, r"text_config\.num_hidden_layers"),
        ({"vision_config": {"num_hidden_layers": 10**9}}, r"vision_config\.num_hidden_layers"),
        ({"text_config": {"hidden_size": "32"}}, r"text_config\.hidden_size is '32'; it must be a whole number"),
        ({"text_config": {"vocab_size": None}}, r"text_config.*vocab_size"),
        ({"vision_config": {"patch_size": []}}, r"vision_config\.patch_size is \[\]"),
        ({"text_config": {"model_type": "clip_vision_model"}}, r"text_config\.vocab_size"),
        ({"text_config": {"model_type": ["llama"]}}, "text_config cannot be used"),
        ({"text_model_fingerprint": {"config": "x", "tensors": [1]}}, "text_model_fingerprint: tensors is"),
        ({"text_model_fingerprint": {"config": "x"}}, "text_model_fingerprint has no 'tensors'"),
        ({"lora": {"target_modules": r"([a-z_.0-9]+)+!"}}, "target_modules .* may take for ever"),
        ({"lora": {"target_modules": r"(a|a)*b"}}, "may take for ever"),
        ({"lora": {"target_modules": r".*.*.*.*.*x"}}, "may take for ever"),
        ({"lora": {"target_modules": r"(x+x+)+y"}}, "may take for ever"),
        ({"lora": {"rank_pattern": {r"(a*)*b": 4}}}, "rank_pattern .* may take for ever"),
        ({"lora": {"target_modules": "(("}}, "target_modules .* must be a regular expression"),
        ({"lora": {"lora_alpha": NAN}}, "lora: lora_alpha is nan"),
        ({"lora": {"target_modules": [1]}}, "lora: target_modules is"),
    ],
)
def test_what_cannot_be_is_refused_at_once(fields, message):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message):
        AdemVLConfig(**fields)
    assert time.perf_counter() - start < 5  # 0.1 s here


@pytest.mark.parametrize(
    "pattern",
    [r".*\.(q|k|v|o)_proj", r".*layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj", r"(model\.)?.*_proj"],
)
def test_usual_patterns_of_layers_are_taken(pattern):
    assert AdemVLConfig(lora={"target_modules": pattern}).lora["target_modules"] == pattern


@pytest.fixture
def saved(bases, tmp_path):
    folder = tmp_path / "saved"
    tiny.build(bases).save_pretrained(folder)
    return folder


def rewrite(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_width_that_the_file_does_not_have_allocates_nothing(saved):
    rewrite(saved, projector_dim=1_000_000)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(ValueError, match=r"model\.safetensors .* where the config needs \(1000000"):
        architectures.ADEM_VL.model_class.from_pretrained(saved)
    assert time.perf_counter() - start < 5  # 0.02 s here
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


@pytest.mark.parametrize("dtype", ["int64", "bool", "uint8", "complex64", "float8_e4m3fn"])
def test_weights_that_are_no_floating_point_numbers_are_refused_by_name(saved, dtype):
    path = saved / "model.safetensors"
    tensors = read_tensors(path.read_bytes())
    tensors["adapter.key_embedding"] = torch.zeros(tensors["adapter.key_embedding"].shape, dtype=getattr(torch, dtype))
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"adapter\.key_embedding is of the type \w+; the weights of an adapter are"):
        architectures.ADEM_VL.model_class.from_pretrained(saved)


@pytest.mark.parametrize("base", ["llama", "clip"])
def test_a_base_that_was_not_fetched_is_named(bases, saved, base, tmp_path):
    copy = shutil.copytree(bases / base, tmp_path / base)
    (copy / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 9\n")
    field = {"llama": "text_model_name_or_path", "clip": "vision_model_name_or_path"}[base]
    with pytest.raises(ValueError, match=f"{re.escape(str(copy))}.*could not be loaded"):
        architectures.ADEM_VL.model_class.from_pretrained(saved, **{field: str(copy)})


def test_code_of_a_checkpoint_is_never_offered(tmp_path, monkeypatch):
    """On a terminal, Transformers would ask whether to run it."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    for read in (load_config, lambda folder: tiny.build(folder.parent, folder.name)):
        with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
            read(tmp_path)


def test_deeply_nested_json_is_named(saved):
    (saved / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=rf"{re.escape(str(saved))}/config\.json"):
        describe(str(saved))


def test_a_checkpoint_on_the_hub_does_not_reach_into_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lm").mkdir()
    for name in ("./lm", "../" + tmp_path.name):
        with pytest.raises(ValueError, match=f"someone/theirs names its base '{re.escape(name)}'"):
            locate_base(name, "someone/theirs")
    (tmp_path / "checkpoint").mkdir()
    assert locate_base("../lm", str(tmp_path / "checkpoint")) == str(tmp_path / "lm")


def test_a_base_that_the_user_names_is_meant_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lm").mkdir()
    config = AdemVLConfig.from_dict(AdemVLConfig().to_dict(), text_model_name_or_path="./lm")
    assert config.text_model_name_or_path == str(tmp_path / "lm")
