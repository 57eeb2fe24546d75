"""What a model is shown of a sample: its own pictures, or as a control others, none, or its own in another order."""

import math
import random
from collections import Counter
from typing import Literal

from PIL import Image
from torch.utils.data import Dataset

from ..data.sample import Sample, Shown, images_of

ImageSource = Literal["true", "shuffled", "none", "shuffled_frames", "swapped_images"]
# what readers are told in their place
SOURCES: dict[str, str] = {
    "true": "own picture",
    "shuffled": "another picture",
    "none": "no picture",
    "shuffled_frames": "own frames in another order",
    "swapped_images": "own pictures in reverse order",
}
ORDER_SOURCES = {"video": "shuffled_frames", "images": "swapped_images"}  # by the field that they need


def sources_of(dataset: Dataset[Sample]) -> list[str]:
    """Every source that says something about a data set, judged by its first sample."""
    more = ORDER_SOURCES.get(images_of(dataset[0]).field or "")
    return [source for source in SOURCES if source not in ORDER_SOURCES.values() or source == more]


def donors_of(size: int) -> list[int]:
    """A random permutation that is one single cycle (Sattolo's algorithm), so that no index is its own successor."""
    rng, cycle = random.Random(size), list(range(size))  # seeded, so that a stopped run goes on with the same one
    for last in range(size - 1, 0, -1):
        other = rng.randrange(last)
        cycle[last], cycle[other] = cycle[other], cycle[last]
    return cycle


def shown(
    dataset: Dataset[Sample], index: int, sample: Sample, source: ImageSource, donors: list[int] | None = None
) -> Shown:
    """What stands for the pictures of sample ``index``; a sample without any stays without.

    Args:
        source: "true" = its own; "shuffled" = another sample's of the same field and, of several pictures, the same
            number; "none" = nothing; "shuffled_frames" and "swapped_images" = what the functions of those names return.
        donors: for "shuffled", of ``donors_of``: along it to the next sample that fits, so that every sample's pictures
            are given away once and never to itself.

    Raises:
        ValueError: no other sample that fits, or a source that needs a video or several pictures and a sample with
            something else; the message names the sample.
    """
    own = images_of(sample)
    if source == "none" or own.field is None:
        return Shown()
    if source == "true":
        return own
    if source == "shuffled_frames":
        return Shown("video", tuple(shuffled_frames(sample)))
    if source == "swapped_images":
        return Shown("images", tuple(swapped_images(sample)))
    donors = donors_of(len(dataset)) if donors is None else donors  # type: ignore[arg-type]
    donor = donors[index]
    while donor != index:
        other = images_of(dataset[donor])
        if other.field == own.field and (own.field == "video" or len(other.images) == len(own.images)):
            return other
        donor = donors[donor]
    raise ValueError(f"sample {sample['id']!r} has the only {own.field} of the data set; there is no other to give it")


def shuffled_frames(sample: Sample, seed: int = 0) -> list[Image.Image]:
    """The sample's frames in another order, never the right one nor its exact reverse; frames compare by their pixels.

    The order follows from ``seed`` and the sample's id. An order is as likely as its reverse: of two clips that are
    each other's reverse, the shuffled frames do not tell which it was.

    Raises:
        ValueError: no video, or one whose frames have no third order (fewer than three, or all but equal).
    """
    frames = sample.get("video")
    if frames is None:
        raise ValueError(f"sample {sample['id']!r} has no video, so no frames to shuffle; give it the field 'video'")
    contents = [(frame.size, frame.tobytes()) for frame in frames]
    orders = math.factorial(len(frames))
    for equal in Counter(contents).values():
        orders //= math.factorial(equal)
    if orders <= len({tuple(contents), tuple(contents[::-1])}):
        raise ValueError(
            f"sample {sample['id']!r}: its {len(frames)} frames have no order but the right one and its reverse; "
            "take longer videos"
        )
    rng, places = random.Random(f"shuffled-frames-{seed}-{sample['id']}"), list(range(len(frames)))
    while [contents[place] for place in places] in (contents, contents[::-1]):
        rng.shuffle(places)
    return [frames[place] for place in places]


def swapped_images(sample: Sample) -> list[Image.Image]:
    """The sample's pictures in reverse order: of two, the second first.

    Raises:
        ValueError: fewer than two ``images``.
    """
    images = sample.get("images") or []
    if len(images) < 2:
        raise ValueError(f"sample {sample['id']!r} has {len(images)} pictures in 'images'; swapping takes two or more")
    return images[::-1]
