"""What `torch.compile` saves: a training step and a decoded token, compiled and not, of ADEM-VL and the LM alone.

python benchmarks/compiled.py          # SmolLM2; most of it is compiling: half an hour on two CPU cores
python benchmarks/readme.py            # puts the table of the result file into README.md

Everything takes turns in one process. Times are ratios within a turn, and of those the median.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import measures
import tables
import torch
from arms import ARMS, matched_sizes
from efficiency import (
    BACKBONES,
    DEFAULT_BACKBONES,
    NEW_TOKENS,
    STEP_TURNS,
    TEXTS,
    default_batch_size,
    floor_step,
    samples,
    tower_step,
)
from transformers import CLIPVisionModel
from transformers.generation import CompileConfig

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.training import fastest_setting

BACKEND = "inductor"
SHOWN = {"floor": "the LM's", "tower": "the tower's", "adem_vl": "ADEM-VL's"}
FEW = 1  # new tokens: the prefill alone
Functions = dict[str, Callable[[], None]]


class Parts(NamedTuple):
    """ADEM-VL, the language model alone and the tower alone, with inputs of each."""

    model: Any
    bare: Any
    tower: Any
    batch: dict[str, torch.Tensor]
    bare_ids: torch.Tensor
    prompt: dict[str, torch.Tensor]
    bare_prompt: dict[str, torch.Tensor]


def parts(backbone: str, text: int, folder: Path) -> Parts:
    """Everything on its device, as efficiency.py measures it."""
    language_model, vision = BACKBONES[backbone].bases(folder)
    setting = fastest_setting()
    sizes = matched_sizes("adem_vl") if BACKBONES[backbone].matched else {}
    model, processor = ARMS["adem_vl"].build(language_model, vision, **setting, **sizes)
    bare, blind = ARMS["floor"].build(language_model, vision, **setting)
    tower = CLIPVisionModel.from_pretrained(vision, **setting).requires_grad_(False)
    rows = samples(processor.tokenizer, text, default_batch_size(backbone))
    prompts = [row["prompt"] for row in rows]
    inputs = (
        AdemVLCollator(processor)(rows), AdemVLCollator(blind)(rows),
        processor(images=[row["image"] for row in rows], text=prompts, return_tensors="pt"),
        blind(text=prompts, return_tensors="pt"),
    )  # fmt: skip
    batch, blind_batch, prompt, bare_prompt = (measures.to_device(one) for one in inputs)
    model, bare, tower = (module.to(measures.DEVICE) for module in (model, bare, tower))
    return Parts(model, bare, tower, batch, blind_batch["input_ids"], prompt, bare_prompt)


def training_steps(made: Parts) -> Functions:
    """Forward and backward of each part."""
    return {
        "floor": partial(floor_step, made.bare, made.bare_ids),
        "tower": partial(tower_step, made.tower, torch.zeros_like(made.batch["pixel_values"])),
        "adem_vl": partial(measures.training_step, made.model, made.batch),
    }


def answers(made: Parts, **kwargs: Any) -> Functions:
    """Of the LM and of ADEM-VL, each with one new token and with many; ``kwargs`` are for ``generate``."""
    return {
        f"{who}, {count}": partial(measures.answer, model, inputs, count, **kwargs)
        for who, model, inputs in (("floor", made.bare, made.bare_prompt), ("adem_vl", made.model, made.prompt))
        for count in (FEW, NEW_TOKENS)
    }


def compiled_answers(made: Parts) -> Functions:
    """The same with a static cache and compiled passes of one token."""
    config = CompileConfig(backend=BACKEND, mode=None)
    config._compile_all_devices = True  # as generate does by itself on a GPU
    return answers(made, cache_implementation="static", compile_config=config)


def first_calls(made: Functions) -> dict[str, float]:
    """Seconds of a first call of each: nearly all of it is compiling."""
    seconds = {}
    for name, function in made.items():
        began = time.perf_counter()
        function()
        measures.finish()
        seconds[name] = time.perf_counter() - began
        print(f"compiled {name}: {seconds[name]:.0f} s", flush=True)
    return seconds


def in_turns(plain: Functions, compiled: Functions, repeats: int, label: str) -> dict[str, dict[str, list[float]]]:
    """Seconds of all of both, which take turns."""
    ways = {"plain": plain, "compiled": compiled}
    times = measures.interleaved({(way, name): ways[way][name] for way in ways for name in plain}, repeats, label)
    return {way: {name: times[way, name] for name in plain} for way in ways}


def measure(backbone: str, text: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Of one length of text: compiled over plain, and ADEM-VL over the floor either way."""
    keep_freed_memory()
    plain, compiled = (parts(backbone, text, folder) for _ in range(2))
    for module in (compiled.bare.get_decoder(), compiled.tower, compiled.model):
        module.compile(backend=BACKEND)
    quick_steps = training_steps(compiled)
    first = first_calls(quick_steps)
    steps = in_turns(training_steps(plain), quick_steps, STEP_TURNS * repeats, "steps")
    torch.compiler.reset()  # both go through the same code: graphs of steps would be in the way of answers
    # of the models that are not compiled: of the others, the prefill would be, too
    quick_answers = compiled_answers(plain)
    first |= first_calls(quick_answers)
    answered = in_turns(answers(plain), quick_answers, repeats, "answers")
    tokens = {
        way: {
            who: [b - a for a, b in zip(times[f"{who}, {FEW}"], times[f"{who}, {NEW_TOKENS}"], strict=True)]
            for who in ("floor", "adem_vl")
        }
        for way, times in answered.items()
    }
    both = {way: [a + b for a, b in zip(steps[way]["floor"], steps[way]["tower"], strict=True)] for way in steps}
    return {
        "compiled_over_plain": {
            "step": {who: measures.ratio(steps["compiled"][who], steps["plain"][who]) for who in SHOWN},
            "token": {who: measures.ratio(tokens["compiled"][who], tokens["plain"][who]) for who in tokens["plain"]},
        },
        "step_with_tower": {way: measures.ratio(steps[way]["adem_vl"], both[way]) for way in steps},
        "token": {way: measures.ratio(tokens[way]["adem_vl"], tokens[way]["floor"]) for way in tokens},
        "seconds_of_first_calls": first,
        "repeats": repeats, "batch_size": default_batch_size(backbone), "device": measures.device_name(),
    }  # fmt: skip


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each length of text and each of step and token."""
    heads = [f"{shown}, compiled / not" for shown in SHOWN.values()]
    lines = [
        f"| backbone, text | | {' | '.join(heads)} | ADEM-VL / floor | both compiled | to compile ADEM-VL's, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        first = result["seconds_of_first_calls"]
        for what, shown, key, call in (
            ("step", "a step (floor: with the tower)", "step_with_tower", "adem_vl"),
            ("token", "a token", "token", f"adem_vl, {NEW_TOKENS}"),
        ):
            saved = result["compiled_over_plain"][what]
            cells = [f"{saved[who]:.2f}" if who in saved else "" for who in SHOWN]
            over = [f"{result[key][way]:.2f}" for way in ("plain", "compiled")]
            lines.append(
                f"| {', '.join(name.split('/'))} | {shown} | {' | '.join([*cells, *over])} | {first[call]:.0f} |"
            )
    return "\n".join(lines)


def sections() -> dict[str, str]:
    """What README.md shows of the result file."""
    saved = tables.load("compiled")
    return {"compiled table": table(saved) if saved else ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=BACKBONES, default=DEFAULT_BACKBONES[0])
    parser.add_argument("--texts", nargs="+", type=int, default=list(TEXTS), help="tokens of a row")
    parser.add_argument("--repeats", type=int, default=3, help=f"turns of answers; of steps {STEP_TURNS} times as many")
    parser.add_argument("--again", action="store_true", help="measure what has a result, too")
    args = parser.parse_args()
    results = tables.load(measures.result_file("compiled")) or {}
    for text in args.texts:
        name = f"{args.backbone}/{text}"
        if name in results and not args.again:
            continue
        print(f"=== {name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # what another run compiled would hide what it takes
            torch.compiler.reset()
            results[name] = measure(args.backbone, text, args.repeats, Path(folder))
        tables.save(measures.result_file("compiled"), results)
    print(table(results))


if __name__ == "__main__":
    main()
