"""What each arm costs: trainable parameters, tokens, operations, time and memory, beside the language model alone.

python benchmarks/efficiency.py                                   # every arm that has no result yet
python benchmarks/efficiency.py --backbones smollm2 --texts 256   # part of it
python benchmarks/write_tables.py                                 # puts the tables into docs/results.md

Each arm is measured in a process of its own, where it takes turns with the floor: the frozen language model alone, on
the same text. In a training step the floor runs forward and backward to its input embeddings; the vision tower's own
forward and backward are measured beside it. Each figure is the median of the ratios within a turn.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import measures
import tables
import torch
from arms import ARMS, matched_sizes
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
)

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.data.sample import Sample
from adem_vl_hf.embedded.smollm2 import resolve_language_model
from adem_vl_hf.loading import TOWER
from adem_vl_hf.training import fastest_setting

NEW_TOKENS = 64
# (step, answer) over ADEM-VL's, as the ADEM-VL paper prints them for a 7B model
PAPER = {"llava_lora": (1.96, 1.84), "lavin": (1.56, 1.11), "memvp": (1.12, 1.01)}


class Backbone(NamedTuple):
    """A pair of frozen bases to measure with.

    Args:
        bases (Callable[[Path], tuple[str, str]]): from a folder to the names of language model and vision tower.
        batch_size (int): rows of a batch on a CPU.
        batch_size_on_gpu (int): rows of a batch on a GPU.
        matched (bool): whether all arms get about as many trainable parameters; else the published sizes.
    """

    bases: Callable[[Path], tuple[str, str]]
    batch_size: int
    batch_size_on_gpu: int
    matched: bool


def real(folder: Path) -> tuple[str, str]:
    """SmolLM2-135M and the shipped vision tower.

    Args:
        folder (Path): not used.

    Returns:
        Their folders.
    """
    return resolve_language_model("embedded"), str(TOWER)


def random(folder: Path, name: str, text_sizes: dict[str, int], tower_sizes: dict[str, int]) -> tuple[str, str]:
    """A Llama and a CLIP vision tower with random weights, and with SmolLM2's vocabulary.

    Args:
        folder (Path): where they are written, unless they are there.
        name (str): the beginning of their folders' names.
        text_sizes (dict[str, int]): fields of ``LlamaConfig``.
        tower_sizes (dict[str, int]): fields of ``CLIPVisionConfig``.

    Returns:
        Their folders.
    """
    text, tower = folder / f"{name}-llama", folder / f"{name}-tower"
    if not (tower / "preprocessor_config.json").exists():
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(resolve_language_model("embedded"))
        config = LlamaConfig(
            vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, **text_sizes,
        )  # fmt: skip
        with measures.DEVICE:
            AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(text)
        tokenizer.save_pretrained(text)
        CLIPVisionModel(CLIPVisionConfig(image_size=224, **tower_sizes)).save_pretrained(tower)
        CLIPImageProcessor().save_pretrained(tower)
    return str(text), str(tower)


TINY_LLAMA = {
    "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
    "num_key_value_heads": 4,
}  # fmt: skip
LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
VIT_B_16 = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16,
}  # fmt: skip
VIT_L_14 = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "patch_size": 14,
}  # fmt: skip
BACKBONES = {
    "smollm2": Backbone(real, 4, 32, True),
    "random-1.1b": Backbone(partial(random, name="1.1b", text_sizes=TINY_LLAMA, tower_sizes=VIT_B_16), 1, 16, False),
    "random-7b": Backbone(partial(random, name="7b", text_sizes=LLAMA_7B, tower_sizes=VIT_L_14), 1, 6, False),
}
ON_GPU = measures.DEVICE.type == "cuda"
DEFAULT_BACKBONES = ["random-7b", "random-1.1b"] if ON_GPU else ["smollm2", "random-1.1b"]
TEXTS = {256: "as in ScienceQA", 32: "as in captions"}  # tokens of a row, without those of images
ANSWER = 8  # supervised tokens of a row
STEP_TURNS = 3  # steps take three times as many turns as answers, which last at least three times as long


def samples(tokenizer: Any, text: int, number: int) -> list[Sample]:
    """Samples of one length, with random pixels as images.

    Args:
        tokenizer (Any): the language model's.
        text (int): about how many tokens a row has; the last ``ANSWER`` of them are the answer.
        number (int): how many samples.

    Returns:
        The samples.
    """
    word = " the"  # one token each
    generator = torch.Generator().manual_seed(0)
    rows = []
    for index in range(number):
        pixels = torch.randint(0, 256, (224, 224, 3), dtype=torch.uint8, generator=generator)
        prompt, answer = word * (text - ANSWER), word * (ANSWER - 1)  # and the end of the text
        image = Image.fromarray(pixels.numpy())
        rows.append(Sample(id=str(index), image=image, prompt=prompt, answer=answer, references=[""], kind="caption"))
    return rows


def floor_step(language_model, input_ids: torch.Tensor) -> None:
    """Forward and backward of the frozen language model, back to its input embeddings. The LM head runs on the answer.

    Args:
        language_model: any decoder.
        input_ids (torch.Tensor): [B, T].
    """
    embeds = language_model.get_input_embeddings()(input_ids).detach().requires_grad_()  # [B, T, D]
    hidden_states = language_model.get_decoder()(inputs_embeds=embeds, use_cache=False).last_hidden_state
    # flat: a slice of rows would make the product copy the head's weights for every row
    supervised = hidden_states[:, -ANSWER - 1 : -1].flatten(0, 1)  # [B * answer, D]
    logits = language_model.get_output_embeddings()(supervised)  # [B * answer, vocabulary]
    F.cross_entropy(logits.float(), input_ids[:, -ANSWER:].flatten()).backward()


def tower_step(tower, pixel_values: torch.Tensor) -> None:
    """Forward and backward of the frozen vision tower, through every block.

    Args:
        tower: a ``CLIPVisionModel``.
        pixel_values (torch.Tensor): [B, 3, H, W].
    """
    pixel_values = pixel_values.detach().to(tower.dtype).requires_grad_()
    tower(pixel_values).last_hidden_state.float().square().mean().backward()


def default_batch_size(backbone: str) -> int:
    """The number of rows of a batch on this machine.

    Args:
        backbone (str): a key of ``BACKBONES``.

    Returns:
        That of a GPU if there is one, else that of a CPU.
    """
    return BACKBONES[backbone].batch_size_on_gpu if ON_GPU else BACKBONES[backbone].batch_size


def measure(arm: str, backbone: str, text: int, batch_size: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Measure one arm. The peak of memory is read before the floor is loaded beside it.

    Args:
        arm (str): a key of ``ARMS``.
        backbone (str): a key of ``BACKBONES``.
        text (int): tokens of a row of text.
        batch_size (int): rows of a batch.
        repeats (int): how often generation is measured, and a ``STEP_TURNS``-th of how often a step is.
        folder (Path): where random bases are written.

    Returns:
        What the result file holds of it.
    """
    keep_freed_memory()
    language_model, tower = BACKBONES[backbone].bases(folder)
    setting = fastest_setting()
    sizes = matched_sizes(arm) if BACKBONES[backbone].matched else {}
    model, processor = ARMS[arm].build(language_model, tower, **setting, **sizes)
    model = model.to(measures.DEVICE)
    rows = samples(processor.tokenizer, text, batch_size)
    batch = measures.to_device(AdemVLCollator(processor)(rows))
    inputs = processor(images=[row["image"] for row in rows], text=[row["prompt"] for row in rows], return_tensors="pt")
    inputs = measures.to_device(inputs)
    trained = [p for p in model.parameters() if p.requires_grad]
    step = partial(measures.training_step, model, batch) if trained else partial(floor_step, model, batch["input_ids"])
    step()
    memory = measures.peak_memory()
    bare, blind = ARMS["floor"].build(language_model, tower, **setting)
    bare = bare.to(measures.DEVICE)
    own_tower = CLIPVisionModel.from_pretrained(tower, **setting).requires_grad_(False).to(measures.DEVICE)
    ids = AdemVLCollator(blind)(rows)["input_ids"].to(measures.DEVICE)
    prompts = measures.to_device(blind(text=[row["prompt"] for row in rows], return_tensors="pt"))
    side = own_tower.config.image_size
    pixels = torch.zeros(batch_size, 3, side, side, device=measures.DEVICE)
    bare_step = partial(floor_step, bare, ids)
    steps = {"floor": bare_step, "tower": partial(tower_step, own_tower, pixels), "arm": step}
    training = measures.interleaved(steps, STEP_TURNS * repeats, f"{arm}: steps")
    few = 1
    inference = measures.interleaved(
        {
            f"{who}, {count}": partial(measures.answer, who_model, who_inputs, count)
            for who, who_model, who_inputs in (("floor", bare, prompts), ("arm", model, inputs))
            for count in (few, NEW_TOKENS)
        },
        repeats,
        f"{arm}: answers",
    )
    few_times, answer_times = (
        {who: inference[f"{who}, {count}"] for who in ("floor", "arm")} for count in (few, NEW_TOKENS)
    )
    tokens = {who: [b - a for a, b in zip(few_times[who], answer_times[who], strict=True)] for who in few_times}
    both = [a + b for a, b in zip(training["floor"], training["tower"], strict=True)]
    return {
        "trained_numbers": sum(p.numel() for p in trained),
        "tokens": batch["input_ids"].shape[1], "floor_tokens": ids.shape[1],
        "training_flops": measures.counted_flops(step), "floor_training_flops": measures.counted_flops(bare_step),
        "step": measures.ratio(training["arm"], training["floor"]),
        "step_with_tower": measures.ratio(training["arm"], both),
        "answer": measures.ratio(answer_times["arm"], answer_times["floor"]),
        "token": measures.ratio(tokens["arm"], tokens["floor"]),
        "memory": memory,
        "seconds": {name: statistics.median(values) for name, values in {**training, **inference}.items()},
        "repeats": repeats, "batch_size": batch_size, "device": measures.device_name(),
    }  # fmt: skip


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each backbone, length of text and arm.

    Args:
        results (dict[str, dict[str, Any]]): what ``measure`` returned, by backbone, length of text and arm.

    Returns:
        The table; operations, times and memory are over those of the floor.
    """
    rows = []
    for name, result in results.items():
        backbone, text, arm = name.split("/")
        floor = results.get(f"{backbone}/{text}/floor")
        memory = f"{result['memory'] / floor['memory']:.2f}" if floor else ""
        extra = result["tokens"] - result["floor_tokens"]
        flops = result["training_flops"] / result["floor_training_flops"]
        times = [f"{result[key]:.2f}" for key in ("step", "step_with_tower", "answer")]
        cells = [f"{result['trained_numbers']:,}", str(extra), f"{flops:.2f}", *times, f"{result['token']:.3f}", memory]
        rows.append([f"{backbone}, {text}", tables.METHODS[arm], *cells])
    head = ["backbone, text tokens", "method", "trainable parameters", "extra tokens", "FLOPs of a step", "step"]
    head += ["step / (floor + tower)", f"prefill and {NEW_TOKENS} tokens", "generated token", "peak memory"]
    return tables.markdown(head, rows)


def peers_table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each peer of which the ADEM-VL paper prints times.

    Args:
        results (dict[str, dict[str, Any]]): what ``measure`` returned, by backbone, length of text and arm.

    Returns:
        The table; times are over ADEM-VL's, where either was measured beside a floor of its own.
    """
    rows = []
    for name, result in results.items():
        backbone, text, arm = name.split("/")
        ours = results.get(f"{backbone}/{text}/adem_vl")
        if ours is not None and arm in PAPER:
            pairs = zip((f"{result[key] / ours[key]:.2f}" for key in ("step", "answer")), PAPER[arm], strict=True)
            cells = [cell for own, paper in pairs for cell in (own, f"{paper:.2f}")]
            rows.append([f"{backbone}, {text}", tables.METHODS[arm], *cells])
    both = [f"{what} / ADEM-VL's" for what in ("step", f"prefill and {NEW_TOKENS} tokens")]
    head = ["backbone, text tokens", "method", both[0], "in the paper", both[1], "in the paper"]
    return tables.markdown(head, rows)


