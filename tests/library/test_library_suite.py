"""Transformers' own test-suite for models, run on ours as it is run on every model of the library."""

import copy
import unittest

import pytest
import torch
from library_suite import suite
from transformers import CLIPVisionConfig, LlamaConfig

from adem_vl_hf import AdemVLConfig, AdemVLForConditionalGeneration
from adem_vl_hf.modeling.visual_memory import VisualCacheLayer

# the suites look for this warning, which is an error elsewhere
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("always:`past_key_values` is deprecated")]
common = suite("test_modeling_common")
GenerationTesterMixin = suite("generation.test_utils").GenerationTesterMixin
ConfigTester = suite("test_configuration_common").ConfigTester
TOKENS, IMAGE_TOKEN, SIDE = 99, 4, 8


class AdemVLModelTester:
    """The sizes and inputs that the suite asks for."""

    batch_size, seq_length, is_training = 3, 7, True
    hidden_size, num_hidden_layers, num_attention_heads, vocab_size, image_size = 32, 2, 4, TOKENS, SIDE

    def __init__(self, parent) -> None:
        self.parent = parent

    def get_config(self) -> AdemVLConfig:
        ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        text = LlamaConfig(
            vocab_size=TOKENS, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, **ends,
        )  # fmt: skip
        vision = CLIPVisionConfig(
            hidden_size=24, intermediate_size=30, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
            patch_size=2, projection_dim=16,
        )  # fmt: skip
        # scales of 1, so that what gets lost or mixed up shows
        return AdemVLConfig(
            text_config=text, vision_config=vision, image_token_id=IMAGE_TOKEN, projector_dim=8, vision_adapter_dim=4,
            vision_adapter_dropout=0.0, fusion_scale=1.0, visual_scale=1.0, **ends,
        )  # fmt: skip

    def prepare_config_and_inputs(self):
        return self.get_config(), common.floats_tensor([self.batch_size, 3, SIDE, SIDE])

    def prepare_config_and_inputs_for_common(self):
        config, pixel_values = self.prepare_config_and_inputs()
        ids = common.ids_tensor([self.batch_size, self.seq_length], TOKENS - 5) + 5
        ids[:, 1] = IMAGE_TOKEN
        return config, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixel_values}


class AdemVLModelTest(common.ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (AdemVLForConditionalGeneration,)
    _is_composite = True

    def setUp(self):
        self.model_tester = AdemVLModelTester(self)
        self.config_tester = ConfigTester(self, config_class=AdemVLConfig, has_text_modality=False)

    def _check_past_key_values_for_generate(self, batch_size, past_key_values, *args, **kwargs):
        """The suite counts the layers of the cache; the last of ours has what is seen."""
        texts = copy.copy(past_key_values)
        *texts.layers, seen = past_key_values.layers
        assert isinstance(seen, VisualCacheLayer)
        assert len(seen.keys) == batch_size
        super()._check_past_key_values_for_generate(batch_size, texts, *args, **kwargs)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """The suite knows by name which of the library's classes take which labels."""
        inputs = copy.deepcopy(inputs_dict)
        if return_labels:
            inputs["labels"] = torch.zeros_like(inputs["input_ids"])
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_mismatching_num_image_tokens(self):
        """As the library's tester of vision-language models (VLMModelTest) asks."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = self.all_model_classes[0](config).eval()
        model(**inputs)
        with pytest.raises(ValueError, match="pixel_values has 1 rows and the text 3"):
            model(**inputs | {"pixel_values": inputs["pixel_values"][-1:]})
        two = {name: tensor[:1].repeat(2, *[1] * (tensor.dim() - 1)) for name, tensor in inputs.items()}
        with pytest.raises(ValueError, match="pixel_values has 1 rows and the text 2"):
            model(**two | {"pixel_values": inputs["pixel_values"][:1]})
        model(**two)
