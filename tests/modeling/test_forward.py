"""One forward pass: batches, padding, masks, the ways to hand over an image, and what is refused."""

import copy
import threading

import architectures
import numpy as np
import pytest
import tiny
import torch
import transformers
from closeness import assert_close

from adem_vl_hf import AdemVLForConditionalGeneration
from adem_vl_hf.modeling.labels import NOT_SUPERVISED

pytestmark = [pytest.mark.core, pytest.mark.kernels]
LENGTHS, IMAGES = [9, 6, 8, 5], [True, False, True, True]


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_of_a_mixed_padded_batch_is_what_it_is_alone(model, side):
    inputs = tiny.batch(LENGTHS, IMAGES, side)
    together = model(**inputs)
    losses, supervised = 0.0, 0
    for index in range(len(LENGTHS)):
        one = tiny.row(inputs, index)
        alone = model(**one)
        kept = inputs["attention_mask"][index].bool()
        assert_close(together.logits[index][kept], alone.logits[0])
        losses += alone.loss * 3
        supervised += 3
    assert_close(together.loss, losses / supervised)


def test_rows_see_their_own_picture(model):
    inputs = tiny.batch(LENGTHS, IMAGES)
    before = model(**inputs).logits
    pixels = inputs["pixel_values"].clone()
    pixels[2] = tiny.pictures(1, seed=7)[0]
    after = model(**inputs | {"pixel_values": pixels}).logits
    changed = (after - before).abs().flatten(1).amax(1) > 1e-3
    assert changed.tolist() == [False, False, True, False]


def test_rows_without_an_image_never_reach_the_tower(model):
    inputs, seen = tiny.batch(LENGTHS, IMAGES), []
    hook = model.vision_tower.register_forward_hook(lambda module, args, output: seen.append(output[0].shape[0]))
    expected = model(**inputs).logits
    pixels = inputs["pixel_values"].clone()
    pixels[1] = torch.nan
    assert torch.equal(model(**inputs | {"pixel_values": pixels}).logits, expected)
    model(**inputs | {"image_mask": torch.zeros(4, dtype=torch.bool)})
    model(input_ids=inputs["input_ids"])
    hook.remove()
    assert seen == [3, 3]


def test_text_alone_uses_the_learned_memory(model, bases):
    inputs = tiny.batch(LENGTHS, [False] * 4)
    logits = model(**inputs).logits
    masked = inputs | {"pixel_values": tiny.pictures(4), "image_mask": torch.zeros(4, dtype=torch.bool)}
    assert torch.equal(model(**masked).logits, logits)
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    plain = tiny.language_model(bases)(**text).logits
    assert (logits - plain).abs().max() > 1e-2


def test_other_ways_to_hand_over_the_same(model):
    inputs = tiny.batch(LENGTHS, IMAGES)
    expected = model(**inputs).logits
    stacked = inputs | {"pixel_values": inputs["pixel_values"][:, None], "image_mask": inputs["image_mask"][:, None]}
    assert torch.equal(model(**stacked).logits, expected)
    embedded = dict(inputs)
    embedded["inputs_embeds"] = model.get_input_embeddings()(embedded.pop("input_ids"))
    assert torch.equal(model(**embedded).logits, expected)
    memory = model.get_visual_memory(inputs["pixel_values"], inputs["image_mask"])
    prompt = memory.pop("image_hidden_states")
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(model(**text, **memory).logits, expected)
    out = model(**inputs)
    assert torch.equal(out.image_hidden_states, prompt)
    assert (prompt[1] == 0).all()
    loss, logits, *_ = model(**inputs, return_dict=False)
    assert torch.equal(logits, expected)
    assert torch.equal(loss, out.loss)


def test_training_mode_gives_the_same_loss_without_logits(model):
    inputs = tiny.batch(LENGTHS, IMAGES)
    expected = model(**inputs).loss
    model.train()
    out = model(**inputs)
    # Trainer divides by the number of supervised tokens of the whole step
    summed = model(**inputs, num_items_in_batch=torch.tensor(24)).loss
    model.eval()
    assert out.logits is None
    assert_close(out.loss, expected)
    assert_close(summed, expected * 12 / 24)


