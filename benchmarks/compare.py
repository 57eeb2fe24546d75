"""Quality at a small scale: ADEM-VL, its peers and the paper's ablations, on the same bases and data. Resumable.

python benchmarks/compare.py                                  # every run that has no result file, seed after seed
python benchmarks/compare.py --groups peers ladder --seeds 0  # part of it
python benchmarks/compare.py --jobs 12                        # twelve runs at once, on a machine with a GPU
python benchmarks/write_tables.py                             # puts the tables into docs/results.md

Each run trains on captions and four-way choices of OpenMoji scenes and then answers held-out ones, with their own image
and with another one. All runs have the same frozen bases, samples in the same order, and number of steps. The loss on
held-out answers also tells runs apart whose answers are equally good.
"""

import argparse
import multiprocessing
import os
import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import measures
import tables
import torch
from arms import ARMS
from comparisons import GROUPS, Run, key
from torch.utils.data import Dataset
from transformers import set_seed

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import OpenMojiScenes
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.data.openmoji.mixture import OpenMojiMixture
from adem_vl_hf.data.sample import Sample
from adem_vl_hf.evaluation.image_conditions import ImageCondition, choose_images, donors_of
from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.evaluation.score import score
from adem_vl_hf.modeling.labels import NOT_SUPERVISED
from adem_vl_hf.openmoji_training import BATCH_SIZE, RECIPES, SHORT_SHARES
from adem_vl_hf.training import IN_ORDER, build_trainer, fastest_setting, train, training_arguments

STEPS, SEEDS, TEST_SIZE = 240, 3, 400
CLIPPED = ("evlm",)  # its gradients jump while its gates open, so it trains with its own recipe, which clips them


@torch.inference_mode()
def held_out_loss(model: Any, processor: Any, dataset: Dataset[Sample], images: ImageCondition) -> float:
    """The mean cross-entropy of the answers' tokens.

    Args:
        model (Any): the trained model.
        processor (Any): its processor.
        dataset (Dataset[Sample]): the held-out samples.
        images (ImageCondition): ``"true"`` for each sample's own image, ``"shuffled"`` for another sample's.

    Returns:
        The mean over all tokens of all answers, in nats.
    """
    collate, donors, total, tokens = AdemVLCollator(processor), donors_of(len(dataset)), 0.0, 0  # type: ignore[arg-type]
    model.eval()
    for start in range(0, len(donors), BATCH_SIZE):
        rows = []
        for index in range(start, min(start + BATCH_SIZE, len(donors))):
            sample = dataset[index]
            sample["image"] = choose_images(dataset, index, sample, images, donors).images[0]
            rows.append(sample)
        batch = measures.to_device(collate(rows))
        number = int((batch["labels"] != NOT_SUPERVISED).sum())
        total, tokens = total + float(model(**batch).loss) * number, tokens + number
    return total / tokens


def trained(
    run: Run,
    folder: Path,
    dataset: Dataset[Sample],
    batch_size: int,
    steps: int,
    seed: int,
    learning_rate: float | None = None,
    **arguments: Any,
) -> tuple[Any, Any, dict[str, Any]]:
    """Build and train one run. An interrupted run goes on from its last checkpoint.

    Args:
        run (Run): what to train.
        folder (Path): where checkpoints are written.
        dataset (Dataset[Sample]): the training set.
        batch_size (int): samples per step.
        steps (int): training steps.
        seed (int): of the initial weights and of the order of the samples.
        learning_rate (float | None): the peak; None = that of the method's recipe.
        arguments (Any): other fields of ``TrainingArguments``.

    Returns:
        The model, its processor, and the record of the training.
    """
    set_seed(seed)
    build = ARMS[run.arm].build
    model, processor = build("embedded", "embedded", **fastest_setting(), **run.settings)
    model = model.to(measures.DEVICE)
    if not any(p.requires_grad for p in model.parameters()):
        return model, processor, {"steps": steps, "trained_numbers": 0}
    recipe = RECIPES["evlm" if run.arm in CLIPPED else "adem_vl"]
    filled = training_arguments(
        folder, len(dataset), batch_size, max_steps=steps,  # type: ignore[arg-type]
        learning_rate=learning_rate or recipe.learning_rate, seed=seed, max_grad_norm=recipe.max_grad_norm,
        **arguments,
    )  # fmt: skip
    return model, processor, train(build_trainer(model, processor, dataset, filled), processor, resume=True)


