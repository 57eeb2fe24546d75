"""Reads COCO captions in Karpathy's split (arXiv 1412.2306): ``dataset_coco.json`` beside COCO's image folders.

::

    dataset_coco.json   {"images": [{"cocoid": 522418, "filepath": "val2014", "filename": "COCO_val2014_...jpg",
                                     "split": "train" | "restval" | "val" | "test",
                                     "sentences": [{"raw": "A woman ..."}, ...]}, ...], ...}
    train2014/, val2014/   or images/train2014/, images/val2014/

As usual, "train" means Karpathy's "train" and "restval". An image has one training sample for each of its captions.
"""

import os
import re
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..json_files import read_object
from ..modeling.field_values import shown
from ..modeling.reading import errors_naming
from .media import open_image, resolve_image
from .sample import CAPTION_PROMPT, Sample, continuation

FILE = "dataset_coco.json"
SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}
MAX_WORDS = 30  # in a training caption
PUNCTUATION = re.compile(r'[.!"()*#:;~]')


class CocoCaptions(Dataset[Sample]):
    """Reads COCO captions as samples of kind "caption" that continue "a picture of".

    An image is opened when its sample is.

    In "train", captions are prepared as ADEM-VL's code does, see ``training_caption``, and the id of a sample is
    ``cocoid/number``. (That code also repeats the prompt in the answer, "a picture of a picture of two dogs". This data
    set does not.) In "val" and "test" there is one sample per image, its id is the cocoid, and its references are all
    captions of the image as they are written.

    Args:
        folder (str | os.PathLike[str]): The folder of ``dataset_coco.json``.
        split (str): "train", "val" or "test".

    Raises:
        FileNotFoundError: There is no ``dataset_coco.json``.
        ValueError: The split is unknown, an entry cannot be used, or an image is missing. The message names it.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str = "train") -> None:
        if split not in SPLITS:
            raise ValueError(f"split {split!r} of {folder}: choose one of {', '.join(SPLITS)}")
        path = Path(folder) / FILE
        self.folder = Path(folder) / "images" if (Path(folder) / "images").is_dir() else Path(folder)
        self._samples: list[tuple[str, str, list[str]]] = []  # id, image name, captions
        for position, entry in enumerate(_entries(path)):
            where = f"{path}, image {position}"
            with errors_naming(where):
                name, captions = _checked(entry, where)
                if entry["split"] not in SPLITS[split]:
                    continue
                resolve_image(self.folder, name)
            if split == "train":
                short = [caption for caption in map(training_caption, captions) if caption]
                self._samples += [(f"{entry['cocoid']}/{n}", name, [caption]) for n, caption in enumerate(short)]
            else:
                self._samples.append((str(entry["cocoid"]), name, captions))
        if not self._samples:
            raise ValueError(f"{path}: no image of split {split!r}; fetch the file again")

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        name, file, captions = self._samples[index]
        return Sample(
            id=name,
            image=open_image(resolve_image(self.folder, file)),
            prompt=CAPTION_PROMPT,
            answer=continuation(CAPTION_PROMPT, captions[0]),
            references=list(captions),
            kind="caption",
        )


def training_caption(text: str) -> str:
    """Prepare a caption for training as ADEM-VL's code does.

    The caption becomes lower case, each of ``. ! " ( ) * # : ; ~`` becomes a space, and 30 words are kept.

    Args:
        text (str): The caption as it is written.

    Returns:
        The prepared caption. It is empty if no word is left.
    """
    return " ".join(PUNCTUATION.sub(" ", text.lower()).split()[:MAX_WORDS])


def _entries(path: Path) -> list[Any]:
    """Read the entries of ``dataset_coco.json``, one per image."""
    images = read_object(path).get("images")
    if not isinstance(images, list):
        raise ValueError(f'{path}: no list "images"; give Karpathy\'s dataset_coco.json')
    return images


def _checked(entry: Any, where: str) -> tuple[str, list[str]]:
    """Return the path of an image below the image folder and its captions; ``where`` begins the message of an error."""
    needed = ("cocoid", "filepath", "filename", "split", "sentences")
    if not isinstance(entry, dict) or any(key not in entry for key in needed):
        raise ValueError(f"{where}: every image needs {', '.join(needed)}")
    sentences = entry["sentences"]
    if not isinstance(sentences, list):
        raise ValueError(f'{where}: "sentences" is {shown(sentences)}; give a list of {{"raw": text}}')
    texts = [part.get("raw") if isinstance(part, dict) else None for part in sentences]
    captions = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
    if not captions or len(captions) != len(sentences):
        raise ValueError(f'{where}: a sentence without "raw", or none; it holds the text of a caption')
    return f"{entry['filepath']}/{entry['filename']}", captions
