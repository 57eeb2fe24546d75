"""What one would run instead: models that people fine-tune today beside ADEM-VL, on the same text and pictures.

python benchmarks/alternatives.py                       # every row that has no result yet, and the plot in docs/figures
python benchmarks/alternatives.py --arms qwen2_vl_lora  # part of it
python benchmarks/write_tables.py                       # puts the table into docs/results.md

Each row is measured in a process of its own, where it takes turns with ADEM-VL. A training step is forward, backward
and AdamW. LoRA has rank 16 on all linear layers of the language model. It is merged into the weights before answers are
measured, but not into those of 4 bits, which would be rounded anew.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import measures
import other_models
import tables
import torch
from arms import ARMS
from efficiency import STEP_TURNS, samples

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.embedded.smollm2 import resolve_language_model
from adem_vl_hf.precision import fastest_setting

BASES = ("embedded", "embedded")
RANK, TEXT, BATCH_SIZE, NEW_TOKENS = 16, 32, 8, 32
ANSWERED = (1, BATCH_SIZE)  # rows of a batch that is answered
MERGED = ("llava_lora", "smolvlm_lora", "qwen2_vl_lora")
FIGURES = tables.ROOT / "docs" / "figures"


class Alternative(NamedTuple):
    """A row of the table.

    Args:
        label (str): as the table names it.
        short (str): as the plot names it.
        build (Callable[..., tuple[Any, Any]]): from ``dtype`` and ``attn_implementation`` to model and processor.
    """

    label: str
    short: str
    build: Callable[..., tuple[Any, Any]]


def llava(bits: int | None, **setting: Any) -> tuple[Any, Any]:
    """LLaVA on the bases of ADEM-VL.

    Args:
        bits (int | None): of the language model; None = as many as ``dtype`` has.
        **setting (Any): ``dtype`` and ``attn_implementation``.

    Returns:
        The model and its processor.
    """
    return ARMS["llava_lora"].build(*BASES, bits=bits, rank=RANK, **setting)


def random_model(name: str, **setting: Any) -> tuple[Any, Any]:
    """A model with random weights and the language model's shape and tokenizer.

    Args:
        name (str): a function of ``other_models``.
        **setting (Any): ``dtype`` and ``attn_implementation``.

    Returns:
        The model and its processor.
    """
    return getattr(other_models, name)(resolve_language_model(BASES[0]), RANK, **setting)


def ours(**setting: Any) -> tuple[Any, Any]:
    """ADEM-VL with the fields that it has by default.

    Args:
        **setting (Any): ``dtype`` and ``attn_implementation``.

    Returns:
        The model and its processor.
    """
    return ARMS["adem_vl"].build(*BASES, **setting)


ALTERNATIVES = {
    "adem_vl": Alternative("ADEM-VL, small CLIP", "ADEM-VL", ours),
    "llava_lora": Alternative("LLaVA + LoRA, small CLIP", "LLaVA + LoRA", partial(llava, None)),
    "llava_qlora": Alternative("LLaVA + QLoRA (4 bits), small CLIP", "LLaVA + QLoRA", partial(llava, 4)),
    "smolvlm_lora": Alternative("SmolVLM-256M's shape + LoRA", "SmolVLM + LoRA", partial(random_model, "smolvlm")),
    "qwen2_vl_lora": Alternative("Qwen2-VL's shape + LoRA", "Qwen2-VL + LoRA", partial(random_model, "qwen2_vl")),
}


class Loaded(NamedTuple):
    """A model on the device of the measurements, and what is asked of it.

    Args:
        model (Any): the model.
        step (Callable[[], None]): a training step.
        prompts (dict[int, dict[str, Any]]): inputs of an answer, by the number of rows.
        tokens (int): tokens of a row in training, with those of the image.
    """

    model: Any
    step: Callable[[], None]
    prompts: dict[int, dict[str, Any]]
    tokens: int

    @property
    def trained(self) -> int:
        """The number of trainable parameters."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def load(arm: str) -> Loaded:
    """Make a model, its optimizer and its inputs.

    Args:
        arm (str): a key of ``ALTERNATIVES``.

    Returns:
        Them all.
    """
    torch.manual_seed(0)
    model, processor = ALTERNATIVES[arm].build(**fastest_setting())
    model = model.to(measures.DEVICE)
    # the optimizer that Trainer takes by default
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    rows = samples(processor.tokenizer, TEXT, BATCH_SIZE)
    batch = measures.to_device(AdemVLCollator(processor)(rows))
    prompts = {}
    for number in ANSWERED:
        images, texts = ([row[part] for row in rows[:number]] for part in ("image", "prompt"))
        prompts[number] = measures.to_device(processor(images=images, text=texts, return_tensors="pt"))
    step = partial(measures.training_step, model, batch, optimizer)
    return Loaded(model, step, prompts, batch["input_ids"].shape[1])


