"""Checkpoints on every kind of vision tower, in other processes and on the command line."""

import json
import os

import pytest
import tiny
import torch
import towers
from closeness import assert_close
from hub_server import hub_env, run_client, serve_hub
from new_process import run_python
from PIL import Image
from safetensors.torch import load_file, save_file

from adem_vl_hf import AdemVLForConditionalGeneration
from adem_vl_hf.cli.parser import main

pytestmark = pytest.mark.core


CLIENT = """
import sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

try:
    import adem_vl_hf
    raise SystemExit("adem_vl_hf can be imported")
except ImportError:
    pass
inputs, results = load_file("inputs.safetensors"), {}
for name in sys.argv[1:]:
    assert AutoConfig.from_pretrained(name, trust_remote_code=True).vision_config.model_type == name.split("-")[1]
    model = AutoModel.from_pretrained(name, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules.")
    with torch.no_grad():
        results[name] = model(**inputs).logits.contiguous()
save_file(results, "results.safetensors")
"""


@torch.no_grad()
@pytest.mark.slow
def test_checkpoints_on_every_kind_work_where_the_package_is_not_installed(bases, tower_folders, tmp_path):
    """SigLIP is in ``test_remote_code.py``, too, which ``make test`` runs."""
    expected = {}
    for kind, folder in tower_folders.items():
        for model in towers.MODELS:
            name = f"{model}-{kind}-{'adapter' if model == 'evlm' else 'whole'}"
            made = tiny.perturb(towers.build(model, bases, folder))
            made.save_pretrained(tmp_path / name, save_base=model != "evlm")
            expected[name] = made(**towers.rows()).logits
    save_file(towers.rows(), tmp_path / "inputs.safetensors")
    blocked = {"PYTHONPATH": tiny.package_blocker(tmp_path / "blocked"), "HF_HOME": str(tmp_path / "home")}
    done = run_python(CLIENT, *expected, env=os.environ | blocked, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_close(load_file(tmp_path / "results.safetensors"), expected)


HUB_CLIENT = """
import json, sys
from adem_vl_hf.loading import build_model

found = {}
for name in sys.argv[2:]:
    model, processor = build_model(sys.argv[1], f"acme/{name}", projector_dim=8, vision_model_revision="v2")
    config = model.config
    found[name] = config.vision_config.model_type, config.grid, config.vision_model_revision
    assert list(processor.image_processor.image_std) == [0.3, 0.2, 0.4]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_towers_come_from_the_hub_at_a_revision(bases, tower_folders, tmp_path):
    """The size of DINOv2's images is read from the image processor of the same revision."""
    kinds = ("siglip_vision_model", "dinov2", "vit")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("nothing here")
    with serve_hub() as hub:
        expected = {}
        for kind in kinds:
            hub.publish(f"acme/{kind}", tmp_path / "empty", "main")
            expected[kind] = [kind, tiny.GRID, hub.publish(f"acme/{kind}", tower_folders[kind], "v2")]
        done = run_client(HUB_CLIENT, hub_env(hub.url, tmp_path / "home"), bases / "llama", *kinds)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected


@pytest.mark.slow
def test_the_command_line_trains_on_a_siglip(bases, tower_folders, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (20, 16), colour).save(pictures / f"{colour}.png")
    lines = [json.dumps({"file_name": f"{colour}.png", "text": f"a {colour} cat"}) for colour in ("red", "blue")]
    (pictures / "metadata.jsonl").write_text("\n".join(lines))
    output = tmp_path / "run"
    flags = ["--language-model", str(bases / "llama"), "--vision-tower", str(tower_folders["siglip_vision_model"])]
    flags += ["--data", str(pictures), "--output-dir", str(output), "--max-steps", "2", "--batch-size", "2"]
    flags += ["--dtype", "float32", "--projector-dim", "8", "--set", "use_cpu=true", "disable_tqdm=true"]
    assert main(["train", *flags]) == 0
    capsys.readouterr()
    assert main(["info", str(output)]) == 0
    assert "siglip_vision_model, 3 blocks of width 24, grid 4 x 4" in capsys.readouterr().out
    saved = AdemVLForConditionalGeneration.from_pretrained(output)
    assert saved.adapter.value_embedding.abs().max() > 0
    wrong = tmp_path / "swin"
    wrong.mkdir()
    (wrong / "config.json").write_text(json.dumps({"model_type": "swin"}))
    flags[3], flags[7] = str(wrong), str(tmp_path / "other")
    assert main(["train", *flags]) != 0
    assert "is a 'swin' model, which is not supported: take one of Transformers' kinds CLIP" in capsys.readouterr().err
