"""Opens a data set by its name or by the path of its files, for the command line and for scripts."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset, Subset

from .caption_files import CaptionFiles, has_caption_files
from .coco import FILE as COCO_FILE
from .coco import CocoCaptions
from .columns import SPELLINGS, sample_of
from .dataset_names import DRAWN, NAMED, SCIENCEQA_ID, format_of, unknown_dataset
from .easy_vqa import EasyVQA
from .image_folder import ImageFolder, sample_of_line
from .instructions import Alpaca, Conversations
from .library import open_library_dataset, open_library_stream
from .mme import MME
from .mme import TASKS as MME_TASKS
from .openmoji.clips import OpenMojiVideos
from .openmoji.common import DEFAULT_SIZE
from .openmoji.mixture import OpenMojiMixture
from .openmoji.names import OpenMojiNames
from .openmoji.pairs import OpenMojiPairs
from .openmoji.scenes import OpenMojiScenes
from .sample import Sample
from .scienceqa import HubScienceQA, ScienceQA, has_hub_layout
from .split_column import places_of_split
from .splits import rows_of_split
from .stream import BUFFER, Stream
from .turns import EachTurn, EachTurnOfStream

# what rows of instructions may have beside what Alpaca's have
MORE_THAN_ALPACA = ("image", "images", "video", "history", "system")
# A caption says more about an image than an answer does, so three of seven training samples are captions.
SCENE_KINDS = ("caption", "caption", "caption", "presence", "count", "relation", "choice")


def open_dataset(
    name: str,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    image_folder: str | None = None,
    prompt_format: str = "CQM-A",
    use_captions: bool = False,
    columns: Mapping[str, str] | None = None,
    each_turn_alone: bool = False,
    streaming: bool = False,
    shuffle_buffer: int = BUFFER,
) -> Dataset[Sample]:
    """Open a data set by its name or path.

    Args:
        name (str): One of these:

            - ``openmoji-names``, ``openmoji-scenes``, ``openmoji`` (both together), ``openmoji-videos`` or
              ``openmoji-pairs`` (two images per sample), which are drawn on demand.
            - ``easy-vqa``, the benchmark, which is downloaded once (3.2 MB).
            - A folder with ``metadata.jsonl``, with a text file beside each image, with ``problems.json`` (ScienceQA),
              with ``dataset_coco.json`` (COCO) or with the sub-tasks of MME.
            - ScienceQA as the Hub has it: a folder with parquet files, or an id such as ``derek-thomas/ScienceQA``.
            - A ``.json`` or ``.jsonl`` file of conversations (LLaVA, ShareGPT, messages) or of instructions (Alpaca).
            - Anything else that ``open_library_dataset`` opens: parquet, CSV, JSON, webdataset, ``save_to_disk``, image
              folders of other layouts, and ids of the Hub.
        split (str): ``train`` or ``test``, for ScienceQA and COCO also ``val``. Folders have the splits that they
            name. MME has no splits and ignores it, as do files of instructions whose rows name no ``split``.
        size (int | None): The number of samples of a drawn data set, or of images of ``easy-vqa``. None means 20,000,
            or every name once per kind for ``openmoji-names``, or every image.
        seed (int): The seed of a drawn data set.
        image_folder (str | None): The folder that the names of images in conversations and tables are relative to.
            None means the folder of the file.
        prompt_format (str): The prompt format of ScienceQA, one of ``PROMPT_FORMATS`` in ``data.scienceqa``.
        use_captions (bool): Whether the context in ScienceQA's prompt has the caption of the image.
        columns (Mapping[str, str] | None): The names of columns that ``sample_of`` does not know, for data sets that
            the library ``datasets`` reads.
        each_turn_alone (bool): Whether each turn of a conversation, and each of several questions about one image, is
            a sample of its own, as ADEM-VL's authors train. Otherwise they are one sample, whose answers are all
            trained.
        streaming (bool): Whether to read no more of the data set than is used, for sets larger than a disk. The result
            is a ``Stream`` then, which has no length and no end.
        shuffle_buffer (int): The number of rows of a stream that are shuffled together.

    Returns:
        The data set.

    Raises:
        ValueError: The name is none of these, or a data set that cannot be streamed.
    """
    if not name.strip():  # which would be the folder where the command runs
        raise unknown_dataset(name)
    if streaming:
        stream = _open_stream(name, split, seed, columns, shuffle_buffer, image_folder)
        return EachTurnOfStream(stream) if each_turn_alone else stream
    kinds = SCENE_KINDS if split == "train" else None
    if name == "openmoji-names":
        return OpenMojiNames(split, size=size, seed=seed)
    if name == "easy-vqa":
        return EachTurn(EasyVQA(split, size)) if each_turn_alone else EasyVQA(split, size)
    size = DEFAULT_SIZE if size is None else size
    if name == "openmoji-scenes":
        return OpenMojiScenes(split, size=size, seed=seed, kinds=kinds)
    if name == "openmoji":
        return OpenMojiMixture(split, size=size, seed=seed)
    if name == "openmoji-videos":
        return OpenMojiVideos(split, size=size, seed=seed)
    if name == "openmoji-pairs":
        return OpenMojiPairs(split, size=size, seed=seed)
    layout = _layout(name, split, image_folder, prompt_format, use_captions, each_turn_alone, columns)
    found = open_library_dataset(name, split, columns, image_folder) if layout is None else layout()
    if found is None:
        raise unknown_dataset(name)
    return EachTurn(found) if each_turn_alone and hasattr(found, "number_of_turns") else found


def _open_stream(
    name: str,
    split: str,
    seed: int,
    columns: Mapping[str, str] | None,
    shuffle_buffer: int,
    image_folder: str | None,
) -> Stream:
    """Open a data set as a stream, with the library ``datasets`` alone."""
    layout = _layout(name, split, None, "CQM-A", False, False, columns)
    if name in NAMED or (layout is not None and layout.func not in (_image_folder, Conversations)):
        kind = "drawn on demand" if name in DRAWN else "it has a reader of its own"
        raise ValueError(f"{name} cannot be streamed ({kind}); leave --streaming out")
    read = _sample_of_metadata if layout is not None and layout.func is _image_folder else sample_of
    found = open_library_stream(name, split, columns, seed, shuffle_buffer, image_folder, read)
    if found is None:
        raise unknown_dataset(name)
    return found


def _layout(
    name: str,
    split: str,
    image_folder: str | None,
    prompt_format: str,
    use_captions: bool,
    each_turn_alone: bool,
    columns: Mapping[str, str] | None,
) -> "partial[Any] | None":
    """Find the reader of a data set whose layout is that of a benchmark, or of this package; None for any other."""
    path = Path(name)
    if path.is_file() and format_of(path) == "json" and (key := _first_key(path)) is not None:
        if key == "instruction" and not _is_more_than_alpaca(path, columns or {}):
            return partial(Alpaca, path, split)
        return partial(Conversations, path, image_folder, each_turn_alone, columns, split)
    if (path / "problems.json").is_file():
        return partial(ScienceQA, path, split, prompt_format, use_captions)
    if (path / COCO_FILE).is_file():
        return partial(CocoCaptions, path, split)
    if (path / "metadata.jsonl").is_file() or (path / split / "metadata.jsonl").is_file():
        return partial(_image_folder, path, split, columns)
    if has_hub_layout(path) or SCIENCEQA_ID.fullmatch(name):
        if use_captions:
            raise ValueError(f"{name}: ScienceQA on the Hub has no captions; use the benchmark's own files for them")
        return partial(HubScienceQA, name, split, prompt_format)
    if any((path / task).is_dir() for task in MME_TASKS):
        return partial(MME, path)
    if has_caption_files(path):
        return partial(CaptionFiles, path, split)
    return None


def _image_folder(path: Path, split: str, columns: Mapping[str, str] | None) -> Dataset[Sample]:
    """Read a split's own ``metadata.jsonl``, or the lines about the split in that of the whole folder."""
    if (path / split / "metadata.jsonl").is_file():
        return ImageFolder(path, split=split, columns=columns)
    whole = ImageFolder(path, columns=columns)
    table = str(path / "metadata.jsonl")
    kept = rows_of_split(whole._files, split, table) or places_of_split(whole._splits, split, table)
    return whole if kept is None else Subset(whole, kept)


