"""A saved checkpoint works where this package is not installed: its own files are enough (``trust_remote_code``)."""

import json
import os
import subprocess
import sys

import architectures
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from adem_vl_hf import AdemVLImageToTextPipeline

pytestmark = architectures.each()
CLIENT = """
import json, sys
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

try:
    import adem_vl_hf
    raise SystemExit("adem_vl_hf can be imported")
except ImportError:
    pass
folder, work = sys.argv[1:]
inputs = load_file(f"{work}/inputs.safetensors")
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
other = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    results = {"model": model(**inputs).logits, "other": other(**inputs).logits}
    row = processor(images=[Image.open(f"{work}/cat.png"), None], text=["a photo", "hello"])
    results["processed"] = model(**row).logits
    model.save_pretrained(f"{work}/again")
    again = AutoModel.from_pretrained(f"{work}/again", trust_remote_code=True)
    results["again"] = again(**inputs).logits
save_file({name: tensor.contiguous() for name, tensor in results.items()}, f"{work}/results.safetensors")
captioner = pipeline("image-to-text", model=folder, trust_remote_code=True)
path, picture = f"{work}/cat.png", Image.open(f"{work}/cat.png")
answers = {
    "path": captioner(path, max_new_tokens=4),
    "picture": captioner(picture, max_new_tokens=4),
    "list": captioner([path, picture], max_new_tokens=4),
    "prompt": captioner(picture, prompt="hello", max_new_tokens=4),
    "inferred": pipeline(model=folder, trust_remote_code=True)(path, max_new_tokens=4),
}
print(json.dumps({"config": type(config).__name__, "module": type(model).__module__, "answers": answers}))
"""


@pytest.fixture(scope="module")
def work(bases, arch, model, tmp_path_factory):
    """A checkpoint with its processor, inputs, and what a process without the package made of them."""
    work = tmp_path_factory.mktemp("remote")
    model.save_pretrained(work / "checkpoint")
    arch.processor(bases, model).save_pretrained(work / "checkpoint")
    tiny.picture().save(work / "cat.png")
    inputs = tiny.batch([8, 6], [True, False])
    del inputs["labels"]
    save_file(inputs, work / "inputs.safetensors")
    blocker = tiny.package_blocker(work / "blocked")
    env = os.environ | {"PYTHONPATH": blocker, "HF_HOME": str(work / "home"), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", CLIENT, str(work / "checkpoint"), str(work)]
    done = subprocess.run(arguments, env=env, cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (work / "printed.json").write_text(done.stdout.splitlines()[-1])
    return work


@pytest.fixture(scope="module")
def processor(arch, work):
    return arch.processor_class.from_pretrained(work / "checkpoint")


def test_the_logits_are_the_same_bit_for_bit(work, model, processor):
    results = load_file(work / "results.safetensors")
    row = processor(images=[tiny.picture(), None], text=["a photo", "hello"])
    with torch.no_grad():
        expected = model(**load_file(work / "inputs.safetensors")).logits
        processed = model(**row).logits
    for name in ("model", "other", "again"):
        assert torch.equal(results[name], expected), name
    assert torch.equal(results["processed"], processed)


def test_it_was_the_checkpoints_own_code(arch, work):
    printed = json.loads((work / "printed.json").read_text())
    assert printed["config"] == arch.config_class.__name__
    assert printed["module"].startswith("transformers_modules.")
    files = {path.name: path.read_bytes() for path in (work / "checkpoint").iterdir()}
    again = {path.name: path.read_bytes() for path in (work / "again").iterdir()}
    assert {name: files[name] for name in again} == again
    processor_files = {
        name for name in files if name.endswith("json") and ("token" in name or "processor_config" in name)
    }
    assert set(files) - set(again) == processor_files


def test_the_pipeline_takes_paths_pictures_and_lists(work, model, processor):
    answers = json.loads((work / "printed.json").read_text())["answers"]
    captioner = AdemVLImageToTextPipeline(model=model, processor=processor)
    expected = captioner(tiny.picture(), max_new_tokens=4)
    assert list(expected[0]) == ["generated_text"]
    assert expected[0]["generated_text"]
    assert answers["path"] == answers["picture"] == answers["inferred"] == expected
    assert answers["list"] == [expected, expected]
    assert answers["prompt"] == captioner(tiny.picture(), prompt="hello", max_new_tokens=4)
    assert answers["prompt"] != expected


def test_the_bundle_imports_nothing_of_the_package_around_it(work):
    for path in (work / "checkpoint").glob("*.py"):
        assert "adem_vl_hf" not in path.read_text(encoding="utf-8"), path.name


def test_the_model_file_names_every_other_file(arch, work):
    """Transformers copies what the file of the class imports; 4.57 looks no deeper."""
    lines = (work / "checkpoint" / f"modeling_{arch}.py").read_text(encoding="utf-8").splitlines()
    named = {line.split()[1].removeprefix(".") for line in lines if line.strip().startswith("from .")}
    assert named | {f"modeling_{arch}"} == {path.stem for path in (work / "checkpoint").glob("*.py")}
