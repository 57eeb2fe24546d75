"""Where pictures meet text: pairing images with rows, and placing their embeddings among the words' own.

Shapes: B batch, T text positions, n images a row (at most), I images in the batch, D width of the language model.
"""

import torch
from torch import nn

# at one learning rate a step of Adam moves the frame embeddings as far as any weight: from zero, it would take
# thousands of steps before frames differ beside features of unit size
FRAME_SCALE = 10.0


def images_of_rows(
    pixel_values: torch.Tensor, image_mask: torch.Tensor | None, batch_size: int | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The images that are there, [I, 3, H, W] in reading order, and the mask [B, n] of their places (None = all).

    Args:
        pixel_values: [B, n, 3, H, W], or [B, 3, H, W] for one image a row. image_mask: [B, n], or [B] with n = 1; the
            images of a row come first in it. batch_size: B, the rows of text, where there are any.

    Raises:
        ValueError: images and rows that do not pair up.
    """
    if pixel_values.dim() == 4:
        pixel_values = pixel_values[:, None]
    rows, number = pixel_values.shape[:2]
    if batch_size is not None and rows != batch_size:
        raise ValueError(
            f"pixel_values has {rows} rows and the text {batch_size}: pass [B, 3, H, W] or [B, images, 3, H, W], as "
            "many rows as there are of text, of zeros where image_mask is false"
        )
    if image_mask is None:
        return pixel_values.flatten(0, 1), None
    image_mask = image_mask.reshape(image_mask.shape[0], -1).to(pixel_values.device, torch.bool)
    if image_mask.shape != (rows, number):
        raise ValueError(
            f"image_mask is {tuple(image_mask.shape)} for {rows} rows of {number} images: pass one entry for each"
        )
    if number > 1 and (image_mask[:, 1:] & ~image_mask[:, :-1]).any():
        raise ValueError("image_mask has a gap: the images of a row come first, and what fills the row up after them")
    return pixel_values[image_mask], image_mask


def spread(x: torch.Tensor, image_mask: torch.Tensor | None, batch_size: int) -> torch.Tensor:
    """What was computed of the I images, [I, ...], at their places: [B, n, ...], zero where there is none."""
    if image_mask is None:
        return x.unflatten(0, (batch_size, -1))
    index = image_mask.flatten().nonzero().flatten()
    return x.new_zeros(image_mask.numel(), *x.shape[1:]).index_copy(0, index, x).unflatten(0, image_mask.shape)


def image_positions(image_mask: torch.Tensor | None, images: int, batch_size: int, device) -> torch.Tensor:
    """Which image of its row each of the I images is, counted from 0: [I]."""
    if image_mask is None:
        return torch.arange(images // batch_size, device=device).repeat(batch_size)
    return image_mask.nonzero()[:, 1].to(device)


def frame_embeds(
    embedding: torch.Tensor, image_mask: torch.Tensor | None, images: int, batch_size: int
) -> torch.Tensor:
    """What says of each of the I images which of its row it is, [I, 1, C]; ``embedding``: [most, C], zero at the start.

    Raises:
        ValueError: a row has more images than there are embeddings.
    """
    number, most = images // batch_size if image_mask is None else image_mask.shape[1], len(embedding)
    if number > most:
        raise ValueError(
            f"a row has {number} images and the model {most} frame embeddings; give fewer images (or frames), or train "
            "with a larger frame_embeddings"
        )
    frames = image_positions(image_mask, images, batch_size, embedding.device)
    return FRAME_SCALE * embedding[frames][:, None]


def check_image_tokens(
    input_ids: torch.Tensor, image_token_id: int | None, image_tokens: int, pixel_values: torch.Tensor,
    image_mask: torch.Tensor | None,
) -> None:  # fmt: skip
    """An image without a place in the text would train and answer as if nothing were wrong.

    Args:
        input_ids: [B, T]. image_tokens: how many of them stand for one image. pixel_values, image_mask: as for
            :func:`images_of_rows`.

    Raises:
        ValueError: naming the first row with too few image tokens for its images.
    """
    if image_token_id is None or torch.compiler.is_compiling():
        return
    found = (input_ids == image_token_id).sum(1)  # [B]
    if image_mask is None:
        images = torch.full_like(found, 1 if pixel_values.dim() == 4 else pixel_values.shape[1])
    else:
        images = image_mask.reshape(len(found), -1).sum(1).to(found.device)
    missing = found < images * image_tokens
    if missing.any():
        row = int(missing.nonzero()[0])
        have = "an image" if int(images[row]) == 1 else f"{int(images[row])} images"
        tokens = "no image token" if int(found[row]) == 0 else f"{int(found[row])} image tokens"
        raise ValueError(
            f"row {row} has {have} and {tokens} (config.image_token_id {image_token_id}, {image_tokens} for each image)"
            " in input_ids: let the processor make both from the images and the text"
        )


def _token_embed(embed: nn.Module, token: int, like: torch.Tensor) -> torch.Tensor:
    """[D], as the embedding gives it (Gemma's scales its table, an offloaded one comes when it is called)."""
    return embed(torch.tensor(token, device=like.device)).to(like)


def keep_own_embeds(
    image_embeds: torch.Tensor, image_mask: torch.Tensor, embed: nn.Module, image_token_id: int | None
) -> torch.Tensor:
    """Where there is no image an image token is a token like any other.

    Args:
        image_embeds: [B, n, m, D]. image_mask: [B, n]. embed: the language model's embedding.
    """
    if image_token_id is None:
        return image_embeds
    own = _token_embed(embed, image_token_id, image_embeds)
    return torch.where(image_mask[:, :, None, None].to(image_embeds.device), image_embeds, own)


def image_token_mask(
    input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, embed: nn.Module, image_token_id: int | None
) -> torch.Tensor:
    """Where image tokens stand, [B, T], in ids [B, T] or in embeddings [B, T, D].

    Raises:
        ValueError: no image token is set.
    """
    if image_token_id is None:
        raise ValueError("config.image_token_id is not set: choose a token of the language model's vocabulary")
    if input_ids is not None:
        return input_ids == image_token_id
    assert inputs_embeds is not None
    # the library's way to find a token once it is embedded
    return torch.eq(inputs_embeds, _token_embed(embed, image_token_id, inputs_embeds)).all(-1)


def merge_image_embeds(
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    image_embeds: torch.Tensor,
    embed: nn.Module,
    image_token_id: int | None,
    placed: torch.Tensor | int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put a row's m image embeddings where its first m image tokens stand; more are tokens like any other.

    Args:
        input_ids: [B, T]. inputs_embeds: [B, T, D], instead of the ids' own. image_embeds: [B, m, D].
        placed: [B], how many of them earlier parts of the text have taken.

    Returns:
        The embeddings [B, T, D], and how many were taken so far [B].

    Raises:
        ValueError: no image token is set.
    """
    mask = image_token_mask(input_ids, inputs_embeds, embed, image_token_id)
    if inputs_embeds is None:
        inputs_embeds = embed(input_ids)  # [B, T, D]
    index = mask.cumsum(1) - 1  # which of the m embeddings, [B, T]
    if isinstance(placed, torch.Tensor):
        index = index + placed[:, None].to(index.device)
    taken = index[:, -1] + 1
    mask = mask & (index < image_embeds.shape[1])
    index = index.clamp(0, image_embeds.shape[1] - 1)
    image_embeds = image_embeds.to(inputs_embeds.device)
    chosen = image_embeds.gather(1, index[..., None].expand_as(inputs_embeds))
    return torch.where(mask[..., None], chosen, inputs_embeds), taken
