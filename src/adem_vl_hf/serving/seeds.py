"""Seeds each answer where it begins, so that a request with a seed is answered as it is alone."""

from typing import Any

import torch
from transformers import LogitsProcessor


class Seeded(LogitsProcessor):
    """Seeds PyTorch before the first token of an answer is drawn, in the thread that generates.

    The library seeds while it reads a request. By then another answer may be at work, which would draw other tokens
    from there on, and others may come before this one.

    Args:
        seed (int | None): The seed. None means another one each time, so that an answer without a seed does not follow
            from that of the request before.
    """

    def __init__(self, seed: int | None) -> None:
        self.seed, self.has_begun = seed, False

    def __call__(self, input_ids: torch.LongTensor, scores: Any) -> Any:
        if not self.has_begun:
            self.has_begun = True
            if self.seed is None:
                torch.seed()
            else:
                torch.manual_seed(self.seed)
        return scores
