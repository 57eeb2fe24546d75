"""Do ADEM-VL and EVLM use the order of video frames, and of two images? At a small scale. Resumable.

python benchmarks/miniature.py --arms "4 media tokens"  # trains the adapter that EVLM starts from
python benchmarks/moving.py                             # both arms, unless they have a result file
python benchmarks/write_tables.py                       # puts the tables into docs/results.md

Each arm starts from an adapter for single images (ADEM-VL from that on the small CLIP), gets an embedding for each of 8
frames (zero at the start) and trains on clips and on pairs of images. The control is the same clip with its frames in
another order: there, more than half of the yes-or-no answers right would mean a fault in the evaluation."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import tables
from transformers import set_seed

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import OpenMojiPairs, OpenMojiVideos
from adem_vl_hf.data.openmoji.mixture import OpenMojiMixture
from adem_vl_hf.evaluation.metrics import is_right
from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.evaluation.score import score
from adem_vl_hf.loading import CHECKPOINT_ON_CLIP, build_model, load_checkpoint
from adem_vl_hf.training import IN_ORDER, build_trainer, fastest_setting, train, training_arguments

FRAMES, FRAME_EMBEDDING = 8, "adapter.frame_embedding"
STEPS, BATCH_SIZE = 500, 16
# captions say what comes first and what comes last, so they teach the order of frames sooner than yes and no do
SHARES = {
    ("videos", "caption"): 7,
    ("videos", "order"): 5,
    ("videos", "what"): 1,
    ("pairs", "which"): 1,
    ("pairs", "more"): 1,
    ("pairs", "same"): 1,
}


class Arm(NamedTuple):
    """One model.

    Args:
        kind (str): ``"adem_vl"`` or ``"evlm"``.
        start (str | None): the arm of miniature.py whose adapter it starts from; None for the adapter that
            ships on the small CLIP.
        learning_rate (float): the peak.
    """

    kind: str
    start: str | None
    learning_rate: float


# learning rates found by short runs. No clipping: EVLM's gates have the largest gradients, and clipping by them would
# slow all other parameters down
ARMS = {
    "adem_vl": Arm("adem_vl", None, 2e-3),
    "evlm, 4 media tokens": Arm("evlm", "4 media tokens", 1.5e-3),
}
# names as tables show them
LABELS = {"adem_vl": "ADEM-VL", "evlm, 4 media tokens": "EVLM, 4 media tokens"}
# test set -> the two ways in which its samples are shown
SOURCES = {"openmoji-videos": ("true", "shuffled_frames"), "openmoji-pairs": ("true", "swapped_images")}


def test_sets() -> dict[str, Any]:
    """Samples of combinations that no training sample has; 320 ask for the order, all events and answers equally often.

    Returns:
        The data set by its name.
    """
    videos = ("order", "order", "what", "caption")
    return {
        "openmoji-videos": OpenMojiVideos("test", size=640, kinds=videos, frames=FRAMES),
        "openmoji-pairs": OpenMojiPairs("test", size=240, kinds=("which", "more", "same")),
    }


def order_by_family(videos: OpenMojiVideos, rows: list[Any]) -> dict[str, dict[str, Any]]:
    """Accuracy of questions about the order of frames.

    Args:
        videos (OpenMojiVideos): the data set that was asked.
        rows (list[Any]): the predictions.

    Returns:
        ``accuracy`` and ``n`` for each family of events and form of question.
    """
    right: dict[str, list[bool]] = {}
    for row in rows:
        if row["kind"] == "order":
            clip, *_ = videos.clip(int(row["id"].rsplit("-", 1)[1]))
            form = "yes or no" if row["choices"] == ["yes", "no"] else "which of two"
            right.setdefault(f"{clip.family}, {form}", []).append(is_right(row["prediction"], row["references"]))
    return {key: {"accuracy": sum(values) / len(values), "n": len(values)} for key, values in right.items()}


def measure(name: str, start: Path, folder: Path, steps: int) -> dict[str, Any]:
    """Train one arm and let it answer. An interrupted run goes on from its last checkpoint.

    Args:
        name (str): a key of ``ARMS``.
        start (Path): the folder of the adapter that it starts from.
        folder (Path): where checkpoints and predictions are written.
        steps (int): training steps of ``BATCH_SIZE`` samples.

    Returns:
        What the result file holds.

    Raises:
        ValueError: the adapter in ``start`` is of another kind.
    """
    arm = ARMS[name]
    set_seed(0)
    still, _ = load_checkpoint(str(start), **fastest_setting())
    if still.config.model_type != arm.kind:
        raise ValueError(f"{start} holds no adapter of {arm.kind}, but of {still.config.model_type}")
    fields = {field: getattr(still.config, field) for field in still.config.adapter_fields}
    model, processor = build_model(kind=arm.kind, **fastest_setting(), **fields | {"frame_embeddings": FRAMES})
    model.load_state_dict(still.state_dict() | {FRAME_EMBEDDING: model.state_dict()[FRAME_EMBEDDING]})
    dataset = OpenMojiMixture("train", steps * BATCH_SIZE, seed=1, shares=SHARES)
    arguments = training_arguments(
        folder, len(dataset), BATCH_SIZE, max_steps=steps, learning_rate=arm.learning_rate,
        save_steps=20, **IN_ORDER,
    )  # fmt: skip
    facts = train(build_trainer(model, processor, dataset, arguments), processor, resume=True)
    metrics: dict[str, dict[str, Any]] = {}
    for task, dataset in test_sets().items():
        for images in SOURCES[task]:
            output = folder / "predictions" / f"{task}-{images}.jsonl"
            output.parent.mkdir(exist_ok=True)
            rows = predict(model, processor, dataset, output=output, batch_size=32, max_new_tokens=20, images=images)  # type: ignore[arg-type]
            metrics.setdefault(task, {})[images] = score(task, rows)
            if isinstance(dataset, OpenMojiVideos):
                metrics[task][images]["order"] = order_by_family(dataset, rows)
    return {"training": facts, "image_tokens": model.config.image_tokens, "metrics": metrics}


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each arm.

    Args:
        results (dict[str, dict[str, Any]]): what ``measure`` returned, by arm.

    Returns:
        The table; two scores in a cell are those in the right order and in another order, in per cent.
    """
    parts = (
        ("openmoji-videos", "order", "clips: order"),
        ("openmoji-videos", "what", "clips: what happens"),
        ("openmoji-videos", "caption", "clips: caption exact"),
        ("openmoji-pairs", "which", "pairs: which one shows it"),
        ("openmoji-pairs", "more", "pairs: which has more"),
        ("openmoji-pairs", "same", "pairs: same thing"),
    )
    rows: list[list[str]] = []
    chances: list[str] = []
    for name, result in results.items():
        cells = [LABELS[name], f"{result['training']['trained_numbers']:,}", str(result["image_tokens"])]
        chances = []
        for task, kind, _ in parts:
            pair = []
            for source in SOURCES[task]:
                scores = result["metrics"][task][source]
                pair.append(
                    scores["caption"]["exact_match"] if kind == "caption" else scores["questions"][kind]["accuracy"]
                )
            cells.append(" / ".join(f"{100 * value:.1f}" for value in pair))
            asked = None if kind == "caption" else result["metrics"][task]["true"]["questions"][kind]
            chances.append("" if asked is None else f"{100 * asked['chance']:.1f} (n {asked['n']})")
        rows.append(cells)
    rows.append(["always the commonest answer", "", "", *chances])
    head = ["", "trainable parameters", "tokens per frame", *(f"{label}, %" for *_, label in parts)]
    return tables.markdown(head, rows)


