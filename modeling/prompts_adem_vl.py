"""Generation from a training batch: the prompts without their answers.

``Seq2SeqTrainer`` evaluates by handing a whole batch of prompts, answers and labels to ``generate``. An encoder-decoder
ignores the labels; a decoder would see the answers in its input and go on behind them.
"""

from functools import wraps

import torch


def prompts_alone(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, labels: torch.Tensor, pad_token_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows cut before their first supervised token and padded on the left.

    Args:
        input_ids, attention_mask, labels: [B, T], padded on either side; a label of -100 is not supervised.

    Returns:
        ``input_ids`` and ``attention_mask`` [B, P], P the longest prompt.

    Raises:
        ValueError: naming a row in which nothing comes before what is supervised.
    """
    supervised = (labels != -100).to(input_ids.device)
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


def answers_labelled_batches(generate):
    """Let ``generate`` take ``labels``: it then sees the prompts alone and returns the new tokens alone."""

    @wraps(generate)
    def wrapped(self, inputs=None, *args, labels=None, **kwargs):
        if labels is None:
            return generate(self, inputs, *args, **kwargs)
        ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        prompts, mask = prompts_alone(ids, kwargs.pop("attention_mask", None), labels, _padding(self.config))
        out = generate(self, prompts, *args, attention_mask=mask, **kwargs)
        if isinstance(out, torch.Tensor):
            return out[:, prompts.shape[1] :]
        out.sequences = out.sequences[:, prompts.shape[1] :]
        return out

    return wrapped


def _padding(config) -> int:
    """A token to fill up with; the mask hides it. Never the image's own, which may be any other."""
    for name in ("pad_token_id", "eos_token_id"):
        found = getattr(config.text_config, name, None)
        found = found[0] if isinstance(found, (list, tuple)) else found
        if found is not None and found != config.image_token_id:
            return found
    return 0 if config.image_token_id else 1
