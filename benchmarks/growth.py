"""How the cost of ADEM-VL grows with text, visual slots and batch: the frozen LM with and without the fused term.

python benchmarks/growth.py            # measures, writes benchmarks/results/growth.json and the plots in docs/figures
python benchmarks/growth.py --plot     # the plots alone, from the result file

The language model is SmolLM2-135M, one forward (as in a prefill); the memory is given, so that the tower is no part of
it.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import measures
import tables
import torch
from tqdm import tqdm

from adem_vl_hf.loading import build_model
from adem_vl_hf.training import fastest_setting

TEXT = (32, 64, 128, 256, 512, 1024, 2048)
SLOTS = (64, 128, 320, 640, 1280, 2560, 5120)
BATCH = (1, 2, 4, 8, 16, 32, 64)
# swept -> (its values, (batch, text, slots) of a value)
SWEEPS: dict[str, tuple[tuple[int, ...], Callable[[int], tuple[int, int, int]]]] = {
    "text tokens": (TEXT, lambda n: (1, n, 320)),
    "visual slots": (SLOTS, lambda n: (1, 256, n)),
    "batch": (BATCH, lambda n: (n, 32, 320)),
}
FIGURES = tables.ROOT / "docs" / "figures"


@torch.inference_mode()
def measure(repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Median seconds of every point, with and without a memory."""
    dtype = fastest_setting()["dtype"]
    model, _ = build_model(dtype=dtype)
    width, vocabulary = model.config.text_config.hidden_size, model.config.text_config.vocab_size
    result: dict[str, list[dict[str, Any]]] = {}
    for name, (values, shape) in SWEEPS.items():
        result[name] = []
        for number in tqdm(values, desc=name):
            batch, text, slots = shape(number)
            ids = torch.randint(0, vocabulary, (batch, text), generator=torch.Generator().manual_seed(0))
            key = torch.randn(batch, width, slots).to(dtype).mT  # as the adapter lays it out
            value = 0.01 * torch.randn(batch, slots, width).to(dtype)
            floor = partial(model.language_model.get_decoder(), input_ids=ids, use_cache=False)
            ways = {"floor": floor, "adem_vl": partial(floor, visual_memory=(key, value, None))}
            times = measures.interleaved(ways, repeats)
            result[name].append({"n": number} | {way: statistics.median(times[way]) for way in ways})
    return result


def worst_step(points: list[dict[str, Any]], way: str) -> tuple[float, int, int]:
    """The largest (ratio of times / ratio of sizes) between neighbouring points, and the two sizes; 1 = linear."""
    return max(((b[way] / a[way]) / (b["n"] / a["n"]), a["n"], b["n"]) for a, b in itertools.pairwise(points))


def plot(result: dict[str, list[dict[str, Any]]]) -> None:
    """One SVG for each sweep: both times over the first one's floor, on logarithmic axes, beside a linear one."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "adem-vl-hf"  # the same file for the same figures
    from matplotlib import pyplot

    FIGURES.mkdir(parents=True, exist_ok=True)
    for name, points in result.items():
        figure, axes = pyplot.subplots(figsize=(5, 3.4))
        sizes, unit = [p["n"] for p in points], points[0]["floor"]
        axes.plot(sizes, [p["floor"] / unit for p in points], "o-", label="language model alone")
        axes.plot(sizes, [p["adem_vl"] / unit for p in points], "s-", label="with the fused term")
        line = [points[0]["adem_vl"] / unit * n / sizes[0] for n in sizes]
        axes.plot(sizes, line, ":", color="grey", label="linear")
        axes.set(xscale="log", yscale="log", xlabel=name, ylabel="time (first point alone = 1)")
        axes.legend(frameon=False, fontsize=8)
        figure.tight_layout()
        file = FIGURES / f"growth_{tables.file_name(name)}.svg"
        figure.savefig(file, metadata={"Date": None})
        pyplot.close(figure)
        print(file.relative_to(tables.ROOT))


def table(result: dict[str, list[dict[str, Any]]]) -> str:
    """For every point the time with the fused term over the time without; and the steepest step."""
    lines = []
    for name, points in result.items():
        ratios = ", ".join(f"{p['n']}: {p['adem_vl'] / p['floor']:.2f}" for p in points)
        (own, own_a, own_b), (floor, *_) = worst_step(points, "adem_vl"), worst_step(points, "floor")
        lines.append(
            f"| {name} | {ratios} | {own:.2f} ({own_a} to {own_b}) | {floor:.2f} |",
        )
    header = ["| | with the fused term / without | steepest step / linear | of the LM alone |", "|---|---|---|---|"]
    return "\n".join(header + lines)


def sections() -> dict[str, str]:
    """What README.md shows of the result file."""
    saved = tables.load("growth")
    if saved is None:
        return {"growth table": ""}
    figures = (f"docs/figures/growth_{tables.file_name(name)}.svg" for name in saved["sweeps"])
    return {"growth table": "\n".join([table(saved["sweeps"]), "", *(f"![growth]({figure})" for figure in figures)])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plot", action="store_true", help="measure nothing")
    args = parser.parse_args()
    saved = tables.load("growth") if args.plot else {"repeats": args.repeats, "sweeps": measure(args.repeats)}
    if saved is None:
        parser.error("benchmarks/results/growth.json is not there: run without --plot first")
    if not args.plot:
        tables.save("growth", saved)
    plot(saved["sweeps"])
    print(sections()["growth table"])


if __name__ == "__main__":
    main()
