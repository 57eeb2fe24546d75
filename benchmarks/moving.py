"""Videos and pairs of pictures in miniature: do ADEM-VL and EVLM use the order of frames? Resumable.

python benchmarks/miniature.py --arms "4 media tokens"  # what EVLM goes on from; ADEM-VL from the adapter that ships
python benchmarks/moving.py                             # both arms that have no result file yet
python benchmarks/readme.py                             # puts the table of all result files into README.md

Each arm takes its adapter of single pictures, gets an embedding for each of 8 frames (zero at the start) and trains on
clips and pairs. Clips with their frames in another order are the control: what is above one half there is a fault.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import tables
from safetensors.torch import load_file
from transformers import set_seed

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import OpenMojiPairs, OpenMojiVideos
from adem_vl_hf.data.openmoji.mixture import OpenMojiMixture
from adem_vl_hf.demo import RECIPES
from adem_vl_hf.evaluation.metrics import is_right
from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.evaluation.score import score
from adem_vl_hf.loading import CHECKPOINT, build_model
from adem_vl_hf.training import IN_ORDER, build_trainer, fastest_setting, train, training_arguments

FRAMES = 8
STEPS, BATCH_SIZE = 500, 16
# captions name what is first and what is last, so they teach which frame is which before a yes or no can
SHARES = {
    ("videos", "caption"): 7,
    ("videos", "order"): 5,
    ("videos", "what"): 1,
    ("pairs", "which"): 1,
    ("pairs", "more"): 1,
    ("pairs", "same"): 1,
}


class Arm(NamedTuple):
    """Kind of model, its settings, the arm of miniature.py that it goes on from (None: the adapter that ships)."""

    kind: str
    settings: dict[str, Any]
    start: str | None
    learning_rate: float


# rates found by short runs; no clipping: the gates of EVLM have the largest gradients and would decide how far the rest
# goes
ARMS = {
    "adem_vl": Arm("adem_vl", RECIPES["adem_vl"].settings, None, 2e-3),
    "evlm, 4 media tokens": Arm("evlm", {"media_tokens": 4}, "4 media tokens", 1.5e-3),
}
# test set -> what it is shown as
SOURCES = {"openmoji-videos": ("true", "shuffled_frames"), "openmoji-pairs": ("true", "swapped_images")}


def test_sets() -> dict[str, Any]:
    """Combinations that were never trained; 320 questions of order, every event and answer alike."""
    videos = ("order", "order", "what", "caption")
    return {
        "openmoji-videos": OpenMojiVideos("test", size=640, kinds=videos, frames=FRAMES),
        "openmoji-pairs": OpenMojiPairs("test", size=240, kinds=("which", "more", "same")),
    }


def order_by_family(videos: OpenMojiVideos, rows: list[Any]) -> dict[str, dict[str, Any]]:
    """Share of right answers on the order of frames, for each family of events and form of question."""
    right: dict[str, list[bool]] = {}
    for row in rows:
        if row["kind"] == "order":
            clip, *_ = videos.clip(int(row["id"].rsplit("-", 1)[1]))
            form = "yes or no" if row["choices"] == ["yes", "no"] else "which of two"
            right.setdefault(f"{clip.family}, {form}", []).append(is_right(row["prediction"], row["references"]))
    return {key: {"accuracy": sum(values) / len(values), "n": len(values)} for key, values in right.items()}


def measure(name: str, start: Path, folder: Path, steps: int) -> dict[str, Any]:
    """Train one arm and let it answer; goes on from where an earlier call stopped."""
    arm = ARMS[name]
    set_seed(0)
    model, processor = build_model(kind=arm.kind, frame_embeddings=FRAMES, **fastest_setting(), **arm.settings)
    loaded = model.load_state_dict(load_file(start / "model.safetensors"), strict=False)
    missing = {key for key in loaded.missing_keys if key.startswith("adapter.")}
    if missing != {"adapter.frame_embedding"} or loaded.unexpected_keys:
        raise ValueError(
            f"{start} holds no adapter of this shape: {missing} missing, {loaded.unexpected_keys} too much"
        )
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
    """A row for each arm; right order / another order, per cent."""
    parts = (
        ("openmoji-videos", "order", "clips: order"),
        ("openmoji-videos", "what", "clips: what happens"),
        ("openmoji-videos", "caption", "clips: caption exact"),
        ("openmoji-pairs", "which", "pairs: which shows it"),
        ("openmoji-pairs", "more", "pairs: which has more"),
        ("openmoji-pairs", "same", "pairs: same thing"),
    )
    lines = [
        "| | trained numbers | tokens a frame | " + " | ".join(label for *_, label in parts) + " |",
        "|---|---|---|" + "---|" * len(parts),
    ]
    chances: list[str] = []
    for name, result in results.items():
        cells = [f"{result['training']['trained_numbers']:,}", str(result["image_tokens"])]
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
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, f"| always the commonest answer | | | {' | '.join(chances)} |"])


def order_table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each family of events and form of question; right order / another order, per cent."""
    lines = ["| order of | n | " + " | ".join(results) + " |", "|---|---|" + "---|" * len(results)]
    videos = [result["metrics"]["openmoji-videos"] for result in results.values()]
    for name, first in sorted(videos[0]["true"]["order"].items()):
        cells = [
            " / ".join(f"{100 * part[source]['order'][name]['accuracy']:.1f}" for source in SOURCES["openmoji-videos"])
            for part in videos
        ]
        lines.append(f"| {name} | {first['n']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sections() -> dict[str, str]:
    """What README.md shows of the result files."""
    results = tables.load_arms("moving", ARMS)
    makers = {"moving table": table, "order table": order_table}
    return {name: make(results) if results else "" for name, make in makers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help="; ".join(ARMS))
    parser.add_argument("--start-dir", type=Path, default=Path("runs/miniature"), help="--output-dir of miniature.py")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/moving"), help="checkpoints and predictions")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of {BATCH_SIZE} samples")
    args = parser.parse_args()
    keep_freed_memory()
    for name in args.arms:
        start, own = ARMS[name].start, tables.file_name(name)
        start = CHECKPOINT if start is None else args.start_dir / tables.file_name(start)
        run = partial(measure, name, start, args.output_dir / own, args.steps)
        tables.measure_once(f"moving/{own}", args.steps, name, run)
    print("\n\n".join(sections().values()))


if __name__ == "__main__":
    main()
