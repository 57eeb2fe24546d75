"""The names by which ``open_dataset`` opens data sets. They are checked here without importing the data sets."""

import re
from pathlib import Path

DRAWN = ("openmoji", "openmoji-names", "openmoji-scenes", "openmoji-videos", "openmoji-pairs")
NAMED = (*DRAWN, "easy-vqa")  # data sets that this package opens by their names alone
SCIENCEQA_ID = re.compile(r"[\w.-]+/ScienceQA")  # on the Hub it has a layout of its own
HUB_ID = re.compile(r"(?P<path>\w[\w.-]*/[\w.-]+)(:(?P<config>[\w.-]+))?")  # user/set or user/set:config


def check_name(name: str) -> None:
    """Refuse a name that can be no data set. What is in a file or folder shows when it is opened.

    Args:
        name (str): A name, a path or a Hub id.

    Raises:
        ValueError: There is no such data set.
    """
    if name not in NAMED and not HUB_ID.fullmatch(name) and not Path(name).exists():
        raise unknown_dataset(name)


def unknown_dataset(name: str) -> ValueError:
    """Describe what a data set can be.

    Args:
        name (str): A name that is none.

    Returns:
        The error to raise.
    """
    return ValueError(
        f"no data set {name!r}: give {', '.join(NAMED)}, a folder or file that datasets reads (images, parquet, CSV, "
        "JSON, webdataset, save_to_disk), the folder of a benchmark (ScienceQA, COCO, MME), a .json file of "
        "conversations or instructions, or the id of a data set on the Hub, user/set"
    )
