"""Checkpoints that were published before (``tests/fixtures/published``) give the answers that they gave then."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from closeness import assert_close
from new_process import run_python
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

import adem_vl_hf

pytestmark = [pytest.mark.core, pytest.mark.kernels]
VERSION = Version(transformers.__version__)
PUBLISHED = Path(__file__).parent.parent / "fixtures" / "published"
NAMES = sorted(path.stem for path in PUBLISHED.glob("*.safetensors"))
# a whole checkpoint names the tower's weights as the version of Transformers does that wrote it; the code of then
reads_new_tower = pytest.mark.xfail(
    Version("5.16") > VERSION,
    reason="Transformers 5.16 renamed the weights of a CLIP tower; an earlier version does not find them",
    strict=True,
)
WITH_WHOLE = [pytest.param(name, marks=reads_new_tower) if name == "adem_vl_whole" else name for name in NAMES]
CLIENT = """
import json, sys
import torch, transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

try:
    import adem_vl_hf
    raise SystemExit("adem_vl_hf can be imported")
except ImportError:
    pass
modules = {}
for name in sys.argv[1:]:
    model = AutoModel.from_pretrained(name, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
    rows = dict(processor(images=[Image.open("picture.png"), None], text=["a photo", "hello"]))
    with torch.no_grad():
        logits = model(**rows).logits
    tokens = model.generate(**rows, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=3)
    found = {f"inputs.{key}": tensor for key, tensor in rows.items()}
    found |= {"expected.logits": logits, "expected.tokens": tokens[:, rows["input_ids"].shape[1]:]}
    save_file({key: tensor.contiguous() for key, tensor in found.items()}, f"{name}.safetensors")
    modules[name] = [type(model).__module__, type(processor).__module__]
print(json.dumps({"transformers": transformers.__version__, "modules": modules}))
"""


def parts(name: str, prefix: str) -> dict[str, torch.Tensor]:
    """The stored inputs or answers of a checkpoint."""
    stored = load_file(PUBLISHED / f"{name}.safetensors")
    return {key.removeprefix(prefix): tensor for key, tensor in stored.items() if key.startswith(prefix)}


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, a CLIP tower's by its names since Transformers 5.16."""
    return {key.replace("vision_tower.vision_model.", "vision_tower."): x for key, x in load_file(path).items()}


def fields(path: Path) -> dict:
    """What a configuration says of our model; the bases' own parts differ by the version of Transformers."""
    written = json.loads(path.read_text())
    of_the_library = {"text_config", "vision_config", "transformers_version", "dtype"}
    return {key: value for key, value in written.items() if key not in of_the_library | {"custom_pipelines"}}


@pytest.mark.parametrize("name", NAMES)
def test_this_package_gives_the_answers_of_then(name):
    model = AutoModel.from_pretrained(PUBLISHED / name)
    assert type(model).__module__.startswith(adem_vl_hf.__name__)
    rows, expected = parts(name, "inputs."), parts(name, "expected.")
    with torch.no_grad():
        assert_close(model(**rows).logits, expected["logits"])
    steps = expected["tokens"].shape[1]
    tokens = model.generate(**rows, max_new_tokens=steps, do_sample=False, eos_token_id=None, pad_token_id=3)
    assert torch.equal(tokens[:, -steps:], expected["tokens"])


@pytest.mark.parametrize("name", NAMES)
def test_this_package_prepares_the_same_rows(name):
    processor = AutoProcessor.from_pretrained(PUBLISHED / name)
    assert type(processor).__module__.startswith(adem_vl_hf.__name__)
    rows = processor(images=[Image.open(PUBLISHED / "picture.png"), None], text=["a photo", "hello"])
    expected = parts(name, "inputs.")
    assert_close(rows, expected)


@pytest.mark.parametrize("name", NAMES)
def test_saved_again_it_has_the_same_names_and_numbers(name, tmp_path):
    AutoModel.from_pretrained(PUBLISHED / name).save_pretrained(tmp_path)
    before, after = (weights(folder / "model.safetensors") for folder in (PUBLISHED / name, tmp_path))
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    before, after = (fields(folder / "config.json") for folder in (PUBLISHED / name, tmp_path))
    assert {key: after[key] for key in before} == before


@pytest.fixture(scope="module")
def by_its_own_code(tmp_path_factory):
    """What a process without the package made of the checkpoints, with their code beside them as published."""
    work = tmp_path_factory.mktemp("published") / "work"
    shutil.copytree(PUBLISHED, work)
    for name in NAMES:
        (work / f"{name}.safetensors").unlink()
        with zipfile.ZipFile(work / "code.zip") as code:
            code.extractall(work / name)
    env = os.environ | {
        "PYTHONPATH": tiny.package_blocker(work / "blocked"), "HF_HOME": str(work / "home"),
    }  # fmt: skip
    done = run_python(CLIENT, *NAMES, env=env, folder=work)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["transformers"] == transformers.__version__
    return work, printed["modules"]


@pytest.mark.skipif(
    Version("5.24.0.dev0") <= VERSION,
    reason="Transformers 5.24 renames the cache field of output classes, past_key_values, which the code of every "
    "checkpoint from before names; checkpoints of then run by their own code on earlier versions (make test-oldest)",
)
@pytest.mark.parametrize("name", WITH_WHOLE)
def test_its_own_code_gives_the_answers_of_then(by_its_own_code, name):
    work, modules = by_its_own_code
    assert all(module.startswith("transformers_modules.") for module in modules[name])
    stored, found = (load_file(folder / f"{name}.safetensors") for folder in (PUBLISHED, work))
    assert_close(found, stored)
