"""Running a model over a data set: greedy answers in batches, written to a prediction file as they come."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from accelerate.utils import gather_object
from torch.utils.data import Dataset
from tqdm import tqdm

from ..data.sample import Sample, Shown, processor_arguments, without_marks
from ..files import write_text
from .picture_sources import ImageSource, donors_of, shown, sources_of
from .predictions import Prediction, PredictionFile, part_of, processes, read_predictions, take_in_parts
from .score import score


def predict(
    model: Any,
    processor: Any,
    dataset: Dataset[Sample],
    *,
    output: str | os.PathLike[str],
    batch_size: int = 16,
    max_new_tokens: int = 32,
    images: ImageSource = "true",
    progress: bool = True,
) -> list[Prediction]:
    """Greedy answers to every sample of a data set, in its order.

    If ``output`` already holds predictions of this data set, only the missing ones are made: give every model a file of
    its own. Of several processes (torchrun, ``accelerate launch``) each answers its share of the batches; together they
    leave the one file, and all get its rows.

    Args:
        model: a model with ``generate``; put into evaluation mode meanwhile.
        processor: makes the model's inputs of ``images`` and ``text``, padded on the left.
        dataset: samples with ids of their own; drawn batch by batch.
        output: the prediction file (JSON lines) to write or go on with.
        batch_size: samples per call of ``generate``.
        max_new_tokens: longest answer, in tokens.
        images: what the model sees: "true" = the sample's pictures; "shuffled" = those of another sample, the same
            one in every run; "none" = nothing, and no marks in the prompt. Accuracy with the last two is what text
            alone gives. "shuffled_frames" (of videos) and "swapped_images" (of several pictures) = the sample's own in
            another order, see ``shown``. Samples without an image stay without.
        progress: shows a progress bar on stderr.

    Returns:
        One row per sample, as in the file.

    Raises:
        ValueError: a bad argument, two samples with one id, fewer than two images to shuffle, a sample without what
            ``images`` asks for, or an ``output`` that holds predictions of other samples or with another choice of
            ``images``.
    """
    if batch_size < 1 or max_new_tokens < 1:
        raise ValueError(f"batch_size {batch_size} and max_new_tokens {max_new_tokens}: both must be at least 1")
    if images not in get_args(ImageSource):
        raise ValueError(f"images {images!r}: choose one of {', '.join(get_args(ImageSource))}")
    size = len(dataset)  # type: ignore[arg-type]  # torch's Dataset promises no length, ours have one
    donors = donors_of(size) if images == "shuffled" else []
    output, state = Path(output), processes()
    if state.is_main_process:
        take_in_parts(output)  # of a run of several processes that was stopped
    state.wait_for_everyone()
    before = _read(output) if output.exists() else {}
    _check_output(output, before, dataset, size)
    path = output if state.num_processes == 1 else part_of(output, state.process_index)
    starts = range(batch_size * state.process_index, size, batch_size * state.num_processes)
    ids: dict[str, int] = {}  # the place of every sample of this process's share
    bar = tqdm(total=sum(min(batch_size, size - start) for start in starts), unit="sample",
               disable=not progress or not state.is_main_process)  # fmt: skip
    with PredictionFile(path) as file, bar:
        file.rows |= before
        for start in starts:
            batch = [(index, dataset[index]) for index in range(start, min(start + batch_size, size))]
            for index, sample in batch:
                if sample["id"] in ids:
                    raise ValueError(f"two samples have the id {sample['id']!r}; predictions are kept by id")
                ids[sample["id"]] = index
            todo = [(index, sample) for index, sample in batch if not _is_done(sample, file, images)]
            if todo:
                pictures = [shown(dataset, index, sample, images, donors) for index, sample in todo]
                prompts = [without_marks(s["prompt"]) if images == "none" else s["prompt"] for _, s in todo]
                answers = generate_answers(model, processor, pictures, prompts, max_new_tokens)
                for (_, sample), answer in zip(todo, answers, strict=True):
                    file.append(prediction_row(sample, answer, images))
            bar.update(len(batch))
    if state.num_processes == 1:
        return [file.rows[sample_id] for sample_id in ids]
    return _together(output, ids, size, state)


def _together(output: Path, ids: dict[str, int], size: int, state: Any) -> list[Prediction]:
    """The rows of all processes in the data set's order, in ``output`` too."""
    places = dict(gather_object(list(ids.items())))  # waits for every process
    if len(places) < size:
        raise ValueError(f"{size} samples have {len(places)} different ids; predictions are kept by id")
    if state.is_main_process:
        take_in_parts(output)
        rows = _read(output)
        ordered = [rows[sample_id] for sample_id in sorted(places, key=lambda sample_id: places[sample_id])]
        write_text(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered))
    state.wait_for_everyone()
    return read_predictions(output)


def _read(output: Path) -> dict[str, Prediction]:
    return {row["id"]: row for row in read_predictions(output)}


@torch.inference_mode()
def generate_answers(
    model: Any, processor: Any, pictures: Sequence[Shown], prompts: list[str], max_new_tokens: int
) -> list[str]:
    """Greedy answers to a batch of prompts, stripped; the model is in evaluation mode meanwhile."""
    inputs = processor(**processor_arguments(pictures), text=prompts, return_tensors="pt")
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    training = model.training
    model.eval()
    try:
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
    finally:
        model.train(training)
    new_tokens = output[:, inputs["input_ids"].shape[1] :]  # [B, at most max_new_tokens]
    return [text.strip() for text in processor.batch_decode(new_tokens, skip_special_tokens=True)]


def prediction_row(sample: Sample, answer: str, images: ImageSource = "true") -> Prediction:
    """The line of a prediction file for an answer to a sample."""
    row = Prediction(id=sample["id"], kind=sample["kind"], prediction=answer, references=sample["references"])
    if "choices" in sample:
        row["choices"] = sample["choices"]
    if images != "true":
        row["images"] = images
    return row


def _check_output(output: Path, rows: dict[str, Prediction], dataset: Dataset[Sample], size: int) -> None:
    """A file of this data set holds no more rows than it has samples, and one of the first (processes stop apart)."""
    if rows and (size < len(rows) or not any(dataset[index]["id"] in rows for index in range(size))):
        raise ValueError(f"{output} holds predictions of another data set; remove it or choose another file")


def _is_done(sample: Sample, file: PredictionFile, images: ImageSource) -> bool:
    row = file.rows.get(sample["id"])
    if row is None:
        return False
    expected = prediction_row(sample, "", images)
    if any(row.get(key) != expected.get(key) for key in ("kind", "references", "choices", "images")):
        raise ValueError(
            f"{file.path}: the prediction of sample {sample['id']!r} was made for another question or other images; "
            "remove the file or choose another one"
        )
    return True


def evaluate_with_controls(
    model: Any,
    processor: Any,
    datasets: Mapping[str, Dataset[Sample]],
    folder: str | os.PathLike[str],
    *,
    batch_size: int = 32,
    max_new_tokens: int = 20,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Scores by data set and by what the model saw (``"true"``, ``"shuffled"``, ``"none"``; with videos
    also ``"shuffled_frames"``, with several pictures ``"swapped_images"``).

    Args:
        datasets: task name (see ``scoring.TASKS``) -> test set.
        folder: where the prediction files go; an interrupted evaluation goes on from them.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for task, dataset in datasets.items():
        scores[task] = {}
        for images in sources_of(dataset):
            rows = predict(
                model,
                processor,
                dataset,
                output=folder / f"{task}-{images}.jsonl",
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                images=images,  # type: ignore[arg-type]
            )
            scores[task][images] = score(task, rows)
    return scores
