"""Several images a row: the memory's rows concatenated, exact whatever else is in the batch."""

import pytest
import tiny
import torch
from closeness import assert_close
from tiny import IMAGE_TOKEN_ID

from adem_vl_hf.modeling.fusion import fuse
from adem_vl_hf.modeling.image_inputs import FRAME_SCALE

pytestmark = [pytest.mark.core, pytest.mark.kernels]
NUMBERS = [2, 0, 3, 1]  # images of each row


@pytest.fixture(scope="module", params=[0, 3], ids=["no order", "frame embeddings"])
def model(bases, request):
    return tiny.build(bases, drop_ratio=0.3, frame_embeddings=request.param)


def batch(model, numbers=NUMBERS) -> dict[str, torch.Tensor]:
    """Rows with that many images, of unequal lengths."""
    inputs = tiny.batch([9 + row for row in range(len(numbers))], [False] * len(numbers))
    inputs["input_ids"][inputs["input_ids"] == IMAGE_TOKEN_ID] = 7
    for row, number in enumerate(numbers):
        inputs["input_ids"][row, 2 : 2 + number] = IMAGE_TOKEN_ID
    most = max(numbers)
    mask = torch.arange(most) < torch.tensor(numbers)[:, None]  # [B, n]
    pixels = tiny.pictures(len(numbers) * most).unflatten(0, (-1, most)) * mask[:, :, None, None, None]
    return inputs | {"pixel_values": pixels, "image_mask": mask}


def alone(inputs, row: int, number: int) -> dict[str, torch.Tensor]:
    kept = inputs["attention_mask"][row].bool()
    one = {name: inputs[name][row][kept][None] for name in ("input_ids", "attention_mask", "labels")}
    return one | ({"pixel_values": inputs["pixel_values"][row, :number][None]} if number else {})


@torch.no_grad()
def test_a_batch_is_each_row_alone(model):
    inputs = batch(model)
    together = model(**inputs).logits
    for row, number in enumerate(NUMBERS):
        logits = model(**alone(inputs, row, number)).logits[0]
        assert_close(together[row, : len(logits)], logits)


@torch.no_grad()
def test_every_image_of_a_row_counts(model):
    inputs = alone(batch(model), 2, 3)
    before = model(**inputs).logits
    for image in range(3):
        pixels = inputs["pixel_values"].clone()
        pixels[:, image] += 1
        assert (model(**inputs | {"pixel_values": pixels}).logits - before).abs().max() > 1e-3


@torch.no_grad()
def test_the_memory_holds_the_images_one_after_another(model):
    pixels = tiny.pictures(2)[None]  # [1, 2, 3, H, W]
    both = model.get_visual_memory(pixels)
    first = model.get_visual_memory(pixels[:, 0])
    slots = model.config.memory_size
    assert both["visual_key"].shape[1] == 2 * slots
    assert both["visual_mask"] is None
    assert_close(both["visual_key"][:, :slots], first["visual_key"])
    second = model.get_visual_memory(pixels[:, 1])["image_hidden_states"]
    moved = both["image_hidden_states"][:, slots:] - second  # the same for every slot: which picture it is
    order = torch.zeros_like(moved)
    if model.config.frame_embeddings:
        order += FRAME_SCALE * (model.adapter.frame_embedding[1] - model.adapter.frame_embedding[0])
    assert_close(moved, order, scale=second.abs().max().item())


@torch.no_grad()
def test_the_fused_term_of_several_images_is_the_mean_of_theirs(bases):
    """A sum over slots grows with their number; what was learned with one image is to hold for many."""
    model = tiny.build(bases, drop_ratio=0.3)
    picture = tiny.pictures(1)[:, None]  # [1, 1, 3, H, W]
    rows = torch.cat([picture.expand(1, number, -1, -1, -1) for number in (1, 4)], dim=1)
    hidden = torch.randn(1, 5, model.config.text_config.hidden_size)

    def term(pixels, mask=None):
        memory = model.get_visual_memory(pixels, mask)
        slots = memory["visual_mask"]
        return fuse(hidden, memory["visual_key"], memory["visual_value"], "silu", 0.3, slots)

    one = term(picture)
    assert_close(term(rows), one)
    there = torch.tensor([[True, True, True, False, False]])
    assert_close(term(rows, there), one)


@torch.no_grad()
def test_generation_from_unequal_rows_is_each_row_alone(model):
    inputs = batch(model)
    del inputs["labels"]
    mask = inputs["attention_mask"]
    for row, length in enumerate(mask.sum(1).tolist()):  # padded on the left
        inputs["input_ids"][row] = inputs["input_ids"][row].roll(mask.shape[1] - length)
        mask[row] = mask[row].roll(mask.shape[1] - length)
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    for options in ({}, {"num_beams": 3}, {"use_cache": False}):
        together = model.generate(**inputs, **settings, **options)[:, mask.shape[1] :]
        for row, number in enumerate(NUMBERS):
            one = alone(inputs | {"labels": inputs["input_ids"]}, row, number)
            del one["labels"]
            new = model.generate(**one, **settings, **options)[:, one["input_ids"].shape[1] :]
            assert together[row].tolist() == new[0].tolist()


def test_frame_embeddings_start_at_zero_and_change_nothing(bases, model):
    torch.manual_seed(0)
    plain = tiny.build(bases)
    with_order = tiny.build(bases, frame_embeddings=2)
    with_order.load_state_dict(plain.state_dict(), strict=False)
    with_order.adapter.reset()
    assert not with_order.adapter.frame_embedding.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_mask": torch.tensor([[True, False, True]])}, "image_mask has a gap"),
        ({"image_mask": torch.ones(1, 2, dtype=torch.bool)}, r"image_mask is \(1, 2\) for 1 rows of 3 images"),
        ({"input_ids": torch.tensor([[1, 4, 4, 7, 8]])}, r"row 0 has 3 images and 2 image tokens"),
    ],
)
def test_images_and_marks_that_do_not_fit_are_refused(model, change, message):
    inputs = {"input_ids": torch.tensor([[1, 4, 4, 4, 8]]), "pixel_values": tiny.pictures(3)[None]}
    with pytest.raises(ValueError, match=message):
        model(**inputs | change)


def test_more_frames_than_embeddings_are_refused(bases):
    model = tiny.build(bases, frame_embeddings=2)
    inputs = {"input_ids": torch.tensor([[1, 4, 4, 4, 8]]), "pixel_values": tiny.pictures(3)[None]}
    with pytest.raises(ValueError, match="a row has 3 images and the model 2 frame embeddings"):
        model(**inputs)
