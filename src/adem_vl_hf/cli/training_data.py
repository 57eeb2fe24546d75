"""The data that ``adem-vl train`` trains on, and those that it holds out."""

import argparse
import sys
from pathlib import Path
from typing import Any

from ..data.dataset_names import NAMED, NoSuchSplit
from ..terminal import say
from .flags_of_files import check_flags_of_files
from .seen_data import SeenData, look_at, warn_of_missing_images

HELD_OUT = ("test", "val", "validation", "train")  # the splits to evaluate on, the best one first


def training_data(args: argparse.Namespace, defaults: argparse.Namespace) -> tuple[Any, Any, list[SeenData]]:
    """Open the training set and the held-out set, and look at every row of both.

    Args:
        args (argparse.Namespace): The parsed arguments.
        defaults (argparse.Namespace): The values of all flags that are not given.

    Returns:
        Both, and what there is to say about their parts. The held-out set is None without --eval-data.

    Raises:
        ValueError: --eval-data has only what is trained on, a flag has no effect on any of the data, a row cannot be
            used, or a file is broken.
    """
    from ..data import open_dataset
    from ..data.mixing import mix
    from ..data.stream import BUFFER
    from ..data.turns import EachTurn
    from ..evaluation.predictions import processes

    options = (args.image_folder, args.prompt_format, args.use_captions, dict(args.columns), args.each_turn_alone)
    stream = {"streaming": args.streaming, "shuffle_buffer": args.shuffle_buffer or BUFFER}
    parts = [open_dataset(name, "train", args.train_size, args.seed, *options, **stream) for name in args.data]
    trained_on = [(name, _place(name, "train", part), part) for name, part in zip(args.data, parts, strict=True)]
    seen = [look_at(name, part) for name, part in zip(args.data, parts, strict=True)]
    is_first = processes().is_main_process
    if is_first:
        warn_of_missing_images(seen)
    held_out = []
    for name in args.eval_data:
        split, part, is_trained_on = _not_trained_on(name, trained_on, args, options)
        if is_trained_on and is_first:
            say(
                f"adem-vl train: --eval-data {name} is in --data, too, and has no splits, so that it is trained on; "
                "its scores say nothing about other data",
                sys.stderr,
            )
        held_out.append(part)
        named = None if has_no_splits(name, part) else split
        seen.append(SeenData(name, len(part), is_held_out=True, split=named, is_trained_on=is_trained_on))
    check_flags_of_files(args, defaults, " ".join(dict.fromkeys([*args.data, *args.eval_data])), [*parts, *held_out])
    for part in held_out:
        _read_all(part)
    if args.eval_task:  # each turn is asked
        held_out = [EachTurn(part, "history") if hasattr(part, "number_of_turns") else part for part in held_out]
    return mix(parts, args.weights, args.seed), mix(held_out) if held_out else None, seen


def _not_trained_on(
    name: str, trained_on: list[tuple[str, tuple[str, str], Any]], args: argparse.Namespace, options: tuple[Any, ...]
) -> tuple[str, Any, bool]:
    """Open the best split of data that is not trained on; return its name, it, and whether it is trained on after all.

    Only of data without splits, which are what they are, the latter may be true.
    """
    from ..data import open_dataset

    missing: NoSuchSplit | None = None
    for split in HELD_OUT[:1] if name in NAMED else HELD_OUT:
        if missing is not None and split != "train" and not (split in missing.splits or (Path(name) / split).is_dir()):
            continue
        try:
            part = open_dataset(name, split, args.train_size, args.seed, *options)
        except NoSuchSplit as error:
            missing = missing or error
            continue
        except ValueError as error:  # such as hidden answers of a benchmark's test split
            raise ValueError(f"--eval-data {name}, split {split}: {error}") from error
        place = _place(name, split, part)
        is_trained_on = any(
            place == before or (_is_like(name, part, known, other) and _has_one_split(name, args, options))
            for known, before, other in trained_on
        )
        if not is_trained_on or has_no_splits(name, part):
            return split, part, is_trained_on
    if missing is not None and "train" not in missing.splits and len(missing.splits) > 1:
        raise ValueError(f"--eval-data {name} ({missing}): name the files of the one to evaluate on")
    reason = f" ({missing})" if missing else ""
    raise ValueError(f"--eval-data {name} is in --data, too{reason}; name data that are not trained on")


def _is_like(name: str, part: Any, known: str, other: Any) -> bool:
    """Tell whether a split has the name and the length of what is trained on."""
    is_known = name == known or (Path(name).exists() and Path(name).resolve() == Path(known).resolve())
    return is_known and hasattr(other, "__len__") and len(part) == len(other)


def _has_one_split(name: str, args: argparse.Namespace, options: tuple[Any, ...]) -> bool:
    """Tell whether data have one split alone, which is trained then, whatever it is called."""
    from ..data import open_dataset

    try:
        open_dataset(name, "another", args.train_size, args.seed, *options)
    except NoSuchSplit as error:
        return len(error.splits) == 1
    return False


def _place(name: str, split: str, dataset: Any) -> tuple[str, str]:
    """Say what was opened, alike for all names that lead to it: ``shapes`` with its split train is ``shapes/train``."""
    if name in NAMED or not Path(name).exists():
        return name, split
    path = Path(name).resolve()
    if (path / split).is_dir():
        return str(path / split), "train"
    return str(path), "train" if has_no_splits(name, dataset) else split


def has_no_splits(name: str, dataset: Any) -> bool:
    """Say whether a data set is taken whole, whatever split is named.

    Args:
        name (str): Its name, or the path of its file or folder.
        dataset (Any): What ``open_dataset`` made of it.
    """
    from ..data.image_folder import ImageFolder
    from ..data.instructions import Alpaca, Conversations
    from ..data.mme import MME

    is_whole = isinstance(dataset, Alpaca | Conversations) and not dataset.has_splits
    return is_whole or isinstance(dataset, MME) or (isinstance(dataset, ImageFolder) and dataset.folder == Path(name))


def _read_all(held_out: Any) -> None:
    """Read the held-out data once, so that a broken image is found now and not after hours, at the first evaluation."""
    from tqdm import tqdm

    from ..data.sample import images_of, opened

    for index in tqdm(range(len(held_out)), "reading --eval-data", delay=2):
        sample = held_out[index]
        opened(images_of(sample), sample["id"])
