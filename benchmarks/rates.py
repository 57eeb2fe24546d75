"""ADEM-VL and its peers, each with the best of four learning rates, on easy-VQA. Resumable.

python benchmarks/rates.py            # every run that has no result file
python benchmarks/rates.py --jobs 2   # two runs at once, each in a process with one thread
python benchmarks/write_tables.py     # puts the table into docs/results.md

One seed of each method is trained with each rate. The rate with the lowest loss on some test images is then trained
with the other seeds, and all seeds are tested on other test images, with their own image and with another one.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import tables
from compare import held_out_loss, mean_and_range, order_of, run_all, trained
from comparisons import GROUPS, OURS, Run, ours
from torch.utils.data import Dataset, Subset

from adem_vl_hf.data.easy_vqa import WHAT, YES_OR_NO, EasyVQA, text_alone
from adem_vl_hf.data.sample import Sample
from adem_vl_hf.data.turns import EachTurn
from adem_vl_hf.evaluation.image_conditions import ImageCondition
from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.evaluation.score import score

STEPS, BATCH_SIZE, SEEDS = 480, 8, 3
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
CHOOSING_IMAGES, TEST_IMAGES = 20, 60  # of the benchmark's test, each with about ten questions
KINDS = ("all", WHAT, YES_OR_NO)
IMAGES: tuple[ImageCondition, ...] = ("true", "shuffled")
RUNS: dict[str, Run] = {
    **{name: run for name, run in GROUPS["peers"].items() if run.paper is not None},
    "ADEM-VL, query and sum at the MLP's output": ours(query_from="mlp_out", add_to="mlp_out"),
    # its memory is there, with a weight of 0, and gets no gradient
    "ADEM-VL, the class token alone": Run("adem_vl", {**OURS, "fusion_scale": 0.0}),
}


class Held(NamedTuple):
    """The held-out questions.

    Args:
        choosing (Dataset[Sample]): by which a rate is chosen.
        testing (Dataset[Sample]): by which the methods are compared, about other images.
    """

    choosing: Dataset[Sample]
    testing: Dataset[Sample]


def held_out() -> Held:
    """Read the held-out questions.

    Returns:
        Those of the first ``CHOOSING_IMAGES`` test images, and those of the ``TEST_IMAGES`` after them.
    """
    first = EachTurn(EasyVQA("test", CHOOSING_IMAGES))
    both = EachTurn(EasyVQA("test", CHOOSING_IMAGES + TEST_IMAGES))
    return Held(first, Subset(both, range(len(first), len(both))))


def result_file(name: str, rate: float, seed: int) -> str:
    """The name of the result file of one training.

    Args:
        name (str): a key of ``RUNS``.
        rate (float): the peak learning rate.
        seed (int): of the initial weights and of the order of the questions.

    Returns:
        The name, as ``tables.load`` takes it.
    """
    return f"rates/{tables.file_name(name)}-{rate:g}-{seed}"


def measure(name: str, rate: float, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Train one run and let it answer. An interrupted run goes on from its last checkpoint.

    Args:
        name (str): a key of ``RUNS``.
        rate (float): the peak learning rate.
        seed (int): of the initial weights and of the order of the questions.
        steps (int): training steps of ``BATCH_SIZE`` questions.
        folder (Path): where checkpoints and predictions are written.

    Returns:
        What the result file holds.
    """
    questions = EachTurn(EasyVQA("train"))
    model, processor, facts = trained(
        RUNS[name], folder, questions, BATCH_SIZE, steps, seed, learning_rate=rate, save_steps=120
    )
    held = held_out()
    result: dict[str, Any] = {
        "training": facts,
        "choosing_loss": held_out_loss(model, processor, held.choosing, "true"),
        "loss": {images: held_out_loss(model, processor, held.testing, images) for images in IMAGES},
        "metrics": {},
    }
    for images in IMAGES:
        output = folder / "predictions" / f"{images}.jsonl"
        output.parent.mkdir(exist_ok=True, parents=True)
        rows = predict(model, processor, held.testing, output=output, batch_size=32, max_new_tokens=4, images=images)
        result["metrics"][images] = score("easy-vqa", rows)
    return result