def sections() -> dict[str, str]:
    """The sections of docs/results.md about cost.

    Returns:
        The text by the name of the section.
    """
    return tables.of_devices("efficiency", {"cost table": table, "cost of peers table": peers_table})


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=DEFAULT_BACKBONES)
    parser.add_argument("--texts", nargs="+", type=int, default=list(TEXTS), help="tokens of a row of text")
    parser.add_argument("--batch-size", type=int, help="rows of a batch; default " + ", ".join(
        f"{default_batch_size(name)} with {name}" for name in BACKBONES))  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5, help=f"turns of answers; {STEP_TURNS} times as many of steps")
    parser.add_argument("--again", action="store_true", help="also measure again what has a result")
    parser.add_argument("--here", nargs=2, metavar=("RESULT", "BASES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:  # the process of one arm
        (arm,), (backbone,), (text,) = args.arms, args.backbones, args.texts
        result = measure(arm, backbone, text, args.batch_size, args.repeats, Path(args.here[1]))
        Path(args.here[0]).write_text(json.dumps(result), encoding="utf-8")
        return
    results = tables.load(measures.result_file("efficiency")) or {}
    with tempfile.TemporaryDirectory() as folder:
        for backbone in args.backbones:
            batch_size = args.batch_size or default_batch_size(backbone)
            label = backbone if batch_size == default_batch_size(backbone) else f"{backbone} x {batch_size}"
            for text in args.texts:
                for arm in args.arms:
                    name, file = f"{label}/{text}/{arm}", Path(folder) / "result.json"
                    if name in results and not args.again:
                        continue
                    print(f"=== {name}", flush=True)
                    # made here: in the process of the arm, making them would count in its peak memory
                    BACKBONES[backbone].bases(Path(folder))
                    command = [sys.executable, __file__, "--arms", arm, "--backbones", backbone, "--texts", str(text),
                               "--batch-size", str(batch_size), "--repeats", str(args.repeats),
                               "--here", str(file), folder]  # fmt: skip
                    subprocess.run(command, check=True)
                    results[name] = json.loads(file.read_text(encoding="utf-8"))
                    tables.save(measures.result_file("efficiency"), results)
    print("\n\n".join(sections().values()))


if __name__ == "__main__":
    main()
