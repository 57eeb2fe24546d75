"""Several images and videos a row: every form the processor takes them in, and errors that name the row."""

import re

import datasets
import evlm
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tiny import IMAGE_TOKEN_ID

from adem_vl_hf import AdemVLProcessor, EvlmProcessor
from adem_vl_hf.data import OpenMojiPairs, OpenMojiVideos
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.data.media import save_gif
from adem_vl_hf.data.sample import images_of, processor_arguments
from adem_vl_hf.modeling.labels import NOT_SUPERVISED

pytestmark = pytest.mark.core
GREYS = (0, 60, 120, 180, 240)


@pytest.fixture(scope="module")
def models(bases):
    """By kind; both know the order of up to eight frames."""
    return {"adem_vl": tiny.build(bases, frame_embeddings=8), "evlm": evlm.build(bases, frame_embeddings=8)}


@pytest.fixture(scope="module", params=["adem_vl", "evlm"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def processor(kind, models, bases):
    cls = {"adem_vl": AdemVLProcessor, "evlm": EvlmProcessor}[kind]
    return cls.from_base_pretrained(str(bases / "llama"), str(bases / "clip"), models[kind].config)


def grey(value, size=(20, 24)) -> Image.Image:
    return Image.new("RGB", size, (value,) * 3)


def frames(*values) -> list[Image.Image]:
    return [grey(value) for value in values]


def order(processor, row) -> list[int]:
    """What the pictures of a row were, by their grey: [n, 3, H, W] -> values."""
    (mean, *_), (std, *_) = processor.image_processor.image_mean, processor.image_processor.image_std
    return [round(255 * (float(pixels[0].mean()) * std + mean)) for pixels in row]


def image_tokens(inputs) -> list[int]:
    return (inputs["input_ids"] == IMAGE_TOKEN_ID).sum(1).tolist()


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_several_images_of_one_text(processor):
    flat = processor(images=frames(0, 60, 120), text="What?")
    assert flat["pixel_values"].shape == (1, 3, 3, 16, 16)
    assert order(processor, flat["pixel_values"][0]) == [0, 60, 120]
    assert flat["image_mask"].tolist() == [[True] * 3]
    assert image_tokens(flat) == [3 * processor.image_tokens]
    assert equal(flat, processor(images=[frames(0, 60, 120)], text=["What?"]))
    assert equal(flat, processor(images=[tuple(frames(0, 60, 120))], text=["What?"]))


def test_rows_with_different_numbers(processor):
    rows = [frames(0, 60), None, grey(120), [], frames(180, 240, 0)]
    inputs = processor(images=rows, text=["a"] * 5)
    assert inputs["image_mask"].sum(1).tolist() == [2, 0, 1, 0, 3]
    assert image_tokens(inputs) == [number * processor.image_tokens for number in (2, 0, 1, 0, 3)]
    found = [
        order(processor, pixels[mask])
        for pixels, mask in zip(inputs["pixel_values"], inputs["image_mask"], strict=True)
    ]
    assert found == [[0, 60], [], [120], [], [180, 240, 0]]
    assert not inputs["pixel_values"][~inputs["image_mask"]].any()
    assert "video_mask" not in inputs


def test_at_most_one_image_a_row_keeps_its_shape(processor):
    for images in ([grey(0), None], [[grey(0)], []]):
        inputs = processor(images=images, text=["a", "b"])
        assert inputs["pixel_values"].shape == (2, 3, 16, 16)
        assert inputs["image_mask"].tolist() == [True, False]
    for nothing in (None, [None, None], [[], []]):
        assert processor(images=nothing, text=["a", "b"]).keys() == {"input_ids", "attention_mask"}


def test_marks_say_where_images_stand(processor):
    text = "one <image> two <image>?"
    inputs = processor(images=frames(0, 60), text=text)
    places = (inputs["input_ids"][0] == IMAGE_TOKEN_ID).nonzero().flatten().tolist()
    tokens = processor.image_tokens
    assert len(places) == 2 * tokens
    assert places[tokens] > places[tokens - 1] + 1  # words between them
    assert processor.decode(inputs["input_ids"][0]) == text.replace("<image>", "<reserved_0>" * tokens).join(
        ["<s>", ""]
    )
    unmarked = processor.decode(processor(images=frames(0, 60), text="What?")["input_ids"][0])
    assert unmarked == f"<s>Image: {'<reserved_0>' * 2 * tokens}What?"


def test_a_video_in_every_form(processor, kind, tmp_path):
    save_gif(frames(*GREYS), tmp_path / "clip.gif")
    for place, frame in enumerate(frames(*GREYS)):
        frame.save(tmp_path / f"{place}.png")
    paths = [tmp_path / f"{place}.png" for place in range(5)]
    array = np.stack([np.asarray(frame) for frame in frames(*GREYS)])  # [5, H, W, 3]
    expected = processor(videos=[frames(*GREYS)], text="What?")
    assert expected["pixel_values"].shape == (1, 5, 3, 16, 16)
    assert order(processor, expected["pixel_values"][0]) == list(GREYS)
    assert image_tokens(expected) == [5 * processor.image_tokens]
    assert ("video_mask" in expected) == (kind == "evlm")
    forms = (
        frames(*GREYS), (frames(*GREYS),), [[frames(*GREYS)]], array, array[None], [array], [[array]],
        torch.tensor(array), torch.tensor(array).permute(0, 3, 1, 2), list(array), [list(torch.tensor(array))],
        paths, [paths], [[str(path) for path in paths]], tmp_path / "clip.gif", str(tmp_path / "clip.gif"),
        [tmp_path / "clip.gif"], [[str(tmp_path / "clip.gif")]],
    )  # fmt: skip
    for form in forms:
        assert equal(processor(videos=form, text=["What?"]), expected), form


def test_videos_of_several_rows(processor, tmp_path):
    save_gif(frames(0, 60, 120), tmp_path / "clip.gif")
    rows = [tmp_path / "clip.gif", None, frames(240, 180), []]
    inputs = processor(videos=rows, text=["a", "b", "c", "d"])
    assert inputs["image_mask"].sum(1).tolist() == [3, 0, 2, 0]
    assert order(processor, inputs["pixel_values"][2][:2]) == [240, 180]
    if isinstance(processor, EvlmProcessor):
        assert inputs["video_mask"].tolist() == [True, False, True, False]


def test_images_and_videos_in_one_batch(processor):
    """With images of None, of empty lists, and mixed."""
    for images in (None, [[], []], [None, None]):
        inputs = processor(images=images, videos=[frames(0, 60), None], text=["a", "b"])
        assert inputs["image_mask"].tolist() == [[True, True], [False, False]]
    inputs = processor(images=[[], frames(0, 60), grey(9)], videos=[frames(0, 60, 120), None, None], text=["a"] * 3)
    assert inputs["image_mask"].sum(1).tolist() == [3, 2, 1]
    if isinstance(processor, EvlmProcessor):
        assert inputs["video_mask"].tolist() == [True, False, False]
        assert "video_mask" in processor.model_input_names


def test_a_number_of_frames(processor, tmp_path):
    save_gif(frames(*GREYS), tmp_path / "clip.gif")
    array = np.stack([np.asarray(frame) for frame in frames(*GREYS)])
    for video in (tmp_path / "clip.gif", frames(*GREYS), array):
        inputs = processor(videos=[video], text=["What?"], num_frames=2)
        assert order(processor, inputs["pixel_values"][0]) == [60, 180]
    with pytest.raises(ValueError, match="fps: frames are chosen by their number; give num_frames"):
        processor(videos=[array], text=["What?"], fps=2)


def test_one_mark_for_all_frames(processor):
    inputs = processor(videos=[frames(0, 60, 120)], text=["In <video> what?"])
    assert processor.decode(inputs["input_ids"][0]) == f"<s>In {'<reserved_0>' * 3 * processor.image_tokens} what?"


def test_answers_behind_several_pictures(processor):
    texts = ["<image> and <image>: same?", "In the video,", "Nothing:"]
    inputs = processor(
        images=[frames(0, 60), [], []], videos=[None, frames(0, 60, 120), None], text=texts,
        suffix=[" no", " a cat", " hello"],
    )  # fmt: skip
    answers = [processor.decode(row[row != NOT_SUPERVISED]) for row in inputs["labels"]]
    assert answers == [" no</s>", " a cat</s>", " hello</s>"]
    assert not (inputs["labels"] == IMAGE_TOKEN_ID).any()
    ids = [
        processor.decode(row[mask.bool()])
        for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]
    one = "<reserved_0>" * processor.image_tokens
    assert ids == [
        f"<s>{one} and {one}: same? no</s>",
        f"<s>Image: {one * 3}In the video, a cat</s>",
        "<s>Image: N/ANothing: hello</s>",
    ]


def test_offsets_lead_back_to_the_text(processor):
    texts = ["a <image> cat <image> dog", "see <video> the sea"]
    inputs = processor(
        images=[frames(0, 60), []], videos=[None, frames(0, 60)], text=texts, return_offsets_mapping=True
    )
    for text, ids, offsets in zip(texts, inputs["input_ids"], inputs["offset_mapping"], strict=True):
        marks = re.findall("<image>|<video>", text)
        tokens = [text[begin:end] for (begin, end), token in zip(offsets, ids, strict=True) if token == IMAGE_TOKEN_ID]
        assert tokens == [mark for mark in marks for _ in range(len(tokens) // len(marks))]
        words = [
            (text[begin:end], processor.decode([token]))
            for (begin, end), token in zip(offsets, ids, strict=True)
            if end > begin and token != IMAGE_TOKEN_ID
        ]
        assert all(said == token for said, token in words)
        assert "".join(said for said, _ in words) == re.sub("<image>|<video>", "", text)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a <image> cat<image> dog", {"images": [frames(0, 60)]}),
        ("see <video>the sea", {"videos": [frames(0, 60)]}),
        ("the sea", {"images": [frames(0, 60)]}),
    ],
)
def test_pictures_without_tokens_leave_no_trace_in_the_text(processor, text, seen):
    """As in an ADEM-VL without the class token: marks are taken out, and characters still lead back to the text."""
    bare = type(processor)(
        processor.image_processor, processor.tokenizer, image_token=processor.image_token, image_tokens=0
    )
    inputs = bare(**seen, text=[text], return_offsets_mapping=True)
    words = re.sub("<image>|<video>", "", text)
    assert bare.decode(inputs["input_ids"][0]) == f"<s>{words}"
    assert inputs["image_mask"].tolist() == [[True, True]]
    ids, offsets = inputs["input_ids"][0][1:], inputs["offset_mapping"][0][1:]
    for token, (begin, end) in zip(ids, offsets, strict=True):
        assert re.sub("<image>|<video>", "", text[begin:end]) == bare.decode([token])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"images": [None, frames(0)], "text": ["a", "<image> <image>"]}, "sample 1: 2 <image> marks for 1 images"),
        ({"images": [None, frames(0, 9)], "text": ["a", "<image>"]}, "sample 1: 1 <image> marks for 2 images"),
        ({"images": [[], []], "text": ["a", "<image>"]}, "sample 1: 1 <image> marks for 0 images"),
        ({"videos": [None, frames(0, 9)], "text": ["a", "<image><image>"]},
         "sample 1: 2 <image> marks for 0 images"),
        ({"videos": [frames(0), None], "text": ["a", "<video>"]}, "sample 1: 1 <video> marks for 0 videos"),
        ({"videos": [None, []], "text": ["a", "b"]}, "sample 1: its video has no frames; give at least one, or None"),
        ({"videos": [frames(0), [[]]], "text": ["a", "b"]}, "sample 1: its video has no frames"),
        ({"videos": [None, [grey(0), grey(0, (9, 9))]], "text": ["a", "b"]},
         "sample 1: the list of frames: frame 1 is 9 x 9 pixels, the first 20 x 24"),
        ({"images": [grey(0)] * 3, "text": ["a", "b"]}, "2 texts and 3 images do not pair up"),
        ({"videos": [frames(0)] * 3, "text": ["a", "b"]}, "2 texts and 3 videos do not pair up"),
        ({"videos": [frames(0), [frames(0), frames(0)]], "text": ["a", "<video>"]}, "1 <video> marks for 2 videos"),
        ({"videos": [frames(0), [[frames(0)]]], "text": ["a", "b"]}, "sample 1: .* one of its entries is a list"),
        ({"videos": [frames(0)], "text": "a", "fps": 2}, "fps: frames are chosen by their number; give num_frames"),
        ({"videos": [frames(0), grey(0)], "text": ["a", "b"]},
         "sample 1: a video is a list of frames or a path, not one Image"),
        ({"videos": [None, "none.gif"], "text": ["a", "b"]}, r"sample 1: none\.gif: no such image file"),
        ({"videos": [None, np.full((2, 8, 8, 3), 256, np.int64)], "text": ["a", "b"]},
         "sample 1: an array of int64 outside 0 ... 255; an image is of uint8"),
        ({"images": [grey(0)], "text": ["a", "b"], "videos": [None] * 3},
         "2 texts and 1 image and 3 videos do not pair up"),
        ({"images": [None, np.zeros((0, 0, 3))], "text": ["a", "b"]},
         r"an array of shape \(0, 0, 3\), which has no pixels"),
        ({"text": ["a", None]}, "sample 1: its text is None; give a prompt, a list of prompts or a chat"),
        ({"text": 3}, "text is 3; give a prompt"),
        ({"image": grey(0), "text": "a"}, "image is not an argument of this processor; did you mean images"),
        ({"text": "a", "max_lenght": 5}, "max_lenght is not an argument of this processor; did you mean max_length"),
        ({"text": "a", "text_kwargs": {"paddin": True}}, "did you mean padding"),
        ({"images": [None, frames(0, 9)], "text": ["a", "b"], "suffix": ["x", " "]}, "sample 1: the answer ' ' leaves"),
    ],
)  # fmt: skip
def test_what_does_not_fit_names_the_row(processor, inputs, message):
    with pytest.raises(ValueError, match=message):
        processor(**inputs)


