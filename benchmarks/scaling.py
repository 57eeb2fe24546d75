"""What the all-reduce of DDP costs on 1 to 512 GPUs, on paper, and how far the formula behind it holds here.

python benchmarks/scaling.py           # measure gloo processes of this machine, and draw docs/figures/scaling.svg
python benchmarks/scaling.py --paper   # start no processes: only count, and draw the plot
python benchmarks/write_tables.py      # puts the tables into docs/results.md

The time of a step is that of one H100 in benchmarks/results/efficiency_gpu.json; bandwidths and latencies are
published ones. Nothing is assumed to overlap: DDP sends most gradients while the backward pass still runs, which hides
part of what is computed here.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import tables
import torch
from arms import ARMS
from efficiency import LLAMA_7B, VIT_L_14
from transformers import AutoModelForCausalLM, CLIPVisionConfig, LlamaConfig

GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
PER_NODE = 8
NVLINK = 450e9  # bytes a second of a GPU in one direction: NVIDIA's datasheet of the H100, NVLink 4, 900 GB/s in both
NETWORK = PER_NODE * 50e9  # of a node with a card of 400 Gb/s for each GPU: NVIDIA's datasheet of the DGX H100
SLOW_NETWORK = 12.5e9  # of a node with one card of 100 Gb/s, as rented machines without InfiniBand have it
NETWORKS = {"400 Gb/s for each GPU": NETWORK, "100 Gb/s for each node": SLOW_NETWORK}
# seconds of a step of a ring, and of its start: NCCL's own model, src/graph/tuning.cc, ring with the protocol Simple
NVLINK_LATENCY, NETWORK_LATENCY, START = 3.4e-6, 14.0e-6, 8.4e-6
BACKBONE, VOCABULARY = "random-7b/256", 49152
FIGURE = tables.ROOT / "docs" / "figures" / "scaling.svg"
PROCESSES = (2, 4, 8)
SIZES = (65_536, 262_144, 1_048_576, 4_194_304, 18_023_424, 33_554_432)  # the last but one: ADEM-VL's at 7B
FIT_AT = (0, 5)  # the sizes at which latency and bandwidth are fitted


class Method(NamedTuple):
    """A way to train a 7B model.

    Args:
        name (str): as tables name it.
        trained (int): trained numbers.
        bytes_each (int): bytes of a gradient.
        step (float): seconds of a step on one GPU.
        measured (bool): whether the step was measured.
    """

    name: str
    trained: int
    bytes_each: int
    step: float
    measured: bool


def sent_by_each(size: float, number: int) -> float:
    """The bytes that each of several processes sends when a ring reduces a buffer.

    Args:
        size (float): bytes of the buffer.
        number (int): the number of processes.

    Returns:
        Bytes.
    """
    return 2 * (number - 1) / number * size


def all_reduce_seconds(size: float, number: int, network: float = NETWORK) -> float:
    """The time in which a ring of GPUs reduces a buffer.

    Args:
        size (float): bytes of the buffer.
        number (int): the number of GPUs, in nodes of eight.
        network (float): bytes a second that a node sends.

    Returns:
        Seconds: the bytes over the slowest link, and the latency of each of the ``2 (number - 1)`` steps.
    """
    if number == 1:
        return 0.0
    nodes = -(-number // PER_NODE)
    between = 2 * (nodes - 1)  # steps over the network, in which all cards of a node send together
    bandwidth = min(NVLINK, network) if nodes > 1 else NVLINK
    latency = START + between * NETWORK_LATENCY + (2 * (number - 1) - between) * NVLINK_LATENCY
    return sent_by_each(size, number) / bandwidth + latency


def efficiency(method: Method, number: int, network: float = NETWORK) -> float:
    """The share of its time in which a GPU trains, if nothing overlaps.

    Args:
        method (Method): what trains.
        number (int): the number of GPUs.
        network (float): bytes a second that a node sends.

    Returns:
        Between 0 and 1.
    """
    return method.step / (method.step + all_reduce_seconds(method.trained * method.bytes_each, number, network))


def counted() -> dict[str, int]:
    """Count what LoRA of rank 16 and full fine-tuning train at the shape of a 7B model, without its weights.

    Returns:
        Trained numbers.
    """
    config, tower = LlamaConfig(vocab_size=VOCABULARY, **LLAMA_7B), CLIPVisionConfig(image_size=224, **VIT_L_14)
    with torch.device("meta"):
        everything = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    return {"rank 16": ARMS["llava_lora"].count(config, tower, rank=16)["trained"], "everything": everything}


def methods(numbers: dict[str, int]) -> list[Method]:
    """ADEM-VL, and what one would train instead, at the shape of a 7B model.

    Args:
        numbers (dict[str, int]): of ``counted``.

    Returns:
        The methods. The step of LoRA of rank 16 is taken to be that of LLaVA-LoRA's rank 64, and the step of full
        fine-tuning half as long again, for the gradients of the weights, which cost as much as those of the inputs.
    """
    saved = json.loads((tables.ROOT / "benchmarks" / "results" / "efficiency_gpu.json").read_text(encoding="utf-8"))
    own, lora = (saved[f"{BACKBONE}/{arm}"] for arm in ("adem_vl", "llava_lora"))
    step = lora["seconds"]["arm"]
    return [
        Method("ADEM-VL", own["trained_numbers"], 4, own["seconds"]["arm"], True),
        Method("LLaVA-LoRA, rank 16", numbers["rank 16"], 4, step, False),
        Method("LLaVA-LoRA, rank 64", lora["trained_numbers"], 4, step, True),
        Method("LLaVA, full fine-tuning", numbers["everything"], 2, 1.5 * step, False),
    ]


def fitted(points: list[dict[str, float]]) -> list[float]:
    """Predict the times of all sizes from those of two, by the formula: a latency, and bytes over a bandwidth.

    Args:
        points (list[dict[str, float]]): "bytes" and "seconds" of each size.

    Returns:
        Seconds of each size.
    """
    a, b = (points[index] for index in FIT_AT)
    per_byte = (b["seconds"] - a["seconds"]) / (b["bytes"] - a["bytes"])
    return [a["seconds"] + per_byte * (point["bytes"] - a["bytes"]) for point in points]


def measure(bases: tuple[str, str], repeats: int) -> dict[str, Any]:
    """Run groups of gloo processes on this machine.

    Args:
        bases (tuple[str, str]): language model and vision tower of the step whose bytes are counted.
        repeats (int): how often each all-reduce is measured.

    Returns:
        By the number of processes what ``gloo_processes.py`` writes; the first group counts the step.
    """
    script, found = Path(__file__).with_name("gloo_processes.py"), {}
    with tempfile.TemporaryDirectory() as folder:
        for number in PROCESSES:
            result = Path(folder, f"{number}.json")
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", number,
                       script, result, "--repeats", repeats, "--sizes", *SIZES]  # fmt: skip
            command += ["--bases", *bases] if number == PROCESSES[0] else []
            subprocess.run([str(part) for part in command], check=True)
            found[str(number)] = json.loads(result.read_text(encoding="utf-8"))
    return found


def plot(made: list[Method]) -> None:
    """Draw the share of the time in which a GPU trains, over the number of GPUs.

    Args:
        made (list[Method]): of ``methods``.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "adem-vl-hf"  # the same file for the same figures
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axes, (name, network) in zip(panels, NETWORKS.items(), strict=True):
        for method in made:
            shares = [100 * efficiency(method, number, network) for number in GPUS]
            axes.plot(GPUS, shares, "o-" if method.measured else "o:", label=method.name, markersize=3)
        axes.set_xscale("log", base=2)
        axes.set(xticks=GPUS, xticklabels=GPUS, ylim=(0, 103), xlabel="GPUs", title=name)
    panels[0].set_ylabel("time spent training, %")
    panels[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})
    pyplot.close(figure)


