"""Small training sets and a Trainer on the tiny bases, for the tests of training."""

import json

import architectures
import tiny
import torch
from closeness import TOLERANCE
from PIL import Image
from transformers import TrainerCallback

from adem_vl_hf.data.sample import Sample
from adem_vl_hf.training import build_trainer, training_arguments

COLOURS = {"red": "a cat", "blue": "two birds flying over the sea", "green": "a dog on the grass", "white": "hello"}


def samples(number=8, images=True):
    """Images of one colour with the text of that colour. If ``images`` is "some", some samples have no image."""
    made = []
    for index, (colour, text) in enumerate(list(COLOURS.items()) * (number // 4 + 1)):
        picture = Image.new("RGB", (16, 16), colour)
        picture = picture if images is True or (images == "some" and index % 2) else None
        made.append(Sample(id=str(index), image=picture, prompt="a photo of", answer=f" {text}",
                           references=[text], kind="caption"))  # fmt: skip
    return made[:number]


# plain gradient descent: Adam would turn the last bit of a gradient near zero into a whole step
PLAIN = {"optim": "sgd", "learning_rate": 0.5, "weight_decay": 0.0, "lr_scheduler_type": "constant", "warmup_steps": 0}


def blocks(number, size=2):
    """Blocks of ``size`` samples with an image and without one, in turn. Their answers differ in length."""
    made = samples(number)
    for index, sample in enumerate(made):
        if index // size % 2:
            sample["image"] = None
    return made


def picture_folder(folder, number=3):
    """Write images with a ``metadata.jsonl``, as ``ImageFolder`` reads them, and return their texts."""
    folder.mkdir()
    texts = ["a cat", "two birds", "a dog", "hello"][:number]
    for index in range(number):
        tiny.picture(index).save(folder / f"{index}.png")
    lines = [json.dumps({"file_name": f"{i}.png", "text": text}) for i, text in enumerate(texts)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return texts


def processor_of(bases, model):
    arch = next(arch for arch in architectures.BOTH if arch.model_type == model.config.model_type)
    return arch.processor(bases, model)


class Interrupted(Exception):
    """Stops a run in the middle of a step."""


class StopAt(TrainerCallback):
    """Stops a run at a step, and notes the steps it saw."""

    def __init__(self, step):
        self.step, self.steps = step, []

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)
        if state.global_step == self.step:
            raise Interrupted


def trainer(
    bases, folder, data, model=None, batch_size=2, max_steps=2,
    callbacks=None, eval_dataset=None, compute_metrics=None, **settings,
):  # fmt: skip
    model = model or tiny.build(bases)
    processor = processor_of(bases, model)
    settings = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", **settings}
    number = len(data) if hasattr(data, "__len__") else None
    arguments = training_arguments(folder, number, batch_size, max_steps=max_steps, **settings)
    made = build_trainer(model, processor, data, arguments, callbacks=callbacks, eval_dataset=eval_dataset,
                         compute_metrics=compute_metrics)  # fmt: skip
    return made, processor


def adapter(model):
    return {key: tensor.clone() for key, tensor in model.adapter_state_dict().items()}


def assert_moved_alike(found, expected, start):
    """Two runs moved the adapter alike; every tensor of it moved by more than is lost in rounding.

    Steps are compared as everything that is computed. Beside that, each addition of a step to a parameter is rounded:
    6e-8 was measured for parameters near 1, half of what a float32 there can tell apart.
    """
    assert found.keys() == expected.keys() == start.keys()
    for key, tensor in expected.items():
        moved, rounding = (tensor - start[key]).abs().max(), torch.finfo(torch.float32).eps * tensor.abs().max()
        assert moved > 50 * rounding, key
        assert (found[key] - tensor).abs().max() <= TOLERANCE[torch.float32] * moved + 2 * rounding, key
