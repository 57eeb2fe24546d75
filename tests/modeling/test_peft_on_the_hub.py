"""An adapter of PEFT beside a checkpoint on the Hub, which a model's class is given directly."""

import json
import shutil

import pytest
import tiny
import transformers
from closeness import assert_close

from adem_vl_hf import AdemVLForConditionalGeneration

peft = pytest.importorskip("peft")
# PEFT 0.21 asks Transformers 5.23 for a property by its name before
pytestmark = [
    pytest.mark.core,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
OLDER = transformers.__version__.startswith("5.0")


@pytest.mark.parametrize(
    "save_base",
    [
        False,
        pytest.param(True, marks=pytest.mark.skipif(OLDER, reason="it looks for the adapter's weights in the model's")),
    ],
)
def test_it_is_loaded_and_checked_as_in_a_folder(bases, tmp_path, save_base):
    """In the cache of the Hub, as it lies there once it is fetched."""
    folder = tmp_path / "folder"
    tiny.build(bases).save_pretrained(folder, save_base=save_base)
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(AdemVLForConditionalGeneration.from_pretrained(folder), config).save_pretrained(folder)
    published = tmp_path / "cache" / "models--acme--seeing"
    snapshot = published / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    (published / "refs").mkdir()
    (published / "refs" / "main").write_text("0" * 40)
    fetched = {"cache_dir": str(tmp_path / "cache"), "local_files_only": True}
    inputs = tiny.batch([9, 7], [True, False])
    model = AdemVLForConditionalGeneration.from_pretrained("acme/seeing", **fetched)
    assert any("lora" in name for name, _ in model.named_parameters())
    assert_close(model(**inputs).logits, AdemVLForConditionalGeneration.from_pretrained(folder)(**inputs).logits)
    saved = json.loads((snapshot / "adapter_config.json").read_text())
    (snapshot / "adapter_config.json").write_text(json.dumps(saved | {"r": 3_000_000}))
    with pytest.raises(ValueError, match=r"adapter_config\.json.* r is 3000000"):
        AdemVLForConditionalGeneration.from_pretrained("acme/seeing", **fetched)
