"""The sample answers of ``report.html`` in a folder beside it, from which ``push(samples=True)`` takes some."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .files import write_json
from .inspection.page import GalleryItem
from .json_files import read_entries
from .modeling.one_save import naming_full_disk

SAMPLES = "samples"
LIST = "samples.json"
# the names of the files that a run writes there; the last is one that it was writing when it was killed
WRITTEN = re.compile(rf"\d+\.png|{re.escape(LIST)}|\.{re.escape(LIST)}\.[0-9a-f]+")


def keep_samples(output: Path, gallery: Sequence[GalleryItem]) -> None:
    """Write sample answers. Those of an earlier run are replaced, or removed where there are no new ones.

    Args:
        output (Path): The output folder of the training.
        gallery (Sequence[GalleryItem]): The answers, with their images.

    Raises:
        OSError: The disk is full, with its name.
    """
    remove_samples(output)
    if not gallery:
        return
    folder, rows = output / SAMPLES, []
    with naming_full_disk(output):
        folder.mkdir(exist_ok=True)
        for number, item in enumerate(gallery):
            image, name = item.image.convert("RGB"), f"{number}.png"
            image.thumbnail((512, 512))
            image.save(folder / name)
            rows.append(
                {"image": name, "prompt": item.prompt, "answer": item.prediction, "references": list(item.references)}
            )
    write_json(folder / LIST, rows)


def remove_samples(output: Path) -> None:
    """Remove the sample answers of a run. Other files in their folder stay.

    Args:
        output (Path): The output folder of the training.
    """
    folder = output / SAMPLES
    if folder.is_symlink() or not folder.is_dir():
        return
    # the list first: whatever stops this, no list names an image that is gone
    (folder / LIST).unlink(missing_ok=True)
    for path in folder.iterdir():
        if WRITTEN.fullmatch(path.name) and (path.is_file() or path.is_symlink()):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # something else is in it
        folder.rmdir()


def read_samples(output: Path) -> list[dict[str, Any]]:
    """Read the sample answers that lie in a folder.

    Args:
        output (Path): The output folder of a training, or another one that has some of its samples.

    Returns:
        The image's name in the folder ``samples``, the prompt, the answer and the references of each. The list is empty
        if there are none.

    Raises:
        ValueError: The file is damaged.
    """
    path = output / SAMPLES / LIST
    return list(read_entries(path, "sample answers")) if path.is_file() else []
