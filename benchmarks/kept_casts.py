"""The time of a generated token of EVLM with weights cast once for an answer, over that with a cast for every token.

python benchmarks/kept_casts.py
python benchmarks/write_tables.py  # puts the result into docs/results.md

The adapter is in float32, as training leaves it, and the language model in bfloat16.
"""

import argparse
import statistics
import tempfile
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import measures
import tables
import torch
from efficiency import ANSWER, BACKBONES, DEFAULT_BACKBONES, NEW_TOKENS, samples

from adem_vl_hf.loading import build_model
from adem_vl_hf.modeling import modeling_evlm

TEXT = 32  # tokens of the prompt


def measure(backbone: str, folder: Path, repeats: int) -> dict[str, float]:
    """Measure answers of one model.

    Args:
        backbone (str): a key of ``efficiency.BACKBONES``.
        folder (Path): where random bases are written.
        repeats (int): the number of turns.

    Returns:
        ``token``, the ratio; the milliseconds of a token as ``kept`` and ``cast_each_time``; ``trained_numbers``.
    """
    language_model, tower = BACKBONES[backbone].bases(folder)
    model, processor = build_model(kind="evlm", language_model=language_model, vision_tower=tower, dtype=torch.bfloat16)
    model = model.eval().to(measures.DEVICE)
    (row,) = samples(processor.tokenizer, TEXT + ANSWER, 1)
    inputs = measures.to_device(processor(images=[row["image"]], text=[row["prompt"]], return_tensors="pt"))

    def answer(kept: bool, new_tokens: int) -> None:
        with nullcontext() if kept else patch.object(modeling_evlm, "casts_kept", nullcontext):
            measures.answer(model, inputs, new_tokens)

    def times(kept: bool) -> list[float]:
        few, many = (answers[f"{kept}, {new_tokens}"] for new_tokens in (1, NEW_TOKENS))
        return [(b - a) / (NEW_TOKENS - 1) for a, b in zip(few, many, strict=True)]

    functions = {
        f"{kept}, {new_tokens}": lambda kept=kept, new_tokens=new_tokens: answer(kept, new_tokens)
        for kept in (True, False)
        for new_tokens in (1, NEW_TOKENS)
    }
    answers = measures.interleaved(functions, repeats, backbone)
    return {
        "token": measures.ratio(times(True), times(False)),
        "kept": 1000 * statistics.median(times(True)),
        "cast_each_time": 1000 * statistics.median(times(False)),
        "trained_numbers": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def table(results: dict[str, dict[str, float]]) -> str:
    """A row for each language model.

    Args:
        results (dict[str, dict[str, float]]): what ``measure`` returned, by backbone.

    Returns:
        The table.
    """
    head = ["language model", "trainable parameters", "cast for every token, ms", "cast once, ms", "ratio"]
    rows = [
        [name, f"{result['trained_numbers']:,}"]
        + [f"{result[key]:.1f}" for key in ("cast_each_time", "kept")]
        + [f"{result['token']:.2f}"]
        for name, result in results.items()
    ]
    return tables.markdown(head, rows)


def sections() -> dict[str, str]:
    """The section of docs/results.md about casts.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load("kept_casts")
    return {"kept casts": tables.NOT_MEASURED if saved is None else table(saved)}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=DEFAULT_BACKBONES)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    results = tables.load("kept_casts") or {}
    with tempfile.TemporaryDirectory() as folder:
        for backbone in args.backbones:
            results[backbone] = measure(backbone, Path(folder), args.repeats)
            tables.save("kept_casts", results)
    print(sections()["kept casts"])


if __name__ == "__main__":
    main()
