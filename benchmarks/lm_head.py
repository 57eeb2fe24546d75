"""How much a training step gains from running the LM head on supervised positions only: the ratio of step times.

python benchmarks/lm_head.py
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


def main() -> None:
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
    print(f"LM head on every position / on supervised positions only: {ratio:.2f} x the step time")


if __name__ == "__main__":
    main()
