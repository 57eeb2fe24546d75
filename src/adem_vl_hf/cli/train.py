"""``adem-vl train``: a small adapter for two frozen models."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ..data.dataset_names import NAMED, check_name
from ..evaluation.tasks import TASKS
from ..papers import PAPERS
from ..terminal import say
from .arguments import (
    Several,
    add_bases,
    add_bits,
    add_columns,
    add_image_folder,
    add_scienceqa,
    check_adapter,
    check_output,
    check_there,
    key_value,
    positive,
    positive_number,
)
from .checkpoint import moved_bases
from .config_flags import add_config_flags, config_fields
from .flags_of_files import NO_EFFECT
from .idle_flags import given_flags, refuse_flags
from .output_folder import DATA_FILE, check_output_folder, note_data, remove_run
from .training_data import training_data

TEXT = "Train a small adapter that adds image input to a language model."
MODEL = "adem_vl"  # the default
ANSWER_LENGTH = 32  # tokens of an answer to a held-out sample
# fields of TrainingArguments that have a flag of their own; the flag also sets fields that depend on them
FLAG_OF_FIELD = {
    "output_dir": "--output-dir",
    "num_train_epochs": "--epochs",
    "max_steps": "--max-steps",
    "per_device_train_batch_size": "--batch-size",
    "learning_rate": "--learning-rate",
    "seed": "--seed",
    "metric_for_best_model": "--best",
    "report_to": "--report-to",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command.

    Args:
        parser (argparse.ArgumentParser): The parser of the command.
    """
    parser.add_argument("--model", choices=tuple(PAPERS), default=MODEL,
                        help="adem_vl (smallest, fastest) or evlm (gated cross-attention)")  # fmt: skip
    add_bases(parser, required=False)
    parser.add_argument("--from-checkpoint", help="begin with the adapter of this checkpoint, a folder or a Hub id")
    parser.add_argument("--data", nargs="+", action=Several, default=["openmoji"],
                        help=f"{', '.join(NAMED)} (default: openmoji); a folder of images with metadata.jsonl, "
                             "metadata.csv or a folder per class; parquet, CSV, JSON or tar files (webdataset); what "
                             "save_to_disk wrote; a folder of ScienceQA or of COCO; a .json file of LLaVA-style "
                             "conversations or of Alpaca's instructions; user/set or user/set:config on the Hub; "
                             "several are mixed")  # fmt: skip
    add_columns(parser)
    parser.add_argument("--weights", nargs="+", action=Several, type=float, default=[], metavar="X",
                        help="one for each of --data: how often its samples come in an epoch, e.g. 1 0.5 (default: all "
                             "once); of streams, how often relative to the others")  # fmt: skip
    parser.add_argument("--streaming", action="store_true", help="read --data as it is needed, e.g. from the Hub; the "
                        "number of --max-steps is needed")  # fmt: skip
    parser.add_argument("--shuffle-buffer", type=positive, metavar="N",
                        help="rows of a stream that are shuffled together (default: 1000)")  # fmt: skip
    parser.add_argument("--eval-data", nargs="+", action=Several, default=[],
                        help="held-out data, named as for --data: their loss is logged. Their test split is taken, or "
                             "else val, validation or train, never what is trained on")  # fmt: skip
    parser.add_argument("--eval-steps", type=positive, help="steps between two evaluations (default: a tenth of all)")
    parser.add_argument("--eval-task", choices=TASKS, help="answer --eval-data at each evaluation, and log the scores "
                        "of this task")  # fmt: skip
    parser.add_argument("--best", metavar="METRIC", help="keep the checkpoint that is best by this: loss, or one of "
                        "the scores of --eval-task, e.g. caption_exact_match")  # fmt: skip
    parser.add_argument("--patience", type=positive, metavar="N",
                        help="stop after N evaluations that are not better by --best")  # fmt: skip
    add_image_folder(parser)
    parser.add_argument("--each-turn-alone", action="store_true",
                        help="train each turn of a conversation alone, as ADEM-VL's authors do")  # fmt: skip
    add_scienceqa(parser)
    parser.add_argument("--train-size", type=positive, help="number of samples drawn from the OpenMoji data sets")
    parser.add_argument("--output-dir", type=Path, required=True, help="where checkpoints and the adapter go")
    parser.add_argument("--epochs", type=positive_number, default=1.0,
                        help="passes over the data, such as 0.5 (default: 1)")  # fmt: skip
    parser.add_argument("--max-steps", type=positive, default=-1, help="stop after so many steps")
    parser.add_argument("--batch-size", type=positive, default=32,
                        help="samples that a process takes at a time (default: 32)")  # fmt: skip
    parser.add_argument("--recipe", choices=("fitted", "paper"), default="fitted",
                        help="fitted: settings that suit the sizes of the models; paper: the authors', for 7B "
                             "models (default: fitted)")  # fmt: skip
    parser.add_argument("--learning-rate", type=positive_number, help="peak (default: from --recipe)")
    parser.add_argument("--cache-features", type=Path, metavar="DIR",
                        help="run the vision tower once for each image, and keep its features in this folder for later "
                             "epochs and runs; nothing in the tower may train (--vision-adapter-dim 0)")  # fmt: skip
    parser.add_argument("--max-length", type=positive, help="longest sample in tokens; a longer one is an error")
    parser.add_argument("--seed", type=int, default=42,
                        help="of the adapter's first weights and the order of the samples (default: 42)")  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"),
                        help="of the frozen models (default: the fastest here)")  # fmt: skip
    add_bits(parser)
    parser.add_argument("--attn-implementation", help="eager, sdpa, flash_attention_2 (default: the fastest here)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    again.add_argument(
        "--overwrite", action="store_true", help="delete the run in the output folder and start from the beginning"
    )
    parser.add_argument("--report-to", nargs="+", action=Several, metavar="NAME",
                        help="where metrics go besides log.jsonl: tensorboard, wandb, trackio, ...")  # fmt: skip
    parser.add_argument("--set", nargs="+", action=Several, type=key_value, default=[], metavar="KEY=VALUE",
                        help="any other TrainingArguments field, e.g. save_steps=100 logging_steps=10")  # fmt: skip
    add_config_flags(parser)


