"""Language models in 4 and 8 bits by bitsandbytes: what is packed, what trains, what is saved, where that loads."""

import json
import warnings

import architectures
import families
import pytest
import scripts
import tiny
import torch
import training_runs
from bitsandbytes.functional import dequantize_4bit
from closeness import assert_close, assert_equal
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, BitsAndBytesConfig

from adem_vl_hf import loading
from adem_vl_hf.cli import parser
from adem_vl_hf.loading import MODELS, load_config
from adem_vl_hf.modeling.trained_in_base import lora_parameters

CONFIGS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4 twice": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
}

DENSE = {"Linear", "InputPrecisionLinear", "_Projection"}


def config(kind: str = "nf4") -> BitsAndBytesConfig:
    return BitsAndBytesConfig(**CONFIGS[kind])


@pytest.fixture(scope="module")
def wide(arch, request, tmp_path_factory):
    """Bases wide enough for blocks of 64 numbers, a checkpoint on them, and the pictures that the scripts read."""
    folder = families.save_bases(
        tmp_path_factory.mktemp("wide"), getattr(request, "param", "llama"),
        hidden_size=128, intermediate_size=256, initializer_range=0.05,
    )  # fmt: skip
    arch.build(folder).save_pretrained(folder / "checkpoint")
    training_runs.picture_folder(folder / "pictures")
    return folder


@pytest.fixture(scope="module")
def plain(wide):
    """The checkpoint in full precision."""
    return load(wide)


