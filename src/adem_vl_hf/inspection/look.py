"""Shows where the words of an answer come from: over the image, per scale (ADEM-VL) or per level (EVLM).

``look`` returns arrays and a figure. ``write_look_page`` in ``look_page`` and ``write_page`` in ``page`` make pages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..data.sample import Chat, continuation
from ..evaluation.predict import generate_texts
from ..modeling.configuration_adem_vl import AdemVLConfig
from ..modeling.images import ImageSource, open_image
from .answer_pass import as_the_tower_sees, encode_answer, words_of
from .attended_patches import attention_in_pass
from .contributions import by_place, contributions_in_pass
from .kept_tokens import kept_in_pass, split_scales

RED, BLUE, OPACITY = (214, 31, 20), (26, 64, 217), 0.85


@dataclass(frozen=True, eq=False)
class Part:
    """Holds what one scale of ADEM-VL or one level of EVLM did for each of W words, over each of n images.

    Args:
        name (str): The scale or the level, such as "8 × 8" or "level 2, block 6".
        contribution (np.ndarray): The contribution of each slot to each word in nats, [W, n, side, side]. Above 0 the
            slot makes the word more likely.
        used (np.ndarray): ADEM-VL: the share of layers that kept the slot. EVLM: the attention to it. [W, n, side,
            side].
    """

    name: str
    contribution: np.ndarray
    used: np.ndarray


@dataclass(frozen=True, eq=False)
class Look:
    """Holds where the W words of one answer come from, in n images.

    Args:
        kind (str): The kind of model, "adem_vl" or "evlm".
        prompt (str): The last text before the answer.
        answer (str): The answer.
        words (list[str]): The W words.
        tokens (list[list[str]]): The tokens of each word.
        log_probabilities (np.ndarray): The log-probability of each word, [W].
        images (list[Image.Image]): The n images, in mode RGB and as the vision tower sees them.
        parts (list[Part]): The scales or levels.
        contribution (np.ndarray): The contributions of all parts together, place by place, [W, n, side, side].
        class_token (np.ndarray): The contribution of the class tokens of the vision tower, [W]. They stand for no
            place. ADEM-VL has none in its memory, and the numbers are 0.
    """

    kind: str
    prompt: str
    answer: str
    words: list[str]
    tokens: list[list[str]]
    log_probabilities: np.ndarray
    images: list[Image.Image]
    parts: list[Part]
    contribution: np.ndarray
    class_token: np.ndarray

    def figure(self, words: Sequence[str] | None = None) -> Any:
        """Draw the contributions: a row for each word, and columns for all parts together and for each of several.

        Args:
            words (Sequence[str] | None): The words to draw. None means all.

        Returns:
            A ``matplotlib.figure.Figure``.

        Raises:
            ValueError: A word is not in the answer.
        """
        from matplotlib.figure import Figure

        if unknown := [word for word in words or () if word not in self.words]:
            raise ValueError(f"{unknown[0]!r} is no word of the answer {self.answer!r}")
        rows = [(place, word) for place, word in enumerate(self.words) if words is None or word in words]
        columns = [(part.name, part.contribution) for part in self.parts]
        if len(columns) > 1:
            columns.insert(0, ("together", self.contribution))
        drawn = [(number, *column) for number in range(len(self.images)) for column in columns]
        figure = Figure(figsize=(1.9 * len(drawn), 2.1 * len(rows)), layout="constrained")
        axes = figure.subplots(len(rows), len(drawn), squeeze=False)
        for (place, word), line in zip(rows, axes, strict=True):
            for (number, name, grids), axis in zip(drawn, line, strict=True):
                axis.imshow(faded(self.images[number]), cmap="gray", vmin=0, vmax=255, extent=(0, 1, 0, 1))
                axis.imshow(overlay(grids[place, number], np.abs(grids[place]).max()), extent=(0, 1, 0, 1), zorder=2)
                axis.set_title(f"“{word}”, {name}", fontsize=8)
                axis.set_axis_off()
        return figure


def overlay(grid: np.ndarray, largest: float) -> np.ndarray:
    """Colour a grid, to be laid over an image.

    Args:
        grid (np.ndarray): The contributions, [side, side].
        largest (float): The absolute value that has the full colour.

    Returns:
        RGBA pixels of uint8, [side, side, 4]: red above 0, blue below. A weak contribution is transparent.
    """
    strength = np.clip(np.abs(grid) / max(largest, 1e-12), 0, 1)
    colours = np.where(grid[..., None] > 0, np.array(RED), np.array(BLUE))
    return np.concatenate([colours, np.rint(255 * OPACITY * strength)[..., None]], axis=-1).astype(np.uint8)


def faded(image: Image.Image) -> Image.Image:
    """Draw an image in pale grey, on which an overlay is easy to see.

    Args:
        image (Image.Image): The image.

    Returns:
        The image in mode L.
    """
    return Image.blend(image.convert("L"), Image.new("L", image.size, 255), 0.5)


@torch.inference_mode(False)  # it needs gradients
def look(
    model: Any,
    processor: Any,
    image: ImageSource | Sequence[ImageSource] | Mapping[str, Any],
    prompt: str | Chat,
    answer: str | None = None,
    max_new_tokens: int = 32,
) -> Look:
    """Measure where the words of an answer come from.

    Args:
        model (Any): An ``AdemVLForConditionalGeneration`` or ``EvlmForConditionalGeneration``. It is left in the mode
            that it was in.
        processor (Any): Its processor.
        image (ImageSource | Sequence[ImageSource] | Mapping[str, Any]): The image, a list of images, or a dictionary
            with ``images`` and ``videos``, where a video is a list of frames.
        prompt (str | Chat): The text before the answer, or the messages of a chat.
        answer (str | None): The answer to measure. None means the one that the model generates.
        max_new_tokens (int): The greatest length of an answer that is generated, in tokens.

    Returns:
        The words of the answer, and arrays over the images.

    Raises:
        ValueError: There is no image, or the answer is empty.
    """
    shown = _shown(image)
    frames = [*shown["images"], *(frame for video in shown["videos"] for frame in video)]
    if not frames:
        raise ValueError("there is no image to look at: give one, or several in a list")
    if answer is None:
        rows = {name: [entries] for name, entries in shown.items() if entries}
        (answer,) = generate_texts(model, processor, rows, [prompt], max_new_tokens=max_new_tokens)
    if not answer.strip():
        raise ValueError("the answer is empty, so no word of it comes from anywhere; try another prompt")
    asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    said = continuation(prompt, answer) if isinstance(prompt, str) else answer.strip()
    batch, positions, tokens = encode_answer(model, processor, shown, prompt, said)
    words = words_of(tokens)
    groups = [indices for _, indices in words]
    found, log_probabilities = contributions_in_pass(model, batch, positions, groups)
    measure = _of_adem_vl if isinstance(model.config, AdemVLConfig) else _of_evlm
    parts, class_token = measure(model, batch, positions, groups, found, len(frames))
    together = by_place([torch.from_numpy(part.contribution) for part in parts])
    return Look(
        kind=model.config.model_type,
        prompt=asked,
        answer=answer.strip(),
        words=[word for word, _ in words],
        tokens=[[tokens[index] for index in group] for group in groups],
        log_probabilities=log_probabilities.numpy(),
        images=[as_the_tower_sees(processor, frame) for frame in frames],
        parts=parts,
        contribution=together.numpy(),
        class_token=class_token.numpy(),
    )


def _shown(image: Any) -> dict[str, list[Any]]:
    """Open what is shown: the images and the videos of one row, each video a list of frames."""
    if isinstance(image, Mapping) and image.keys() & {"images", "videos"}:
        return {"images": list(image.get("images") or ()), "videos": [list(v) for v in image.get("videos") or ()]}
    images = image if isinstance(image, list | tuple) else [] if image is None else [image]
    return {"images": [open_image(one) for one in images], "videos": []}


def _of_words(by_token: torch.Tensor, groups: Sequence[Sequence[int]]) -> torch.Tensor:
    """The means over the tokens of each word, [W, ...] of [T, ...]."""
    return torch.stack([by_token[list(group)].mean(0) for group in groups])


def _of_adem_vl(
    model: Any, batch: Any, positions: torch.Tensor, groups: Any, found: torch.Tensor, number: int
) -> tuple[list[Part], torch.Tensor]:
    """Split the slots into images and scales. ``found`` is [W, S]."""
    counts = model.config.visual_token_counts
    kept = _of_words(kept_in_pass(model, batch, positions)[0], groups)  # [W, S]
    grids = [split_scales(slots.unflatten(1, (number, -1)), counts) for slots in (found, kept)]
    parts = [
        Part(f"{isqrt(count)} × {isqrt(count)}", contribution.numpy(), used.numpy())
        for count, contribution, used in zip(counts, *grids, strict=True)
    ]
    return parts, torch.zeros(len(found))


def _of_evlm(
    model: Any, batch: Any, positions: torch.Tensor, groups: Any, found: torch.Tensor, number: int
) -> tuple[list[Part], torch.Tensor]:
    """Split the layers into levels and the slots into images. ``found`` is [W, L, S]."""
    config, patches = model.config, model.config.grid**2
    attention = _of_words(attention_in_pass(model, batch, positions).transpose(0, 1), groups)  # [W, L, S]
    of_images = slice(0, number * (1 + patches))  # zero vectors stand behind
    found, attention = (
        slots[..., of_images].unflatten(-1, (number, 1 + patches)) for slots in (found, attention)
    )  # [W, L, n, 1+N]
    layers_of = torch.tensor(config.level_map)
    parts = []
    for level in sorted(set(config.level_map)):
        contribution = found[:, layers_of == level, :, 1:].sum(1)  # [W, n, N]
        used = attention[:, layers_of == level, :, 1:].mean(1)
        blocks = config.vision_feature_layer
        name = f"level {level + 1}, block {blocks[level]}" if config.level_fusion == "route" else "all levels"
        grids = [slots.unflatten(-1, (config.grid, config.grid)).numpy() for slots in (contribution, used)]
        parts.append(Part(name, *grids))
    return parts, found[..., 0].sum((1, 2))
