"""Which slots are kept: compared with a computation by hand and with the fused terms; the model is left as it was."""

import copy

import pytest
import tiny
import torch
from closeness import assert_close
from PIL import Image
from transformers import CLIPImageProcessor

from adem_vl_hf import AdemVLProcessor
from adem_vl_hf.inspection.kept_tokens import kept_mask, kept_visual_tokens, split_scales
from adem_vl_hf.modeling import fused_layers
from adem_vl_hf.modeling.fusion import adaptive_drop_, kernel_map
from adem_vl_hf.modeling.labels import NOT_SUPERVISED

PROMPT, ANSWER = "a photo of", " a cat on the sea"
COUNTS = [16, 4]  # S = 20


def noise(width: int = 16, height: int = 16) -> Image.Image:
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def processor_for(model, bases) -> AdemVLProcessor:
    return AdemVLProcessor.from_base_pretrained(bases / "llama", bases / "clip", model.config)


def hooks(model) -> int:
    """Count the hooks in the sub-layers of the decoder."""
    parts = [part for layer in model.language_model.get_decoder().layers for part in (layer.mlp, layer.self_attn)]
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts)


def test_one_layer_by_hand(bases, tmp_path):
    tiny.save_llama(tmp_path / "llama", num_hidden_layers=1)
    (tmp_path / "clip").symlink_to(bases / "clip")
    model = tiny.build(tmp_path, visual_token_counts=COUNTS, drop_ratio=0.25)
    processor = processor_for(model, tmp_path)
    kept = kept_visual_tokens(model, processor, noise(), PROMPT, ANSWER)

    inputs = processor(images=[noise()], text=[PROMPT], suffix=[ANSWER])
    answer = (inputs.pop("labels")[0] != NOT_SUPERVISED).nonzero().flatten()
    decoder, layer = model.language_model.get_decoder(), model.language_model.get_decoder().layers[0]
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)
        hidden = out.hidden_states[0]
        rotary = decoder.rotary_emb(hidden, torch.arange(hidden.shape[1])[None])
        attended = layer.self_attn(layer.input_layernorm(hidden), position_embeddings=rotary, attention_mask=None)[0]
        query = layer.post_attention_layernorm(hidden + attended)[0]
        key = out.image_hidden_states + model.adapter.key_embedding
        scores = (query * query.sigmoid()) @ (key * key.sigmoid())[0].T
    expected_kept, expected_scores = [], []
    for position in answer[:-1] - 1:  # the position before a token predicts it; the last token is the end of sequence
        row = scores[position].tolist()
        limit = sorted(row)[5]  # 0.25 x 20
        expected_kept.append([float(score >= limit) for score in row])
        expected_scores.append([score if score >= limit else 0.0 for score in row])
    expected = torch.tensor(expected_kept)
    assert torch.equal(kept.kept_by_token, expected)
    assert_close(kept.scores_by_token, torch.tensor(expected_scores))
    assert [grid.shape for grid in kept.kept] == [(4, 4), (2, 2)]
    assert_close(torch.cat([grid.flatten() for grid in kept.kept]), expected.mean(0))
    assert len(expected.mean(0).unique()) > 2  # the averages of the slots differ


@pytest.mark.parametrize("drop_ratio", [0.0, 0.1, 0.49])
def test_as_many_are_dropped_as_the_ratio_says(bases, drop_ratio):
    model = tiny.build(bases, visual_token_counts=COUNTS, drop_ratio=drop_ratio)
    kept = kept_visual_tokens(model, processor_for(model, bases), noise(), PROMPT, ANSWER)
    rows = kept.kept_by_token.sum(1)  # [T]: slots that were kept, mean over the layers
    assert_close(rows, torch.full_like(rows, 20 - int(drop_ratio * 20)))
    assert (kept.scores_by_token != 0).all() == (drop_ratio == 0)


@pytest.mark.parametrize(
    ("query_from", "add_to"),
    [
        ("mlp_in", "mlp_out"),
        ("mlp_in", "mlp_in"),
        ("mlp_out", "mlp_out"),
        ("attn_in", "attn_in"),
        ("attn_in", "attn_out"),
        ("attn_out", "attn_out"),
    ],
)
def test_the_queries_are_those_that_the_layers_fuse_with(bases, monkeypatch, query_from, add_to):
    model = tiny.build(bases, visual_token_counts=COUNTS, drop_ratio=0.3, query_from=query_from, add_to=add_to)
    used = []
    fuse = fused_layers.fuse

    def record(hidden_states, key, value, kernel, drop_ratio, slot_mask):
        used.append(adaptive_drop_(kernel_map(hidden_states, kernel) @ key.transpose(1, 2), drop_ratio)[0])
        return fuse(hidden_states, key, value, kernel, drop_ratio, slot_mask)

    monkeypatch.setattr(fused_layers, "fuse", record)
    kept = kept_visual_tokens(model, processor_for(model, bases), noise(), PROMPT, ANSWER)
    assert len(used) == 3
    tokens = len(kept.tokens)
    expected = torch.stack(used)[:, -tokens - 2 : -2]  # before the end of sequence, and the position that predicts it
    assert_close(kept.scores_by_token, expected.mean(0))
    assert_close(kept.kept_by_token, (expected != 0).float().mean(0))


