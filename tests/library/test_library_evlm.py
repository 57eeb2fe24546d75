"""Transformers' own test-suite for models (``test_library_suite.py``) on EVLM."""

from unittest import mock

import pytest
import test_library_suite as suite
import torch

from adem_vl_hf import EvlmConfig, EvlmForConditionalGeneration
from adem_vl_hf.modeling.cross_attention import GatedCrossAttention

# the suites look for this warning, which is an error elsewhere
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("always:`past_key_values` is deprecated")]
drawn = GatedCrossAttention.reset


@torch.no_grad()
def draw_open(layer: GatedCrossAttention) -> None:
    """Weights as they are drawn for training, but with open gates: what gets lost or mixed up shows."""
    drawn(layer)
    for gate in (layer.attn_gate, layer.ffn_gate):
        gate.fill_(1.0)


class EvlmModelTester(suite.AdemVLModelTester):
    def get_config(self) -> EvlmConfig:
        config = super().get_config()
        bases = {name: getattr(config, name) for name in ("text_config", "vision_config", "image_token_id")}
        ends = {name: getattr(config.text_config, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        return EvlmConfig(**bases, media_tokens=1, **ends)


class EvlmModelTest(suite.AdemVLModelTest):
    all_model_classes = (EvlmForConditionalGeneration,)

    def setUp(self):
        opened = mock.patch.object(GatedCrossAttention, "reset", draw_open)
        opened.start()
        self.addCleanup(opened.stop)
        self.model_tester = EvlmModelTester(self)
        self.config_tester = suite.ConfigTester(self, config_class=EvlmConfig, has_text_modality=False)
