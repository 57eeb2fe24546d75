"""What the arms of miniature.py cost: operations and time of a step, time of a generated token, memory of an image.

python benchmarks/miniature_cost.py    # measures all arms, which take turns in one process
python benchmarks/write_tables.py      # puts the table into docs/results.md
"""

import argparse
import statistics
from functools import partial

import measures
import tables
import torch
from miniature import ARMS, LABELS

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import OpenMojiScenes
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.loading import build_model
from adem_vl_hf.openmoji_training import BATCH_SIZE
from adem_vl_hf.training import fastest_setting

NEW_TOKENS = 17


@torch.inference_mode()
def cached_bytes(model, inputs: dict[str, torch.Tensor]) -> int:
    """The size of the cache after the prompt.

    Args:
        model: a model of this package, or its language model.
        inputs (dict[str, torch.Tensor]): the prompt, with an image or without.

    Returns:
        The bytes of all keys and values, of text and of images.
    """
    cache = model(**inputs, use_cache=True).past_key_values
    tensors = [part for layer in cache.layers for part in (layer.keys, layer.values)]
    tensors += [part for part in getattr(cache, "visual_memory", ()) if part is not None]
    return sum(part.nbytes for part in tensors)


def measure(repeats: int) -> dict[str, dict[str, float]]:
    """Measure every arm.

    Args:
        repeats (int): how often each call is measured.

    Returns:
        For each arm ``flops`` of a step, ``cached_bytes`` of an image, and the seconds of a ``step``, of a generated
        ``token``, and of one without a cache (``uncached``).
    """
    keep_freed_memory()
    setting, data = fastest_setting(), OpenMojiScenes("train", size=BATCH_SIZE, kinds=("caption",))
    rows = [data[i] for i in range(BATCH_SIZE)]
    steps, answers, facts = {}, {}, {}
    for name, (kind, settings) in ARMS.items():
        torch.manual_seed(0)
        model, processor = build_model(kind=kind, **setting, **settings)
        batch = AdemVLCollator(processor)(rows)
        inputs = processor(images=rows[0]["image"], text=rows[0]["prompt"], return_tensors="pt")
        text = processor(text=rows[0]["prompt"], return_tensors="pt")
        steps[name] = partial(measures.training_step, model, batch)
        for cached in (True, False):
            for new_tokens in (1, NEW_TOKENS):
                answers[name, cached, new_tokens] = partial(
                    measures.answer, model, inputs, new_tokens, use_cache=cached
                )
        bare = cached_bytes(model.language_model, {"input_ids": text["input_ids"]})
        facts[name] = {
            "flops": measures.counted_flops(steps[name]),
            "cached_bytes": cached_bytes(model, inputs) - bare,
        }
    step_times = measures.interleaved(steps, repeats, "steps")
    answer_times = measures.interleaved(answers, repeats, "answers")
    for name, values in facts.items():
        values["step"] = statistics.median(step_times[name])
        for key, cached in (("token", True), ("uncached", False)):
            few, many = (statistics.median(answer_times[name, cached, n]) for n in (1, NEW_TOKENS))
            values[key] = (many - few) / (NEW_TOKENS - 1)
    return facts


def table(facts: dict[str, dict[str, float]]) -> str:
    """A row for each arm.

    Args:
        facts (dict[str, dict[str, float]]): of ``measure``.

    Returns:
        The table, with times over ADEM-VL's, and below it ADEM-VL's own times.
    """
    keys = ("step", "token", "uncached")
    base, rows = facts["adem_vl"], []
    for name, own in facts.items():
        times = [f"{own[key] / base[key]:.2f}" for key in keys]
        rows.append([LABELS[name], f"{own['flops'] / 1e9:,.0f}", *times, f"{own['cached_bytes'] / 1024:,.0f}"])
    step, token, uncached = (f"{1000 * base[key]:,.0f} ms" for key in keys)
    head = ["", "GFLOPs per step", "step", "generated token", "generated token without a cache", "cache per image, KiB"]
    return (
        f"{tables.markdown(head, rows)}\n\nTimes are divided by ADEM-VL's: {step} for a step of {BATCH_SIZE} samples, "
        f"{token} for a generated token (batch of 1), and {uncached} for one without a cache."
    )


def sections() -> dict[str, str]:
    """The section of docs/results.md about the cost of EVLM's mechanisms.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load("miniature_cost")
    return {"miniature cost table": table(saved["arms"]) if saved else tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    tables.save("miniature_cost", {"repeats": args.repeats, "arms": measure(args.repeats)})
    print(sections()["miniature cost table"])


if __name__ == "__main__":
    main()
