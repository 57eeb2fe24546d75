"""ADEM-VL, its peers and the ladder from MemVP to it, each with the best of four learning rates. Resumable.

python benchmarks/rates.py                 # every run that has no result file
python benchmarks/rates.py --data scenes   # those of one data set, of easy-VQA and scenes
python benchmarks/rates.py --jobs 2        # two runs at once, each in a process with one thread
python benchmarks/write_tables.py          # puts the tables into docs/results.md

One seed of each method is trained with each rate. The rate with the lowest loss on some test images is then trained
with the other seeds, and all seeds are tested on other test images, with their own image and with another one.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import tables
from compare import held_out_loss, mean_and_range, order_of, run_all, trained
from comparisons import GROUPS, OURS, Run, ours
from rates_data import DATA

from adem_vl_hf.evaluation.image_conditions import ImageCondition
from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.evaluation.score import score

STEPS, BATCH_SIZE, SEEDS = 480, 8, 3
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
IMAGES: tuple[ImageCondition, ...] = ("true", "shuffled")
# by the heading of a table
TABLES: dict[str, dict[str, Run]] = {
    "rates": {
        **{name: run for name, run in GROUPS["peers"].items() if run.arm != "floor"},  # which has nothing to train
        "ADEM-VL, query and sum at the MLP's output": ours(query_from="mlp_out", add_to="mlp_out"),
        # its memory is there, with a weight of 0, and gets no gradient
        "ADEM-VL, the class token alone": Run("adem_vl", {**OURS, "fusion_scale": 0.0}),
    },
    # its last step is ADEM-VL, which is trained once
    "ladder rates": {"ADEM-VL" if name == "+ adaptive fusion" else name: run for name, run in GROUPS["ladder"].items()},
}
RUNS = {name: run for runs in TABLES.values() for name, run in runs.items()}


def result_file(data: str, name: str, rate: float, seed: int) -> str:
    """The name of the result file of one training.

    Args:
        data (str): a key of ``DATA``.
        name (str): a key of ``RUNS``.
        rate (float): the peak learning rate.
        seed (int): of the initial weights and of the data.

    Returns:
        The name, as ``tables.load`` takes it.
    """
    return f"rates/{data}/{tables.file_name(name)}-{rate:g}-{seed}"


def measure(data: str, name: str, rate: float, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Train one run and let it answer. An interrupted run goes on from its last checkpoint.

    Args:
        data (str): a key of ``DATA``.
        name (str): a key of ``RUNS``.
        rate (float): the peak learning rate.
        seed (int): of the initial weights and of the data.
        steps (int): training steps of ``BATCH_SIZE`` samples.
        folder (Path): where checkpoints and predictions are written.

    Returns:
        What the result file holds.
    """
    rated = DATA[data]
    dataset = rated.training(steps * BATCH_SIZE, seed)
    model, processor, facts = trained(
        RUNS[name], folder, dataset, BATCH_SIZE, steps, seed, learning_rate=rate, save_steps=120, **rated.arguments
    )
    choosing, testing = rated.held()
    result: dict[str, Any] = {
        "training": facts,
        "choosing_loss": held_out_loss(model, processor, choosing, "true"),
        "loss": {images: held_out_loss(model, processor, testing, images) for images in IMAGES},
        "metrics": {},
    }
    for images in IMAGES:
        output = folder / "predictions" / f"{images}.jsonl"
        output.parent.mkdir(exist_ok=True, parents=True)
        rows = predict(
            model, processor, testing, output=output, batch_size=32, max_new_tokens=rated.max_new_tokens, images=images
        )
        result["metrics"][images] = score(rated.task, rows)
    return result


def once(data: str, name: str, rate: float, seed: int, steps: int, output_dir: Path) -> None:
    """Measure one run, unless it has a result file.

    Args:
        data (str): a key of ``DATA``.
        name (str): a key of ``RUNS``.
        rate (float): the peak learning rate.
        seed (int): of the initial weights and of the data.
        steps (int): training steps.
        output_dir (Path): where checkpoints and predictions of all runs are written.
    """
    file = result_file(data, name, rate, seed)
    run = partial(measure, data, name, rate, seed, steps, output_dir / data / Path(file).name)
    tables.measure_once(file, steps, f"{data}: {name}, rate {rate:g}, seed {seed}", run)