def check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is imported.

    Args:
        args (argparse.Namespace): The parsed arguments.

    Raises:
        ValueError: A name or a path is wrong, or a flag belongs to the other model.
    """
    config_fields(args, args.model)
    check_output_folder(args)
    cache = args.cache_features  # one that is there may be somebody's who lets it be read alone
    check_output("--cache-features", None if cache is None or cache.is_dir() else cache / "features.json")
    for name in (*args.data, *args.eval_data):
        check_name(name)
    for flag in ("eval_steps", "eval_task", "best"):
        if getattr(args, flag) and not args.eval_data:
            raise ValueError(f"--{flag.replace('_', '-')} needs --eval-data, the data to evaluate on")
    if args.patience and not args.best:
        raise ValueError("--patience needs --best, which says what has to get better")
    if args.best not in (None, "loss") and not args.eval_task:
        raise ValueError(f"--best {args.best} needs --eval-task, which computes it; without, only loss is known")
    if args.weights and (len(args.weights) != len(args.data) or min(args.weights) <= 0):
        raise ValueError(f"--weights {args.weights}: give a number above 0 for each of --data {' '.join(args.data)}")
    given, data = given_flags(args, _defaults()), {*args.data, *args.eval_data}
    if not data & {*NAMED}:
        refuse_flags(given & {"train_size"}, args, f"is for {', '.join(NAMED)}, and other data are taken whole")
    if data <= {*NAMED}:
        refuse_flags(given & NO_EFFECT.keys(), args, f"has no effect on {' '.join(args.data)}")
    if args.shuffle_buffer is not None and not args.streaming:
        raise ValueError("--shuffle-buffer is for --streaming; other data are shuffled as a whole")
    if args.streaming and args.max_steps <= 0:
        raise ValueError("--streaming needs --max-steps: a stream has no length, so that nobody knows its epochs")
    check_adapter("--from-checkpoint", args.from_checkpoint)
    if args.from_checkpoint and (brought := [*config_fields(args, args.model)]):
        raise ValueError(f"--from-checkpoint brings {brought[0]}; leave the flag out, or train a new adapter")
    check_there("--image-folder", args.image_folder and Path(args.image_folder))
    check_there("the language model", args.language_model)
    check_there("the vision tower", args.vision_tower)
    for key, _ in args.set:
        if key in FLAG_OF_FIELD:
            raise ValueError(f"--set {key}: use {FLAG_OF_FIELD[key]}")


def _defaults() -> argparse.Namespace:
    """Return the values of flags that are not given."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--output-dir", ""])


