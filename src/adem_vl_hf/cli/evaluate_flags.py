"""Flags of ``adem-vl evaluate`` that its other flags or its data leave without effect, each of which is refused."""

import argparse
from typing import Any

from ..data.dataset_names import NAMED
from .arguments import check_output
from .flags_of_files import NO_EFFECT, check_flags_of_files
from .idle_flags import given_flags, refuse_flags
from .training_data import has_no_splits

OF_HARNESS = {"tasks", "include_path", "checkpoint", "size", "batch_size", "output"}
OF_SCORING = {"predictions"}
OF_SCIENCEQA = {"problems", "data", "split"}  # of its scoring: the problems may be in the data


def check_flags(args: argparse.Namespace, defaults: argparse.Namespace) -> None:
    """Refuse flags that would have no effect, and files that are none.

    Args:
        args (argparse.Namespace): The parsed arguments.
        defaults (argparse.Namespace): The values of all flags that are not given.

    Raises:
        ValueError: There is such a flag. The message names it.
    """
    given = given_flags(args, defaults)
    if args.harness:
        refuse_flags(given - OF_HARNESS, args, f"has no effect on --harness {args.harness}")
        return
    refuse_flags(given & {"tasks", "include_path"}, args, "belongs to --harness")
    if args.task != "scienceqa":
        refuse_flags(given & {"problems"}, args, "belongs to --task scienceqa")
    if args.predictions:
        used = OF_SCORING | (OF_SCIENCEQA if args.task == "scienceqa" else set())
        refuse_flags(given - used, args, "has no effect on predictions that --predictions gives")
    elif args.task in NAMED and args.data != args.task:
        refuse_flags(given & {"data"}, args, f"has no effect on --task {args.task}, which has data of its own")
    if args.task in NAMED:
        refuse_flags(given & NO_EFFECT.keys(), args, f"has no effect on --task {args.task}")
    elif args.data not in NAMED:
        refuse_flags(given & {"size"}, args, f"is for {', '.join(NAMED)}, and other data are taken whole")
    if args.split is not None and not args.split.strip():
        raise ValueError("--split is empty; name a split, such as test, or leave it out")
    for flag, path in (("--predictions", args.predictions), ("--problems", args.problems)):
        if path is not None and path.is_dir() and not (args.task == "mme" and flag == "--predictions"):
            raise ValueError(f"{flag} {path} is a folder; name a file in it")
    check_output("--output", args.output)
    check_output("--result-files", args.result_files and args.result_files / "existence.txt")


def check_flags_of_data(args: argparse.Namespace, defaults: argparse.Namespace, dataset: Any) -> None:
    """Refuse flags that have no effect on a data set.

    Args:
        args (argparse.Namespace): The parsed arguments.
        defaults (argparse.Namespace): The values of all flags that are not given.
        dataset (Any): The data set that they opened.

    Raises:
        ValueError: There is such a flag. The message names it.
    """
    # the one split of a file is called train by datasets, too
    if args.split not in (None, "train") and has_no_splits(args.data, dataset):
        raise ValueError(f"--split {args.split}: {args.data} has no splits and is taken whole; leave the flag out")
    check_flags_of_files(args, defaults, args.data or args.task, [dataset])