def once(name: str, rate: float, seed: int, steps: int, output_dir: Path) -> None:
    """Measure one run, unless it has a result file.

    Args:
        name (str): a key of ``RUNS``.
        rate (float): the peak learning rate.
        seed (int): of the initial weights and of the order of the questions.
        steps (int): training steps.
        output_dir (Path): where checkpoints and predictions of all runs are written.
    """
    file = result_file(name, rate, seed)
    run = partial(measure, name, rate, seed, steps, output_dir / Path(file).name)
    tables.measure_once(file, steps, f"{name}, rate {rate:g}, seed {seed}", run)


def tried(name: str) -> dict[float, dict[str, Any]]:
    """Read the results of the first seed.

    Args:
        name (str): a key of ``RUNS``.

    Returns:
        Those that there are, by learning rate.
    """
    found = {rate: tables.load(result_file(name, rate, 0)) for rate in RATES}
    return {rate: result for rate, result in found.items() if result is not None}


def best_rate(results: dict[float, dict[str, Any]]) -> float:
    """Choose a learning rate.

    Args:
        results (dict[float, dict[str, Any]]): of ``tried``, at least one.

    Returns:
        The one with the lowest loss on the images for choosing.
    """
    return min(results, key=lambda rate: results[rate]["choosing_loss"])


def _accuracy(result: dict[str, Any], kind: str, images: str) -> float:
    return 100 * result["metrics"][images]["questions"][kind]["accuracy"]


def _row(name: str, rate: float, results: dict[float, dict[str, Any]], seeds: list[dict[str, Any]]) -> list[str]:
    by_rate = ", ".join(f"{results[rate]['choosing_loss']:.3f}" if rate in results else "" for rate in RATES)
    shares = [
        f"{mean_and_range([_accuracy(one, kind, 'true') for one in seeds], 1)}"
        f" / {statistics.mean(_accuracy(one, kind, 'shuffled') for one in seeds):.1f}"
        for kind in KINDS
    ]
    trained_numbers, loss = seeds[0]["training"]["trained_numbers"], [one["loss"]["true"] for one in seeds]
    paper = RUNS[name].paper
    head = [name, f"{trained_numbers:,}", by_rate, f"{rate:g}", str(len(seeds)), mean_and_range(loss, 3)]
    return [*head, *shares, "" if paper is None else f"{paper:.2f}"]


def table() -> str:
    """A row for each method, from the result files.

    Returns:
        The table and a sentence about its order; empty if nothing was measured.
    """
    chosen: dict[str, list[dict[str, Any]]] = {}
    rows = []
    for name in RUNS:
        if results := tried(name):
            rate = best_rate(results)
            found = [tables.load(result_file(name, rate, seed)) for seed in range(SEEDS)]
            chosen[name] = [result for result in found if result is not None]
            rows.append(_row(name, rate, results, chosen[name]))
    if not rows:
        return ""
    alone = [f"{100 * text_alone()[kind]:.1f}" for kind in KINDS]
    rows.append(["the question alone", "", "", "", "", "", *alone, ""])
    head = ["", "trainable parameters", f"loss with {', '.join(f'{rate:g}' for rate in RATES)}", "best rate", "seeds",
            "held-out loss", *(f"{kind}, %" for kind in KINDS), "ScienceQA in the paper, %"]  # fmt: skip
    text = tables.markdown(head, rows)
    known = {name: paper for name in chosen if (paper := RUNS[name].paper) is not None}
    means = {
        "held-out loss": [-statistics.mean(one["loss"]["true"] for one in chosen[name]) for name in known],
        "all answers": [statistics.mean(_accuracy(one, "all", "true") for one in chosen[name]) for name in known],
    }
    return f"{text}\n\n{order_of(means, list(known.values()))}".rstrip()


def sections() -> dict[str, str]:
    """The section of docs/results.md.

    Returns:
        The text by the name of the section.
    """
    return {"rates table": table() or tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN", help="; ".join(RUNS))
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many have the best rate (default: {SEEDS})")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps of {BATCH_SIZE} questions")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/rates"), help="checkpoints and predictions")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each in a process with one thread")
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs} is too few: give at least 1")
    run_all([partial(once, name, rate, 0, args.steps, args.output_dir) for rate in RATES for name in args.runs],
            args.jobs)  # fmt: skip
    best = {name: best_rate(tried(name)) for name in args.runs}
    run_all([partial(once, name, best[name], seed, args.steps, args.output_dir)
             for seed in range(1, args.seeds) for name in args.runs], args.jobs)  # fmt: skip
    print(table())


if __name__ == "__main__":
    main()
