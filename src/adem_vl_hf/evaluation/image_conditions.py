"""Chooses the images that a model is shown: those of the sample, or, as a control, others, none or another order."""

import math
import random
from collections import Counter
from typing import Literal

from PIL import Image
from torch.utils.data import Dataset

from ..data.sample import Sample, Shown, images_of

ImageCondition = Literal["true", "shuffled", "none", "shuffled_frames", "swapped_images"]
# the words for each condition in tables and on pages
CONDITION_LABELS: dict[str, str] = {
    "true": "own image",
    "shuffled": "another image",
    "none": "no image",
    "shuffled_frames": "own frames in another order",
    "swapped_images": "own images in reverse order",
}
# the field that a sample needs -> the condition that changes the order of its images
ORDER_CONDITIONS = {"video": "shuffled_frames", "images": "swapped_images"}


def conditions_of(dataset: Dataset[Sample]) -> list[str]:
    """List the conditions that say something about a data set.

    Args:
        dataset (Dataset[Sample]): The data set. Its first sample tells whether it has videos or several images.

    Returns:
        Keys of ``CONDITION_LABELS``.
    """
    of_order = ORDER_CONDITIONS.get(images_of(dataset[0]).field or "")
    return [name for name in CONDITION_LABELS if name not in ORDER_CONDITIONS.values() or name == of_order]


def donors_of(size: int) -> list[int]:
    """Choose for each sample another one whose images it is shown.

    The choice is a random permutation that is one single cycle (Sattolo's algorithm), so that no sample is its own
    donor. It depends on the size alone, so that a stopped evaluation goes on with the same one.

    Args:
        size (int): The number of samples.

    Returns:
        The index of the donor of each sample.
    """
    rng, cycle = random.Random(size), list(range(size))
    for last in range(size - 1, 0, -1):
        other = rng.randrange(last)
        cycle[last], cycle[other] = cycle[other], cycle[last]
    return cycle


def choose_images(
    dataset: Dataset[Sample],
    index: int,
    sample: Sample,
    condition: ImageCondition,
    donors: list[int] | None = None,
) -> Shown:
    """Choose the images that a model is shown of one sample.

    Args:
        dataset (Dataset[Sample]): The data set.
        index (int): The index of the sample.
        sample (Sample): The sample at that index. If it has no images, none are shown under any condition.
        condition (ImageCondition): "true" shows its own images. "shuffled" shows those of another sample, not of
            the same row, that has the same field and, for several images, the same number. "none" shows nothing.
            "shuffled_frames" and "swapped_images" show what the functions of these names return.
        donors (list[int] | None): The result of ``donors_of``, for "shuffled". The donors are followed to the next
            sample that fits, so that the images of every sample are shown once and never with itself. None makes them
            anew.

    Returns:
        The images and the field that they stand for.

    Raises:
        ValueError: No other sample fits, or the condition needs a video or several images that the sample does not
            have. The message names the sample.
    """
    own = images_of(sample)
    if condition == "none" or own.field is None:
        return Shown()
    if condition == "true":
        return own
    if condition == "shuffled_frames":
        return Shown("video", tuple(shuffled_frames(sample)))
    if condition == "swapped_images":
        return Shown("images", tuple(swapped_images(sample)))
    donors = donors_of(len(dataset)) if donors is None else donors  # type: ignore[arg-type]
    row_of = getattr(dataset, "row_of", lambda index: index)  # turns of one row share their images
    donor = donors[index]
    while donor != index:
        if row_of(donor) == row_of(index):
            donor = donors[donor]
            continue
        other = images_of(dataset[donor])
        if other.field == own.field and (own.field == "video" or len(other.images) == len(own.images)):
            return other
        donor = donors[donor]
    raise ValueError(f"sample {sample['id']!r} has the only {own.field} of the data set; there is no other to give it")


def shuffled_frames(sample: Sample, seed: int = 0) -> list[Image.Image]:
    """Put the frames of a sample in another order, which is neither the right one nor its exact reverse.

    Frames are compared by their pixels. An order is as likely as its reverse: of two clips that are each other's
    reverse, the shuffled frames do not tell which it was.

    Args:
        sample (Sample): The sample.
        seed (int): The seed. The order depends on the seed and the id of the sample.

    Returns:
        The frames in the other order.

    Raises:
        ValueError: The sample has no video, or its frames have no third order, because there are fewer than three or
            nearly all of them are equal.
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
    rng, order = random.Random(f"shuffled-frames-{seed}-{sample['id']}"), list(range(len(frames)))
    while [contents[place] for place in order] in (contents, contents[::-1]):
        rng.shuffle(order)
    return [frames[place] for place in order]


def swapped_images(sample: Sample) -> list[Image.Image]:
    """Put the images of a sample in reverse order.

    Args:
        sample (Sample): The sample.

    Returns:
        Its ``images``, the last one first.

    Raises:
        ValueError: There are fewer than two.
    """
    images = sample.get("images") or []
    if len(images) < 2:
        raise ValueError(f"sample {sample['id']!r} has {len(images)} images in 'images'; swapping takes two or more")
    return images[::-1]