def test_training_builds_no_cache_unless_asked(model):
    inputs = tiny.batch(LENGTHS, IMAGES)
    assert model(**inputs).past_key_values is not None
    model.train()
    try:
        assert model(**inputs).past_key_values is None
        assert model(**inputs, use_cache=True).past_key_values.get_seq_length() == inputs["input_ids"].shape[1]
        del inputs["labels"]
        assert model(**inputs).past_key_values is not None
    finally:
        model.eval()


def test_a_copy_is_independent(model):
    inputs = tiny.batch(LENGTHS, IMAGES)
    expected = model(**inputs).logits
    other = copy.deepcopy(model)
    assert_close(other(**inputs).logits, expected)
    tiny.perturb(other, seed=5)
    assert (other(**inputs).logits - expected).abs().max() > 1e-3
    assert torch.equal(model(**inputs).logits, expected)
    # each part of the adapter is read through the copy's own hooks: the tower's too
    only_tower = copy.deepcopy(model)
    for adapter in only_tower.adapter.vision_adapters:
        adapter.up.weight.zero_()
    assert (only_tower(**inputs).logits - expected).abs().max() > 1e-4
    assert torch.equal(model(**inputs).logits, expected)


def with_memory(model, inputs):
    """The memory in the place of the pictures."""
    inputs = dict(inputs)
    memory = model.get_visual_memory(inputs.pop("pixel_values"), inputs.pop("image_mask"))
    return inputs | {name: memory[name] for name in ("visual_key", "visual_value", "image_embeds")}


def test_threads_do_not_see_each_others_memory(model):
    batches = [tiny.batch([12] * 4, [True] * 4, seed=seed) | {"pixel_values": tiny.pictures(4, seed=seed)}
               for seed in range(4)]  # fmt: skip
    if transformers.__version__ == "5.0.0":  # its CLIP alone, asked for hidden states, mixes its threads up
        batches = [with_memory(model, inputs) for inputs in batches]
    expected = [model(**inputs).logits for inputs in batches]
    wrong = []

    def work(index):
        with torch.no_grad():  # a setting of each thread
            for _ in range(15):
                try:
                    assert_close(model(**batches[index]).logits, expected[index])
                except Exception as error:  # reported by the test, not by the thread
                    wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("training", [True, False])
def test_labels_without_a_supervised_position_are_refused(model, training):
    inputs = tiny.batch(LENGTHS, IMAGES)
    model.train(training)
    with pytest.raises(ValueError, match="no position of the batch is supervised"):
        model(**inputs | {"labels": torch.full_like(inputs["labels"], NOT_SUPERVISED)})
    model.eval()