def saved_bytes(model: Any) -> int:
    """Save what was trained, and look at the size of its weights.

    Args:
        model (Any): a model of this package, or one of PEFT.

    Returns:
        Bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))


def measure(arm: str, repeats: int) -> dict[str, Any]:
    """Measure one row. The peak of memory is read before ADEM-VL is loaded beside it.

    Args:
        arm (str): a key of ``ALTERNATIVES``.
        repeats (int): how often answers are measured, and a ``STEP_TURNS``-th of how often a step is.

    Returns:
        What the result file holds of it: seconds, and rates over those of ADEM-VL in the same turns.
    """
    keep_freed_memory()
    empty = measures.peak_memory()
    loaded = load(arm)
    for _ in range(2):  # the state of the optimizer is there from the second step on
        loaded.step()
    memory = max(empty, measures.peak_memory())  # Linux counts pages roughly: a peak may seem to shrink by a few
    base = load("adem_vl")
    times = measures.interleaved({"arm": loaded.step, "base": base.step}, STEP_TURNS * repeats, f"{arm}: steps")
    seconds, rates = {"step": times["arm"]}, {"step": measures.ratio(times["base"], times["arm"])}
    found = {"trained_numbers": loaded.trained, "tokens": loaded.tokens, "adapter_bytes": saved_bytes(loaded.model)}
    answering = loaded.model.merge_and_unload() if arm in MERGED else loaded.model
    for number in ANSWERED:
        asked = {"arm": (answering, loaded.prompts[number]), "base": (base.model, base.prompts[number])}
        answers = {who: partial(measures.answer, *given, NEW_TOKENS) for who, given in asked.items()}
        times = measures.interleaved(answers, repeats, f"{arm}: answers to {number}")
        seconds[f"answer {number}"] = times["arm"]
        rates[f"answer {number}"] = measures.ratio(times["base"], times["arm"])
    medians = {what: statistics.median(values) for what, values in seconds.items()}
    return found | {"empty": empty, "memory": memory, "seconds": medians, "rates": rates, "repeats": repeats,
                    "device": measures.device_name()}  # fmt: skip


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each model.

    Args:
        results (dict[str, dict[str, Any]]): what ``measure`` returned, by row.

    Returns:
        The table, with what is over that of ADEM-VL in brackets, and a sentence about the memory.
    """
    rows = []
    for arm, one in in_order(results).items():
        amounts = {"step": BATCH_SIZE} | {f"answer {number}": number * NEW_TOKENS for number in ANSWERED}
        rates = [f"{amount / one['seconds'][what]:.1f} ({one['rates'][what]:.2f})" for what, amount in amounts.items()]
        base = results.get("adem_vl")
        memory = f"{one['memory'] / 1e9:.2f}" + (f" ({one['memory'] / base['memory']:.2f})" if base else "")
        rows.append([ALTERNATIVES[arm].label, str(one["tokens"]), f"{one['trained_numbers']:,}", rates[0], memory,
                     *rates[1:], f"{one['adapter_bytes'] / 1e6:.1f}"])  # fmt: skip
    head = ["model", "tokens of a row", "trainable parameters", "images a second in training", "peak memory, GB"]
    head += [f"tokens a second, batch of {number}" for number in ANSWERED]
    empty = max(one["empty"] for one in results.values()) / 1e9
    note = f"In brackets: over ADEM-VL's. The process has taken {empty:.2f} GB before it loads a model."
    return f"{tables.markdown([*head, 'adapter, MB'], rows)}\n\n{note}"