def _sample_of_metadata(row: Mapping[str, Any], position: int, columns: Mapping[str, str] | None = None) -> Sample:
    """Make a sample of a streamed line of ``metadata.jsonl``, whose image is still the name of a file."""
    named = set((columns or {}).values())
    renamed = {"image" if key.lower() == "file_name" and key not in named else key: row[key] for key in row}
    return sample_of_line(renamed, position, columns)


def _is_more_than_alpaca(path: Path, columns: Mapping[str, str]) -> bool:
    """Tell whether a row of instructions has something that is not empty in a column that Alpaca's rows lack."""
    names = {name for role in MORE_THAN_ALPACA for name in (*SPELLINGS[role], *filter(None, [columns.get(role)]))}
    column = rf'"({"|".join(map(re.escape, sorted(names)))})"\s*:(?!\s*(""|\[\s*\]|null))'
    return re.search(column, path.read_text("utf-8", errors="replace"), re.IGNORECASE) is not None


def _first_key(path: Path) -> str | None:
    """Return the key that tells Alpaca's files ("instruction") from conversations, whichever is first."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        found = re.search(
            r'"(instruction|conversations|messages|texts|prompt(?="\s*:\s*\[\s*\{))"\s*:', file.read(1 << 16)
        )
    return found[1] if found else None