def test_kept_slots_are_those_that_the_drop_leaves():
    scores = torch.tensor([[[3.0, -1.0, 0.0, 0.0, 2.0, -4.0], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]])
    expected = torch.tensor([[[1, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]]).bool()  # ties with the threshold stay
    assert torch.equal(kept_mask(scores, 0.34), expected)
    for ratio in (0.0, 0.2, 0.5, 0.9):
        noisy = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
        assert torch.equal(adaptive_drop_(noisy.clone(), ratio), noisy * kept_mask(noisy, ratio))


def test_scales_are_cut_apart_row_by_row():
    fine, coarse = split_scales(torch.arange(40.0).view(2, 20), COUNTS)
    assert fine.shape == (2, 4, 4)
    assert fine[0, 1].tolist() == [4, 5, 6, 7]
    assert coarse[1].tolist() == [[36, 37], [38, 39]]


@pytest.mark.parametrize("answer", [ANSWER, " a café, naïvely", " 🐈 and 猫!"])
def test_tokens_join_to_the_answer(model, bases, answer):
    kept = kept_visual_tokens(model, processor_for(model, bases), noise(), PROMPT, answer)
    assert "".join(kept.tokens) == answer
    assert len(kept.tokens) == len(kept.kept_by_token) == len(kept.scores_by_token)
    assert len(kept.tokens) > 3


def test_other_pictures_give_other_scores(model, bases):
    processor = processor_for(model, bases)
    first = kept_visual_tokens(model, processor, noise(), PROMPT, ANSWER)
    again = kept_visual_tokens(model, processor, noise(), PROMPT, ANSWER)
    other = kept_visual_tokens(model, processor, Image.new("RGB", (16, 16), "teal"), PROMPT, ANSWER)
    assert torch.equal(first.scores_by_token, again.scores_by_token)
    assert not torch.allclose(first.scores_by_token, other.scores_by_token, atol=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(bases, training):
    model = tiny.build(bases)
    model(input_ids=torch.tensor([[1, 5]]))  # in the first pass, Transformers adds hooks of its own, which stay
    model.train(training)
    before = hooks(model)
    kept_visual_tokens(model, processor_for(model, bases), noise(), PROMPT, ANSWER)
    assert hooks(model) == before
    assert model.training is training


def test_hooks_go_when_the_pass_fails(bases, monkeypatch):
    model = tiny.build(bases).train()
    before = hooks(model)
    seen = []

    def fail(*args, **kwargs):
        seen.append(hooks(model))
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.language_model, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        kept_visual_tokens(model, processor_for(model, bases), noise(), PROMPT, ANSWER)
    assert seen == [before + 3]  # one a layer
    assert hooks(model) == before
    assert model.training


def test_the_picture_is_what_the_tower_sees(model, bases):
    flag = Image.new("RGB", (48, 16), "red")
    flag.paste("lime", (16, 0, 32, 16))
    processor = processor_for(model, bases)
    processor.image_processor = CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_center_crop=True
    )
    seen = kept_visual_tokens(model, processor, flag, PROMPT, ANSWER).image
    assert (seen.mode, seen.size) == ("RGB", (16, 16))
    assert seen.getpixel((8, 8)) == (0, 255, 0)
    assert seen.getpixel((2, 8)) == (0, 255, 0)  # the red thirds are cropped away


def test_errors_name_what_is_missing(model, bases):
    processor = processor_for(model, bases)
    with pytest.raises(ValueError, match="image is None"):
        kept_visual_tokens(model, processor, None, PROMPT, ANSWER)
    with pytest.raises(ValueError, match="answer ' ' leaves nothing"):
        kept_visual_tokens(model, processor, noise(), PROMPT, " ")
    bare = copy.deepcopy(processor)
    bare.tokenizer.bos_token, bare.image_tokens = None, 0
    with pytest.raises(ValueError, match="nothing stands before the answer"):
        kept_visual_tokens(model, bare, noise(), "", ANSWER)