def measure(run: Run, folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """Train one run and let it answer. An interrupted run goes on from its last checkpoint.

    Args:
        run (Run): what to train.
        folder (Path): where checkpoints and predictions are written.
        steps (int): training steps of ``BATCH_SIZE`` samples.
        seed (int): of the initial weights and of the data.

    Returns:
        What the result file holds.
    """
    dataset = OpenMojiMixture("train", steps * BATCH_SIZE, seed=seed, shares=SHORT_SHARES)
    model, processor, facts = trained(run, folder, dataset, BATCH_SIZE, steps, seed, save_steps=60, **IN_ORDER)
    test = OpenMojiScenes("test", TEST_SIZE, kinds=("caption", "choice"))
    result: dict[str, Any] = {"device": measures.device_name(), "training": facts, "metrics": {}, "held_out_loss": {}}
    for images in ("true", "shuffled"):
        output = folder / "predictions" / f"{images}.jsonl"
        output.parent.mkdir(exist_ok=True, parents=True)
        rows = predict(model, processor, test, output=output, batch_size=32, max_new_tokens=20, images=images)  # type: ignore[arg-type]
        result["metrics"][images] = score("openmoji-scenes", rows)
        result["held_out_loss"][images] = held_out_loss(model, processor, test, images)
    return result


def mean_and_range(values: list[float], digits: int) -> str:
    """The mean of several seeds, and their range.

    Args:
        values (list[float]): a value for each seed.
        digits (int): behind the decimal point.

    Returns:
        The text; the mean alone if there is one seed.
    """
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


# heading -> (digits, +1 where more is better, -1 where less is and 0 for a control, the value of one run)
MEASURES: dict[str, tuple[int, int, Callable[[dict[str, Any]], float]]] = {
    "held-out loss": (3, -1, lambda r: r["held_out_loss"]["true"]),
    "loss with another image": (3, 0, lambda r: r["held_out_loss"]["shuffled"]),
    "choice, %": (1, 1, lambda r: 100 * r["metrics"]["true"]["questions"]["choice"]["accuracy"]),
    "choice with another image, %": (1, 0, lambda r: 100 * r["metrics"]["shuffled"]["questions"]["choice"]["accuracy"]),
    "CIDEr": (1, 1, lambda r: 100 * r["metrics"]["true"]["caption"]["cider"]),
}


def measured(group: str) -> dict[str, list[dict[str, Any]]]:
    """Read the results of a group.

    Args:
        group (str): a key of ``GROUPS``.

    Returns:
        For each run that was measured, its results, one for each seed.
    """
    found = {
        name: [r for seed in range(SEEDS) if (r := tables.load(f"compare/{key(run)}-{seed}")) is not None]
        for name, run in GROUPS[group].items()
    }
    return {name: results for name, results in found.items() if results}


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's rank correlation.

    Args:
        a (list[float]): values without ties.
        b (list[float]): as many, without ties.

    Returns:
        1 for the same order, -1 for the reverse.
    """
    return statistics.correlation(*([float(sorted(values).index(x)) for x in values] for values in (a, b)))


def order_of(means: Mapping[str, list[float]], paper: list[float]) -> str:
    """One sentence that compares the order of runs with the order of the paper.

    Args:
        means (Mapping[str, list[float]]): for each measure, a value for each run, the more the better.
        paper (list[float]): what the paper has for these runs.

    Returns:
        The sentence; empty if there are fewer than three runs.
    """
    if len(paper) < 3:
        return ""
    parts = [f"{measure} {rank_correlation(values, paper):.2f}" for measure, values in means.items()]
    return f"Rank correlation with the last column (1 = the same order, -1 = the reverse): {', '.join(parts)}."


def order(group: str, found: dict[str, list[dict[str, Any]]]) -> str:
    """One sentence that compares the order of a group's means with the order of the paper.

    Args:
        group (str): a key of ``GROUPS``.
        found (dict[str, list[dict[str, Any]]]): of ``measured``.

    Returns:
        The sentence; empty if the paper has fewer than three of these runs.
    """
    known = {name: paper for name in found if (paper := GROUPS[group][name].paper) is not None}
    means = {
        heading.removesuffix(", %"): [sign * statistics.mean(map(value, found[name])) for name in known]
        for heading, (_, sign, value) in MEASURES.items()
        if sign
    }
    return order_of(means, list(known.values()))


def table(group: str) -> str:
    """A row for each run of a group: the mean and the range over its seeds.

    Args:
        group (str): a key of ``GROUPS``.

    Returns:
        The table and the sentence of ``order``; empty if nothing was measured.
    """
    found = measured(group)
    if not found:
        return ""
    rows = []
    for name, results in found.items():
        paper = GROUPS[group][name].paper
        cells = [
            name,
            f"{results[0]['training']['trained_numbers']:,}",
            str(len(results)),
            *(mean_and_range(list(map(value, results)), digits) for digits, _, value in MEASURES.values()),
            "" if paper is None else f"{paper:.2f}",
        ]
        rows.append(cells)
    head = ["", "trainable parameters", "seeds", *MEASURES, "ScienceQA in the paper, %"]
    return "\n".join([tables.markdown(head, rows), "", order(group, found)]).rstrip()


def sections() -> dict[str, str]:
    """The sections of docs/results.md about the peers and the ablations.

    Returns:
        The text by the name of the section.
    """
    return {f"{group} table": table(group) or tables.NOT_MEASURED for group in GROUPS}


def once(group: str, name: str, seed: int, steps: int, output_dir: Path) -> None:
    """Measure one run, unless it has a result file.

    Args:
        group (str): a key of ``GROUPS``.
        name (str): a run of that group.
        seed (int): of the initial weights and of the data.
        steps (int): training steps.
        output_dir (Path): where checkpoints and predictions of all runs are written.
    """
    run = GROUPS[group][name]
    own = f"{key(run)}-{seed}"
    label = f"{group}: {name}, seed {seed}"
    tables.measure_once(f"compare/{own}", steps, label, partial(measure, run, output_dir / own, steps, seed))


def set_up(threads: int | None) -> None:
    """Prepare a process for training.

    Args:
        threads (int | None): how many threads it may use where several processes share the cores; None for the default.
    """
    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    if multiprocessing.parent_process() is not None:
        threading.Thread(target=_end_with_script, daemon=True).start()


def _end_with_script() -> None:
    """End this worker when the script is killed, which would otherwise leave it training."""
    multiprocessing.parent_process().join()
    os._exit(1)


def run_all(calls: Sequence[Callable[[], None]], jobs: int) -> None:
    """Make several trainings.

    Args:
        calls (Sequence[Callable[[], None]]): each makes one.
        jobs (int): how many run at once, each in a process with one thread; 1 = one after the other in this process.
    """
    if jobs == 1:
        set_up(None)
        for call in calls:
            call()
        return
    context = multiprocessing.get_context("spawn")  # a GPU does not survive a fork
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=set_up, initargs=(1,)) as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--groups", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP", help="; ".join(GROUPS)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(SEEDS)))
    parser.add_argument("--output-dir", type=Path, default=Path("runs/compare"), help="checkpoints and predictions")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps of {BATCH_SIZE} samples")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each in a process with one thread")
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs} is too few: give at least 1")
    # a run that stands in several tables is trained once
    runs = {(key(run), seed): (group, name, seed)
            for seed in args.seeds for group in args.groups for name, run in GROUPS[group].items()}  # fmt: skip
    run_all([partial(once, *run, args.steps, args.output_dir) for run in runs.values()], args.jobs)
    for group in args.groups:
        print(f"\n{group}\n{table(group)}")


if __name__ == "__main__":
    main()
