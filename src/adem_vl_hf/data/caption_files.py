"""Reads a folder in which each image has a text file of the same name, as the tools for training LoRA have them.

::

    0.png, 0.txt ("two dogs on the grass"), sub/1.jpg, sub/1.txt, ...
"""

import os
from collections.abc import Iterator
from pathlib import Path

from torch.utils.data import Dataset

from ..json_files import read_text
from .cells import IMAGE_NAME
from .dataset_names import NoSuchSplit, format_of
from .media import check_inside, open_image
from .sample import CAPTION_PROMPT, Sample, continuation
from .splits import SPLITS, split_of_folder

TEXT = ".txt"


class CaptionFiles(Dataset[Sample]):
    """Reads images whose captions are in text files beside them, as samples of kind "caption".

    The whole text of a file is the caption. The texts are read and checked at once; an image is opened when its sample
    is. The id of a sample is the name of its image, relative to the folder. Images may be in subfolders, and one called
    ``test`` (or ``val``, ``dev``, ...) is a split of its own. Files whose names begin with a point are passed over.

    Args:
        folder (str | os.PathLike[str]): The folder.
        split (str): The split. Images in no folder of a split belong to "train".

    Raises:
        NoSuchSplit: No image belongs to the split.
        ValueError: An image has no text, a text has no image or is empty, or an image has a text in common with another
            one. The message names it.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str = "train") -> None:
        self.folder = Path(folder)
        images, texts = _images_and_texts(self.folder)
        splits = {image: split_of_folder(str(image.relative_to(self.folder))) or "train" for image in images}
        wanted, there = SPLITS.get(split, split), sorted(set(splits.values()))
        if wanted not in there and not (split == "train" and len(there) == 1):
            raise NoSuchSplit(f"{self.folder}: no split {split!r}; it has {', '.join(there)}", there)
        self._samples: list[tuple[Path, str]] = []  # an image and its caption
        seen: dict[Path, Path] = {}
        for image in images:
            check_inside(self.folder, image)
            text = texts.get(image.with_suffix(""))
            if text is None:
                raise ValueError(
                    f"{image}: the images beside it have their captions in text files, and this one has none; write it "
                    f"to {image.with_suffix(TEXT)}, or remove the image"
                )
            check_inside(self.folder, text)
            if text in seen:
                raise ValueError(f"{text}: the text of two images, {seen[text].name} and {image.name}; rename one")
            seen[text] = image
            caption = read_text(text).strip()
            if not caption:
                raise ValueError(f"{text}: empty; write the caption of {image.name}, or remove both")
            if wanted not in there or splits[image] == wanted:
                self._samples.append((image, caption))
        for text in texts.values():
            if text not in seen:
                raise ValueError(f"{text}: no image of the same name is beside it; add it, or move the text elsewhere")

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        image, caption = self._samples[index]
        check_inside(self.folder, image)
        return Sample(
            id=image.relative_to(self.folder).as_posix(),
            image=open_image(image),
            prompt=CAPTION_PROMPT,
            answer=continuation(CAPTION_PROMPT, caption),
            references=[caption],
            kind="caption",
        )


def has_caption_files(folder: Path) -> bool:
    """Tell whether half of the images of a folder or more have a text file of the same name, and no table is there.

    Args:
        folder (Path): The folder. One with a table of its own has no such files.
    """
    if not folder.is_dir() or any(folder.glob("metadata.*")) or any(folder.glob("*/metadata.*")):
        return False
    if any(format_of(file) is not None for file in folder.iterdir()):
        return False
    images, texts = _images_and_texts(folder)
    return 0 < len(images) <= 2 * sum(image.with_suffix("") in texts for image in images)


def _images_and_texts(folder: Path) -> tuple[list[Path], dict[Path, Path]]:
    """Find the images of a folder in order, and its text files by their paths without the ending."""
    images, texts = [], {}
    for file in sorted(_files(folder)):
        if file.suffix.lower() == TEXT:
            texts[file.with_suffix("")] = file
        elif IMAGE_NAME.fullmatch(file.name):
            images.append(file)
    return images, texts


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in files if not name.startswith("."))