def run(args: argparse.Namespace) -> None:
    """Train an adapter and save it, its processor, its card and a report.

    Args:
        args (argparse.Namespace): The parsed arguments.
    """
    from transformers import EarlyStoppingCallback, set_seed

    from ..feature_cache import FeatureCache
    from ..files import write_json
    from ..hub.model_card import write_model_card
    from ..report import REPORT, ForgetsReport, write_report
    from ..training import build_trainer, train, training_arguments
    from ..training_fields import refuse
    from ..whole_checkpoints import checkpoints
    from ..workers import default_workers
    from .run_line import SaysWhatIsTrained, what_is_kept

    fields_set = {"dataloader_num_workers": default_workers(args.streaming), **_evaluation(args), **dict(args.set)}
    if fields_set["dataloader_num_workers"]:
        # a tokenizer whose threads have run says so in each process that is forked later
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _check_set(dict(args.set))
    _check_report_to(args.report_to or ())
    refuse(fields_set, None if args.from_checkpoint else args.model)
    dataset, held_out, seen = training_data(args, _defaults())
    set_seed(args.seed)
    model, processor = _model(args)
    if args.cache_features:
        FeatureCache(args.cache_features).attach(model)
    metrics = _metrics(args, processor, held_out)
    if metrics is not None:
        model.generation_config.max_new_tokens = ANSWER_LENGTH
    arguments = training_arguments(
        args.output_dir,
        samples=None if args.streaming else len(dataset),
        batch_size=args.batch_size,
        epochs=args.epochs,
        max_steps=args.max_steps,
        learning_rate=args.learning_rate,
        model=model if args.recipe == "fitted" else None,
        seed=args.seed,
        **fields_set,
    )
    trainer = build_trainer(
        model, processor, dataset, arguments, args.max_length, eval_dataset=held_out, compute_metrics=metrics,
        callbacks=[SaysWhatIsTrained(seen), ForgetsReport(),
                   *([EarlyStoppingCallback(args.patience)] if args.patience else [])],
    )  # fmt: skip
    is_first = trainer.is_world_process_zero()
    chosen = None if args.vision_tower or args.from_checkpoint else _tower_for(args.data)
    if is_first and chosen == "embedded-dinov2":
        say("adem-vl train: the vision tower is embedded-dinov2, a DINOv2-small. The small CLIP that ships, "
            "--vision-tower embedded, is faster but has only seen drawings of things.", sys.stderr)  # fmt: skip
    if args.overwrite and is_first:
        remove_run(args.output_dir)
    began_at = next(iter(checkpoints(args.output_dir)), 0) if args.resume else 0
    before, data = note_data(args, began_at) if is_first else ([], [])
    facts = train(trainer, processor, args.resume)
    if not is_first:
        return
    if began_at == trainer.state.global_step and (args.output_dir / REPORT).is_file():
        write_json(args.output_dir / DATA_FILE, {"data": before or data})
        say(f"nothing was left to do: the run in {args.output_dir} had ended at step {began_at}; a larger "
            "--max-steps or --epochs goes on with it")  # fmt: skip
        return
    write_model_card(args.output_dir, data=data)
    samples = dataset if held_out is None else held_out
    are_held_out = held_out is not None and not any(part.is_trained_on for part in seen)
    report = write_report(args.output_dir, trainer.model, processor, samples, facts, sys.argv, data, are_held_out)
    if kept := what_is_kept(trainer.state, args.best):
        say(f"adem-vl train: {kept}", sys.stderr)
    say(f"trained {facts['trained_numbers']:,} parameters in {facts['seconds']} s; saved in {args.output_dir}; "
        f"{report} shows the run")  # fmt: skip


def what_is_left(args: argparse.Namespace) -> str:
    """Say what an interrupted run goes on from.

    Args:
        args (argparse.Namespace): The parsed arguments.

    Returns:
        The rest of the sentence that says that it was interrupted.
    """
    from ..whole_checkpoints import checkpoints

    newest = next(iter(checkpoints(args.output_dir)), None)
    return ", before a checkpoint was saved" if newest is None else f"; --resume goes on from checkpoint-{newest}"


