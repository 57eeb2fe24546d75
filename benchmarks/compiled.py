"""The time of a training step and of a generated token with `torch.compile`, over that without it.

python benchmarks/compiled.py          # SmolLM2: twelve minutes on two CPU cores with AMX, most of which is compiling
python benchmarks/compiled.py --again  # the same after a change of the code, also of what has a result
python benchmarks/write_tables.py      # puts the table into docs/results.md

Measured are ADEM-VL, the language model alone and the vision tower alone, which take turns in one process. Each figure
is the median of the ratios within a turn.
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
SHOWN = {"floor": "language model alone", "tower": "vision tower alone", "adem_vl": "ADEM-VL"}
FEW = 1  # new tokens: this is the prefill alone
Functions = dict[str, Callable[[], None]]


class Parts(NamedTuple):
    """ADEM-VL, the language model alone and the vision tower alone, with the inputs of each.

    Args:
        model (Any): ADEM-VL.
        bare (Any): the language model alone.
        tower (Any): the vision tower alone.
        batch (dict[str, torch.Tensor]): a training batch of ADEM-VL.
        bare_ids (torch.Tensor): the token ids of that batch without images, [B, T].
        prompt (dict[str, torch.Tensor]): prompts with images.
        bare_prompt (dict[str, torch.Tensor]): the same prompts without images.
    """

    model: Any
    bare: Any
    tower: Any
    batch: dict[str, torch.Tensor]
    bare_ids: torch.Tensor
    prompt: dict[str, torch.Tensor]
    bare_prompt: dict[str, torch.Tensor]


def parts(backbone: str, text: int, folder: Path) -> Parts:
    """Build the models and inputs that efficiency.py measures.

    Args:
        backbone (str): a key of ``BACKBONES``.
        text (int): tokens of a row of text.
        folder (Path): where random bases are written.

    Returns:
        All of them, on the device of the measurements.
    """
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
    """A training step of each part.

    Args:
        made (Parts): what to train.

    Returns:
        The function by the name of the part.
    """
    return {
        "floor": partial(floor_step, made.bare, made.bare_ids),
        "tower": partial(tower_step, made.tower, torch.zeros_like(made.batch["pixel_values"])),
        "adem_vl": partial(measures.training_step, made.model, made.batch),
    }


def answers(made: Parts, **kwargs: Any) -> Functions:
    """Generation by the language model alone and by ADEM-VL, of one new token and of many.

    Args:
        made (Parts): what generates.
        kwargs (Any): for ``generate``.

    Returns:
        The function by the name of the part and the number of new tokens.
    """
    return {
        f"{who}, {count}": partial(measures.answer, model, inputs, count, **kwargs)
        for who, model, inputs in (("floor", made.bare, made.bare_prompt), ("adem_vl", made.model, made.prompt))
        for count in (FEW, NEW_TOKENS)
    }


def compiled_answers(made: Parts) -> Functions:
    """The functions of ``answers`` with a static cache, in which the passes of one token are compiled.

    Args:
        made (Parts): what generates.

    Returns:
        The function by the name of the part and the number of new tokens.
    """
    config = CompileConfig(backend=BACKEND, mode=None)
    config._compile_all_devices = True  # as generate does by itself on a GPU
    return answers(made, cache_implementation="static", compile_config=config)


def first_calls(made: Functions) -> dict[str, float]:
    """Call each function once. Nearly all of that time is compiling.

    Args:
        made (Functions): the compiled functions.

    Returns:
        The seconds by the name of the function.
    """
    seconds = {}
    for name, function in made.items():
        began = time.perf_counter()
        function()
        measures.finish()
        seconds[name] = time.perf_counter() - began
        print(f"compiled {name}: {seconds[name]:.0f} s", flush=True)
    return seconds


def in_turns(plain: Functions, compiled: Functions, repeats: int, label: str) -> dict[str, dict[str, list[float]]]:
    """Measure the functions, plain and compiled, which take turns.

    Args:
        plain (Functions): the functions that are not compiled.
        compiled (Functions): the same functions, compiled.
        repeats (int): how often each is measured.
        label (str): the label of the progress bar.

    Returns:
        The seconds of every measurement, by way (``"plain"`` or ``"compiled"``) and name of the function.
    """
    ways = {"plain": plain, "compiled": compiled}
    times = measures.interleaved({(way, name): ways[way][name] for way in ways for name in plain}, repeats, label)
    return {way: {name: times[way, name] for name in plain} for way in ways}


def measure(backbone: str, text: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Measure one length of text.

    Args:
        backbone (str): a key of ``BACKBONES``.
        text (int): tokens of a row of text.
        repeats (int): how often generation is measured, and a ``STEP_TURNS``-th of how often a step is.
        folder (Path): where random bases are written.

    Returns:
        Times of compiled over plain, and of ADEM-VL over the language model alone, plain and compiled.
    """
    keep_freed_memory()
    plain, compiled = (parts(backbone, text, folder) for _ in range(2))
    for module in (compiled.bare.get_decoder(), compiled.tower, compiled.model):
        module.compile(backend=BACKEND)
    quick_steps = training_steps(compiled)
    first = first_calls(quick_steps)
    steps = in_turns(training_steps(plain), quick_steps, STEP_TURNS * repeats, "steps")
    torch.compiler.reset()  # steps and answers share code: without this, graphs of steps would be tried for answers
    # made from the plain models: the compiled ones would compile the prefill, too
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
    """A row for a training step and one for a generated token, of each length of text.

    Args:
        results (dict[str, dict[str, Any]]): what ``measure`` returned, by backbone and length of text.

    Returns:
        The table.
    """
    rows = []
    for name, result in results.items():
        first = result["seconds_of_first_calls"]
        for what, shown, key, call in (
            ("step", "training step", "step_with_tower", "adem_vl"),
            ("token", "generated token", "token", f"adem_vl, {NEW_TOKENS}"),
        ):
            saved = result["compiled_over_plain"][what]
            cells = [f"{saved[who]:.2f}" if who in saved else "" for who in SHOWN]
            over = [f"{result[key][way]:.2f}" for way in ("plain", "compiled")]
            rows.append([", ".join(name.split("/")), shown, *cells, *over, f"{first[call]:.0f}"])
    heads = [f"{label}: compiled / plain" for label in SHOWN.values()]
    over = ["ADEM-VL / floor, plain", "ADEM-VL / floor, compiled"]
    return tables.markdown(["backbone, text tokens", "", *heads, *over, "seconds to compile ADEM-VL"], rows)


def sections() -> dict[str, str]:
    """The section of docs/results.md about compilation.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load("compiled")
    return {"compiled table": table(saved) if saved else tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=BACKBONES, default=DEFAULT_BACKBONES[0])
    parser.add_argument("--texts", nargs="+", type=int, default=list(TEXTS), help="tokens of a row of text")
    parser.add_argument("--repeats", type=int, default=3, help=f"turns of answers; {STEP_TURNS} times as many of steps")
    parser.add_argument("--again", action="store_true", help="also measure again what has a result")
    args = parser.parse_args()
    results = tables.load(measures.result_file("compiled")) or {}
    for text in args.texts:
        name = f"{args.backbone}/{text}"
        if name in results and not args.again:
            continue
        print(f"=== {name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            # an empty cache: with code that an earlier run compiled, the time of compiling would not be seen
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
            torch.compiler.reset()
            results[name] = measure(args.backbone, text, args.repeats, Path(folder))
        tables.save(measures.result_file("compiled"), results)
    print(table(results))


if __name__ == "__main__":
    main()
