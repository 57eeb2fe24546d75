"""How many parameters a configuration trains, counted without any weights."""

import torch

from .modeling.adapter_adem_vl import AdemVLAdapter
from .modeling.adapter_evlm import EvlmAdapter
from .modeling.configuration_adem_vl import AdemVLConfig
from .modeling.configuration_base import FrozenBasesConfig
from .modeling.trained_in_base import count_lora_parameters


def count_adapter_parameters(config: FrozenBasesConfig) -> int:
    """Count the trainable parameters of the adapter, without LoRA and without tower blocks that train.

    Args:
        config (FrozenBasesConfig): the configuration of either model.
    """
    adapter_class = AdemVLAdapter if isinstance(config, AdemVLConfig) else EvlmAdapter
    with torch.device("meta"):
        return sum(p.numel() for p in adapter_class(config).parameters())


def count_as_published(config: AdemVLConfig) -> int:
    """Count the parameters of ADEM-VL's adapter as its authors do.

    Their count includes an adapter on every tower block behind the features, although it gets no gradient.

    Args:
        config (AdemVLConfig): the configuration.
    """
    unused = config.vision_config.num_hidden_layers - config.num_vision_adapters
    per_block = 2 * config.vision_config.hidden_size * config.vision_adapter_dim
    return count_adapter_parameters(config) + unused * per_block


def count_trained(config: FrozenBasesConfig) -> int:
    """Count the trainable parameters of the adapter and of LoRA, for which it needs the package PEFT.

    Args:
        config (FrozenBasesConfig): the configuration of either model.
    """
    return count_adapter_parameters(config) + count_lora_parameters(config)