def _tower_for(data: list[str]) -> str:
    """Choose the vision tower where none is named: the one that ships has only seen drawings."""
    return "embedded" if all(name.startswith("openmoji") for name in data) else "embedded-dinov2"


def _model(args: argparse.Namespace) -> tuple[Any, Any]:
    """Load the checkpoint to begin with, or build a model with a fresh adapter."""
    from ..loading import arguments_for_bits, build_model, load_checkpoint
    from ..precision import fastest_setting

    setting = fastest_setting()
    setting |= {"dtype": args.dtype} if args.dtype else {}
    setting |= {"attn_implementation": args.attn_implementation} if args.attn_implementation else {}
    setting |= arguments_for_bits(args.bits, setting["dtype"])
    places = {
        "text_model_revision": args.language_model_revision,
        "text_model_subfolder": args.language_model_subfolder,
        "vision_model_revision": args.vision_tower_revision,
        "vision_model_subfolder": args.vision_tower_subfolder,
    }
    if args.from_checkpoint:  # whose configuration has places of its own
        given = {field: place for field, place in places.items() if place is not None}
        model, processor = load_checkpoint(args.from_checkpoint, **moved_bases(args), **given, **setting)
        if args.model not in (MODEL, model.config.model_type):
            raise ValueError(f"--model {args.model}: {args.from_checkpoint} is of {model.config.model_type}")
        return model, processor
    return build_model(
        args.language_model or "embedded",
        args.vision_tower or _tower_for(args.data),
        args.model,
        **places,
        **setting,
        **config_fields(args, args.model),
    )


def _metrics(args: argparse.Namespace, processor: Any, held_out: Any) -> Any:
    """Make what scores the answers to the held-out data, or None without --eval-task.

    Raises:
        ValueError: The task has no metric of the name that --best gives.
    """
    if args.eval_task is None:
        return None
    from ..evaluation.in_training import answer_metrics, metric_names

    if args.best not in (None, "loss") and args.best not in (known := metric_names(held_out, args.eval_task)):
        raise ValueError(f"--best {args.best}: --eval-task {args.eval_task} has loss, {', '.join(known)}")
    return answer_metrics(processor, held_out, args.eval_task)


def _evaluation(args: argparse.Namespace) -> dict[str, Any]:
    """The training arguments of what is measured and reported between steps."""
    fields: dict[str, Any] = {"report_to": args.report_to} if args.report_to else {}
    if args.eval_data:
        steps = args.eval_steps or 0.1  # less than 1: a part of all steps
        fields |= {"eval_strategy": "steps", "eval_steps": steps}
        if args.eval_task:
            fields |= {"predict_with_generate": True}
        if args.best:
            fields |= {"save_strategy": "steps", "save_steps": steps, "load_best_model_at_end": True}
            fields |= {"metric_for_best_model": args.best, "greater_is_better": args.best != "loss"}
    return fields


def _check_report_to(names: Sequence[str]) -> None:
    """Refuse a name that is none of the services that Transformers reports to."""
    from transformers.integrations import INTEGRATION_TO_CALLBACK

    from ..modeling.arguments import nearest

    known = ["none", "all", *INTEGRATION_TO_CALLBACK]
    for name in names:
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"--report-to {name}: Transformers reports to no such service; {hint}")


def _check_set(values: dict[str, Any]) -> None:
    """Refuse a name that is no field of ``TrainingArguments``, and what is not the kind of number that one takes."""
    from transformers import TrainingArguments

    from ..modeling.arguments import nearest

    known, hints = [field.name for field in fields(TrainingArguments)], get_type_hints(TrainingArguments)
    for key, value in values.items():
        if key not in known:
            near = nearest(key, known)
            hint = f"; did you mean {near}?" if near else ""
            raise ValueError(f"--set {key}: TrainingArguments has no such field{hint}")
        types = {*(get_args(hints[key]) or (hints[key],))} - {type(None)}
        if isinstance(value, str) and types <= {int, float, bool}:
            raise ValueError(f"--set {key}={value}: it takes {'true or false' if types == {bool} else 'a number'}")
        if isinstance(value, float) and types == {int}:
            raise ValueError(f"--set {key}={value}: it takes a whole number")
