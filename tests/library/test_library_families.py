"""Transformers' own test-suite for models (``test_library_suite.py``) on the other families of the feature table."""

import families
import pytest
import test_library_suite as suite
from transformers import AutoConfig

# the suites look for this warning, which is an error elsewhere
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("always:`past_key_values` is deprecated")]
# what the suite asks of a language model
SHAPE = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip


def suite_on(family: str) -> type:
    """The suite's test case with a language model of this family in the place of the Llama."""
    fields = dict(families.TABLE[family])
    if "layer_types" in fields:
        # the suite expects every layer to keep the whole text; a window that the text outgrows is in test_generation.py
        fields |= {"layer_types": fields["layer_types"][:2], "sliding_window": 512}

    class Tester(suite.AdemVLModelTester):
        def get_config(self):
            config = super().get_config()
            shape = {name: getattr(config.text_config, name) for name in SHAPE}
            config.text_config = AutoConfig.for_model(family, **shape, **fields)
            return config

    class Test(suite.AdemVLModelTest):
        # half a minute each; test_compiled_generation.py compiles every family in less
        test_generate_compilation_all_outputs = None
        test_generate_compile_model_forward_fullgraph = None

        def setUp(self):
            super().setUp()
            self.model_tester = Tester(self)

    return Test


OnMistral, OnQwen2, OnQwen3, OnQwen3Moe, OnGemma, OnGemma2, OnGemma3 = (
    suite_on(family) for family in families.TABLE if family != "llama"
)