def in_order(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The results in the order of ``ALTERNATIVES``.

    Args:
        results (dict[str, dict[str, Any]]): by row.

    Returns:
        The same.
    """
    return {arm: results[arm] for arm in ALTERNATIVES if arm in results}


def plot(results: dict[str, dict[str, Any]]) -> None:
    """Draw peak memory, and the time that an image takes in training, over the number of trainable parameters.

    Args:
        results (dict[str, dict[str, Any]]): what ``measure`` returned, by row.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "peak memory in training, GB": lambda one: one["memory"] / 1e9,
        "training time of an image, ms": lambda one: 1000 * one["seconds"]["step"] / BATCH_SIZE,
    }
    figure, both = pyplot.subplots(1, 2, figsize=(9, 3.4))
    for axes, (name, value) in zip(both, panels.items(), strict=True):
        points = {arm: (one["trained_numbers"], value(one)) for arm, one in in_order(results).items()}
        most_x, most_y = (max(values) for values in zip(*points.values(), strict=True))
        below = {"left": -most_y, "right": -most_y}  # the last name on either side of its point
        for arm, (x, y) in sorted(points.items(), key=lambda point: point[1][1]):
            axes.scatter(x, y, color="tab:red" if arm == "adem_vl" else "tab:blue", zorder=2)
            # names stand where there is room: ADEM-VL is the leftmost point, the others are nearly one above another
            side, factor, edge = ("left", 1.3, 0) if arm == "adem_vl" else ("right", 0.6, 1)
            below[side] = max(y, below[side] + 0.08 * most_y)
            line = {"arrowstyle": "-", "relpos": (edge, 0.5), "color": "grey", "linewidth": 0.7,
                    "shrinkA": 1, "shrinkB": 3}  # fmt: skip
            words = f"{ALTERNATIVES[arm].short}, {y:.{0 if y > 10 else 2}f}"
            axes.annotate(words, (x, y), xytext=(factor * x, below[side]), ha=side, va="center", fontsize=8,
                          arrowprops=line)  # fmt: skip
        axes.set(xscale="log", xlim=(1e5, 2 * most_x), ylim=(0, 1.25 * most_y), title=name)
        axes.set_xlabel("trainable parameters")
        axes.grid(alpha=0.3)
    figure.tight_layout()
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / f"{measures.result_file('alternatives')}.png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def sections() -> dict[str, str]:
    """The sections of docs/results.md about what one would run instead; of a GPU once there are results of one.

    Returns:
        The text by the name of the section.
    """
    found = tables.of_devices("alternatives", {"alternatives table": table})
    return {name: text for name, text in found.items() if "gpu" not in name or text != tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ALTERNATIVES, default=list(ALTERNATIVES))
    parser.add_argument("--repeats", type=int, default=5, help=f"turns of answers; {STEP_TURNS} times as many of steps")
    parser.add_argument("--here", metavar="RESULT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:  # the process of one row
        (arm,) = args.arms
        Path(args.here).write_text(json.dumps(measure(arm, args.repeats)), encoding="utf-8")
        return
    name = measures.result_file("alternatives")
    results = tables.load(name) or {}
    with tempfile.TemporaryDirectory() as folder:
        for arm in args.arms:
            if arm in results:
                continue
            print(f"=== {arm}", flush=True)
            file = Path(folder) / "result.json"
            command = [sys.executable, __file__, "--arms", arm, "--repeats", args.repeats, "--here", file]
            subprocess.run([str(part) for part in command], check=True)
            results[arm] = json.loads(file.read_text(encoding="utf-8"))
            tables.save(name, results)
    plot(results)
    print("\n\n".join(sections().values()))


if __name__ == "__main__":
    main()
