"""Encodes a prompt with its answer and its images for one pass, which the measurements of this package look into.

Shapes: T tokens of the answer, S memory slots.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from PIL import Image

from ..data.sample import Chat
from ..modeling.images import ImageSource, open_image
from ..modeling.labels import NOT_SUPERVISED
from ..modeling.videos import before_resize


def pass_over_answer(
    model: Any, processor: Any, image: ImageSource, prompt: str, answer: str
) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[str]]:
    """Encode a prompt and its answer with an image.

    Args:
        model (Any): The model, whose device the tensors go to.
        processor (Any): Its processor.
        image (ImageSource): The image.
        prompt (str): The text before the answer.
        answer (str): The answer. It follows the prompt as it stands.

    Returns:
        As ``encode_answer``.

    Raises:
        ValueError: There is no image, the answer has no text, nothing stands before the answer, or the sequence is
            longer than the model's window.
    """
    if image is None:
        raise ValueError("image is None: give the image that the model looks at")
    return encode_answer(model, processor, {"images": [image]}, prompt, answer)


def encode_answer(
    model: Any, processor: Any, shown: Mapping[str, Any], prompt: str | Chat, answer: str
) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[str]]:
    """Encode a prompt and its answer with any number of images or videos.

    Args:
        model (Any): The model, whose device the tensors go to.
        processor (Any): Its processor.
        shown (Mapping[str, Any]): The lists ``images`` and ``videos`` of the row, or one of them.
        prompt (str | Chat): The text before the answer, or the messages of a chat.
        answer (str): The answer. It follows a text as it stands.

    Returns:
        The inputs of the model for one row, the T positions that predict the tokens of the answer, and these tokens as
        text. The token that ends the answer is not among them.

    Raises:
        ValueError: The answer has no text, nothing stands before the answer, or the sequence is longer than the model's
            window.
    """
    rows = {name: [entries] for name, entries in shown.items() if entries}
    batch = dict(processor(**rows, text=[prompt], suffix=[answer], return_tensors="pt"))
    labels = batch.pop("labels")[0]
    supervised = (labels != NOT_SUPERVISED).nonzero().flatten()[:-1]  # [T], without the token that ends the answer
    if supervised[0] == 0:
        raise ValueError("nothing stands before the answer, so nothing predicts its first token; give a prompt")
    tokens = _pieces(processor, batch["input_ids"][0][supervised].tolist())
    return {name: tensor.to(model.device) for name, tensor in batch.items()}, supervised - 1, tokens


@torch.no_grad()
def take_memory(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Compute the visual memory of a batch, whose images are taken out of it.

    Args:
        model (Any): The model.
        batch (dict[str, torch.Tensor]): The inputs of the model. Those that are about images are removed.

    Returns:
        The arguments of ``forward`` that take their place.
    """
    memory = model.get_visual_memory(**{name: batch.pop(name) for name in model.image_arguments if name in batch})
    memory.pop("image_hidden_states", None)
    return memory


def words_of(tokens: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Group the tokens of an answer into words. A token that begins with a space begins a word.

    Args:
        tokens (Sequence[str]): The tokens as text.

    Returns:
        Each word without surrounding spaces, with the indices of its tokens. A word of spaces alone is shown as "␣".
    """
    words: list[tuple[str, list[int]]] = []
    for index, token in enumerate(tokens):
        if not words or token[:1].isspace():
            words.append(("", []))
        text, indices = words[-1]
        words[-1] = (text + token, [*indices, index])
    return [(text.strip() or "␣", indices) for text, indices in words]


def as_the_tower_sees(processor: Any, image: ImageSource) -> Image.Image:
    """Resize and crop an image as the vision tower sees it.

    Args:
        processor (Any): The processor of the model.
        image (ImageSource): The image.

    Returns:
        The image in mode RGB.
    """
    own = before_resize(open_image(image), processor.image_processor, {}, "the image")
    pixels = processor.image_processor(
        images=[own], do_rescale=False, do_normalize=False, return_tensors="pt"
    )["pixel_values"][0]  # [3, H, W], 0 ... 255  # fmt: skip
    return Image.fromarray(pixels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def _pieces(processor: Any, ids: list[int]) -> list[str]:
    """Return the text that each token adds. If a character has several tokens, only the last of them adds it."""
    lengths = [len(processor.decode(ids[:end]).rstrip("\ufffd")) for end in range(1, len(ids))]
    whole = processor.decode(ids)
    ends = [min(end, len(whole)) for end in accumulate([0, *lengths], max)] + [len(whole)]
    return [whole[start:end] for start, end in pairwise(ends)]
