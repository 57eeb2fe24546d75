"""Images of extreme proportions: a resize of their shortest edge does not make them gigantic."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from adem_vl_hf.inspection.answer_pass import as_the_tower_sees
from adem_vl_hf.modeling.images import MOST_A_SIDE, ImageError, check_size, open_image
from adem_vl_hf.modeling.videos import EXTREME, pixel_inputs

pytestmark = pytest.mark.core


class Noting:
    """An image processor as CLIP has it, which notes the sizes of the images that it is given."""

    def __init__(self, edge=16, crop=16, **options):
        self.inner = CLIPImageProcessor(size={"shortest_edge": edge}, crop_size=crop, **options)
        self.sizes = []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, images, **options):
        self.sizes += [image.size for image in images]
        return self.inner(images=images, **options)


def noise(width, height):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(
    ("size", "edge", "crop"),
    [((1, 1200), 16, 16), ((3, 1201), 16, 16), ((1300, 5), 15, 9), ((40, 4000), 16, 16), ((2601, 7), 8, 20)],
)
def test_the_centre_of_an_extreme_image_is_cropped_first(size, edge, crop):
    processor, image = Noting(edge, crop), noise(*size)
    found = pixel_inputs([[image]], processor, {"do_normalize": False})["pixel_values"][0]
    whole = processor.inner(images=[image], do_normalize=False, return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(found, whole, atol=6 / 255), (found - whole).abs().max() * 255
    assert whole.std() > 0.02  # a crop elsewhere would show
    short, long = sorted(processor.sizes[0])
    assert min(size) == short
    assert long < max(size) / 1.5


def test_a_thin_image_takes_no_gigabytes():
    processor = Noting(224, 224)
    thin, tall = Image.new("RGB", (1, 20_000)), Image.new("RGB", (200_000, 1))
    assert pixel_inputs([[thin], [tall]], processor, {})["pixel_values"].shape == (2, 3, 224, 224)
    assert as_the_tower_sees(SimpleNamespace(image_processor=processor), thin).size == (224, 224)
    assert max(map(max, processor.sizes)) <= EXTREME


@pytest.mark.parametrize("size", [(20, 30), (10, 10 * EXTREME), (10 * EXTREME, 10)])
def test_ordinary_images_are_not_touched(size):
    processor, image = Noting(), noise(*size)
    found = pixel_inputs([[image]], processor, {})["pixel_values"]
    assert torch.equal(found, processor.inner(images=[image], return_tensors="pt")["pixel_values"])
    assert processor.sizes == [size]


@pytest.mark.parametrize("options", [{"do_resize": False}, {"size": {"height": 16, "width": 16}}])
def test_a_resize_that_makes_no_long_side_needs_no_crop(options):
    processor = Noting()
    pixel_inputs([[noise(2, 1000)]], processor, options)
    assert processor.sizes == [(2, 1000)]


def test_what_cannot_be_cropped_is_refused_by_its_row():
    processor, rows = Noting(224, do_center_crop=False), [[], [noise(20, 24), noise(1, 5_000)]]
    with pytest.raises(ImageError, match=r"^sample 1: image 2: its 1 x 5000 pixels become 224 by 1120000 when"):
        pixel_inputs(rows, processor, {})
    assert not processor.sizes


def test_absurd_sides_are_refused_before_anything_is_decoded():
    for size in ((65_535, 1), (MOST_A_SIDE, 255)):
        check_size(*size, "a panorama")
    for size in ((MOST_A_SIDE + 1, 1), (1, 30_000_000)):
        with pytest.raises(ImageError, match=r"^thin\.png: the image is .*a side may have at most 262,144; cut it"):
            check_size(*size, "thin.png")
    with pytest.raises(ImageError, match="^PIL image: the image is 1 x 300000 pixels"):
        open_image(Image.new("1", (1, 300_000)))