def tried(data: str, name: str) -> dict[float, dict[str, Any]]:
    """Read the results of the first seed.

    Args:
        data (str): a key of ``DATA``.
        name (str): a key of ``RUNS``.

    Returns:
        Those that there are, by learning rate.
    """
    found = {rate: tables.load(result_file(data, name, rate, 0)) for rate in RATES}
    return {rate: result for rate, result in found.items() if result is not None}


def best_rate(results: dict[float, dict[str, Any]]) -> float:
    """Choose a learning rate.

    Args:
        results (dict[float, dict[str, Any]]): of ``tried``, at least one.

    Returns:
        The one with the lowest loss on the images for choosing.
    """
    return min(results, key=lambda rate: results[rate]["choosing_loss"])


def _row(data: str, name: str, results: dict[float, dict[str, Any]], seeds: list[dict[str, Any]]) -> list[str]:
    by_rate = ", ".join(f"{results[rate]['choosing_loss']:.3f}" if rate in results else "" for rate in RATES)
    answers = [
        f"{mean_and_range([value(one['metrics']['true']) for one in seeds], 1)}"
        f" / {statistics.mean(value(one['metrics']['shuffled']) for one in seeds):.1f}"
        for value in DATA[data].measures.values()
    ]
    trained_numbers, loss = seeds[0]["training"]["trained_numbers"], [one["loss"]["true"] for one in seeds]
    paper = RUNS[name].paper
    head = [name, f"{trained_numbers:,}", by_rate, f"{best_rate(results):g}", str(len(seeds)), mean_and_range(loss, 3)]
    return [*head, *answers, "" if paper is None else f"{paper:.2f}"]


def table(data: str, heading: str) -> str:
    """A row for each method, from the result files.

    Args:
        data (str): a key of ``DATA``.
        heading (str): a key of ``TABLES``.

    Returns:
        The table and a sentence about its order; empty if nothing was measured.
    """
    rated = DATA[data]
    chosen: dict[str, list[dict[str, Any]]] = {}
    rows = []
    for name in TABLES[heading]:
        if results := tried(data, name):
            found = [tables.load(result_file(data, name, best_rate(results), seed)) for seed in range(SEEDS)]
            chosen[name] = [result for result in found if result is not None]
            rows.append(_row(data, name, results, chosen[name]))
    if not rows:
        return ""
    if rated.text_alone is not None:
        rows.append(["the question alone", "", "", "", "", "", *(f"{share:.1f}" for share in rated.text_alone()), ""])
    head = ["", "trainable parameters", f"loss with {', '.join(f'{rate:g}' for rate in RATES)}", "best rate", "seeds",
            "held-out loss", *rated.measures, "ScienceQA in the paper, %"]  # fmt: skip
    known = {name: paper for name in chosen if (paper := RUNS[name].paper) is not None}
    measure_name, value = next(iter(rated.measures.items()))
    means = {
        "held-out loss": [-statistics.mean(one["loss"]["true"] for one in chosen[name]) for name in known],
        measure_name.removesuffix(", %"): [
            statistics.mean(value(one["metrics"]["true"]) for one in chosen[name]) for name in known
        ],
    }
    return f"{tables.markdown(head, rows)}\n\n{order_of(means, list(known.values()))}".rstrip()


def sections() -> dict[str, str]:
    """The sections of docs/results.md.

    Returns:
        The text by the name of the section, of those that compare anything yet.
    """
    return {
        f"{heading} on {data.replace('-', ' ')}": table(data, heading)
        for heading, runs in TABLES.items()
        for data in DATA
        if sum(bool(tried(data, name)) for name in runs) > 1
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA), help="of these (default: all)")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN", help="; ".join(RUNS))
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many have the best rate (default: {SEEDS})")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps of {BATCH_SIZE} samples")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/rates"), help="checkpoints and predictions")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each in a process with one thread")
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs} is too few: give at least 1")
    pairs = [(data, name) for data in args.data for name in args.runs]
    run_all([partial(once, *pair, rate, 0, args.steps, args.output_dir) for rate in RATES for pair in pairs], args.jobs)
    best = {pair: best_rate(tried(*pair)) for pair in pairs}
    run_all([partial(once, *pair, best[pair], seed, args.steps, args.output_dir)
             for seed in range(1, args.seeds) for pair in pairs], args.jobs)  # fmt: skip
    for data in args.data:
        for heading in TABLES:
            print(f"\n{data}, {heading}\n{table(data, heading)}")


if __name__ == "__main__":
    main()
