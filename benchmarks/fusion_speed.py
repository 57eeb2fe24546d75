"""The time of the fused term, beside its two matrix products alone and beside the authors' way to compute it.

python benchmarks/fusion_speed.py
python benchmarks/write_tables.py  # puts the table into docs/results.md
"""

import argparse
from collections.abc import Callable
from typing import Any

import measures
import tables
import torch
from torch.nn import functional as F

from adem_vl_hf.modeling.fusion import fuse, kernel_map, memory_for_one_position
from adem_vl_hf.modeling.visual_memory import VisualMemory

# B, T, S, D: LLaMA-7B and SmolLM2-135M, each with a text and with one more token of an answer (as in decoding)
SHAPES = ((1, 256, 320, 4096), (4, 256, 320, 576), (1, 1, 320, 4096), (4, 1, 320, 576))
DROP_RATIO, SCALE = 0.1, 0.1
CALLS = {"cpu": 1, "cuda": 50}  # calls in one measurement: a single call on a GPU is too short to be timed
WAYS = ("two matrix products", "fused term", "the authors' way")


def authors_way(hidden_states, visual, key_embedding, value_embedding):
    """One layer of ADEM-VL as the published code computes it: keys and values anew, a full sort for the threshold.

    Args:
        hidden_states: [B, T, D].
        visual: the visual prompt, [B, S, D].
        key_embedding: [1, S, D].
        value_embedding: [1, S, D].

    Returns:
        The fused term, [B, T, D].
    """
    key = F.silu(visual + key_embedding)  # [B, S, D]
    value = visual + value_embedding
    scores = F.silu(hidden_states) @ key.transpose(1, 2)  # [B, T, S]
    ordered, _ = scores.sort(dim=-1)
    threshold = ordered[..., int(DROP_RATIO * scores.shape[-1])].unsqueeze(-1)
    scores = torch.where(scores < threshold, torch.zeros_like(scores), scores)
    return SCALE * (scores @ value)


def ways(batch: int, text: int, slots: int, width: int, dtype: torch.dtype, backward: bool) -> dict[str, Callable]:
    """One call of each of ``WAYS`` at a shape.

    Args:
        batch (int): B.
        text (int): T, the positions of the text.
        slots (int): S, the slots of the visual memory.
        width (int): D, the width of the language model.
        dtype (torch.dtype): the precision of all tensors.
        backward (bool): whether a call has a backward pass, too.

    Returns:
        The function by the name of the way.
    """
    torch.manual_seed(0)

    def leaf(x: torch.Tensor) -> torch.Tensor:
        return x.to(measures.DEVICE, dtype).requires_grad_(backward)

    hidden_states = leaf(torch.randn(batch, text, width))
    gradient = torch.randn(batch, text, width).to(measures.DEVICE, dtype)
    visual = leaf(torch.randn(batch, slots, width))
    embeddings = [leaf(0.02 * torch.randn(1, slots, width)) for _ in range(2)]
    with torch.no_grad():  # once for all layers, as the adapter lays them out
        key, value = kernel_map(visual + embeddings[0], "silu"), SCALE * (visual + embeddings[1])
    key, value = leaf(key.mT.contiguous().mT), leaf(value)
    memory = VisualMemory(key, value)
    as_read = (memory_for_one_position(memory) if text == 1 else memory)[:2]  # once for all layers, too
    inputs = (hidden_states, visual, *embeddings, key, value)

    def call(function: Callable[..., torch.Tensor], *arguments: Any) -> Callable[[], None]:
        def run() -> None:
            out = function(*arguments)
            if backward:
                out.backward(gradient)
                for x in inputs:
                    x.grad = None

        return run

    return dict(
        zip(
            WAYS,
            (
                call(lambda: (hidden_states @ key.mT) @ value),
                call(fuse, hidden_states, *as_read, "silu", DROP_RATIO),
                call(authors_way, hidden_states, visual, *embeddings),
            ),
            strict=True,
        )
    )


def measure(repeats: int) -> list[dict[str, Any]]:
    """Measure every shape in both precisions, forward, and with the backward where there is more than one position.

    Args:
        repeats (int): how often each call is measured.

    Returns:
        A row for each, with the times over that of the two matrix products.
    """
    rows = []
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for backward in (False, True) if shape[1] > 1 else (False,):
                name = f"{shape} {str(dtype).removeprefix('torch.')}{', backward too' if backward else ''}"
                times = measures.interleaved(ways(*shape, dtype, backward), repeats, name, CALLS[measures.DEVICE.type])
                rows.append({
                    "shape": shape, "dtype": str(dtype).removeprefix("torch."), "backward": backward,
                    "ratios": measures.ratios(times, WAYS[0]),
                })  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each shape, precision and direction.

    Args:
        rows (list[dict[str, Any]]): of ``measure``.

    Returns:
        The table, with times over that of the two matrix products.
    """
    lines = []
    for row in rows:
        ours, theirs = (row["ratios"][way] for way in WAYS[1:])
        direction = "forward and backward" if row["backward"] else "forward"
        shape = ", ".join(map(str, row["shape"]))
        lines.append([shape, row["dtype"], direction, f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.2f}"])
    head = ["B, T, S, D", "precision", "pass", "this package", "authors' code", "authors' code / this package"]
    return tables.markdown(head, lines)


def sections() -> dict[str, str]:
    """The sections of docs/results.md about the fused term.

    Returns:
        The text by the name of the section.
    """
    return tables.of_devices("fusion_speed", {"fusion table": lambda saved: table(saved["rows"])})


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    rows = measure(args.repeats)
    saved = {
        "repeats": args.repeats,
        "threads": torch.get_num_threads(),
        "device": measures.device_name(),
        "rows": rows,
    }
    tables.save(measures.result_file("fusion_speed"), saved)
    print(table(rows))


if __name__ == "__main__":
    main()
