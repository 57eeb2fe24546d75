"""Language models that scale their input embeddings or their logits: images and loss are as without the scale."""

import evlm
import families
import pytest
import tiny
import torch
from closeness import assert_close

from adem_vl_hf.modeling.image_inputs import ImageRows

# a hybrid of attention and Mamba, which multiplies nearly everything by something
FALCON = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "lm_head_multiplier": 0.25}


@torch.no_grad()
def test_an_image_embedding_reaches_the_first_layer_of_a_granite_as_it_is(tmp_path):
    model, inputs = tiny.build(families.save_bases(tmp_path, "granite")), tiny.batch([9], [True])
    assert model.config.text_config.embedding_multiplier == 3
    embeds = model(**inputs, output_hidden_states=True).hidden_states[0]
    rows = ImageRows.pair(inputs["pixel_values"], inputs["image_mask"], 1)
    expected = model.see(model.features_of(rows), rows).embeds  # [1, 1, m, D]
    assert_close(embeds[inputs["input_ids"] == tiny.IMAGE_TOKEN_ID], expected.flatten(0, 2))


@torch.no_grad()
def test_the_loss_in_training_is_that_of_scaled_logits(tmp_path):
    folder = tmp_path / "bases"
    tiny.save_language_model(folder / "llama", "falcon_h1", **FALCON)
    tiny.save_clip(folder / "clip")
    model, inputs = evlm.build(folder, media_tokens=0), evlm.batch(tokens=1)
    expected = model(**inputs).loss
    assert_close(model.train()(**inputs).loss, expected)


def test_a_scale_for_tokens_alone_leaves_no_place_for_images(tmp_path):
    tiny.save_language_model(tmp_path / "llama", "falcon_h1", **FALCON, embedding_multiplier=4.0)
    tiny.save_clip(tmp_path / "clip")
    with pytest.raises(ValueError, match="embeddings of its text by 4 and those .* use media_tokens=0"):
        evlm.build(tmp_path)
    evlm.build(tmp_path, media_tokens=0)
