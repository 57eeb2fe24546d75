"""Writes ``report.html`` beside a trained adapter: curves, sample answers, settings, and the command that made it."""

import base64
import io
import itertools
import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .data.sample import images_of, opened
from .evaluation.metrics import is_right
from .evaluation.predict import asked, generate_answers
from .files import write_json
from .inspection.page import GalleryItem, write_page
from .json_files import read_entries, read_jsonl
from .papers import PAPERS

REPORT = "report.html"
SHOWN = 12  # sample answers
SAMPLES = "samples"  # the folder of them, beside the report
GREY = "#808590"  # readable on white and on black
# what Trainer logs beside losses and metrics
NOT_DRAWN = re.compile(r"epoch|step|grad_norm|total_flos|.*(runtime|per_second|preparation_time)|train_.*")
SECRET = re.compile(r"token|key|password|secret")


def write_report(
    folder: str | os.PathLike[str],
    model: Any,
    processor: Any,
    samples: Any,
    facts: Mapping[str, Any],
    argv: Sequence[str],
    data: Sequence[str] = (),
) -> Path:
    """Write the report of a training. An older one is replaced.

    Args:
        folder (str | os.PathLike[str]): The output folder of the training, with ``log.jsonl``.
        model (Any): The trained model.
        processor (Any): Its processor.
        samples (Any): Samples, twelve of which are answered and shown.
        facts (Mapping[str, Any]): What ``train`` returned.
        argv (Sequence[str]): The words of the command. Values of secrets are left out.
        data (Sequence[str]): The names of the data sets.

    Returns:
        The path of the report.
    """
    folder = Path(folder)
    config = model.config
    gallery = _gallery(model, processor, samples)
    _keep_samples(folder / SAMPLES, gallery)
    return write_page(
        folder / REPORT,
        f"{PAPERS[config.model_type].name}: {folder.resolve().name}",
        kind=config.model_type,
        trainable_parameters=facts["trained_numbers"],
        model={"language model": _name(config.text_model_name_or_path), "data": ", ".join(map(_name, data)),
               "tower": _name(config.vision_model_name_or_path)},
        settings={name: value for name, value in facts.items() if name not in ("seconds", "trained_numbers", "data")},
        seconds={"training": facts["seconds"]},
        metrics={},
        gallery=gallery,
        curves=draw_curves(folder / "log.jsonl"),
        command=command_line(argv),
    )  # fmt: skip


def command_line(argv: Sequence[str]) -> str:
    """Write a command as one types it, without secrets.

    Args:
        argv (Sequence[str]): The words of the command, such as ``hub_token=hf_...``.

    Returns:
        The command.
    """
    pairs = [word.partition("=") for word in argv]
    words = [f"{key}=..." if equals and SECRET.search(key) else key + equals + value for key, equals, value in pairs]
    return shlex.join(words)


def _keep_samples(folder: Path, gallery: Sequence[GalleryItem]) -> None:
    """Write the sample answers into a folder of their own, from which ``push(samples=True)`` takes some."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    rows = []
    for number, item in enumerate(gallery):
        image, name = item.image.convert("RGB"), f"{number}.png"
        image.thumbnail((512, 512))
        image.save(folder / name)
        rows.append(
            {"image": name, "prompt": item.prompt, "answer": item.prediction, "references": list(item.references)}
        )
    write_json(folder / "samples.json", rows)


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """Read the sample answers that lie in a folder.

    Args:
        folder (Path): The output folder of a training, or another one that has some of its samples.

    Returns:
        The image's name in the folder ``samples``, the prompt, the answer and the references of each. The list is empty
        if there are none.

    Raises:
        ValueError: The file is damaged.
    """
    path = folder / SAMPLES / "samples.json"
    return list(read_entries(path, "sample answers")) if path.is_file() else []


def draw_curves(log: Path) -> dict[str, str]:
    """Draw what a training logged: the losses in one plot, and each metric and the learning rate in one of its own.

    Args:
        log (Path): The file ``log.jsonl``.

    Returns:
        The plots as ``data:`` URLs of SVG files, by what they show.
    """
    return {name: _plot(lines) for name, lines in _series(log).items()}


def draw_loss(log: Path, target: Path) -> bool:
    """Draw the losses of a training, black on white.

    Args:
        log (Path): The file ``log.jsonl``.
        target (Path): The PNG file to write.

    Returns:
        Whether there was a loss to draw.
    """
    lines = _series(log).get("loss")
    if lines:
        _figure(lines).savefig(target, format="png", dpi=110, metadata={"Software": None})
    return bool(lines)


def _series(log: Path) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Read what a training logged: the points of each line, by plot and label."""
    series: dict[str, dict[float, float]] = {}  # of a step that a resumed run took again, the last entry counts
    for _, entry in read_jsonl(log) if log.is_file() else ():
        for name, value in entry.items():
            if isinstance(value, int | float) and not NOT_DRAWN.fullmatch(name):
                series.setdefault(name, {})[entry["step"]] = value
    plots: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, points in series.items():
        kind = "loss" if name in ("loss", "eval_loss") else name.removeprefix("eval_").replace("_", " ")
        label = "held-out data" if name.startswith("eval_") else "training"
        plots.setdefault(kind, {})[label] = sorted(points.items())
    return plots


def _plot(lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw one plot on a background that shows through, readable on white and on black."""
    from matplotlib import rc_context

    style: Any = dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color"), GREY)
    with rc_context(style | {"svg.hashsalt": "adem-vl", "svg.fonttype": "none"}):
        figure = _figure(lines)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _figure(lines: Mapping[str, Sequence[tuple[float, float]]]) -> Any:
    """Draw the lines of one plot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 2.8), layout="constrained")
    axes = figure.subplots()
    for colour, (label, points) in zip(itertools.cycle(("#4a78dd", "#d98324")), lines.items(), strict=False):
        axes.plot(*zip(*points, strict=True), color=colour, label=label, marker="o" if len(points) < 30 else None,
                  markersize=3)  # fmt: skip
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axes.legend(frameon=False)
    return figure


def _gallery(model: Any, processor: Any, samples: Any) -> list[GalleryItem]:
    """Answer some samples, from all over the data set if it has a length.

    Several images are shown side by side, and of a video some frames.
    """
    items = []
    if hasattr(samples, "__len__"):
        size = len(samples)
        chosen = (samples[index] for index in range(0, size, max(1, size // SHOWN)))
    else:
        chosen = iter(samples)
    for sample in itertools.islice(chosen, SHOWN):
        shown = opened(images_of(sample), sample["id"])
        (answer,) = generate_answers(model, processor, [shown], [asked(sample)], max_new_tokens=32)
        right = is_right(answer, sample["references"])
        image = _side_by_side(shown.images)
        items.append(GalleryItem(image, sample["prompt"], answer, sample["references"], right))
    return items


def _side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Join images to one; a sample without an image is a grey one."""
    if not images:
        return Image.new("RGB", (96, 96), "#d8d8d8")
    if len(images) == 1:
        return images[0]
    chosen = images[:: -(-len(images) // 4)]
    height = min(image.height for image in chosen)
    parts = [image.resize((max(1, image.width * height // image.height), height)) for image in chosen]
    joined = Image.new("RGB", (sum(part.width for part in parts), height))
    left = 0
    for part in parts:
        joined.paste(part, (left, 0))
        left += part.width
    return joined


def _name(path: str | None) -> str:
    """Return the last part of a path that exists here, and any other name as it is."""
    return "" if path is None else Path(path).name if Path(path).is_absolute() else path
