"""A language model in a GGUF file: read densely, named in the checkpoint, interchangeable with the original."""

import json
import shutil
import warnings

import families
import gguf
import pytest
import tiny
import torch
import training_runs
from closeness import assert_close, assert_equal
from gguf_files import write_gguf
from torch import nn
from transformers import AutoModel, LlamaForCausalLM

from adem_vl_hf import AdemVLForConditionalGeneration
from adem_vl_hf.hub.model_card import Base
from adem_vl_hf.loading import build_model
from adem_vl_hf.modeling.quantization import split_gguf

Q8, Q4 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0


@pytest.fixture(scope="module")
def files(bases, tmp_path_factory):
    """The shared Llama as GGUF: as it is, in eight bits and in four."""
    folder = tmp_path_factory.mktemp("gguf")
    return {kind: write_gguf(bases / "llama", folder / f"{kind}.gguf", quantised)
            for kind, quantised in (("f32", None), ("q8", Q8), ("q4", Q4))}  # fmt: skip


@pytest.fixture(scope="module")
def rounded(bases, tmp_path_factory):
    """What each file stands for: the shared Llama with its matrices and tables rounded, as an ordinary folder."""
    folders = {"f32": bases / "llama"}
    for kind, quantised in (("q8", Q8), ("q4", Q4)):
        folders[kind] = tmp_path_factory.mktemp("rounded") / kind
        llama = LlamaForCausalLM.from_pretrained(bases / "llama")
        with torch.no_grad():
            for parameter in llama.parameters():
                if parameter.dim() == 2:
                    blocks = gguf.quants.quantize(parameter.detach().numpy(), quantised)
                    parameter.copy_(torch.from_numpy(gguf.quants.dequantize(blocks, quantised)))
        llama.save_pretrained(folders[kind])
    return folders


@pytest.fixture(scope="module")
def saved(bases, files, tmp_path_factory):
    """A checkpoint whose language model is the four-bit file, and its model."""
    model = build(bases, files["q4"])
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return folder, model


def build(bases, language_model, **fields):
    fields = {"projector_dim": 8, "vision_adapter_dim": 4, "vision_adapter_dropout": 0.0, **tiny.SHOWING, **fields}
    return tiny.perturb(
        AdemVLForConditionalGeneration.from_base_pretrained(
            language_model, bases / "clip", dtype=torch.float32, **fields
        )
    )


def load(folder, **arguments):
    return AdemVLForConditionalGeneration.from_pretrained(folder, **arguments)


@torch.no_grad()
def logits(model):
    inputs = tiny.batch([10, 8], [True, True])
    return model(**{name: tensor for name, tensor in inputs.items() if name != "labels"}).logits


def gradients(model):
    model.train()
    model(**tiny.batch([10, 8], [True, True])).loss.backward()
    model.eval()
    return tiny.gradients(model)


@pytest.mark.parametrize("kind", ["f32", "q8", "q4"])
def test_the_file_is_the_model_but_for_its_rounding(bases, files, rounded, kind):
    read = build(bases, files[kind])
    assert read.config.image_token_id == tiny.IMAGE_TOKEN_ID  # of the tokenizer in the file
    assert {type(m) for m in read.language_model.modules() if isinstance(m, nn.Linear)} == {nn.Linear}
    dense = build(bases, rounded[kind], image_token_id=tiny.IMAGE_TOKEN_ID)
    assert_close(logits(read), logits(dense))
    found, expected = gradients(read), gradients(dense)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert gradient.any()
        assert_close(gradient, expected[name], name=name)


# what the reader takes for granted, because it does not read it from the file
ASSUMED = {
    "qwen3": {"head_dim": 128},
    "qwen3_moe": {"moe_intermediate_size": 768, "norm_topk_prob": True},
    "gemma2": {"query_pre_attn_scalar": 256, "layer_types": None, "final_logit_softcapping": 30.0},
    "gemma3_text": {"query_pre_attn_scalar": 256, "layer_types": None},
}


@pytest.mark.parametrize("family", families.parameters(family for family in families.TABLE if family != "gemma"))
def test_a_file_of_each_family_is_the_model(family, tmp_path):
    families.save_bases(tmp_path, family, **ASSUMED.get(family, {}))
    file = write_gguf(tmp_path / "llama", tmp_path / "model.gguf")
    read, dense = (build(tmp_path, name, image_token_id=tiny.IMAGE_TOKEN_ID) for name in (file, tmp_path / "llama"))
    # Transformers takes a Mistral for a Llama, which computes the same
    assert read.config.text_config.model_type == ("llama" if family == "mistral" else family)
    assert_close(logits(read), logits(dense))
    found, expected = gradients(read), gradients(dense)
    for name, gradient in found.items():
        assert gradient.any()
        assert_close(gradient, expected[name], name=name)
    read.save_pretrained(tmp_path / "saved")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the language model")
        again = load(tmp_path / "saved", dtype=torch.float32)
        original = load(tmp_path / "saved", text_model_name_or_path=str(tmp_path / "llama"))
    assert_equal(again.state_dict(), read.state_dict())
    assert_close(logits(again), logits(read))
    assert_close(logits(original), logits(dense))