def load(wide, **arguments):
    """The checkpoint, in float32; a warning that the base is another one fails the test."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the language model")
        model_class, _ = MODELS[load_config(wide / "checkpoint").model_type]
        return model_class.from_pretrained(wide / "checkpoint", **{"dtype": torch.float32, **arguments})


def inputs():
    return tiny.batch([10, 8], [True, True])


def gradients(model):
    model.train()
    model(**inputs()).loss.backward()
    model.eval()
    return tiny.gradients(model)


@torch.no_grad()
def logits(model):
    return model(**{name: tensor for name, tensor in inputs().items() if name != "labels"}).logits


def linears(model):
    """Every linear layer by name: its class."""
    return {name: type(module).__name__ for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def packed(model):
    return {name for name, kind in linears(model).items() if kind not in DENSE}


def to_be_packed(model):
    """All of the language model but its head."""
    return {name for name in linears(model) if name.startswith("language_model.") and "lm_head" not in name}


@torch.no_grad()
def unpacked(model, wide):
    """A dense model of the very numbers that the packed one stands for."""
    dense = load(wide)
    modules = dict(dense.named_modules())
    for name, module in model.named_modules():
        if type(module).__name__ == "Linear4bit":
            modules[name].weight.copy_(dequantize_4bit(module.weight.data, module.weight.quant_state))
    return dense


@architectures.each_family("wide")
@pytest.mark.parametrize("kind", CONFIGS)
def test_all_of_the_language_model_but_its_head_is_packed_and_nothing_else(wide, plain, kind):
    model = load(wide, quantization_config=config(kind))
    assert packed(model) == to_be_packed(plain)
    experts = hasattr(model.config.text_config, "num_experts")  # bitsandbytes packs linear layers, which they are not
    assert len(packed(model)) == 3 * (4 if experts else 7)
    bytes_only = {name.removesuffix(".weight") for name, p in model.named_parameters() if not p.is_floating_point()}
    assert bytes_only == packed(model)
    assert {p.dtype for p in model.adapter.parameters()} == {torch.float32}
    assert all(p.requires_grad == name.startswith("adapter.") for name, p in model.named_parameters())


@architectures.each_family("wide")
@pytest.mark.parametrize("kind", ["nf4", "fp4 twice"])
def test_a_packed_model_computes_what_its_numbers_say(wide, plain, kind):
    model = load(wide, quantization_config=config(kind))
    dense = unpacked(model, wide)
    assert_close(logits(model), logits(dense))
    # the packed numbers are other numbers: by 3.7e-3 to 1e-2 here, many times what rounding does (closeness.TOLERANCE)
    assert (logits(model) - logits(plain)).abs().max() > 1e-3
    # after an answer, which has bitsandbytes pack for a kernel without a backward on some CPUs
    expected, found = gradients(dense), gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert gradient.any()
        assert_close(gradient, expected[name], name=name)
    prompt = {name: tensor for name, tensor in inputs().items() if name != "labels"}
    answers = [one.generate(**prompt, max_new_tokens=5, do_sample=False) for one in (model, dense)]
    assert torch.equal(*answers)


@architectures.each_family("wide")
def test_eight_bits_come_close(wide, plain):
    model = load(wide, quantization_config=config("int8"))
    expected, found = gradients(plain), gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert torch.cosine_similarity(gradient.flatten(), expected[name].flatten(), dim=0) > 0.9, name
    prompt = {name: tensor for name, tensor in inputs().items() if name != "labels"}
    assert model.generate(**prompt, max_new_tokens=3, do_sample=False).shape == (2, 13)


@architectures.each()
@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_trained_on_it_loads_in_full_precision(arch, wide, tmp_path, kind):
    model = load(wide, quantization_config=config(kind))
    before, frozen = training_runs.adapter(model), model.language_model.state_dict()
    frozen = {key: tensor.clone() for key, tensor in frozen.items() if isinstance(tensor, torch.Tensor)}
    trainer, _ = training_runs.trainer(wide, tmp_path, training_runs.samples(4), model=model, max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    after = training_runs.adapter(model)
    assert all(not torch.equal(before[key], after[key]) for key in before)
    now = model.language_model.state_dict()
    assert all(torch.equal(now[key], tensor) for key, tensor in frozen.items())

    assert set(load_file(tmp_path / "saved" / "model.safetensors")) == set(before)
    written = (tmp_path / "saved" / "config.json").read_text()
    assert "quant" not in written
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the language model")
        loaded = arch.model_class.from_pretrained(tmp_path / "saved")
    assert packed(loaded) == set()
    assert_equal(training_runs.adapter(loaded), after)
    assert model.config.text_config.quantization_config is not None  # the model itself is left as it was


@architectures.each()
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_lora_trains_on_it_and_loads_in_full_precision(arch, wide, tmp_path, kind):
    lora = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    model = arch.build(wide, lora=lora, quantization_config=config(kind), dtype=torch.bfloat16)
    matrices = lora_parameters(model.language_model)
    assert len(matrices) == 2 * 2 * 3
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in matrices)
    before = training_runs.adapter(model)
    trainer, _ = training_runs.trainer(wide, tmp_path, training_runs.samples(4), model=model, max_steps=2)
    trainer.train()
    after = training_runs.adapter(model)
    assert all(not torch.equal(before[key], after[key]) for key in before)
    trainer.save_model(str(tmp_path / "saved"))
    loaded = arch.model_class.from_pretrained(tmp_path / "saved")
    assert packed(loaded) == set()
    assert_equal(training_runs.adapter(loaded), after)


@architectures.each()
def test_a_fresh_adapter_takes_the_same_argument(arch, wide, plain, tmp_path):
    model = arch.model_class.from_base_pretrained(
        wide / "llama", wide / "clip", quantization_config=config(), dtype=torch.float32
    )
    assert packed(model) == to_be_packed(plain)
    assert model.config.text_model_fingerprint == plain.config.text_model_fingerprint
    model.save_pretrained(tmp_path)
    assert "quant" not in (tmp_path / "config.json").read_text()


@architectures.each()
def test_auto_model_takes_the_same_argument(wide, plain):
    model = AutoModel.from_pretrained(wide / "checkpoint", trust_remote_code=True, quantization_config=config())
    assert {name for name, kind in linears(model).items() if kind == "Linear4bit"} == to_be_packed(plain)
    assert {p.dtype for p in model.adapter.parameters()} == {torch.float32}


@architectures.each()
def test_another_base_is_recognised_when_packed(arch, wide, tmp_path):
    tiny.save_llama(tmp_path / "other", seed=7, hidden_size=128, intermediate_size=256)
    with pytest.warns(UserWarning, match="other weights"):
        arch.model_class.from_pretrained(
            wide / "checkpoint", text_model_name_or_path=str(tmp_path / "other"), quantization_config=config()
        )


@architectures.each()
def test_packed_weights_are_not_saved_and_tower_and_adapter_are_not_packed(arch, wide, plain, tmp_path):
    model = load(wide, quantization_config=config())
    with pytest.raises(ValueError, match=r"quantised \(bitsandbytes\).*save the adapter alone"):
        model.save_pretrained(tmp_path / "whole", save_base=True)
    plain.save_pretrained(tmp_path / "whole", save_base=True)
    with pytest.raises(ValueError, match="would quantise its tower and adapter too"):
        arch.model_class.from_pretrained(tmp_path / "whole", quantization_config=config())


def test_commands_load_in_few_bits(wide, tmp_path, monkeypatch, capsys):
    seen = []
    for name in ("build_model", "load_checkpoint"):
        original = getattr(loading, name)

        def spy(*args, original=original, **kwargs):
            seen.append(original(*args, **kwargs))
            return seen[-1]

        monkeypatch.setattr(loading, name, spy)
    bases = ["--language-model", wide / "llama", "--vision-tower", wide / "clip"]
    run, pictures = tmp_path / "run", wide / "pictures"
    train = ["train", *bases, "--data", pictures, "--output-dir", run, "--max-steps", 1, "--batch-size", 2,
             "--load-in-4bit", "--dtype", "float32", "--set", "use_cpu=true", "disable_tqdm=true"]  # fmt: skip
    caption = ["caption", pictures / "0.png", "--checkpoint", run, "--max-new-tokens", 2, "--load-in-8bit"]
    evaluate = ["evaluate", "--task", "caption", "--data", pictures, "--checkpoint", run, "--max-new-tokens", 2,
                "--load-in-4bit", "--json"]  # fmt: skip
    for command in (train, caption, evaluate):
        assert parser.main(list(map(str, command))) == 0
    kinds = [set(linears(model).values()) for model, _ in seen]
    assert [found - DENSE for found in kinds] == [{"Linear4bit"}, {"Linear8bitLt"}, {"Linear4bit"}]
    settings = seen[0][0].config.text_config.quantization_config
    assert (settings.bnb_4bit_quant_type, settings.bnb_4bit_use_double_quant) == ("nf4", True)
    assert settings.bnb_4bit_compute_dtype == torch.float32

    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    capsys.readouterr()
    assert parser.main(list(map(str, caption))) == parser.EXIT_BAD_INPUT
    assert "8 bits need the package bitsandbytes: pip install" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parser.main([*map(str, caption), "--load-in-4bit"])


def test_the_example_trains_on_few_bits_and_answers_in_full_precision(wide, tmp_path, monkeypatch, capsys):
    scripts.call(
        scripts.load("examples/quantized.py"), monkeypatch, wide / "pictures", "--output-dir", tmp_path, "--epochs", 1,
        "--language-model", wide / "llama", "--vision-tower", wide / "clip",
    )  # fmt: skip
    lines = capsys.readouterr().out.strip().splitlines()
    assert json.loads((tmp_path / "training.json").read_text())["samples"] == 3
    sizes = {line.split(":")[0]: float(line.split()[-2]) for line in lines if line.endswith(" MB")}
    assert sizes["language model in 4 bits"] < sizes["language model in full precision"]
    assert lines[-1].startswith("full precision, first image: ")
