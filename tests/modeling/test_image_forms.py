"""Images in every form that Transformers' processors take: arrays, tensors, bytes of a data set, base64."""

import base64
import io

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from adem_vl_hf import AdemVLProcessor
from adem_vl_hf.modeling.images import ImageError, open_image

pytestmark = pytest.mark.core
ARRAY = np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)
PICTURE = Image.fromarray(ARRAY)


def png() -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG")
    return buffer.getvalue()


ENCODED = base64.b64encode(png()).decode()
FORMS = {
    "array": ARRAY,
    "channels first": ARRAY.transpose(2, 0, 1),
    "tensor": torch.from_numpy(ARRAY).permute(2, 0, 1),
    "floating point": torch.from_numpy(ARRAY).permute(2, 0, 1) / 255,
    "with an opaque alpha": np.dstack([ARRAY, np.full((20, 24), 255, dtype=np.uint8)]),
    "bytes of a data set": {"bytes": png(), "path": None},
    "base64": ENCODED,
    "base64 in lines": base64.encodebytes(png()).decode(),
    "data URL": f"data:image/png;base64,{ENCODED}",
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_the_same_image(form):
    assert np.array_equal(np.asarray(open_image(FORMS[form])), ARRAY)


def test_a_path_of_a_data_set_is_opened(tmp_path):
    PICTURE.save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(open_image({"bytes": None, "path": str(tmp_path / "a.png")})), ARRAY)


def test_grey_arrays_are_grey_images():
    for grey in (ARRAY[..., 0], ARRAY[..., :1], torch.from_numpy(ARRAY[..., 0])[None]):
        assert np.array_equal(np.asarray(open_image(grey)), np.repeat(ARRAY[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(ARRAY.astype(np.int64) + 256, "an array of int64", id="integers above 255"),
        pytest.param(torch.full((3, 8, 8), -1.0), "outside 0 ... 1", id="normalised"),
        pytest.param(np.zeros((2, 8, 8, 3), dtype=np.uint8), "shape", id="a batch"),
        pytest.param({"url": "x"}, "'bytes' or 'path'", id="a dictionary"),
        pytest.param({"bytes": b"no", "path": "cat.png"}, "^cat.png: not an image", id="a file of a data set"),
        pytest.param("data:image/png;base64,####", "not base64", id="no base64"),
        pytest.param("data:text/html,hello", "a URL", id="another data URL"),
        pytest.param("https://example.org/a.png", "a URL", id="a URL"),
    ],
)
def test_what_is_no_image_is_an_error_that_says_so(source, message):
    with pytest.raises(ImageError, match=message):
        open_image(source)


def test_a_processor_and_a_chat_take_them(bases):
    processor = AdemVLProcessor.from_base_pretrained(
        str(bases / "llama"), str(bases / "clip"), tiny.build(bases).config
    )
    expected = processor(images=[PICTURE], text=["a"])["pixel_values"]
    for form in ("array", "tensor", "bytes of a data set"):
        assert torch.equal(processor(images=[FORMS[form]], text=["a"])["pixel_values"], expected)
    assert torch.equal(processor(images=ARRAY, text="a")["pixel_values"], expected)
    scaled = (ARRAY / 255).astype(np.float32)  # which do_rescale=False says of it
    for images, more in (([scaled], {}), (torch.from_numpy(scaled), {}), (None, {"videos": [scaled]})):
        found = processor(images=images, text=["a"], **more, do_rescale=False)["pixel_values"]
        assert torch.equal(found.reshape(expected.shape), expected)
    assert processor(images=[ARRAY], text=["a"], do_rescale=False)["pixel_values"].max() > 100
    with pytest.raises(ValueError, match="do_rescale=False: some images are of floating point"):
        processor(images=[ARRAY, scaled], text=["a", "b"], do_rescale=False)
    two = processor(images=np.stack([ARRAY, ARRAY]), text=["a", "b"])["pixel_values"]
    assert torch.equal(two, expected.repeat(2, 1, 1, 1))
    processor.chat_template = (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    for part in ({"base64": ENCODED}, {"url": f"data:image/png;base64,{ENCODED}"}):
        talk = [{"role": "user", "content": [{"type": "image", **part}, {"type": "text", "text": "what is it"}]}]
        found = processor.apply_chat_template(talk, tokenize=True, return_dict=True, return_tensors="pt")
        assert torch.equal(found["pixel_values"], expected)