def test_images_and_videos_of_a_row_stand_in_the_order_of_their_marks(processor):
    first, second, picture = frames(0, 60), frames(120), grey(200)
    row = {"images": [[picture]], "videos": [[first, second]]}
    inputs = processor(text=["a <video> b <image> c <video>"], **row)
    plain = processor(images=[[*first, picture, *second]], text=["a"])
    assert torch.equal(inputs["pixel_values"], plain["pixel_values"])
    marks = (inputs["input_ids"][0] == processor.image_token_id).sum().item()
    assert marks == 4 * processor.image_tokens
    unmarked = processor(text=["a <image>"], **row)  # what has no mark stands before the text
    assert torch.equal(
        unmarked["pixel_values"], processor(images=[[*first, *second, picture]], text=["a"])["pixel_values"]
    )


SAMPLES = {"videos": OpenMojiVideos, "pairs": OpenMojiPairs}


def samples(name):
    """Four of a data set, among them every form of mark and, with the last, a row without pictures."""
    data = SAMPLES[name]("train", size=8)
    made = [dict(data[index]) for index in (0, 1, 2)]
    made.append({"id": "text", "image": None, "prompt": "a", "answer": " b", "references": ["b"], "kind": "caption"})
    return made


@pytest.mark.parametrize("name", SAMPLES)
def test_a_batch_of_the_data_sets_trains_both_models(models, kind, processor, name):
    model = models[kind].train()
    rows = samples(name)
    batch = AdemVLCollator(processor)(rows)
    number = 8 if name == "videos" else 2
    assert batch["image_mask"].sum(1).tolist() == [number] * 3 + [0]
    loss = model(**batch).loss
    loss.backward()
    found = tiny.gradients(model)
    model.eval()
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(gradient.abs().max() > 0 for gradient in found.values())
    # their order counts: the loss of the reversed pictures is another one
    turned = [dict(row, **{field: row[field][::-1] for field in ("video", "images") if row.get(field)}) for row in rows]
    with torch.no_grad():
        losses = [float(model(**AdemVLCollator(processor)(one)).loss) for one in (rows, turned)]
    assert abs(losses[0] - losses[1]) > 1e-4


