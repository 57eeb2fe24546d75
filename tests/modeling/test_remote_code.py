"""A saved checkpoint works where this package is not installed: its own files are enough (``trust_remote_code``)."""

import json
import os

import architectures
import pytest
import tiny
import torch
import towers
from closeness import assert_close
from new_process import run_python
from safetensors.torch import load_file, save_file

from adem_vl_hf import AdemVLImageToTextPipeline

pytestmark = [pytest.mark.core, architectures.each()]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
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
for name in sys.argv[1:]:
    folder, inputs = f"{name}/{name}_checkpoint", load_file(f"{name}/inputs.safetensors")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    other = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    with_lora = AutoModel.from_pretrained(f"{name}/{name}_lora", trust_remote_code=True)
    on_siglip = AutoModel.from_pretrained(f"{name}/{name}_siglip", trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    path, picture = "cat.png", Image.open("cat.png")
    with torch.no_grad():
        results = {"model": model(**inputs).logits, "other": other(**inputs).logits, "lora": with_lora(**inputs).logits}
        results["siglip"] = on_siglip(**inputs).logits
        row = processor(images=[picture, None], text=["a photo", "hello"])
        results["processed"] = model(**row).logits
        model.save_pretrained(f"{name}/again")
        again = AutoModel.from_pretrained(f"{name}/again", trust_remote_code=True)
        results["again"] = again(**inputs).logits
    save_file({name: tensor.contiguous() for name, tensor in results.items()}, f"{name}/results.safetensors")
    captioner = pipeline("image-to-text", model=folder, trust_remote_code=True)
    answers = {
        "path": captioner(path, max_new_tokens=4),
        "picture": captioner(picture, max_new_tokens=4),
        "list": captioner([path, picture], max_new_tokens=4),
        "prompt": captioner(picture, prompt="hello", max_new_tokens=4),
        "inferred": pipeline(model=folder, trust_remote_code=True)(path, max_new_tokens=4),
    }
    refused = {}
    for wrong in ("frame_embedings", "load_in_4bit", "kernel" if name == "evlm" else "media_tokens"):
        try:
            AutoModel.from_pretrained(folder, trust_remote_code=True, **{wrong: 4})
        except TypeError as error:
            refused[wrong] = str(error)
    printed = {"config": type(config).__name__, "module": type(model).__module__, "answers": answers}
    printed["refused"] = refused
    with open(f"{name}/printed.json", "w") as file:
        json.dump(printed, file)
"""


@pytest.fixture(scope="module")
def folder(bases, tmp_path_factory):
    """For each model a checkpoint, one with LoRA, inputs, and what one process without the package made of them."""
    folder = tmp_path_factory.mktemp("remote")
    tiny.picture().save(folder / "cat.png")
    inputs = tiny.batch([8, 6], [True, False])
    del inputs["labels"]
    for arch in architectures.BOTH:
        work, model = folder / str(arch), arch.build(bases)
        # the names differ because Transformers keeps the code of each under the folder's name
        model.save_pretrained(work / f"{arch}_checkpoint")
        arch.processor(bases, model).save_pretrained(work / f"{arch}_checkpoint")
        arch.build(bases, lora=LORA).save_pretrained(work / f"{arch}_lora")
        tower = towers.save("siglip_vision_model", work / "siglip")
        tiny.perturb(towers.build(str(arch), bases, tower)).save_pretrained(work / f"{arch}_siglip")
        save_file(inputs, work / "inputs.safetensors")
    blocker = tiny.package_blocker(folder / "blocked")
    env = os.environ | {"PYTHONPATH": blocker, "HF_HOME": str(folder / "home")}
    done = run_python(CLIENT, *architectures.BOTH, env=env, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def work(arch, folder):
    return folder / str(arch)


@pytest.fixture(scope="module")
def checkpoint(arch, work):
    return work / f"{arch}_checkpoint"


@pytest.fixture(scope="module")
def processor(arch, checkpoint):
    return arch.processor_class.from_pretrained(checkpoint)


def test_the_logits_are_the_same(bases, arch, work, model, processor):
    results = load_file(work / "results.safetensors")
    row = processor(images=[tiny.picture(), None], text=["a photo", "hello"])
    inputs = load_file(work / "inputs.safetensors")
    with torch.no_grad():
        expected = model(**inputs).logits
        processed = model(**row).logits
        with_lora = arch.build(bases, lora=LORA)(**inputs).logits
        on_siglip = arch.model_class.from_pretrained(work / f"{arch}_siglip")(**inputs).logits
    for name in ("model", "other", "again"):
        assert_close(results[name], expected, name=name)
    assert_close(results["processed"], processed)
    assert_close(results["lora"], with_lora)
    assert_close(results["siglip"], on_siglip)
    assert (with_lora - expected).abs().max() > 1e-2


def test_it_was_the_checkpoints_own_code(arch, work, checkpoint):
    printed = json.loads((work / "printed.json").read_text())
    assert printed["config"] == arch.config_class.__name__
    assert printed["module"].startswith("transformers_modules.")
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    again = {path.name: path.read_bytes() for path in (work / "again").iterdir()}
    assert {name: files[name] for name in again} == again
    processor_files = {
        name for name in files if name.endswith("json") and ("token" in name or "processor_config" in name)
    }
    assert set(files) - set(again) == processor_files


def test_unknown_names_are_refused_there_too(work):
    refused = json.loads((work / "printed.json").read_text())["refused"]
    assert len(refused) == 3
    assert refused["frame_embedings"].endswith("did you mean 'frame_embeddings'?")
    assert "give quantization_config=" in refused["load_in_4bit"]


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


def test_the_bundle_imports_nothing_of_the_package_around_it(checkpoint):
    for path in checkpoint.glob("*.py"):
        assert "adem_vl_hf" not in path.read_text(encoding="utf-8"), path.name


def test_the_model_file_names_every_other_file(arch, checkpoint):
    """Transformers copies what the file of the class imports; 4.57 looks no deeper."""
    lines = (checkpoint / f"modeling_{arch}.py").read_text(encoding="utf-8").splitlines()
    named = {line.split()[1].removeprefix(".") for line in lines if line.strip().startswith("from .")}
    assert named | {f"modeling_{arch}"} == {path.stem for path in checkpoint.glob("*.py")}
