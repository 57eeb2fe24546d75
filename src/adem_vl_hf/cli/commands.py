"""What each command of ``adem-vl`` does, given its parsed arguments."""

import argparse
import difflib
import json
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch.utils.data import ConcatDataset

from ..data import open_dataset
from ..loading import build_model, describe, load_checkpoint, loading_arguments, resolve_vision_tower
from .config_flags import config_fields

OPENMOJI_TASKS = ("openmoji-names", "openmoji-scenes", "openmoji-videos", "openmoji-pairs")
# ADEM-VL's authors do not clip; EVLM's gradients jump while its gates open
CLIPPING: dict[str, dict[str, Any]] = {"adem_vl": {}, "evlm": {"max_grad_norm": 1.0}}
TEST_SIZE = 1000  # samples of a drawn test set
# fields of TrainingArguments that have a flag of their own, from which more follows than the field alone
FLAG_OF_FIELD = {
    "output_dir": "--output-dir",
    "num_train_epochs": "--epochs",
    "max_steps": "--max-steps",
    "per_device_train_batch_size": "--batch-size",
    "learning_rate": "--learning-rate",
    "seed": "--seed",
}


def train(args: argparse.Namespace) -> None:
    """Train an adapter and save it, its processor and its card."""
    from transformers import set_seed

    from ..hub.model_card import write_model_card
    from ..training import build_trainer, fastest_setting, training_arguments
    from ..training import train as run

    if args.output_dir.is_file():
        raise ValueError(f"--output-dir {args.output_dir} is a file; name a folder")
    _check_set(dict(args.set))
    model_fields = config_fields(args, args.model)  # before anything is loaded
    parts = [
        open_dataset(
            name, "train", args.train_size, args.seed, args.image_folder, args.prompt_format, args.use_captions
        )
        for name in args.data
    ]
    dataset = parts[0] if len(parts) == 1 else ConcatDataset(parts)
    setting = fastest_setting()
    setting |= {"dtype": args.dtype} if args.dtype else {}
    setting |= {"attn_implementation": args.attn_implementation} if args.attn_implementation else {}
    setting |= loading_arguments(args.bits, setting["dtype"])
    set_seed(args.seed)
    model, processor = build_model(
        args.language_model,
        args.vision_tower,
        args.model,
        text_model_revision=args.language_model_revision,
        vision_model_revision=args.vision_tower_revision,
        **setting,
        **model_fields,
    )
    arguments = training_arguments(
        args.output_dir,
        samples=len(dataset),  # type: ignore[arg-type]
        batch_size=args.batch_size,
        epochs=args.epochs,
        max_steps=args.max_steps,
        learning_rate=args.learning_rate,
        seed=args.seed,
        **{**CLIPPING[args.model], **dict(args.set)},
    )
    trainer = build_trainer(model, processor, dataset, arguments, args.max_length)
    facts = run(trainer, processor, args.resume)
    if trainer.is_world_process_zero():
        write_model_card(args.output_dir, data=args.data)
        print(f"trained {facts['trained_numbers']:,} numbers in {facts['seconds']} s; saved in {args.output_dir}")


def _check_set(values: dict[str, Any]) -> None:
    """``--set`` takes fields of ``TrainingArguments`` that no other flag sets."""
    from transformers import TrainingArguments

    known = {field.name for field in fields(TrainingArguments)}
    for key in values:
        if key in FLAG_OF_FIELD:
            raise ValueError(f"--set {key}: use {FLAG_OF_FIELD[key]}")
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"--set {key}: TrainingArguments has no such field{hint}")


def _loaded(args: argparse.Namespace) -> tuple[Any, Any]:
    """Model and processor of the checkpoint, on this process's GPU if there is one."""
    from accelerate import PartialState

    model, processor = load_checkpoint(args.checkpoint, **loading_arguments(args.bits))
    if args.bits is None:  # quantised ones are where they were loaded
        model = model.to(PartialState().device)  # type: ignore[arg-type]  # a module moves itself
    return model, processor


