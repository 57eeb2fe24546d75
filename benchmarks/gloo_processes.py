"""What one of several gloo processes measures for ``scaling.py``: times of all-reduce, and the bytes that DDP sends.

torchrun starts it. It imports the package only to build a model, because every process would have to do so.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

DEVICES = Path("/proc/net/dev")  # Linux counts here what each network device has sent


def sent_bytes() -> int:
    """The bytes that all processes of this machine have sent to each other.

    Returns:
        Those of the loopback device, with the headers of TCP/IP.
    """
    (line,) = (line for line in DEVICES.read_text(encoding="utf-8").splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def counted(function: Any, repeats: int) -> int:
    """The bytes that all processes together send in one call of a function. All call it at the same time.

    Args:
        function (Callable[[], Any]): what to call.
        repeats (int): how often.

    Returns:
        Bytes of one call.
    """
    dist.barrier()
    before = sent_bytes()
    dist.barrier()  # nobody sends before all have read
    for _ in range(repeats):
        function()
    dist.barrier()
    after = sent_bytes()
    dist.barrier()
    return (after - before) // repeats


def times_of_all_reduce(sizes: list[int], repeats: int) -> list[dict[str, float]]:
    """Measure all-reduce of buffers of several sizes.

    Args:
        sizes (list[int]): bytes of the buffers, which hold float32.
        repeats (int): how often each is measured, after one time that does not count.

    Returns:
        For each size the median seconds of the slowest process, and the bytes that all processes sent.
    """
    found = []
    for size in sizes:
        buffer = torch.zeros(size // 4)
        seconds = []
        for _ in range(repeats + 1):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(buffer)
            took = torch.tensor(time.perf_counter() - began, dtype=torch.float64)
            dist.all_reduce(took, op=dist.ReduceOp.MAX)
            seconds.append(took.item())
        sent = counted(lambda: dist.all_reduce(buffer), repeats)  # noqa: B023 (called at once)
        found.append({"bytes": size, "seconds": statistics.median(seconds[1:]), "sent": sent})
    return found


def bytes_of_ddp(language_model: str, vision_tower: str) -> dict[str, int]:
    """Count what a training step of ADEM-VL under DDP gives to all-reduce, and what goes over the network for it.

    Args:
        language_model (str): the language model, as ``build_model`` takes it.
        vision_tower (str): the vision tower, as ``build_model`` takes it.

    Returns:
        The trained numbers, the bytes of all gradients that a communication hook saw in a step, and the bytes that all
        processes together sent in that step.
    """
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    from adem_vl_hf.data import OpenMojiScenes
    from adem_vl_hf.data.collator import AdemVLCollator
    from adem_vl_hf.loading import build_model

    model, processor = build_model(language_model, vision_tower)
    data = OpenMojiScenes("train", dist.get_world_size())
    batch = AdemVLCollator(processor)([data[dist.get_rank()]])
    parallel = torch.nn.parallel.DistributedDataParallel(model.train())
    seen = []

    def counting(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        seen.append(bucket.buffer().nbytes)
        return allreduce_hook(state, bucket)

    parallel.register_comm_hook(None, counting)

    def step() -> None:
        seen.clear()
        parallel(**batch).loss.backward()
        parallel.zero_grad()

    step()  # after the first step DDP lays its buckets out anew
    sent = counted(step, 1)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {"trained_numbers": trained, "reduced": sum(seen), "sent": sent}


def run() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--sizes", nargs="+", type=int, default=[])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--bases", nargs=2, help="count the bytes of a step of DDP, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found: dict[str, Any] = {"sizes": times_of_all_reduce(args.sizes, args.repeats)}
    if args.bases:
        found["ddp"] = bytes_of_ddp(*args.bases)
    if dist.get_rank() == 0:
        args.result.write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    run()
