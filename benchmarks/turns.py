"""Does ADEM-VL learn more from several questions about one image in one row than from each question alone? Resumable.

python benchmarks/turns.py                  # all runs that have no result yet
python benchmarks/turns.py --seeds 0 1 2
python benchmarks/write_tables.py           # puts the table into docs/your_data.md

Three runs for each seed, on easy-VQA, whose images have about ten questions each:

    together                 all questions about an image are one row
    alone, same steps        each question is a row, with as many steps and rows in a step
    alone, same time         the same with as many steps as take the time of the first run

Then each answers the questions about some test images, one at a time, with their own image and with another one. The
result file is benchmarks/results/turns.json (turns_gpu.json on a GPU). Its runs go on where they stopped; other steps
or sizes make all runs anew.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import measures
import tables
from transformers import set_seed

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data.easy_vqa import WHAT, YES_OR_NO, EasyVQA
from adem_vl_hf.data.turns import EachTurn
from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.evaluation.score import score
from adem_vl_hf.loading import build_model
from adem_vl_hf.training import build_trainer, fastest_setting, train, training_arguments

TOGETHER, SAME_STEPS, SAME_TIME = "together", "alone, same steps", "alone, same time"
KINDS = ("all", WHAT, YES_OR_NO)
RUNS = (TOGETHER, SAME_STEPS, SAME_TIME)


def steps_of(run: str, steps: int, done: dict[str, dict[str, Any]]) -> int:
    """Choose the number of training steps of a run.

    Args:
        run (str): one of ``RUNS``.
        steps (int): the steps of the runs that do not depend on time.
        done (dict[str, dict[str, Any]]): what ``measure`` returned for the first two runs, by their names.

    Returns:
        For the same time, the time of the first run over that of a step of the second one; otherwise ``steps``.
    """
    if run != SAME_TIME:
        return steps
    return max(1, round(steps * done[TOGETHER]["seconds_per_step"] / done[SAME_STEPS]["seconds_per_step"]))


def measure(run: str, folder: Path, steps: int, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train one run and let it answer. An interrupted run goes on from its last checkpoint.

    Args:
        run (str): one of ``RUNS``.
        folder (Path): where checkpoints and predictions are written.
        steps (int): training steps.
        seed (int): of the initial weights and of the order of the rows.
        args (argparse.Namespace): the command line.

    Returns:
        What the result file holds of the run.
    """
    set_seed(seed)
    model, processor = build_model(args.language_model, args.vision_tower, **fastest_setting())
    images = EasyVQA("train")
    alone = EachTurn(images)
    dataset = images if run == TOGETHER else alone
    arguments = training_arguments(
        folder, len(dataset), args.batch_size, model=model, max_steps=steps, seed=seed, save_steps=60
    )
    facts = train(build_trainer(model, processor, dataset, arguments), processor, resume=True)
    trained = steps - facts.get("resumed_at_step", 0)
    result: dict[str, Any] = {
        "device": measures.device_name(),
        "training": facts,
        "seconds_per_step": facts["seconds"] / max(1, trained),
        "answers": round(steps * args.batch_size * len(alone) / len(dataset)),
        "metrics": {},
    }
    test = EachTurn(EasyVQA("test", args.test_size))
    for images_of in ("true", "shuffled"):
        output = folder / "predictions" / f"{images_of}.jsonl"
        output.parent.mkdir(exist_ok=True, parents=True)
        rows = predict(model, processor, test, output=output, batch_size=32, max_new_tokens=4, images=images_of)  # type: ignore[arg-type]
        result["metrics"][images_of] = score("easy-vqa", rows)
    return result


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each run.

    Args:
        results (dict[str, dict[str, Any]]): what ``measure`` returned, by ``"run, seed"``.

    Returns:
        The table in Markdown: how long the run took, and right answers in per cent, with the own image / another one.
    """
    rows = []
    for name, result in results.items():
        own, other = (result["metrics"][images]["questions"] for images in ("true", "shuffled"))
        shares = [f"{100 * own[kind]['accuracy']:.1f} / {100 * other[kind]['accuracy']:.1f}" for kind in KINDS]
        steps = result["training"]["steps"]
        rows.append([name, str(steps), str(result["answers"]), f"{steps * result['seconds_per_step']:.0f}", *shares])
    chances = [f"{100 * own[kind]['chance']:.1f}" for kind in KINDS]
    rows.append(["the question alone", "", "", "", *chances])
    return tables.markdown(["run, seed", "steps", "answers trained", "seconds", *KINDS], rows)


def sections() -> dict[str, str]:
    """The table of docs/your_data.md.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load("turns")
    if saved is None:
        return {"turns table": tables.NOT_MEASURED}
    tested = next(iter(saved["runs"].values()))["metrics"]["true"]["n"]
    return {
        "turns table": f"{table(saved['runs'])}\n\n{tested} questions, a batch of {saved['settings']['batch_size']}."
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120, help="training steps of the first two runs")
    parser.add_argument("--batch-size", type=int, default=4, help="rows in a step")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--test-size", type=int, default=40, help="test images, with about ten questions each")
    parser.add_argument("--language-model", default="embedded")
    parser.add_argument("--vision-tower", default="embedded-dinov2")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/turns"), help="checkpoints and predictions")
    args = parser.parse_args()
    keep_freed_memory()
    settings = {name: getattr(args, name) for name in ("steps", "batch_size", "test_size")}
    file = measures.result_file("turns")
    saved = tables.load(file)
    results = saved["runs"] if saved and saved["settings"] == settings else {}
    began = time.perf_counter()
    for seed in args.seeds:
        done: dict[str, dict[str, Any]] = {}
        for run in RUNS:
            name = f"{run}, {seed}"
            if name not in results:
                steps = steps_of(run, args.steps, done)
                print(f"\n=== {run}, seed {seed}: {steps} steps", flush=True)
                folder = args.output_dir / tables.file_name("-".join(map(str, [*settings.values(), run, seed])))
                results[name] = measure(run, folder, steps, seed, args)
                tables.save(file, {"settings": settings, "runs": results})
            done[run] = results[name]
    print(f"\n{table(results)}\n{time.perf_counter() - began:.0f} seconds")


if __name__ == "__main__":
    main()
