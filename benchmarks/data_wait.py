"""How much of a training step waits for the next batch? For data of three kinds, by the number of DataLoader workers.

python benchmarks/data_wait.py      # what has no result yet
python benchmarks/write_tables.py   # puts the table into docs/results.md

Each run is that of ``adem-vl train``: its vision tower, its recipe, its trainer. The photographs are made: smooth noise
of 2 megapixels with a little grain, as JPEG, so that a file is as large as that of a camera at the same size.
"""

import argparse
import itertools
import json
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import measures
import numpy as np
import tables
import torch
from PIL import Image
from tqdm import tqdm
from transformers import set_seed

from adem_vl_hf.data import open_dataset
from adem_vl_hf.loading import build_model
from adem_vl_hf.training import build_trainer, fastest_setting, training_arguments
from adem_vl_hf.workers import default_workers

WIDTH, HEIGHT = 1600, 1250  # 2 megapixels
FILES, PICTURES, IN_TAR = 2000, 200, 200  # a picture is the content of several files of the folder
WORKERS = (0, 1, 2)
BATCH_SIZE, STEPS = 8, 16
WARM_UP = 4  # steps that do not count: the workers have filled their queues before them
# what is read -> the vision tower that adem-vl train takes for it
SOURCES = {
    "OpenMoji, drawn": "embedded",
    "folder of photographs": "embedded-dinov2",
    "webdataset tar": "embedded-dinov2",
    "webdataset tar, streamed": "embedded-dinov2",
}
TEXT = "a photograph of smooth noise"


def photograph(seed: int) -> Image.Image:
    """Make a picture of 2 megapixels.

    Args:
        seed (int): Pictures of different seeds differ.

    Returns:
        The picture.
    """
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (10, 13, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = generator.integers(-12, 13, (HEIGHT, WIDTH, 1), dtype=np.int16)
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def make_data(folder: Path) -> dict[str, str]:
    """Write a folder of photographs with its metadata, and a tar.

    Args:
        folder (Path): Where to.

    Returns:
        The name of each of ``SOURCES`` for ``open_dataset``.
    """
    pictures, tar = folder / "photographs", folder / "photographs.tar"
    pictures.mkdir()
    lines = []
    for number in tqdm(range(FILES), desc="photographs"):
        path = pictures / f"{number:04}.jpg"
        if number < PICTURES:
            photograph(number).save(path, quality=90)
        else:
            os.link(pictures / f"{number % PICTURES:04}.jpg", path)
        lines.append(json.dumps({"file_name": path.name, "text": TEXT}))
    (pictures / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    caption = folder / "caption.txt"
    caption.write_text(TEXT, encoding="utf-8")
    with tarfile.open(tar, "w") as archive:
        for path in sorted(pictures.glob("*.jpg"))[:IN_TAR]:
            archive.add(path, path.name)
            archive.add(caption, f"{path.stem}.txt")
    return dict(zip(SOURCES, ("openmoji", str(pictures), str(tar), str(tar)), strict=True))


@contextmanager
def timed_waits(trainer: Any) -> Iterator[list[tuple[float, float]]]:
    """Note when a trainer asks for the batches of a step, and when it has them.

    Args:
        trainer (Any): The trainer.

    Yields:
        A list that grows with each step: the two times in seconds.
    """
    asked, times = trainer.get_batch_samples, []

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        found = asked(*args, **kwargs)
        times.append((began, time.perf_counter()))
        return found

    trainer.get_batch_samples = timed
    yield times
    del trainer.get_batch_samples


def measure(source: str, name: str, workers: int) -> dict[str, Any]:
    """Train for some steps and time how long they wait.

    Args:
        source (str): A key of ``SOURCES``.
        name (str): What ``open_dataset`` takes.
        workers (int): The number of DataLoader workers.

    Returns:
        The share of the time of the steps in which they waited, the median seconds of a step and of its wait, and the
        seconds until the first batch.
    """
    set_seed(0)
    stream = source.endswith("streamed")
    size = BATCH_SIZE * (STEPS + 2)
    data = open_dataset(name, "train", size, streaming=stream, shuffle_buffer=size)
    model, processor = build_model(vision_tower=SOURCES[source], **fastest_setting())
    with tempfile.TemporaryDirectory() as output:
        arguments = training_arguments(
            output, samples=None if stream else len(data), batch_size=BATCH_SIZE, max_steps=STEPS, model=model,
            dataloader_num_workers=workers, save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = build_trainer(model, processor, data, arguments)
        with timed_waits(trainer) as times:
            trainer.train()
            ended = time.perf_counter()
    starts = [began for began, _ in times[:STEPS]]
    seconds = [after - before for before, after in zip(starts, [*starts[1:], ended], strict=True)][WARM_UP:]
    waits = [got - asked for asked, got in times[WARM_UP:STEPS]]
    return {
        "share": sum(waits) / sum(seconds),
        "step": statistics.median(seconds),
        "wait": statistics.median(waits),
        "first_batch": times[0][1] - times[0][0],
    }


def table(saved: dict[str, Any]) -> str:
    """A row for each source and number of workers.

    Args:
        saved (dict[str, Any]): The content of the result file.

    Returns:
        The table, and how it was measured.
    """
    rows = []
    for source, workers in itertools.product(SOURCES, WORKERS):
        one = saved["runs"].get(f"{source}/{workers}")
        if one is None:
            continue
        default = ", the default" if workers == saved["default"][source] else ""
        cells = [f"{workers}{default}", f"{100 * one['share']:.1f}"]
        rows.append([source, *cells, *(f"{one[key]:.2f}" for key in ("step", "first_batch"))])
    head = ["data", "workers", "of a step waiting, %", "step, s", "until the first batch, s"]
    note = (
        f"SmolLM2-135M with the vision tower that `adem-vl train` takes for the data, {saved['steps']} steps of "
        f"{saved['batch_size']} after {saved['warm_up']} that do not count, {saved['threads']} "
        f"thread{'s' * (saved['threads'] > 1)} on {saved['cores']} cores. The folder has {saved['files']:,} files "
        f"of 2 megapixels ({saved['kilobytes']} KB), the tar {saved['in_tar']}."
    )
    return f"{tables.markdown(head, rows)}\n\n{note}"


def sections() -> dict[str, str]:
    """The section of docs/results.md about waiting for data.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load(measures.result_file("data_wait"))
    return {"data wait table": table(saved) if saved else tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--again", action="store_true", help="also measure again what has a result")
    args = parser.parse_args()
    file = measures.result_file("data_wait")
    saved = tables.load(file) or {"runs": {}}
    with tempfile.TemporaryDirectory() as folder:
        names = make_data(Path(folder))
        datasets.config.HF_DATASETS_CACHE = Path(folder, "cache")
        saved |= {
            "default": {source: default_workers(source.endswith("streamed")) for source in SOURCES},
            "steps": STEPS - WARM_UP, "warm_up": WARM_UP, "files": FILES, "in_tar": IN_TAR,
            "batch_size": BATCH_SIZE, "threads": torch.get_num_threads(),
            "cores": len(os.sched_getaffinity(0)),
            "kilobytes": round(Path(folder, "photographs", "0000.jpg").stat().st_size / 1000),
        }  # fmt: skip
        for source in args.sources:
            for workers in WORKERS[:2] if source.endswith("streamed") else WORKERS:
                run = f"{source}/{workers}"
                if args.again or run not in saved["runs"]:
                    print(f"=== {run}", flush=True)
                    saved["runs"][run] = measure(source, names[source], workers)
                    tables.save(file, saved)
    print(sections()["data wait table"])


if __name__ == "__main__":
    main()
