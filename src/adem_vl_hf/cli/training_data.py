"""The data that ``adem-vl train`` trains on, and those that it holds out."""

import argparse
import sys
from pathlib import Path
from typing import Any

from ..data.dataset_names import NAMED, NoSuchSplit
from ..terminal import say


def training_data(args: argparse.Namespace) -> tuple[Any, Any]:
    """Open the training set and the held-out set.

    Args:
        args (argparse.Namespace): The parsed arguments.

    Returns:
        Both. The held-out set is None without --eval-data.

    Raises:
        ValueError: A split of data that are trained on is not there to be held out, or a file is broken.
    """
    from ..data import open_dataset
    from ..data.mixing import mix
    from ..data.stream import BUFFER
    from ..data.turns import EachTurn
    from ..evaluation.predictions import processes

    options = (args.image_folder, args.prompt_format, args.use_captions, dict(args.columns), args.each_turn_alone)
    stream = {"streaming": args.streaming, "shuffle_buffer": args.shuffle_buffer or BUFFER}
    parts = [open_dataset(name, "train", args.train_size, args.seed, *options, **stream) for name in args.data]
    trained_on = {_same_for_all_spellings(name) for name in args.data}
    held_out = []
    for name in args.eval_data:  # of data that are drawn, or that are trained on as well, another split
        is_trained_on = _same_for_all_spellings(name) in trained_on
        split = "test" if name in NAMED or is_trained_on else "train"
        try:
            part = open_dataset(name, split, args.train_size, args.seed, *options)
        except NoSuchSplit as error:
            raise ValueError(
                f"--eval-data {name} is in --data, too ({error}); name data that are not trained on"
            ) from error
        if is_trained_on and has_no_splits(name, part) and processes().is_main_process:
            say(
                f"adem-vl train: --eval-data {name} is in --data, too, and has no splits, so that it is trained on; "
                "its scores say nothing about other data",
                sys.stderr,
            )
        held_out.append(part)
    for part in held_out:
        _read_all(part)
    if args.eval_task:  # each turn is asked
        held_out = [EachTurn(part, "history") if hasattr(part, "number_of_turns") else part for part in held_out]
    return mix(parts, args.weights, args.seed), mix(held_out) if held_out else None


def has_no_splits(name: str, dataset: Any) -> bool:
    """Say whether a data set is taken whole, whatever split is named.

    Args:
        name (str): Its name, or the path of its file or folder.
        dataset (Any): What ``open_dataset`` made of it.
    """
    from ..data.image_folder import ImageFolder
    from ..data.instructions import Alpaca, Conversations
    from ..data.mme import MME

    is_whole = isinstance(dataset, Alpaca | Conversations | MME)
    return is_whole or (isinstance(dataset, ImageFolder) and dataset.folder == Path(name))


def _same_for_all_spellings(name: str) -> str:
    return str(Path(name).resolve()) if name not in NAMED and Path(name).exists() else name


def _read_all(held_out: Any) -> None:
    """Read the held-out data once, so that a broken image is found now and not after hours, at the first evaluation."""
    from tqdm import tqdm

    from ..data.sample import images_of, opened

    for index in tqdm(range(len(held_out)), "reading --eval-data", delay=2):
        sample = held_out[index]
        opened(images_of(sample), sample["id"])
