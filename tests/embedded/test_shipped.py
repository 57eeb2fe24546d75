"""The shipped files: the adapter trained on OpenMoji, the small CLIP tower, and no path of any machine."""

import json
import re

import architectures
import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, CLIPVisionModel

from adem_vl_hf import AdemVLConfig, AdemVLProcessor
from adem_vl_hf.counting import count_trained
from adem_vl_hf.data.openmoji.styles import STYLES
from adem_vl_hf.embedded.smollm2 import LANGUAGE_MODEL_ID
from adem_vl_hf.hub.upload import stage
from adem_vl_hf.loading import (
    CHECKPOINT,
    CHECKPOINT_ON_CLIP,
    CLIP,
    DINOV2,
    FOLDER,
    SHIPPED,
    TOWER,
    describe,
    load_checkpoint,
)
from adem_vl_hf.modeling.adapter_adem_vl import AdemVLAdapter
from adem_vl_hf.modeling.fingerprints import base_fingerprint

TEXT_FILES = {".json", ".jsonl", ".md", ".txt", ".py", ".jinja"}
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:root|home|tmp|work|Users|mnt|data)(?:/|\b)|[A-Za-z]:\\\\")


@pytest.fixture(params=SHIPPED, ids=lambda folder: folder.name)
def shipped(request):
    return request.param


@pytest.fixture
def config(shipped):
    return AdemVLConfig.from_pretrained(shipped)


def test_the_adapter_file_is_exactly_the_adapter(shipped, config):
    with torch.device("meta"):
        wanted = {f"adapter.{key}": list(tensor.shape) for key, tensor in AdemVLAdapter(config).state_dict().items()}
    file = shipped / "model.safetensors"
    with safe_open(file, "pt") as tensors:
        found = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118 (no mapping)
    own = {key: list(tensor.shape) for key, tensor in found.items() if not key.startswith("adapter.lora.")}
    assert own == wanted
    assert (len(own) < len(found)) == (config.lora is not None)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert found["adapter.value_embedding"].abs().max() > 0  # zero where it was never trained
    numbers = sum(tensor.numel() for tensor in found.values())
    assert numbers == count_trained(config) == describe(str(shipped))["trained_numbers"]
    assert file.stat().st_size == pytest.approx(4 * numbers, rel=0.01)


def test_every_file_is_small_and_readable_as_it_should_be():
    files = [path for path in FOLDER.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    assert {"adapter", "adapter_on_clip", "tower"} <= {path.name for path in FOLDER.iterdir()}
    assert max(path.stat().st_size for path in files) < 12e6
    assert {path.suffix for path in files} <= {*TEXT_FILES, ".safetensors"}  # no pickle among them


def test_no_path_of_a_machine_is_in_any_text_file():
    texts = [path for path in FOLDER.rglob("*") if path.suffix in TEXT_FILES]
    assert {"config.json", "processor_config.json"} <= {path.name for path in texts}
    found = {}
    for path in texts:
        if path.name not in ("tokenizer.json",):  # a vocabulary holds every word there is
            found[path.name] = [match[0] for match in MACHINE_PATH.finditer(path.read_text(encoding="utf-8"))]
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_the_parts_are_named_so_that_any_machine_and_version_finds_them(shipped, config):
    assert config.text_model_name_or_path == LANGUAGE_MODEL_ID
    assert config.vision_model_name_or_path == (DINOV2 if shipped == CHECKPOINT else CLIP)
    # the name of the class that Transformers 5 writes is unknown to 4.57
    tokenizer = json.loads((shipped / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_the_code_is_this_package_whatever_remote_code_is_trusted(shipped, config):
    assert not list(shipped.glob("*.py"))
    assert "auto_map" not in config.to_dict()
    for trust in (None, False, True):
        assert type(AutoConfig.from_pretrained(shipped, trust_remote_code=trust)) is AdemVLConfig
        assert type(AutoProcessor.from_pretrained(shipped, trust_remote_code=trust)) is AdemVLProcessor


def test_its_files_on_the_hub_are_whole(shipped, tmp_path):
    stage(shipped, None, tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == architectures.ADEM_VL.files
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    places = [*config["auto_map"].values(), config["custom_pipelines"]["image-to-text"]["impl"]]
    assert all((tmp_path / f"{place.split('.')[0]}.py").is_file() for place in places)


def test_a_shipped_folder_loads_without_the_hub_however_it_is_named(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(CHECKPOINT_ON_CLIP.parent)
    for name in (CHECKPOINT_ON_CLIP.name, str(CHECKPOINT_ON_CLIP)):
        model, _ = load_checkpoint(name)
        assert model.config.text_model_name_or_path != LANGUAGE_MODEL_ID


def test_the_tower_loads_whole_and_is_the_one_trained_on():
    config = AdemVLConfig.from_pretrained(CHECKPOINT_ON_CLIP)
    tower, info = CLIPVisionModel.from_pretrained(TOWER, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert tower.config.to_dict().items() >= {"image_size": 96, "patch_size": 12, "hidden_size": 192}.items()
    fingerprint = base_fingerprint(tower)
    assert fingerprint["config"] == config.vision_model_fingerprint["config"]
    for key, values in config.vision_model_fingerprint["tensors"].items():
        assert fingerprint["tensors"][key] == pytest.approx(values, rel=0.01, abs=1e-4)
    side = {"height": 96, "width": 96}
    assert dict(AutoImageProcessor.from_pretrained(TOWER).size) == side
    assert dict(AdemVLProcessor.from_pretrained(CHECKPOINT_ON_CLIP).image_processor.size) == side


def test_the_tower_says_what_it_reaches():
    facts = json.loads((TOWER / "training.json").read_text(encoding="utf-8"))
    assert facts["steps"] > 0
    for style in STYLES:  # far above chance, 1 of 710 names, also in the style that it has never seen
        assert 0.3 < facts[f"{style}_named"] <= 1