def order_table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each family of events and form of question.

    Args:
        results (dict[str, dict[str, Any]]): what ``measure`` returned, by arm.

    Returns:
        The table; two scores in a cell are those in the right order and in another order, in per cent.
    """
    rows = []
    videos = [result["metrics"]["openmoji-videos"] for result in results.values()]
    for name, first in sorted(videos[0]["true"]["order"].items()):
        cells = [
            " / ".join(f"{100 * part[source]['order'][name]['accuracy']:.1f}" for source in SOURCES["openmoji-videos"])
            for part in videos
        ]
        rows.append([name, str(first["n"]), *cells])
    return tables.markdown(["event, form of the question", "n", *(f"{LABELS[name]}, %" for name in results)], rows)


def sections() -> dict[str, str]:
    """The sections of docs/results.md about clips and pairs of images.

    Returns:
        The text by the name of the section.
    """
    results = tables.load_arms("moving", ARMS)
    makers = {"moving table": table, "order table": order_table}
    return {name: make(results) if results else tables.NOT_MEASURED for name, make in makers.items()}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help="; ".join(ARMS))
    parser.add_argument("--start-dir", type=Path, default=Path("runs/miniature"), help="--output-dir of miniature.py")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/moving"), help="checkpoints and predictions")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps of {BATCH_SIZE} samples")
    args = parser.parse_args()
    keep_freed_memory()
    for name in args.arms:
        start, own = ARMS[name].start, tables.file_name(name)
        start = CHECKPOINT_ON_CLIP if start is None else args.start_dir / tables.file_name(start)
        run = partial(measure, name, start, args.output_dir / own, args.steps)
        tables.measure_once(f"moving/{own}", args.steps, name, run)
    print("\n\n".join(sections().values()))


if __name__ == "__main__":
    main()
