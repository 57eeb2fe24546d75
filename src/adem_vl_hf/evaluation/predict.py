"""Runs a model over a data set: greedy answers in batches, written to a prediction file as they come."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from accelerate.utils import gather_object
from torch.utils.data import Dataset
from tqdm import tqdm

from ..data.sample import Chat, Sample, Shown, images_of, opened, processor_arguments, without_marks
from ..files import write_text
from ..modes import evaluating
from .image_conditions import ImageCondition, choose_images, conditions_of, donors_of
from .made_with import REMEDY, asked_digest, check_made_with, model_digest
from .predictions import Prediction, PredictionFile, line_of, part_of, processes, read_predictions, take_in_parts
from .score import score

logger = logging.getLogger("adem_vl_hf")


def predict(
    model: Any,
    processor: Any,
    dataset: Dataset[Sample],
    *,
    output: str | os.PathLike[str],
    batch_size: int = 16,
    max_new_tokens: int = 32,
    images: ImageCondition = "true",
    progress: bool = True,
) -> list[Prediction]:
    """Answer every sample of a data set greedily, in its order.

    Of a sample with several turns, the last one is asked: of a chat with the true turns before it, of several questions
    alone. ``EachTurn(dataset, "history")`` makes a sample of each turn.

    If ``output`` already has predictions of this model for this data set, only the missing ones are made. Each row
    notes what made it, so that every model needs a file of its own. With several processes (torchrun, ``accelerate
    launch``) each process answers its share of the batches. Together they write the one file, and all of them return
    its rows.

    Args:
        model (Any): A model with ``generate``. It is in evaluation mode during the call and then as it was.
        processor (Any): Its processor, which pads on the left.
        dataset (Dataset[Sample]): The samples, with unique ids. They are drawn batch by batch.
        output (str | os.PathLike[str]): The prediction file (JSON Lines) to write or to continue.
        batch_size (int): The number of samples per call of ``generate``.
        max_new_tokens (int): The greatest length of an answer, in tokens.
        images (ImageCondition): The images that the model is shown. "true" shows the sample's own. "shuffled" shows
            those of another sample, the same one in every run. "none" shows nothing and removes the marks from the
            prompt. Accuracy under the last two is what text alone gives. "shuffled_frames" (of videos) and
            "swapped_images" (of several images) show the sample's own in another order.
        progress (bool): Whether to show a progress bar on stderr.

    Returns:
        One row per sample, as in the file.

    Raises:
        ValueError: An argument is not valid, two samples have one id, there are fewer than two images to shuffle, a
            sample lacks what ``images`` needs, or ``output`` has predictions of another model or other samples, with
            another ``max_new_tokens`` or under another condition.
    """
    if batch_size < 1 or max_new_tokens < 1:
        raise ValueError(f"batch_size {batch_size} and max_new_tokens {max_new_tokens}: both must be at least 1")
    if images not in get_args(ImageCondition):
        raise ValueError(f"images {images!r}: choose one of {', '.join(get_args(ImageCondition))}")
    size = len(dataset)  # type: ignore[arg-type]  # torch's Dataset promises no length, ours have one
    donors = donors_of(size) if images == "shuffled" else []
    output, state = Path(output), processes()
    if state.is_main_process:
        take_in_parts(output)  # of an earlier run with several processes that was stopped
    state.wait_for_everyone()
    before = _read(output) if output.exists() else {}
    _check_output(output, before, dataset, size)
    made_with = {"model": model_digest(model), "max_new_tokens": max_new_tokens}
    unknown = check_made_with(output, before.values(), made_with)
    if unknown and state.is_main_process:
        logger.warning(
            f"{output}: {unknown} of its predictions do not note which model made them, as those of earlier versions; "
            "they are kept as they are"
        )
    path = output if state.num_processes == 1 else part_of(output, state.process_index)
    starts = range(batch_size * state.process_index, size, batch_size * state.num_processes)
    indices: dict[str, int] = {}  # the index of every sample of this process by its id
    bar = tqdm(total=sum(min(batch_size, size - start) for start in starts), unit="sample",
               disable=not progress or not state.is_main_process)  # fmt: skip
    with PredictionFile(path) as file, bar:
        file.rows |= before
        for start in starts:
            batch = [(index, dataset[index]) for index in range(start, min(start + batch_size, size))]
            if images != "none":
                batch = [(index, _opened(sample)) for index, sample in batch]
            for index, sample in batch:
                if sample["id"] in indices:
                    raise ValueError(f"two samples have the id {sample['id']!r}; predictions are kept by id")
                indices[sample["id"]] = index
            todo = [(index, sample) for index, sample in batch if not _is_done(sample, file, images)]
            if todo:
                rows = [choose_images(dataset, index, sample, images, donors) for index, sample in todo]
                prompts = [asked(sample, with_marks=images != "none") for _, sample in todo]
                answers = generate_answers(model, processor, rows, prompts, max_new_tokens)
                for (_, sample), answer in zip(todo, answers, strict=True):
                    row = prediction_row(sample, answer, images)
                    row["made_with"] = made_with | {"asked": _asked(sample, images)}
                    file.append(row)
            bar.update(len(batch))
    if state.num_processes == 1:
        return [file.rows[sample_id] for sample_id in indices]
    return _merge(output, indices, size, state)


def asked(sample: Sample, with_marks: bool = True) -> str | Chat:
    """Return what a sample asks.

    Args:
        sample (Sample): The sample.
        with_marks (bool): Whether the marks of images and videos stay in the text.

    Returns:
        The prompt; of a chat, all that stands before its last answer.
    """
    prompt: str | Chat = sample["prompt"]
    if "messages" in sample:
        messages = sample["messages"]
        prompt = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    return prompt if with_marks else without_marks(prompt)


def _merge(output: Path, indices: dict[str, int], size: int, state: Any) -> list[Prediction]:
    """Collect the rows of all processes in ``output``, in the order of the data set, and return them."""
    all_indices = dict(gather_object(list(indices.items())))  # waits for every process
    if len(all_indices) < size:
        raise ValueError(f"{size} samples have {len(all_indices)} different ids; predictions are kept by id")
    if state.is_main_process:
        take_in_parts(output)
        rows = _read(output)
        ordered = [rows[sample_id] for sample_id in sorted(all_indices, key=lambda sample_id: all_indices[sample_id])]
        write_text(output, "".join(line_of(row) + "\n" for row in ordered))
    state.wait_for_everyone()
    return read_predictions(output)


def _read(output: Path) -> dict[str, Prediction]:
    return {row["id"]: row for row in read_predictions(output)}


def _check_output(output: Path, rows: dict[str, Prediction], dataset: Dataset[Sample], size: int) -> None:
    """Refuse a file of another data set.

    A file of this one has no more rows than there are samples. It has a row of one of the first samples, though not
    always of the very first, because several processes stop at different samples.
    """
    if rows and (size < len(rows) or not any(dataset[index]["id"] in rows for index in range(size))):
        raise ValueError(f"{output} holds predictions of another data set; remove it or choose another file")


def _is_done(sample: Sample, file: PredictionFile, images: ImageCondition) -> bool:
    """Tell whether the file has the prediction of a sample, and refuse one that was made in another way."""
    row = file.rows.get(sample["id"])
    if row is None:
        return False
    expected = prediction_row(sample, "", images)
    is_same = all(row.get(key) == expected.get(key) for key in ("kind", "references", "choices", "images"))
    if not is_same or ("made_with" in row and row["made_with"].get("asked") != _asked(sample, images)):
        raise ValueError(
            f"{file.path}: the prediction of sample {sample['id']!r} was made for another question or other images; "
            f"{REMEDY}"
        )
    return True


def _opened(sample: Sample) -> Sample:
    """Return a sample with images that are open, so that they are compared and shown without being opened twice."""
    shown = opened(images_of(sample), sample["id"])
    if shown.field is None:
        return sample
    return sample | {shown.field: shown.images[0] if shown.field == "image" else list(shown.images)}  # type: ignore[return-value]


def _asked(sample: Sample, images: ImageCondition) -> str:
    """Name what a sample asks and shows. Another sample's images, which it may be shown, are in the other's name."""
    return asked_digest(asked(sample, with_marks=images != "none"), Shown() if images == "none" else images_of(sample))


@torch.inference_mode()
def generate_answers(
    model: Any, processor: Any, rows: Sequence[Shown], prompts: Sequence[str | Chat], max_new_tokens: int
) -> list[str]:
    """Answer a batch of prompts greedily.

    Args:
        model (Any): A model with ``generate``. It is in evaluation mode during the call and then as it was.
        processor (Any): Its processor, which pads on the left.
        rows (Sequence[Shown]): The images of each of the B rows.
        prompts (Sequence[str | Chat]): The B prompts, each a text or the messages of a chat.
        max_new_tokens (int): The greatest length of an answer, in tokens.

    Returns:
        The B answers, without surrounding spaces.
    """
    return generate_texts(model, processor, processor_arguments(rows), prompts, max_new_tokens=max_new_tokens)


def generate_texts(
    model: Any,
    processor: Any,
    shown: Mapping[str, Any],
    prompts: Sequence[str | Chat],
    *,
    max_new_tokens: int,
    num_beams: int = 1,
) -> list[str]:
    """Continue a batch of prompts with the most probable text.

    Args:
        model (Any): A model with ``generate``. It is in evaluation mode during the call and then as it was.
        processor (Any): Its processor, which pads on the left.
        shown (Mapping[str, Any]): What the B rows show: the arguments ``images`` or ``videos`` of the processor.
        prompts (Sequence[str | Chat]): The B prompts, each a text or the messages of a chat.
        max_new_tokens (int): The greatest length of a text, in tokens.
        num_beams (int): The number of beams. 1 means greedy search.

    Returns:
        The B texts, without surrounding spaces.
    """
    inputs = processor(**shown, text=list(prompts), return_tensors="pt")
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    with evaluating(model):
        output = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=num_beams,
            # a saved generation_config may ask for several answers or for more than the tokens, and have stop strings
            num_return_sequences=1,
            tokenizer=getattr(processor, "tokenizer", None),
        )
    output = output if isinstance(output, torch.Tensor) else output.sequences
    new_tokens = output[:, inputs["input_ids"].shape[1] :]  # [B, at most max_new_tokens]
    return [text.strip() for text in processor.batch_decode(new_tokens, skip_special_tokens=True)]


def prediction_row(sample: Sample, answer: str, images: ImageCondition = "true") -> Prediction:
    """Make the row of a prediction file for an answer to a sample.

    Args:
        sample (Sample): The sample.
        answer (str): The answer of the model.
        images (ImageCondition): The images that the model was shown.

    Returns:
        The row.
    """
    row = Prediction(id=sample["id"], kind=sample["kind"], prediction=answer, references=sample["references"])
    if "choices" in sample:
        row["choices"] = sample["choices"]
    if images != "true":
        row["images"] = images
    return row


def evaluate_with_controls(
    model: Any,
    processor: Any,
    datasets: Mapping[str, Dataset[Sample]],
    folder: str | os.PathLike[str],
    *,
    batch_size: int = 32,
    max_new_tokens: int = 20,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Score a model on data sets with the samples' own images and under every control that fits.

    Args:
        model (Any): A model with ``generate``.
        processor (Any): Its processor, which pads on the left.
        datasets (Mapping[str, Dataset[Sample]]): The test set of each task. Tasks are those of ``tasks.TASKS``.
        folder (str | os.PathLike[str]): The folder for the prediction files. An interrupted evaluation continues from
            them.
        batch_size (int): The number of samples per call of ``generate``.
        max_new_tokens (int): The greatest length of an answer, in tokens.

    Returns:
        The result of ``score`` by task and image condition: "true", "shuffled" and "none", with videos also
        "shuffled_frames", and with several images also "swapped_images".

    Raises:
        ValueError: As ``predict`` and ``score``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for task, dataset in datasets.items():
        scores[task] = {}
        for images in conditions_of(dataset):
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
