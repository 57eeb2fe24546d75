"""Small training sets and a Trainer on the tiny bases, for the tests of training."""

import tiny
import torch
from PIL import Image

from adem_vl_hf import AdemVLProcessor
from adem_vl_hf.data.sample import Sample
from adem_vl_hf.training import build_trainer, training_arguments

COLOURS = {"red": "a cat", "blue": "two birds flying over the sea", "green": "a dog on the grass", "white": "hello"}


def samples(number=8, images=True):
    """Pictures of one colour whose text is that of the colour, some without a picture where ``images`` is "some"."""
    made = []
    for index, (colour, text) in enumerate(list(COLOURS.items()) * (number // 4 + 1)):
        picture = Image.new("RGB", (16, 16), colour)
        picture = picture if images is True or (images == "some" and index % 2) else None
        made.append(Sample(id=str(index), image=picture, prompt="a photo of", answer=f" {text}",
                           references=[text], kind="caption"))  # fmt: skip
    return made[:number]


def trainer(bases, folder, data, model=None, batch_size=2, max_steps=2, callbacks=None, eval_dataset=None, **settings):
    model = model or tiny.build(bases)
    processor = AdemVLProcessor.from_base_pretrained(str(bases / "llama"), str(bases / "clip"), model.config)
    settings = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", **settings}
    arguments = training_arguments(folder, len(data), batch_size, max_steps=max_steps, **settings)
    made = build_trainer(model, processor, data, arguments, callbacks=callbacks, eval_dataset=eval_dataset)
    return made, processor


def adapter(model):
    return {key: tensor.clone() for key, tensor in model.adapter_state_dict().items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