def test_images_that_do_not_fit_the_batch_are_refused(model, bases):
    inputs = tiny.batch(LENGTHS, IMAGES)
    with pytest.raises(ValueError, match=r"image_mask is \(4, 1\) for 4 rows of 2 images"):
        model(**inputs | {"pixel_values": inputs["pixel_values"][:, None].expand(-1, 2, -1, -1, -1)})
    with pytest.raises(ValueError, match=r"image_mask is \(3, 1\) for 4 rows of 1 images"):
        model(**inputs | {"image_mask": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="pixel_values has 2 rows and the text 4"):
        model(**inputs | {"pixel_values": inputs["pixel_values"][:2], "image_mask": None})
    config = copy.deepcopy(model.config)
    config.image_token_id = None
    with pytest.raises(ValueError, match="image_token_id is not set"):
        AdemVLForConditionalGeneration(config)(**inputs)


def test_an_image_without_its_token_is_refused_by_row(model):
    inputs = tiny.batch(LENGTHS, IMAGES)
    last = max(row for row, has_image in enumerate(IMAGES) if has_image)
    inputs["input_ids"][last][inputs["input_ids"][last] == tiny.IMAGE_TOKEN_ID] = 7
    with pytest.raises(ValueError, match=f"row {last} has an image and no image token"):
        model(**inputs)
    inputs.pop("labels")
    with pytest.raises(ValueError, match=f"row {last} has an image and no image token"):
        model.generate(**inputs, max_new_tokens=2)
    inputs["image_mask"][last] = False  # a row without an image needs none
    assert model(**inputs).logits.isfinite().all()


def test_a_language_model_serves_one_model_only(bases):
    language_model = tiny.language_model(bases)
    fields = {"image_token_id": tiny.IMAGE_TOKEN_ID}
    AdemVLForConditionalGeneration.from_base_pretrained(language_model, bases / "clip", **fields)
    with pytest.raises(ValueError, match="already belongs to a model of this package; load a second copy"):
        AdemVLForConditionalGeneration.from_base_pretrained(language_model, bases / "clip", **fields)


@architectures.each()
def test_a_vision_tower_serves_one_model_only(bases, arch):
    """The adapters of the second would run in the first one, too, and freezing its blocks would freeze the first's."""
    first = arch.build(bases)
    fields = {"image_token_id": tiny.IMAGE_TOKEN_ID}
    with pytest.raises(ValueError, match="already belongs to a model of this package, or .*; load a second copy"):
        arch.model_class.from_base_pretrained(bases / "llama", first.vision_tower, **fields)


@architectures.each()
def test_encoder_and_decoder_as_the_library_asks_for_them(bases, arch):
    model, batch = arch.build(bases), tiny.batch([9, 7], [True, False])
    expected = model(**batch).loss
    assert model.get_encoder() is model
    assert model.get_encoder(modality="image") is model.vision_tower
    model.set_decoder(model.get_decoder())
    assert_close(model(**batch).loss, expected)
    assert isinstance(model(**batch, return_dict=False), tuple)
    assert isinstance(model.base_model(**batch, return_dict=False), tuple)
    with pytest.raises(NotImplementedError, match="belongs to its vision tower"):
        model.set_encoder(None)


@architectures.each()
def test_the_model_without_its_head_is_copied_as_such(bases, arch):
    headless, batch = arch.build(bases).base_model, tiny.batch([9, 7], [True, False])
    for copied in (copy.copy(headless), copy.deepcopy(headless)):
        assert type(copied) is type(headless)
        assert_close(copied(**batch).last_hidden_state, headless(**batch).last_hidden_state)


@architectures.each()
def test_labels_that_are_shifted_already(bases, arch):
    model, batch = arch.build(bases).train(), tiny.batch([9, 7], [True, False])
    shifted = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100)
    assert_close(model(**batch, shift_labels=shifted).loss, model(**batch).loss)


@architectures.each()
def test_features_of_rows_of_images_are_asked_for_image_by_image(bases, arch):
    model = arch.build(bases)
    with pytest.raises(ValueError, match=r"\[I, 3, H, W\] is needed; .* take pixel_values\[image_mask\]"):
        model.get_image_features(torch.zeros(2, 2, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE))


@architectures.each()
def test_inputs_that_are_no_tensors_are_named(bases, arch):
    model, batch = arch.build(bases), tiny.batch([9, 7], [True, True])
    for name in ("pixel_values", "image_mask"):
        for made in (list, np.asarray):
            with pytest.raises(ValueError, match=f"{name} is a (list|ndarray); give a tensor"):
                model(**{**batch, name: made(batch[name])})
    with pytest.raises(ValueError, match=r"labels are \[2, 3\] for a text of 9 tokens"):
        model.train()(**{**batch, "labels": torch.zeros(2, 3, dtype=torch.long)})
    with pytest.raises(ValueError, match="assistant_early_exit cuts off layers"):
        model.generate(input_ids=batch["input_ids"], assistant_early_exit=1)


def test_dropout_acts_in_training_only(bases):
    model, pixels = tiny.build(bases, vision_adapter_dropout=0.5), tiny.pictures(2)
    features = [model.get_image_features(pixels).pooler_output for _ in range(2)]
    assert torch.equal(*features)
    model.train()
    features = [model.get_image_features(pixels).pooler_output for _ in range(2)]
    assert not torch.equal(*features)