def caption(args: argparse.Namespace) -> None:
    """Print one line per picture or video."""
    from ..data.media import open_video
    from ..modeling.images import open_image

    if not args.images and not args.video:
        raise ValueError("nothing to describe: name picture files, or videos after --video")
    # before the model loads: bad input should fail at once
    pictures: list[tuple[str, str, dict[str, Any]]] = [
        *(("image", path, {"images": [open_image(path)]}) for path in args.images),
        *(("video", path, {"videos": [open_video(path, args.frames)]}) for path in args.video),
    ]
    model, processor = _loaded(args)
    for kind, path, seen in pictures:
        inputs = processor(**seen, text=[args.prompt]).to(model.device)
        ids = model.generate(**inputs, max_new_tokens=args.max_new_tokens, num_beams=args.num_beams, do_sample=False)
        text = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0].strip()
        print(json.dumps({kind: path, "text": text}) if args.json else f"{path}: {text}", flush=True)


def evaluate(args: argparse.Namespace) -> None:
    """Make predictions where none are given, score them, print the scores."""
    from ..evaluation.predictions import processes
    from ..evaluation.score import TASKS, format_scores, score

    if args.harness:
        from ..evaluation.lmms_eval.harness import run_lmms_eval

        scores = run_lmms_eval(args.checkpoint, args.tasks, args.include_path, args.size, args.batch_size, args.output)
        print(json.dumps(scores) if args.json else format_scores(scores))
        return
    if args.task not in TASKS:
        raise ValueError(f"--task {args.task!r} is not one of {', '.join(TASKS)}")
    if args.result_files and (args.task != "mme" or args.predictions):
        raise ValueError("--result-files is for predictions that --task mme makes; leave it out")
    data = args.task if args.task in OPENMOJI_TASKS else args.data
    if data is None and args.predictions is None:
        raise ValueError(f"--task {args.task} needs --predictions to score, or --data to predict on")
    dataset = None
    if args.predictions is None or (args.task == "scienceqa" and data is not None):
        size = TEST_SIZE if args.size is None and args.task in OPENMOJI_TASKS[1:] else args.size
        dataset = open_dataset(data, args.split, size, prompt_format=args.prompt_format, use_captions=args.use_captions)
    problems = args.problems or (getattr(dataset, "problems", None) if args.task == "scienceqa" else None)
    scores = score(args.task, args.predictions or _predictions(args, dataset), problems)
    if processes().is_main_process:
        print(json.dumps(scores) if args.json else format_scores(scores))


def _predictions(args: argparse.Namespace, dataset: Any) -> list[Any]:
    """The rows that the checkpoint's model makes of a data set, kept in --output; of mme the result files, too."""
    from ..data import MME
    from ..evaluation.mme import write_mme_results
    from ..evaluation.predict import predict
    from ..evaluation.predictions import processes

    if args.task == "mme" and not isinstance(dataset, MME):
        raise ValueError(f"--task mme: {args.data} is not MME; give the folder that holds existence, count and so on")
    state = processes()
    if state.num_processes > 1 and args.output is None:
        raise ValueError("several processes write one file of predictions; name it by --output")
    with tempfile.TemporaryDirectory() as scratch:
        model, processor = _loaded(args)
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


def convert(args: argparse.Namespace) -> None:
    """Convert the authors' file and say what was done with every tensor of it."""
    from ..embedded.smollm2 import resolve_language_model
    from ..hub.convert_official import convert_official

    report = convert_official(
        args.official,
        resolve_language_model(args.language_model),
        resolve_vision_tower(args.vision_tower),
        args.output_dir,
        text_model_revision=args.language_model_revision,
        vision_model_revision=args.vision_tower_revision,
        **config_fields(args, "adem_vl"),
    )
    print(report)


def info(args: argparse.Namespace) -> None:
    """Print what a checkpoint is."""
    facts = describe(args.checkpoint)
    if args.json:
        print(json.dumps(facts))
    else:
        width = max(map(len, facts))
        print("\n".join(f"{name:{width}}  {value}" for name, value in facts.items()))
