"""Tokenizers as they are in the wild: with tokens that the language model does not embed, or without an end."""

import json

import pytest
import tiny
import torch
from closeness import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from adem_vl_hf import AdemVLProcessor
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.loading import build_model
from adem_vl_hf.modeling import processor_parts

pytestmark = pytest.mark.core
ROWS = [
    {"id": str(number), "image": tiny.picture(number), "prompt": "a photo of", "answer": " a cat" * (number + 1)}
    for number in range(2)
]


def built(tmp_path, words):
    """A model and its processor on a language model that embeds what the tests' own tokenizer has."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny.tokenizer()), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llm")
    words.save_pretrained(tmp_path / "llm")
    tiny.save_clip(tmp_path / "clip")
    return build_model(str(tmp_path / "llm"), str(tmp_path / "clip"), projector_dim=8)


@pytest.mark.parametrize(
    "added",
    [{"pad_token": "[PAD]"}, {"additional_special_tokens": ["<image>"]}, {"pad_token": "</s>"}],
    ids=["padding", "image token", "padding is the end"],
)
def test_tokens_without_an_embedding_do_no_harm(tmp_path, added):
    words = tiny.tokenizer()
    words.add_special_tokens(added)
    model, processor = built(tmp_path, words)
    batch = AdemVLCollator(processor)(ROWS)
    assert batch["input_ids"].max() < model.config.text_config.vocab_size
    assert model.train()(**batch).loss.isfinite()
    processor.save_pretrained(tmp_path / "saved")
    again = AdemVLCollator(type(processor).from_pretrained(tmp_path / "saved"))(ROWS)
    assert torch.equal(again["input_ids"], batch["input_ids"])


def test_padding_that_is_also_the_image_token_takes_no_image(tmp_path):
    words = tiny.tokenizer()
    words.pad_token = "<unk>"  # as Vicuna's, whose only spare token it is
    model, processor = built(tmp_path, words)
    processor = type(processor)(processor.image_processor, words, image_token="<unk>")
    model.config.image_token_id = processor.image_token_id
    assert processor.pad_token_id != processor.image_token_id
    both = processor(images=[tiny.picture(0), tiny.picture(1)], text=["a", "a photo of a cat and a cat"])
    alone = processor(images=tiny.picture(0), text="a")
    with torch.no_grad():
        assert_close(model(**both).logits[:1, -1], model(**alone).logits[:, -1])


def test_an_end_of_sequence_without_an_embedding_is_refused_when_the_model_is_built(tmp_path):
    words = tiny.tokenizer()
    words.add_special_tokens({"eos_token": "<the end>"})
    with pytest.raises(ValueError, match="eos_token '<the end>'.*language model embeds"):
        built(tmp_path, words)


def test_an_answer_needs_an_end_of_sequence(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(processor_parts.logger, "warning", said.append)
    words = tiny.tokenizer()
    words.eos_token = None
    _, processor = built(tmp_path, words)
    assert "has no end of sequence" in said[0]  # when the model is built, and again where it is trained
    with pytest.raises(ValueError, match="set tokenizer.eos_token"):
        AdemVLCollator(processor)(ROWS)


def test_special_tokens_are_saved_in_the_way_that_all_versions_read(tmp_path):
    words = tiny.tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<reserved_0>"]})
    _, processor = built(tmp_path, words)
    for folder in ("once", "again"):  # Transformers 4.57 does not load a list of extra_special_tokens
        processor.save_pretrained(tmp_path / folder)
        saved = json.loads((tmp_path / folder / "tokenizer_config.json").read_text())
        assert "<reserved_0>" in saved["additional_special_tokens"]
        assert not isinstance(saved.get("extra_special_tokens"), list)
        before, processor = processor, AdemVLProcessor.from_pretrained(tmp_path / folder)
        assert processor.tokenizer.all_special_tokens == before.tokenizer.all_special_tokens
        assert processor.image_token_id == before.image_token_id
