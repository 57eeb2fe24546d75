"""Pairing images with rows of text, and placing their embeddings among those of the words.

Shapes: B batch, T text positions, n images a row (at most), I images in the batch, D width of the language model.
"""

from typing import Any

import torch
from torch import nn

# at one learning rate a step of Adam moves the frame embeddings as far as any weight: from zero, it would take
# thousands of steps before frames differ beside features of unit size
FRAME_SCALE = 10.0


def require(condition: torch.Tensor, message: str) -> None:
    """Refuse values of a tensor, also in a graph that ``torch.compile`` traces, which cannot branch on them.

    Args:
        condition (torch.Tensor): a bool, what has to hold.
        message (str): what is wrong otherwise, and the remedy.

    Raises:
        ValueError: it does not hold. A compiled graph raises a RuntimeError with the same message.
    """
    if torch.compiler.is_compiling():
        torch._assert_async(condition, message)
    elif not condition:
        raise ValueError(message)


class ImageRows:
    """The images of a batch, and the rows of text that they belong to.

    In a graph that ``torch.compile`` traces, I is the number of places, B * n: the tower runs for what fills rows up,
    too, so that no size depends on what the mask holds. What it computes there is left out again.

    Args:
        pixels (torch.Tensor | None): [I, 3, H, W], the images that exist, in reading order; None = no images were
            given.
        mask (torch.Tensor | None): [B, n] bool, their places in the rows; None = every row has as many.
        batch (int): B, the number of rows.
    """

    def __init__(self, pixels: torch.Tensor | None, mask: torch.Tensor | None, batch: int) -> None:
        self.pixels, self.mask, self.batch = pixels, mask, batch
        self.outputs: Any = None  # the vision tower's, once it ran

    @classmethod
    def pair(cls, pixel_values: torch.Tensor | None, image_mask: torch.Tensor | None, batch: int) -> "ImageRows":
        """Pair the images of a call with its rows of text.

        Args:
            pixel_values (torch.Tensor | None): [B, n, 3, H, W], or [B, 3, H, W] for one image a row.
            image_mask (torch.Tensor | None): [B, n], or [B] with n = 1, True where there is an image; the images of a
                row come first in it. None = all of them exist.
            batch (int): B, the number of rows of text.

        Returns:
            The pairs.

        Raises:
            ValueError: images and rows do not pair up.
        """
        if pixel_values is None:
            return cls(None, None, batch)
        for name, given in (("pixel_values", pixel_values), ("image_mask", image_mask)):
            if given is not None and not isinstance(given, torch.Tensor):
                raise ValueError(f"{name} is a {type(given).__name__}; give a tensor (return_tensors='pt')")
        if pixel_values.dim() == 4:
            pixel_values = pixel_values[:, None]
        rows, number = pixel_values.shape[:2]
        if rows != batch:
            raise ValueError(
                f"pixel_values has {rows} rows and the text {batch}: pass [B, 3, H, W] or [B, images, 3, H, W], as "
                "many rows as there are of text, of zeros where image_mask is false"
            )
        if image_mask is None:
            return cls(pixel_values.flatten(0, 1), None, batch)
        image_mask = image_mask.reshape(image_mask.shape[0], -1).to(pixel_values.device, torch.bool)
        if image_mask.shape != (rows, number):
            raise ValueError(
                f"image_mask is {tuple(image_mask.shape)} for {rows} rows of {number} images: pass one entry for each"
            )
        if number > 1:
            in_order = ~(image_mask[:, 1:] & ~image_mask[:, :-1]).any()
            require(in_order, "image_mask has a gap: the images of a row come first, and what fills the row up after")
        pixels = pixel_values.flatten(0, 1) if torch.compiler.is_compiling() else pixel_values[image_mask]
        return cls(pixels, image_mask, batch)

    def most(self, images: int) -> int:
        """Return n, the largest number of images in a row.

        Args:
            images (int): I.
        """
        return images // self.batch if self.mask is None else self.mask.shape[1]

    def spread(self, *of_images: torch.Tensor | None) -> tuple[Any, ...]:
        """Put what was computed of the images at their places in the rows.

        Args:
            of_images (torch.Tensor | None): [I, ...] each, or None.

        Returns:
            For each [B, n, ...], zero where there is no image; None for None.
        """
        if self.mask is None:
            return tuple(x if x is None else x.unflatten(0, (self.batch, -1)) for x in of_images)
        if torch.compiler.is_compiling():
            return tuple(x if x is None else self._of_mask(x.unflatten(0, self.mask.shape)) for x in of_images)
        index = self.mask.flatten().nonzero().flatten()  # [I]
        shape, size = self.mask.shape, self.mask.numel()
        return tuple(
            x if x is None else x.new_zeros(size, *x.shape[1:]).index_copy(0, index, x).unflatten(0, shape)
            for x in of_images
        )

    def _of_mask(self, x: torch.Tensor) -> torch.Tensor:
        """[B, n, ...] with zero where there is no image; not by a product, which leaves NaN as it is."""
        mask = self.mask.to(x.device)  # type: ignore[union-attr]
        return torch.where(mask.reshape(*mask.shape, *[1] * (x.dim() - 2)), x, x.new_zeros(()))

    def frame_embeds(self, embedding: torch.Tensor, images: int) -> torch.Tensor:
        """Look up the learned embedding of each image's place in its row.

        Args:
            embedding (torch.Tensor): [largest n, C], zero at the start of training.
            images (int): I.

        Returns:
            [I, 1, C].

        Raises:
            ValueError: a row has more images than there are embeddings.
        """
        number, most = self.most(images), len(embedding)
        if number > most:
            raise ValueError(
                f"a row has {number} images and the model {most} frame embeddings; give fewer images (or frames), or "
                "train with a larger frame_embeddings"
            )
        if self.mask is None or torch.compiler.is_compiling():
            frames = torch.arange(number, device=embedding.device).repeat(self.batch)  # [I]
        else:
            frames = self.mask.nonzero()[:, 1].to(embedding.device)
        return FRAME_SCALE * embedding[frames][:, None]

    def input_embeds(
        self,
        embeds: torch.Tensor,
        embed: nn.Module,
        image_token_id: int | None,
        scale: float,
        ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Turn the images' embeddings into what stands in the text for them.

        Args:
            embeds (torch.Tensor): [B, n, m, D], as the adapter gives them.
            embed (nn.Module): the language model's embedding.
            image_token_id (int | None): the image token.
            scale (float): what the language model multiplies its input embeddings by.
            ids (torch.Tensor | None): [B, T], the text, to check that every image has its place in it; None =
                unchecked.

        Returns:
            [B, n*m, D] in the language model's dtype. An image token without an image is a token like any other.

        Raises:
            ValueError: a row of ``ids`` has too few image tokens for its images.
        """
        if ids is not None:
            self._check_image_tokens(ids, image_token_id, *embeds.shape[1:3])
        embeds = embeds / scale
        if self.mask is not None and image_token_id is not None:
            own = _token_embed(embed, image_token_id, embeds)  # [D]
            embeds = torch.where(self.mask[:, :, None, None].to(embeds.device), embeds, own)
        return embeds.flatten(1, 2).to(embed.weight.dtype)

    def _check_image_tokens(self, input_ids, image_token_id: int | None, number: int, image_tokens: int) -> None:
        """An image without a place in the text would train and answer as if nothing were wrong."""
        if image_token_id is None or self.pixels is None or torch.compiler.is_compiling():
            return
        found = (input_ids == image_token_id).sum(1)  # [B]
        images = torch.full_like(found, number) if self.mask is None else self.mask.sum(1).to(found.device)
        missing = found < images * image_tokens
        if missing.any():
            row = int(missing.nonzero()[0])
            have = "an image" if int(images[row]) == 1 else f"{int(images[row])} images"
            tokens = "no image token" if int(found[row]) == 0 else f"{int(found[row])} image tokens"
            raise ValueError(
                f"row {row} has {have} and {tokens} (config.image_token_id {image_token_id}, {image_tokens} for each "
                "image) in input_ids: let the processor make both from the images and the text"
            )


def _token_embed(embed: nn.Module, token: int, like: torch.Tensor) -> torch.Tensor:
    """[D], as the embedding gives it (Gemma's scales its table, an offloaded one comes when it is called)."""
    return embed(torch.tensor([[token]], device=like.device))[0, 0].to(like)  # hooks such as NEFTune's expect [B, T]


def image_token_mask(
    input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, embed: nn.Module, image_token_id: int | None
) -> torch.Tensor:
    """Find the image tokens in ids or in embeddings.

    Args:
        input_ids (torch.Tensor | None): [B, T].
        inputs_embeds (torch.Tensor | None): [B, T, D], where ``input_ids`` is None.
        embed (nn.Module): the language model's embedding.
        image_token_id (int | None): the image token.

    Returns:
        [B, T] bool.

    Raises:
        ValueError: no image token is set, or there is no text.
    """
    if image_token_id is None:
        raise ValueError("config.image_token_id is not set: choose a token of the language model's vocabulary")
    if input_ids is not None:
        return input_ids == image_token_id
    if inputs_embeds is None:
        raise ValueError("there is no text to read images for: give input_ids or inputs_embeds")
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
        input_ids (torch.Tensor | None): [B, T].
        inputs_embeds (torch.Tensor | None): [B, T, D], in place of the ids' own embeddings.
        image_embeds (torch.Tensor): [B, m, D], all embeddings of a row's images.
        embed (nn.Module): the language model's embedding.
        image_token_id (int | None): the image token.
        placed (torch.Tensor | int): [B], how many of them earlier parts of the text have taken.

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
