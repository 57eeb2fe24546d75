"""Flags that say how files are read. Each has an effect on some formats alone."""

import argparse
from collections.abc import Iterable
from typing import Any

from .idle_flags import given_flags, refuse_flags

NO_EFFECT = {
    "columns": "has no effect on {data}, whose format names its columns",
    "image_folder": "has no effect on {data}, which says where its images are",
    "prompt_format": "is of ScienceQA, and {data} is not ScienceQA",
    "use_captions": "is of ScienceQA, and {data} is not ScienceQA",
}


def check_flags_of_files(
    args: argparse.Namespace, defaults: argparse.Namespace, data: str, opened: Iterable[Any]
) -> None:
    """Refuse a flag that says how files are read, and that none of the data sets heeds.

    Args:
        args (argparse.Namespace): The parsed arguments.
        defaults (argparse.Namespace): The values of all flags that are not given.
        data (str): Names the data sets in an error.
        opened (Iterable[Any]): The data sets.

    Raises:
        ValueError: There is such a flag. The message names it.
    """
    heeded = {flag for dataset in opened for flag in _heeded(dataset)}
    for flag in sorted(given_flags(args, defaults) & NO_EFFECT.keys() - heeded):
        refuse_flags({flag}, args, NO_EFFECT[flag].format(data=data))


def _heeded(dataset: Any) -> set[str]:
    """Return the flags that tell how a data set is read."""
    from torch.utils.data import Subset

    from ..data.image_folder import ImageFolder
    from ..data.instructions import Conversations
    from ..data.library import LibraryDataset
    from ..data.scienceqa import HubScienceQA, ScienceQA
    from ..data.stream import Stream
    from ..data.turns import EachTurn

    while isinstance(dataset, EachTurn | Subset):
        dataset = dataset.dataset
    if isinstance(dataset, ScienceQA | HubScienceQA):
        return {"prompt_format", "use_captions"}
    if isinstance(dataset, Conversations | LibraryDataset | Stream):
        return {"columns", "image_folder"}
    return {"columns"} if isinstance(dataset, ImageFolder) else set()