def table(made: list[Method]) -> str:
    """A row for each method.

    Args:
        made (list[Method]): of ``methods``.

    Returns:
        The table: what a step sends, how long that takes, and what is left of the time.
    """
    places = ((8, NETWORK), (64, NETWORK), (512, NETWORK), (512, SLOW_NETWORK))
    rows = []
    for method in made:
        size = method.trained * method.bytes_each
        step = f"{1000 * method.step:.0f}" if method.measured else f"({1000 * method.step:.0f})"
        times = [f"{1000 * all_reduce_seconds(size, *where):.1f}" for where in places]
        shares = [f"{100 * efficiency(method, *where):.1f}" for where in places]
        rows.append([method.name, f"{method.trained:,}", f"{size / 1e6:,.0f}", step, *times, *shares])
    head = ["method", "trainable parameters", "gradients, MB", "step on one GPU, ms"]
    names = [f"{number} GPUs" + (", slow network" if network == SLOW_NETWORK else "") for number, network in places]
    head += [f"all-reduce on {name}, ms" for name in names] + [f"training on {name}, %" for name in names]
    return tables.markdown(head, rows)


def check_table(saved: dict[str, Any]) -> str:
    """A row for each size of a buffer, and a sentence about a step of DDP.

    Args:
        saved (dict[str, Any]): of ``measure``.

    Returns:
        The table: measured time, predicted time and bytes over those of the formula, by the number of processes.
    """
    rows = []
    groups = {number: (saved[number]["sizes"], fitted(saved[number]["sizes"])) for number in saved}
    for index, size in enumerate(point["bytes"] for point in next(iter(groups.values()))[0]):
        row = [f"{size / 1e6:.2f}"]
        for number, (points, predicted) in groups.items():
            time, expected = points[index]["seconds"], int(number) * sent_by_each(size, int(number))
            guess = "fitted" if index in FIT_AT else f"{1000 * predicted[index]:.2f}"
            row += [f"{1000 * time:.2f}", guess, f"{points[index]['sent'] / expected:.3f}"]
        rows.append(row)
    columns = ("measured, ms", "predicted, ms", "bytes sent / formula")
    head = ["buffer, MB"] + [f"{number} processes: {column}" for number in groups for column in columns]
    number, first = next(iter(saved.items()))
    ddp = first["ddp"]
    expected = int(number) * sent_by_each(ddp["reduced"], int(number))
    each = ddp["reduced"] / ddp["trained_numbers"]
    note = (
        f"A step of ADEM-VL on the embedded bases under DDP with {number} processes: {ddp['trained_numbers']:,} "
        f"trainable parameters, {ddp['reduced']:,} bytes of gradients ({each:.2f} for each), "
        f"and {ddp['sent']:,} bytes sent by all processes, {ddp['sent'] / expected:.3f} times those of the formula."
    )
    return f"{tables.markdown(head, rows)}\n\n{note}"


def sections() -> dict[str, str]:
    """The sections of docs/results.md about many GPUs.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load("scaling") or {}
    return {
        "scaling table": table(methods(saved["numbers"])) if saved else tables.NOT_MEASURED,
        "scaling check table": check_table(saved["groups"]) if "groups" in saved else tables.NOT_MEASURED,
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--paper", action="store_true", help="start no processes, only count and draw the plot")
    args = parser.parse_args()
    saved = (tables.load("scaling") or {}) | {"numbers": counted()}
    tables.save("scaling", saved)
    plot(methods(saved["numbers"]))
    if not args.paper:
        tables.save("scaling", saved | {"groups": measure(("embedded", "embedded"), args.repeats)})
    print("\n\n".join(sections().values()))


if __name__ == "__main__":
    main()
