"""The tower's class token after several of its blocks: what LaVIN and LLaMA-Adapter see of a picture."""

from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling


def spread_levels(blocks: int, number: int) -> list[int]:
    """At most ``number`` hidden states, evenly over the tower's ``blocks``, the last block's output among them."""
    return sorted({-(-blocks * (i + 1) // number) for i in range(number)})


class ClassTokenFeatures:
    """Stands before a model's base class; its features are [I, k, C], raw class tokens of k hidden states."""

    config: Any
    vision_tower: Any
    tower_trains: Any

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """[I, 3, H, W] through the tower; ``pooler_output`` [I, k, C] of the k ``config.vision_feature_layer``."""
        tower = self.vision_tower
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.tower_trains()):
            out = tower(pixel_values.to(tower.device, tower.dtype), output_hidden_states=True, return_dict=True)
            tokens = [out.hidden_states[level][:, 0] for level in self.config.vision_feature_layer]
            return BaseModelOutputWithPooling(out.last_hidden_state, torch.stack(tokens, dim=1))
