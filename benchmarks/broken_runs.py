"""What it costs to look at the loss and at all gradients of a training step for NaN and infinity.

python benchmarks/broken_runs.py
"""

import argparse
import statistics

import measures
import torch

from adem_vl_hf.broken_runs import what_is_broken
from adem_vl_hf.data import open_dataset
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.loading import build_model
from adem_vl_hf.training import fastest_setting

CHECKS = 20  # for each step, because one takes too little time to be measured


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    model, processor = build_model(**fastest_setting())
    model.train().to(measures.DEVICE)
    data = open_dataset("openmoji-scenes", "train", args.batch_size)
    batch = measures.to_device(AdemVLCollator(processor)([data[i] for i in range(args.batch_size)]))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0)
    loss = torch.zeros(())

    def step() -> None:
        nonlocal loss
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()

    def check() -> None:
        for _ in range(CHECKS):
            assert what_is_broken(model, loss, trained) is None

    times = measures.interleaved({"step": step, "check": check}, args.repeats, "steps")
    times["check"] = [seconds / CHECKS for seconds in times["check"]]
    step_ms, check_ms = (1000 * statistics.median(times[name]) for name in ("step", "check"))
    print(
        f"{measures.device_name()}, batch of {args.batch_size}, {len(trained)} trained tensors: a step takes "
        f"{step_ms:.1f} ms, the check {check_ms:.2f} ms, {100 * measures.ratio(times['check'], times['step']):.3f} % "
        f"of it (medians of {args.repeats} turns)"
    )


if __name__ == "__main__":
    main()
