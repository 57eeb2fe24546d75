"""How the time of ADEM-VL grows with the text, the visual slots and the batch, beside the language model alone.

python benchmarks/growth.py            # measure, write benchmarks/results/growth.json and the plots in docs/figures
python benchmarks/growth.py --plot     # only draw the plots, from the result file

Measured is one forward pass of SmolLM2-135M, as in a prefill. The visual memory is given, so the vision tower does not
count.
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
from adem_vl_hf.modeling.visual_memory import VisualMemory
from adem_vl_hf.training import fastest_setting

TEXT = (32, 64, 128, 256, 512, 1024, 2048)
SLOTS = (64, 128, 320, 640, 1280, 2560, 5120)
BATCH = (1, 2, 4, 8, 16, 32, 64)
# what is swept -> (its values, the (batch, text, slots) of a value)
SWEEPS: dict[str, tuple[tuple[int, ...], Callable[[int], tuple[int, int, int]]]] = {
    "text tokens": (TEXT, lambda n: (1, n, 320)),
    "visual slots": (SLOTS, lambda n: (1, 256, n)),
    "batch": (BATCH, lambda n: (n, 32, 320)),
}
FIGURES = tables.ROOT / "docs" / "figures"


@torch.inference_mode()
def measure(repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Measure every point of every sweep, with a visual memory and without.

    Args:
        repeats (int): how often each point is measured.

    Returns:
        For each sweep its points: the swept size ``n`` and the median seconds ``floor`` and ``adem_vl``.
    """
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
            ways = {"floor": floor, "adem_vl": partial(floor, visual_memory=VisualMemory(key, value))}
            times = measures.interleaved(ways, repeats)
            result[name].append({"n": number} | {way: statistics.median(times[way]) for way in ways})
    return result


def worst_step(points: list[dict[str, Any]], way: str) -> tuple[float, int, int]:
    """The step of a sweep in which time grows fastest.

    Args:
        points (list[dict[str, Any]]): of ``measure``, in ascending order.
        way (str): ``"floor"`` or ``"adem_vl"``.

    Returns:
        The ratio of the times over the ratio of the sizes, 1 for linear growth, and the two sizes.
    """
    return max(((b[way] / a[way]) / (b["n"] / a["n"]), a["n"], b["n"]) for a, b in itertools.pairwise(points))


def plot(result: dict[str, list[dict[str, Any]]]) -> None:
    """Draw one SVG for each sweep, on logarithmic axes, beside a linear one.

    Args:
        result (dict[str, list[dict[str, Any]]]): of ``measure``. Times are shown over the first point's floor.
    """
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
        axes.set(xscale="log", yscale="log", xlabel=name, ylabel="time (language model alone, first point = 1)")
        axes.legend(frameon=False, fontsize=8)
        figure.tight_layout()
        file = FIGURES / f"growth_{tables.file_name(name)}.svg"
        figure.savefig(file, metadata={"Date": None})
        pyplot.close(figure)
        print(file.relative_to(tables.ROOT))


def table(result: dict[str, list[dict[str, Any]]]) -> str:
    """A row for each sweep.

    Args:
        result (dict[str, list[dict[str, Any]]]): of ``measure``.

    Returns:
        The table: for each size the time with the fused term over the time without, and the steepest steps.
    """
    rows = []
    for name, points in result.items():
        ratios = ", ".join(f"{p['n']}: {p['adem_vl'] / p['floor']:.2f}" for p in points)
        (own, own_a, own_b), (floor, *_) = worst_step(points, "adem_vl"), worst_step(points, "floor")
        rows.append([name, ratios, f"{own:.2f} ({own_a} to {own_b})", f"{floor:.2f}"])
    head = ["", "size: time with the fused term / without", "steepest step"]
    return tables.markdown([*head, "steepest step of the language model alone"], rows)


def sections() -> dict[str, str]:
    """The section of docs/results.md about growth.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load("growth")
    if saved is None:
        return {"growth table": tables.NOT_MEASURED}
    figures = [f"![Time by {name}](figures/growth_{tables.file_name(name)}.svg)" for name in saved["sweeps"]]
    return {"growth table": "\n".join([table(saved["sweeps"]), "", *figures])}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plot", action="store_true", help="measure nothing, draw the plots from the result file")
    args = parser.parse_args()
    saved = tables.load("growth") if args.plot else {"repeats": args.repeats, "sweeps": measure(args.repeats)}
    if saved is None:
        parser.error("there is no benchmarks/results/growth.json yet: run without --plot first")
    if not args.plot:
        tables.save("growth", saved)
    plot(saved["sweeps"])
    print(sections()["growth table"])


if __name__ == "__main__":
    main()
