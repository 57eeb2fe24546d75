"""Where pictures meet text: pairing images with rows, and placing their embeddings among the words' own.

Shapes: B batch, T text positions, n embeddings an image, D width of the language model.
"""

import torch
from torch import nn


def one_image_a_row(
    pixel_values: torch.Tensor, image_mask: torch.Tensor | None, batch_size: int | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``pixel_values`` [B, 3, H, W] (given so, or [B, 1, 3, H, W]) and ``image_mask`` [B] ([B] or [B, 1]).

    Raises:
        ValueError: more than one image a row, or rows that do not pair up.
    """
    if pixel_values.dim() == 5:
        if pixel_values.shape[1] != 1:
            raise ValueError(
                f"pixel_values {tuple(pixel_values.shape)} holds {pixel_values.shape[1]} images a sample; "
                "ADEM-VL takes one: pass [B, 3, H, W] or [B, 1, 3, H, W]"
            )
        pixel_values = pixel_values[:, 0]
    if batch_size is not None and pixel_values.shape[0] != batch_size:
        raise ValueError(
            f"pixel_values has {pixel_values.shape[0]} rows and the text {batch_size}: pass one image for each row "
            "of text, of zeros where image_mask is false"
        )
    if image_mask is not None:
        image_mask = image_mask.reshape(image_mask.shape[0], -1).any(1)
        if image_mask.shape[0] != pixel_values.shape[0]:
            raise ValueError(
                f"image_mask has {image_mask.shape[0]} rows and pixel_values {pixel_values.shape[0]}: "
                "pass one entry of the mask for each row"
            )
    return pixel_values, image_mask


def check_image_tokens(input_ids: torch.Tensor, image_token_id: int | None, image_mask: torch.Tensor | None) -> None:
    """A row whose image has no place in the text would train and answer as if nothing were wrong.

    Args:
        input_ids: [B, T]. image_mask: [B] or [B, 1], rows that have an image (default all).

    Raises:
        ValueError: naming the first such row.
    """
    if image_token_id is None or torch.compiler.is_compiling():
        return
    missing = ~(input_ids == image_token_id).any(1)  # [B]
    if image_mask is not None:
        missing &= image_mask.reshape(len(missing), -1).any(1).to(missing.device)
    if missing.any():
        raise ValueError(
            f"row {int(missing.nonzero()[0])} has an image and no image token (config.image_token_id {image_token_id}) "
            "in input_ids: let the processor make both from the image and the text"
        )


def _token_embed(embed: nn.Module, token: int, like: torch.Tensor) -> torch.Tensor:
    """[D], as the embedding gives it (Gemma's scales its table, an offloaded one comes when it is called)."""
    return embed(torch.tensor(token, device=like.device)).to(like)


def keep_own_embeds(
    image_embeds: torch.Tensor, rows: torch.Tensor, embed: nn.Module, image_token_id: int | None
) -> torch.Tensor:
    """In rows without an image an image token is a token like any other.

    Args:
        image_embeds: [B, n, D]. rows: indices of those that have an image. embed: the language model's embedding.
    """
    if image_token_id is None:
        return image_embeds
    own = _token_embed(embed, image_token_id, image_embeds)
    has_image = torch.zeros(len(image_embeds), 1, 1, dtype=torch.bool, device=rows.device).index_fill(0, rows, True)
    return torch.where(has_image, image_embeds, own)


def merge_image_embeds(
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    image_embeds: torch.Tensor,
    embed: nn.Module,
    image_token_id: int | None,
) -> torch.Tensor:
    """Put the n image embeddings where the first n image tokens of a row stand; more are tokens like any other.

    Args:
        input_ids: [B, T]. inputs_embeds: [B, T, D], instead of the ids' own. image_embeds: [B, n, D].

    Raises:
        ValueError: no image token is set.
    """
    if image_token_id is None:
        raise ValueError("config.image_token_id is not set: choose a token of the language model's vocabulary")
    if input_ids is not None:
        mask = input_ids == image_token_id  # [B, T]
    else:  # the library's way to find a token once it is embedded
        assert inputs_embeds is not None
        mask = torch.eq(inputs_embeds, _token_embed(embed, image_token_id, inputs_embeds)).all(-1)
    if inputs_embeds is None:
        inputs_embeds = embed(input_ids)  # [B, T, D]
    index = mask.cumsum(1) - 1  # which of the n embeddings, [B, T]
    mask = mask & (index < image_embeds.shape[1])
    index = index.clamp(0, image_embeds.shape[1] - 1)
    image_embeds = image_embeds.to(inputs_embeds.device)
    placed = image_embeds.gather(1, index[..., None].expand_as(inputs_embeds))
    return torch.where(mask[..., None], placed, inputs_embeds)
