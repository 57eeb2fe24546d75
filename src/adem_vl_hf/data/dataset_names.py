"""The names by which ``open_dataset`` opens data sets. They are checked here without importing the data sets."""

import re
from collections.abc import Iterable
from pathlib import Path

DRAWN = ("openmoji", "openmoji-names", "openmoji-scenes", "openmoji-videos", "openmoji-pairs")
NAMED = (*DRAWN, "easy-vqa")  # data sets that this package opens by their names alone
SCIENCEQA_ID = re.compile(r"[\w.-]+/ScienceQA")  # on the Hub it has a layout of its own
HUB_ID = re.compile(r"(?P<path>\w[\w.-]*/[\w.-]+)(:(?P<config>[\w.-]+))?")  # user/set or user/set:config
# the formats of single files, by their suffix
BUILDERS = {
    ".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json",
    ".tar": "webdataset",
}  # fmt: skip
FORMATS = (
    "a folder or file that datasets reads (images, parquet, CSV, JSON, webdataset, save_to_disk), the folder of a "
    "benchmark (ScienceQA, COCO, MME), a .json file of conversations or instructions, or the id of a data set on the "
    "Hub, user/set"
)


class NoSuchSplit(ValueError):
    """Says that a data set has no split of a name.

    Args:
        message (str): The sentence.
        splits (Iterable[str]): The names of the splits that it has.
    """

    def __init__(self, message: str, splits: Iterable[str]) -> None:
        super().__init__(message)
        self.splits = list(splits)


def hub_id(name: str) -> re.Match[str] | None:
    """Read a name as the id of a data set on the Hub.

    Args:
        name (str): A name or a path.

    Returns:
        The groups ``path`` and ``config``, or None if it is no id, or ends as a file of data does.
    """
    return None if format_of(Path(name)) is not None else HUB_ID.fullmatch(name)


def format_of(path: Path) -> str | None:
    """Return the format of a single file, which its ending tells; capitals do not matter.

    Args:
        path (Path): The file.

    Returns:
        The name under which the library reads it, or None.
    """
    return BUILDERS.get(path.suffix.lower())


def check_name(name: str) -> None:
    """Refuse a name that can be no data set. What is in a file or folder shows when it is opened.

    Args:
        name (str): A name, a path or a Hub id.

    Raises:
        ValueError: There is no such data set.
    """
    if not name.strip() or (name not in NAMED and not hub_id(name) and not Path(name).exists()):
        raise unknown_dataset(name)


def unknown_dataset(name: str) -> ValueError:
    """Describe what a data set can be.

    Args:
        name (str): A name that is none, of something that is not there or of files that nothing here reads.

    Returns:
        The error to raise.
    """
    path, known = Path(name), f"give {', '.join(NAMED)}, {FORMATS}"
    if not name.strip():
        return ValueError(f"a data set has an empty name; {known}")
    if "://" in name:
        return ValueError(
            f"no data set {name[:200]!r}: a URL; download it first and give the path of the file or folder"
        )
    if path.is_file():
        return ValueError(f"{name} is a file of no format that data sets have ({path.suffix or 'no ending'}); {known}")
    if path.is_dir():
        file = next((file for file in path.rglob("*") if file.is_file()), None)
        what = "the folder is empty" if file is None else f"its files, such as {file.name}, are of no known format"
        return ValueError(f"{name}: {what}; {known}")
    if format_of(path) is not None:
        return ValueError(f"{name}: there is no such file; correct the path")
    return ValueError(f"no data set {name!r}: {known}")
