"""The time of a training step with the LM head on every position, over that with the head on supervised ones only.

python benchmarks/lm_head.py
python benchmarks/write_tables.py  # puts the result into docs/results.md
"""

import argparse
import statistics
import time
from unittest.mock import patch

import tables
from tqdm import trange

from adem_vl_hf import AdemVLForConditionalGeneration
from adem_vl_hf.data import open_dataset
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.loading import build_model
from adem_vl_hf.training import fastest_setting


def sections() -> dict[str, str]:
    """The section of docs/results.md about the LM head.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load("lm_head")
    if saved is None:
        return {"lm head": tables.NOT_MEASURED}
    return {
        "lm head": f"With the LM head on every position, a training step takes {saved['ratio']:.2f} times as long as "
        f"with the head on the supervised positions only (SmolLM2-135M, batch of {saved['batch_size']}, medians of "
        f"{saved['repeats']} repeats in turns)."
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    model, processor = build_model(**fastest_setting())
    model.train()
    data = open_dataset("openmoji-scenes", "train", args.batch_size)
    batch = AdemVLCollator(processor)([data[i] for i in range(args.batch_size)])

    def step(plain_head: bool) -> float:
        with patch.object(AdemVLForConditionalGeneration, "has_plain_head", plain_head):
            began = time.perf_counter()
            model(**batch).loss.backward()
            seconds = time.perf_counter() - began
        model.zero_grad()
        return seconds

    step(True), step(False)  # warm up
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in trange(args.repeats, desc="steps"):
        for plain_head in (True, False):
            times[plain_head].append(step(plain_head))
    ratio = statistics.median(times[False]) / statistics.median(times[True])
    tables.save("lm_head", {"ratio": ratio, "batch_size": args.batch_size, "repeats": args.repeats})
    print(sections()["lm head"])


if __name__ == "__main__":
    main()