def test_an_architecture_that_cannot_be_read_is_refused(tmp_path):
    families.save_bases(tmp_path, "gemma")
    file = write_gguf(tmp_path / "llama", tmp_path / "model.gguf")
    with pytest.raises(ValueError, match=r"model\.gguf' could not be loaded \(.*architecture gemma is not supported"):
        build(tmp_path, file)


def test_the_checkpoint_finds_its_file_again(saved, files):
    folder, model = saved
    written = json.loads((folder / "config.json").read_text())
    assert written["text_model_name_or_path"] == str(files["q4"])
    assert "quantization_config" not in json.dumps(written)
    for loaded in (load(folder, dtype=torch.float32), AutoModel.from_pretrained(folder, trust_remote_code=True)):
        assert_equal(loaded.state_dict(), model.state_dict())
        assert_close(logits(loaded), logits(model))


def test_transformers_own_spelling_records_the_same_name(bases, files):
    model = build(bases, files["q4"].parent, text_model_kwargs={"gguf_file": "q4.gguf"})
    assert model.config.text_model_name_or_path == str(files["q4"])


def test_adapter_and_file_move_together(saved, files, tmp_path):
    folder, model = saved
    moved = shutil.copytree(folder, tmp_path / "moved")
    shutil.copy(files["q4"], moved / "model.gguf")
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"text_model_name_or_path": "./model.gguf"}))
    assert_close(logits(load(moved, dtype=torch.float32)), logits(model))


def test_a_file_that_is_gone_is_named(saved, tmp_path):
    with pytest.raises(ValueError, match=r"language model '.*gone\.gguf' could not be loaded"):
        load(saved[0], text_model_name_or_path=str(tmp_path / "gone.gguf"))


def test_the_adapter_goes_from_the_file_to_the_original_and_back(bases, model, files, saved, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the language model")
        full = load(saved[0], text_model_name_or_path=str(bases / "llama"))
        assert_close(logits(full), logits(model))
        model.save_pretrained(tmp_path / "full")
        for kind in files:
            load(tmp_path / "full", text_model_name_or_path=str(files[kind]))


def test_another_model_is_recognised_either_way(model, saved, tmp_path):
    other = tiny.save_llama(tmp_path / "other", seed=7)
    model.save_pretrained(tmp_path / "full")
    file = write_gguf(other, tmp_path / "other.gguf", Q8)
    for folder, name in ((saved[0], other), (saved[0], file), (tmp_path / "full", file)):
        with pytest.warns(UserWarning, match="other weights"):
            load(folder, text_model_name_or_path=str(name))


def test_norms_tell_a_fine_tune_from_a_rounded_model(bases, saved, tmp_path):
    tuned = LlamaForCausalLM.from_pretrained(bases / "llama")
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "norm" in name:
                parameter.mul_(1.05)
    tuned.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"other weights \(first seen in .*norm"):
        load(saved[0], text_model_name_or_path=str(tmp_path))


def test_it_trains(bases, files, tmp_path):
    model, processor = build_model(str(files["q4"]), str(bases / "clip"), projector_dim=8, dtype=torch.float32)
    assert processor.image_token_id == model.config.image_token_id == tiny.IMAGE_TOKEN_ID
    tiny.perturb(model)
    before = training_runs.adapter(model)
    trainer, _ = training_runs.trainer(bases, tmp_path, training_runs.samples(4), model=model, max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = training_runs.adapter(load(tmp_path / "saved"))
    assert all(not torch.equal(before[key], loaded[key]) for key in before)
    assert_equal(loaded, training_runs.adapter(model))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/repo", ("org/repo", None)),
        ("org/repo/model.Q4_K_M.gguf", ("org/repo", "model.Q4_K_M.gguf")),
        ("org/repo/sub/model.gguf", ("org/repo", "sub/model.gguf")),
        ("/models/model.gguf", ("/models", "model.gguf")),
        ("./llm/7b/model.gguf", ("llm/7b", "model.gguf")),
        ("model.GGUF", (".", "model.GGUF")),
    ],
)
def test_names_of_files(name, expected):
    assert split_gguf(name) == expected


def test_files_and_folders_that_exist_are_meant_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.gguf").touch()
    (tmp_path / "folder.gguf").mkdir()
    assert split_gguf("a/b/c.gguf") == ("a/b", "c.gguf")
    assert split_gguf("folder.gguf") == ("folder.gguf", None)


def test_the_card_links_the_repository_of_a_file():
    base = Base("language model", "text_model_name_or_path", "org/repo/model.gguf", None, None)
    assert not base.is_local
    assert base.hub_id == "org/repo"
    assert base.shown == "[org/repo/model.gguf](https://huggingface.co/org/repo)"
    local = Base("language model", "text_model_name_or_path", "/models/of/mine/model.gguf", None, None)
    assert local.is_local
    assert local.shown == "`model.gguf` (a local file)"
