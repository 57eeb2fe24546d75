"""Labels say which tokens of a row are supervised, that is, which ones the model learns to predict."""

import torch

NOT_SUPERVISED = -100  # the label of a position that does not count in the loss; PyTorch's and Transformers' own number


def padding_token(image_token_id: int | None, *given: int | list[int] | None) -> int:
    """Choose a token that fills rows up, which the mask hides.

    Never the image token: a row's first image tokens are its images', also those that fill it up on the left.

    Args:
        image_token_id (int | None): The image token.
        *given (int | list[int] | None): Ids to choose from, or lists of such; the first that will do is taken.

    Returns:
        int: The id; any other token where none of them will do.
    """
    for found in given:
        number = found[0] if isinstance(found, list | tuple) and found else found
        if isinstance(number, int) and number >= 0 and number != image_token_id:  # old Llamas have -1
            return number
    return 0 if image_token_id else 1


def prompts_alone(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, labels: torch.Tensor, pad_token_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut rows before their first supervised token and pad them on the left.

    Args:
        input_ids (torch.Tensor): [B, T], padded on either side.
        attention_mask (torch.Tensor | None): [B, T]; None = no padding.
        labels (torch.Tensor): [B, T], -100 = not supervised.
        pad_token_id (int): what fills rows up on the left.

    Returns:
        ``input_ids`` and ``attention_mask`` [B, P], P the longest prompt.

    Raises:
        ValueError: naming a row in which nothing comes before what is supervised.
    """
    supervised = (labels != NOT_SUPERVISED).to(input_ids.device)
    kept = supervised.cumsum(1) == 0  # [B, T]
    if attention_mask is not None:
        kept &= attention_mask.to(kept.device).bool()
    lengths = kept.sum(1)  # [B]
    if not lengths.all():
        raise ValueError(
            f"row {int((lengths == 0).nonzero()[0])} has no prompt: its first token is supervised; "
            "label prompts -100, or leave labels out to generate from the whole row"
        )
    longest = int(lengths.max())
    order = kept.long().argsort(dim=1, stable=True)[:, -longest:]  # what is kept comes last, in its own order
    mask = kept.gather(1, order)  # [B, P]
    return input_ids.gather(1, order).masked_fill(~mask, pad_token_id), mask.long()
