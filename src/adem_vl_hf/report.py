"""Writes ``report.html`` beside a trained adapter: curves, sample answers, settings, and the command that made it."""

import base64
import io
import itertools
import logging
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from transformers import TrainerCallback

from .data.sample import images_of, opened
from .evaluation.metrics import is_right
from .evaluation.predict import asked, generate_answers
from .feature_cache import is_spread
from .inspection.page import GalleryItem, write_page
from .json_files import LOG, read_jsonl
from .papers import PAPERS
from .sample_answers import keep_samples, remove_samples

logger = logging.getLogger("adem_vl_hf")
REPORT = "report.html"
SHOWN = 12  # sample answers
HELD_OUT, TRAINED_ON = "held-out data", "data that were trained on"
EVALUATION = "evaluation"  # the label of its lines: the data may be trained on
NAMES = {"train_loss": "last training loss", "trained_numbers": "trainable parameters"}
GREY = "#5c626d"  # of axes and texts on white
# no single grey is readable on white and on black
GREYS = f"<style>:root{{--grey:{GREY}}}@media screen and (prefers-color-scheme:dark){{:root{{--grey:#a0a6b1}}}}</style>"
LEAST = 0.01  # where the axis of a metric ends at least, so that rounding errors are not drawn as values
# what Trainer logs beside losses and metrics
NOT_DRAWN = re.compile(r"epoch|step|grad_norm|total_flos|.*(runtime|per_second|preparation_time)|train_.*")
SECRET = re.compile(r"token|key|password|secret", re.IGNORECASE)
# what an address has before its host, and what tokens of the Hub look like
SECRET_PART = re.compile(r"(?<=://)[^/@\s]+(?=@)|\bhf_[A-Za-z0-9]{8,}")
NO_ANSWERS = "none, because FSDP or ZeRO-3 spreads the weights over processes, and one of them writes the report"


def write_report(
    folder: str | os.PathLike[str],
    model: Any,
    processor: Any,
    samples: Any,
    facts: Mapping[str, Any],
    argv: Sequence[str],
    data: Sequence[str] = (),
    are_held_out: bool = False,
) -> Path:
    """Write the report of a training. An older one is replaced.

    It has no sample answers where the weights of the model are spread over processes (``is_spread``), and says so: the
    process that writes it cannot generate without the others.

    Args:
        folder (str | os.PathLike[str]): The output folder of the training, with ``log.jsonl``.
        model (Any): The trained model.
        processor (Any): Its processor.
        samples (Any): Samples, twelve of which are answered and shown where possible.
        facts (Mapping[str, Any]): What ``train`` returned.
        argv (Sequence[str]): The words of the command. Values of secrets are left out.
        data (Sequence[str]): The names of the data sets.
        are_held_out (bool): Whether the samples were not trained on.

    Returns:
        The path of the report.
    """
    folder = Path(folder)
    config = model.config
    settings = readable({name: value for name, value in facts.items() if name != "trained_numbers"})
    if is_spread(model):
        gallery: list[GalleryItem] = []
        settings["sample answers"] = NO_ANSWERS
        logger.warning("sample answers in %s: %s. adem-vl look and adem-vl evaluate answer", REPORT, NO_ANSWERS)
    else:
        gallery = _gallery(model, processor, samples)
        settings["sample answers"] = f"of {HELD_OUT if are_held_out else TRAINED_ON}"
    keep_samples(folder, gallery)
    resumed = facts.get("resumed_at_step")
    training = "training" if resumed is None else f"training after step {resumed:,}"
    return write_page(
        folder / REPORT,
        f"{PAPERS[config.model_type].name}: {folder.resolve().name}",
        kind=config.model_type,
        trainable_parameters=facts["trained_numbers"],
        model={"language model": _name(config.text_model_name_or_path), "data": ", ".join(map(_name, data)),
               "tower": _name(config.vision_model_name_or_path)},
        settings=settings,
        seconds={training: facts["seconds"]},
        metrics={},
        gallery=gallery,
        curves=draw_curves(folder / LOG),
        command=command_line(argv),
    )  # fmt: skip


