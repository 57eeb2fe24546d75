"""What a sample shows, a picture, several, a video or nothing, and how a processor is handed a batch of that."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from .images import ImageError, open_image
from .sample import Sample

IMAGE_MARK, VIDEO_MARK = "<image>", "<video>"
Field = Literal["image", "images", "video"]
FIELDS: tuple[Field, ...] = ("image", "images", "video")


@dataclass(frozen=True)
class Pictures:
    """The pictures of one row in order, and the field of the sample that holds them; None = it shows nothing."""

    field: Field | None = None
    pictures: tuple[Image.Image, ...] = ()


def pictures_of(sample: Sample) -> Pictures:
    """What the sample shows.

    Raises:
        ValueError: two of the fields, or a list without pictures; the message names the sample.
    """
    given = [field for field in FIELDS if sample.get(field) is not None]
    if len(given) > 1:
        raise ValueError(f"sample {sample['id']!r}: both {given[0]!r} and {given[1]!r}; give one, and None for 'image'")
    if not given:
        return Pictures()
    found: Any = sample[given[0]]
    pictures = (found,) if given[0] == "image" else tuple(found)
    if not pictures:
        raise ValueError(f"sample {sample['id']!r}: no pictures in {given[0]!r}; give some or leave the field out")
    return Pictures(given[0], pictures)


def opened(shown: Pictures, sample_id: str) -> Pictures:
    """The same with every picture upright, decoded and in mode RGB.

    Raises:
        ValueError: one that cannot be used; the message names the sample and the picture's place.
    """
    pictures = []
    for place, picture in enumerate(shown.pictures):
        # exactly Image: its subclass ImageFile is a file not yet decoded, perhaps damaged, perhaps lying on its side
        if type(picture) is not Image.Image or picture.mode != "RGB":
            try:
                picture = open_image(picture)
            except ImageError as error:
                where = "" if shown.field == "image" else f"{shown.field}[{place}]: "
                raise ValueError(f"sample {sample_id!r}: {where}{error}") from error
        pictures.append(picture)
    return Pictures(shown.field, tuple(pictures))


def processor_arguments(rows: Sequence[Pictures]) -> dict[str, list[Any]]:
    """The keyword arguments that hand B rows to a processor.

    ``images`` alone, with one picture or None per row, where no row has several pictures or a video. Otherwise a list
    of pictures per row, empty where it has none; and with a video among the rows, ``videos``: a list of frames per row,
    None where it has none.
    """
    fields = {row.field for row in rows}
    if not fields & {"images", "video"}:
        return {"images": [row.pictures[0] if row.pictures else None for row in rows]}
    arguments: dict[str, list[Any]] = {"images": [[] if row.field == "video" else list(row.pictures) for row in rows]}
    if "video" in fields:
        arguments["videos"] = [list(row.pictures) if row.field == "video" else None for row in rows]
    return arguments


def without_marks(prompt: str) -> str:
    """The prompt of a sample whose pictures are not shown."""
    return prompt.replace(IMAGE_MARK, "").replace(VIDEO_MARK, "")
