"""Attention implementations: each reaches the language model and the tower, and all compute the same."""

import pytest
import tiny
import torch
from closeness import assert_close
from transformers import AutoModel

from adem_vl_hf import AdemVLForConditionalGeneration

# Transformers asks torch for its mask in a way that torch 2.14 no longer likes
pytestmark = pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning")
EVERYWHERE = [
    "eager", "sdpa",
    pytest.param("flex_attention", marks=pytest.mark.slow),  # torch compiles it for half a minute
]  # fmt: skip
BY_PART = {"": "sdpa", "text_config": "eager", "vision_config": "sdpa"}


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def inputs():
    return tiny.batch([9, 7, 5], [True, False, True], side="left")


def used(model) -> list[str]:
    """Of the whole, the language model and the tower; each part's layers share its config."""
    parts = model, model.language_model, model.vision_tower
    layers = model.language_model.get_decoder().layers[0].self_attn, model.vision_tower.get_submodule(
        "vision_model.encoder.layers.0.self_attn" if hasattr(model.vision_tower, "vision_model") else
        "encoder.layers.0.self_attn"
    )  # fmt: skip
    assert [layer.config for layer in layers] == [part.config for part in parts[1:]]
    return [part.config._attn_implementation for part in parts]


def logits(model, inputs) -> torch.Tensor:
    """Where there is text: what stands on padding differs from one implementation to another."""
    with torch.no_grad():
        return model(**inputs).logits[inputs["attention_mask"].bool()]


@pytest.mark.parametrize("given", [*EVERYWHERE, BY_PART], ids=str)
@pytest.mark.parametrize("way", ["from_pretrained", "auto", "set", "bases", "config"])
def test_it_reaches_both_bases_and_changes_nothing(bases, model, saved, inputs, given, way):
    if way == "from_pretrained":
        made = AdemVLForConditionalGeneration.from_pretrained(saved, attn_implementation=given)
    elif way == "auto":
        made = AutoModel.from_pretrained(saved, attn_implementation=given)
    elif way == "config":
        made = AdemVLForConditionalGeneration._from_config(model.config.__class__.from_pretrained(saved),
                                                           attn_implementation=given)  # fmt: skip
        made.load_state_dict(model.state_dict())
        made.eval()
    else:
        made = tiny.build(bases, **({"attn_implementation": given} if way == "bases" else {}))
    if way == "set":
        made.set_attn_implementation(given)
    assert used(made) == (list(given.values()) if given is BY_PART else [given] * 3)
    assert_close(logits(made, inputs), logits(model, inputs))


def test_a_part_that_is_not_there_is_refused(saved):
    with pytest.raises(ValueError, match="no part is called 'audio_config'; take text_config, vision_config"):
        AdemVLForConditionalGeneration.from_pretrained(saved, attn_implementation={"audio_config": "eager"})


def test_parts_that_are_not_named_keep_the_librarys_choice(saved):
    made = AdemVLForConditionalGeneration.from_pretrained(saved, attn_implementation={"text_config": "eager"})
    assert used(made)[1:] == ["eager", "sdpa"]