def test_answers_are_asked_for_with_what_predict_hands_over(models, kind, processor):
    """``images`` of empty lists beside ``videos``, rows without a video among them."""
    rows = samples("videos")
    arguments = processor_arguments([images_of(row) for row in rows])
    assert arguments["images"] == [[], [], [], []]
    inputs = processor(**arguments, text=[row["prompt"] for row in rows])
    ids = models[kind].generate(**inputs, max_new_tokens=3, do_sample=False)
    assert ids.shape[0] == 4


@pytest.mark.parametrize("height", [1, 3, 4])
def test_the_rows_of_a_flat_image_are_no_channels(processor, height):
    array = np.random.default_rng(0).integers(0, 255, (height, 64, 3), dtype=np.uint8)
    flat, tall = (processor(images=Image.fromarray(one), text="a")["pixel_values"][0]
                  for one in (array, array.transpose(1, 0, 2).copy()))  # fmt: skip
    assert (flat - tall.transpose(1, 2)).abs().max() < 0.3  # some round before they resize the other way


def test_a_column_of_a_data_set_is_a_list_of_images(processor):
    images = [tiny.picture(seed) for seed in range(2)]
    column = datasets.Dataset.from_dict({"image": images}, features=datasets.Features(image=datasets.Image()))["image"]
    assert equal(processor(images=column, text=["a", "b"]), processor(images=images, text=["a", "b"]))


def test_no_frames_are_asked_for(processor):
    with pytest.raises(ValueError, match="must be at least 1"):
        processor(videos=[frames(0, 60)], text="a", num_frames=0)