def readable(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Name the facts of a training as a page shows them.

    Args:
        facts (Mapping[str, Any]): What ``train`` returned.

    Returns:
        The settings among them, without the seconds and the data, which have places of their own.
    """
    shown = {name: value for name, value in facts.items() if name not in ("seconds", "data")}
    if "learning_rate" in shown:
        shown["learning_rate"] = f"{shown['learning_rate']:.3g}"
    if "seed" in shown:
        shown["seed"] = str(shown["seed"])  # a name rather than a number, without separators
    return {NAMES.get(name, name.replace("_", " ")): value for name, value in shown.items()}


def remove_report(folder: Path) -> None:
    """Remove the report of a run and its sample answers.

    Args:
        folder (Path): The output folder of the training.
    """
    remove_samples(folder)
    (folder / REPORT).unlink(missing_ok=True)


class ForgetsReport(TrainerCallback):
    """Removes the report and the sample answers of an earlier run, which show another adapter once a step is taken.

    Before anything is pushed, too: ``Trainer`` pushes the whole folder, and nobody has asked it to publish the samples.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remove them if the training pushes.

        Args:
            args (Any): The training arguments.
            state (Any): The state of the training.
            control (Any): The control flow of the training, which stays as it is.
            **kwargs (Any): The rest of what ``Trainer`` passes, which is ignored.
        """
        self.is_there = True
        if args.push_to_hub:
            self.on_step_begin(args, state, control)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remove them before the first step.

        Args:
            args (Any): The training arguments.
            state (Any): The state of the training.
            control (Any): The control flow of the training, which stays as it is.
            **kwargs (Any): The rest of what ``Trainer`` passes, which is ignored.
        """
        if self.is_there and state.is_world_process_zero:
            remove_report(Path(args.output_dir))
        self.is_there = False


def command_line(argv: Sequence[str]) -> str:
    """Write a command as one types it, without secrets.

    Args:
        argv (Sequence[str]): The words of the command, such as ``hub_token=hf_...``.

    Returns:
        The command.
    """
    pairs = [word.partition("=") for word in argv]
    words = [f"{key}=..." if equals and SECRET.search(key) else key + equals + value for key, equals, value in pairs]
    return shlex.join(SECRET_PART.sub("...", word) for word in words)


def draw_curves(log: Path) -> dict[str, str]:
    """Draw what a training logged: the losses in one plot, and each metric and the learning rate in one of its own.

    The names say how many values are not finite, which no plot can show.

    Args:
        log (Path): The file ``log.jsonl``.

    Returns:
        The plots as ``data:`` URLs of SVG files, by what they show.
    """
    plots = {}
    for name, lines in _series(log).items():
        values = [value for points in lines.values() for _, value in points]
        lost = sum(not math.isfinite(value) for value in values)
        caption = f"{name} ({lost} of {len(values)} values not finite and not drawn)" if lost else name
        plots[caption] = _plot(lines, is_metric=EVALUATION in lines and not name.endswith("loss"))
    return plots


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
        for name, value in entry.items() if "step" in entry else ():  # somebody else may have written into the log
            if isinstance(value, int | float) and not NOT_DRAWN.fullmatch(name):
                series.setdefault(name, {})[entry["step"]] = value
    plots: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, points in series.items():
        kind = "loss" if name in ("loss", "eval_loss") else name.removeprefix("eval_").replace("_", " ")
        label = EVALUATION if name.startswith("eval_") else "training"
        plots.setdefault(kind, {})[label] = sorted(points.items())
    return plots


def _plot(lines: Mapping[str, Sequence[tuple[float, float]]], is_metric: bool) -> str:
    """Draw one plot on a background that shows through, readable on white and on black."""
    from matplotlib import rc_context

    style: Any = dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color"), GREY)
    with rc_context(style | {"svg.hashsalt": "adem-vl", "svg.fonttype": "none"}):
        figure = _figure(lines, is_metric)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue().replace(GREY, "var(--grey)").replace("<defs>", f"{GREYS}<defs>", 1)
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _figure(lines: Mapping[str, Sequence[tuple[float, float]]], is_metric: bool = False) -> Any:
    """Draw the lines of one plot. The axis of a metric begins at 0, unless it has a value below."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5, 2.8), layout="constrained")
    axes = figure.subplots()
    for colour, (label, points) in zip(itertools.cycle(("#4a78dd", "#d98324")), lines.items(), strict=False):
        axes.plot(*zip(*points, strict=True), color=colour, label=label, marker="o" if len(points) < 30 else None,
                  markersize=3)  # fmt: skip
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    drawn = [value for points in lines.values() for _, value in points if math.isfinite(value)]
    if is_metric and drawn and min(drawn) >= 0:
        axes.set_ylim(0, max(LEAST, 1.05 * max(drawn)))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if EVALUATION in lines:
        axes.legend(frameon=False)
    return figure


def _gallery(model: Any, processor: Any, samples: Any) -> list[GalleryItem]:
    """Answer some samples, from all over the data set if it has a length.

    Several images are shown side by side, and of a video some frames.
    """
    items = []
    if hasattr(samples, "__len__"):
        size, number = len(samples), min(len(samples), SHOWN)
        chosen = (samples[place * size // number] for place in range(number))
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
    """Join images to one. For a sample without an image, it is one that says so."""
    if not images:
        nothing = Image.new("RGB", (384, 192), "#d8d8d8")
        ImageDraw.Draw(nothing).text((192, 96), "no image", fill="#3c4048", anchor="mm", font_size=40)
        return nothing
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
