"""``adem-vl evaluate``: predictions on a test set and their scores."""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from ..data.dataset_names import DRAWN, NAMED, NoSuchSplit, check_name
from ..evaluation.tasks import TASKS
from ..terminal import say
from .arguments import Several, add_columns, add_image_folder, add_scienceqa, check_there, positive
from .checkpoint import add_checkpoint, check_checkpoint, load
from .evaluate_flags import check_flags, check_flags_of_data

TEXT = "Measure a trained adapter on a test set, or score a file of predictions."
SPLIT = "test"
DEFAULT_SIZE = 1000  # samples of a drawn test set


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command.

    Args:
        parser (argparse.ArgumentParser): The parser of the command.
    """
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--task", help=", ".join(TASKS))
    what.add_argument("--harness", choices=("lmms-eval",), help="run --tasks of this harness instead")
    parser.add_argument("--tasks", nargs="+", action=Several, default=[], metavar="NAME",
                        help="tasks of the harness, such as gqa or mmbench_en_dev")  # fmt: skip
    parser.add_argument("--include-path", type=Path,
                        help="a folder with further tasks of the harness, as YAML files")  # fmt: skip
    parser.add_argument("--predictions", type=Path, help="score this file of predictions; generate none")
    parser.add_argument("--problems", type=Path, help="ScienceQA's problems.json, for the columns of its table")
    add_checkpoint(parser)
    parser.add_argument("--data", "--data-dir", dest="data", help="data to evaluate on, unless the task brings its own")
    add_columns(parser)
    add_image_folder(parser)
    parser.add_argument("--split", help=f"the split to use, if the data have splits (default: {SPLIT})")
    add_scienceqa(parser)
    parser.add_argument(
        "--size", type=positive, help="number of test samples of the OpenMoji data sets, or of images of easy-vqa"
    )
    parser.add_argument("--images", default="true",
                        choices=("true", "shuffled", "none", "shuffled_frames", "swapped_images"),
                        help="true, or as controls: another sample's image, none, the sample's frames or images in "
                             "another order")  # fmt: skip
    parser.add_argument("--output", type=Path, help="file for the predictions, as JSON Lines (default: not saved)")
    parser.add_argument("--result-files", type=Path, metavar="DIR",
                        help="of mme: write the official result files, too")  # fmt: skip
    parser.add_argument("--batch-size", type=positive, default=32,
                        help="samples that are answered together (default: 32)")  # fmt: skip
    parser.add_argument("--max-new-tokens", type=positive, default=24,
                        help="longest answer in tokens (default: 24)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is imported.

    Args:
        args (argparse.Namespace): The parsed arguments.

    Raises:
        ValueError: A name or a path is wrong, or flags do not go together.
    """
    check_checkpoint(args)
    check_there("--include-path", args.include_path)
    if args.harness:
        check_flags(args, _defaults())
        return
    if args.task not in TASKS:
        raise ValueError(f"--task {args.task!r} is not one of {', '.join(TASKS)}")
    if args.result_files and (args.task != "mme" or args.predictions):
        raise ValueError("--result-files is for predictions that --task mme makes; leave it out")
    if _data(args) is None and args.predictions is None:
        raise ValueError(f"--task {args.task} needs --predictions to score, or --data to predict on")
    check_there("--image-folder", args.image_folder and Path(args.image_folder))
    check_there("--predictions", args.predictions)
    check_there("--problems", args.problems)
    if (data := _data(args)) is not None:
        check_name(data)
    check_flags(args, _defaults())


def what_is_left(args: argparse.Namespace) -> str:
    """Say what an interrupted evaluation goes on from.

    Args:
        args (argparse.Namespace): The parsed arguments.

    Returns:
        The rest of the sentence that says that it was interrupted.
    """
    if args.output is None:
        return "" if args.predictions else "; with --output, the same command would go on where it stopped"
    return f"; the same command goes on from {args.output}" if args.output.exists() else ", before its first prediction"


def _defaults() -> argparse.Namespace:
    """Return the values of flags that are not given."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--task", ""])


def _data(args: argparse.Namespace) -> str | None:
    """The data set to predict on, which has the name of its task where the package brings it."""
    return args.task if args.task in NAMED else args.data


def run(args: argparse.Namespace) -> None:
    """Make predictions where none are given, score them, print the scores.

    Args:
        args (argparse.Namespace): The parsed arguments.
    """
    from ..data import open_dataset
    from ..data.turns import EachTurn
    from ..evaluation.predictions import processes
    from ..evaluation.score import format_scores, score

    if args.harness:
        from ..evaluation.lmms_eval.harness import run_lmms_eval

        scores = run_lmms_eval(args.checkpoint, args.tasks, args.include_path, args.size, args.batch_size, args.output)
        say(json.dumps(scores) if args.json else format_scores(scores))
        return
    data, dataset = _data(args), None
    if data is not None and (args.predictions is None or args.task == "scienceqa"):
        # the default of openmoji-names is every name once
        drawn = args.task in DRAWN and args.task != "openmoji-names"
        size = DEFAULT_SIZE if args.size is None and drawn else args.size
        try:
            dataset = open_dataset(
                data, args.split or SPLIT, size, prompt_format=args.prompt_format, use_captions=args.use_captions,
                columns=dict(args.columns), image_folder=args.image_folder,
            )  # fmt: skip
        except NoSuchSplit as error:
            if not error.splits:
                raise
            raise ValueError(f"{error}; name one by --split {error.splits[0]}") from error
        check_flags_of_data(args, _defaults(), dataset)
        if hasattr(dataset, "number_of_turns"):  # rows with several turns: each is asked
            dataset = EachTurn(dataset, "history")
    problems = args.problems or (getattr(dataset, "problems", None) if args.task == "scienceqa" else None)
    scores = score(args.task, args.predictions or _predictions(args, dataset, problems), problems)
    if processes().is_main_process:
        say(json.dumps(scores) if args.json else format_scores(scores))


def _predictions(args: argparse.Namespace, dataset: Any, problems: Any) -> list[Any]:
    """The rows that the checkpoint's model makes of a data set, kept in --output; of mme the result files, too."""
    from ..data import MME
    from ..evaluation.mme import write_mme_results
    from ..evaluation.predict import predict, prediction_row
    from ..evaluation.predictions import processes
    from ..evaluation.scienceqa import scienceqa_scores

    if args.task == "mme" and not isinstance(dataset, MME):
        raise ValueError(f"--task mme: {args.data} is not MME; give the folder that holds existence, count and so on")
    if args.task == "scienceqa" and len(dataset):
        try:
            scienceqa_scores([prediction_row(dataset[0], "")], problems)
        except ValueError as error:  # said before hours of predictions that nobody could score
            raise ValueError(f"--task scienceqa: {args.data} is not ScienceQA, whose questions have choices, or not "
                             f"that of --problems ({error}); give another --data or --task") from error  # fmt: skip
    state = processes()
    if state.num_processes > 1 and args.output is None:
        raise ValueError("several processes write one file of predictions; name it by --output")
    with tempfile.TemporaryDirectory() as scratch:
        model, processor = load(args)
        rows = predict(
            model,
            processor,
            dataset,
            output=args.output or Path(scratch) / "predictions.jsonl",
            batch_size=args.batch_size,
            max_new_tokens=args.max_new_tokens,
            images=args.images,
        )
    if args.result_files and state.is_main_process:
        write_mme_results(rows, dataset.questions, args.result_files)
    return rows
