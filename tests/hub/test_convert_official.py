"""The authors' adapter files: which tensors are read, which are dropped with a message, and which files are refused."""

import argparse
import json
import os

import pytest
import tiny
import torch
from transformers import AutoProcessor

from adem_vl_hf import AdemVLForConditionalGeneration, AdemVLProcessor
from adem_vl_hf.cli.parser import main
from adem_vl_hf.hub.convert_official import _official_name, convert_official
from adem_vl_hf.loading import CLIP, SMOLLM2, TOWER, load_checkpoint

FIELDS = {"projector_dim": 8, "vision_adapter_dim": 4}


class MakesFolder:
    """A malicious pickle: reading it calls a function."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(scope="module")
def content(model):
    """A whole official file for the tiny bases: three tower adapters where the features depend on two."""
    tensors = {f"module.{_official_name(key)}": tensor for key, tensor in model.adapter_state_dict().items()}
    blocks = "module.backbone.visual.transformer.resblocks"
    tensors[f"{blocks}.2.adapter_mlp.fc1.weight"] = torch.randn(4, tiny.VISION_WIDTH)
    tensors[f"{blocks}.2.adapter_mlp.fc2.weight"] = torch.randn(tiny.VISION_WIDTH, 4)
    settings = argparse.Namespace(
        down_sample_num=[16, 4], drop_ratio=0.25, alpha=0.5, beta=0.75, hidden_proj=8, adapter_dim=4, no_cls=False,
        dataset="sqa", lr=None,
    )  # fmt: skip
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    return {"model": tensors, "optimizer": optimizer, "epoch": 19, "scaler": {"scale": 65536.0}, "args": settings}


def convert(content, bases, tmp_path, **fields):
    path = tmp_path / "checkpoint-19.pth"
    torch.save(content, path)
    return convert_official(path, bases / "llama", bases / "clip", tmp_path / "out", **fields)


def changed(content, name, tensor):
    """The same file without the settings, with one tensor replaced, or removed where it is None."""
    tensors = dict(content["model"]) | {f"module.{name}": tensor}
    return {"model": {key: value for key, value in tensors.items() if value is not None}}


def test_every_golden_tensor_arrives_and_the_unused_adapter_is_named(golden):
    official = torch.load(tiny.GOLDEN / golden.bases.name[:-1] / "official_checkpoint.pth", weights_only=True)["model"]
    model = AdemVLForConditionalGeneration.from_pretrained(golden.checkpoint)
    found = model.adapter_state_dict()
    for key, tensor in found.items():
        assert torch.equal(tensor, official[f"module.{_official_name(key)}"])
    assert golden.report.tensors == len(found) == len(official) - 2
    assert golden.report.parameters == golden.settings["trainable"] - 2 * 12 * 128
    assert len(golden.report.dropped) == 2
    assert all("resblocks.2.adapter_mlp" in line and "no feature" in line for line in golden.report.dropped)
    assert "ignored epoch" in str(golden.report)
    assert "no processor saved" in str(golden.report)  # these bases have no tokenizer


def test_what_the_package_brings_is_recorded_by_its_name(bases, tmp_path, monkeypatch):
    """The tiny language model takes the place of the embedded one, which is downloaded."""
    for module in ("adem_vl_hf.hub.convert_official", "adem_vl_hf.loading"):
        monkeypatch.setattr(f"{module}.resolve_language_model", lambda name: str(bases / "llama"))
    model = tiny.perturb(
        AdemVLForConditionalGeneration.from_base_pretrained(str(bases / "llama"), str(TOWER), **FIELDS)
    )
    tensors = {f"module.{_official_name(key)}": tensor for key, tensor in model.adapter_state_dict().items()}
    torch.save({"model": tensors}, tmp_path / "checkpoint-0.pth")
    argv = ["convert", tmp_path / "checkpoint-0.pth", tmp_path / "out", "--language-model", "embedded",
            "--vision-tower", "embedded", "--projector-dim", 8, "--vision-adapter-dim", 4]  # fmt: skip
    assert main([str(word) for word in argv]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert (config["text_model_name_or_path"], config["vision_model_name_or_path"]) == (SMOLLM2, CLIP)
    assert not any(str(bases) in path.read_text("utf-8") for path in (tmp_path / "out").glob("*.json"))
    loaded, processor = load_checkpoint(str(tmp_path / "out"))
    inputs = processor(images=tiny.picture(), text="a photo of")
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_a_whole_file_of_a_training_run(content, bases, model, tmp_path):
    report = convert(content, bases, tmp_path)
    converted = AdemVLForConditionalGeneration.from_pretrained(tmp_path / "out")
    for key, tensor in model.adapter_state_dict().items():
        assert torch.equal(converted.state_dict()[key], tensor)
    config = converted.config
    assert config.visual_token_counts == [16, 4]
    assert (config.drop_ratio, config.fusion_scale, config.visual_scale) == (0.25, 0.5, 0.75)
    assert config.image_token_id == tiny.IMAGE_TOKEN_ID
    assert report.ignored == ["args", "epoch", "optimizer", "scaler"]
    assert "note: " not in str(report)
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.image_token_id == tiny.IMAGE_TOKEN_ID
    assert list(processor.image_processor.image_mean) == [0.485, 0.456, 0.406]
    assert "as for sqa" in str(report)


def test_given_fields_win_over_recorded_ones_and_the_report_says_so(content, bases, tmp_path):
    report = convert(content, bases, tmp_path, drop_ratio=0.1, image_token_id=7)
    config = AdemVLForConditionalGeneration.from_pretrained(tmp_path / "out").config
    assert (config.drop_ratio, config.image_token_id) == (0.1, 7)
    assert "note: drop_ratio is 0.1 as given, but the file was trained with 0.25" in str(report)


def test_half_precision_is_saved_as_float32_and_unknown_tensors_are_reported(content, bases, tmp_path):
    halves = {name: tensor.half() for name, tensor in content["model"].items()}
    halves["module.adapter_modality_embedding.weight"] = torch.zeros(2, tiny.TEXT_WIDTH)
    report = convert({"model": halves}, bases, tmp_path, use_cls_token=False, **FIELDS)
    state = AdemVLForConditionalGeneration.from_pretrained(tmp_path / "out").adapter_state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert torch.equal(state["adapter.key_embedding"], halves["module.adapter_emb1"].float())
    assert any(
        line.startswith("adapter_modality_embedding.weight: ADEM-VL has no such part") for line in report.dropped
    )
    assert any("adapter_proj_cls" in line and "use_cls_token=False" in line for line in report.dropped)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("adapter_emb1", (1, 320, 32), r"adapter_emb1.*320 memory slots .*--visual-token-counts 16 4 gives 20"),
        ("adapter_emb2", (1, 20, 48), "trained on a --language-model of width 48, and the given one has 32"),
        ("adapter_proj.fc1.weight", (16, 24), "try --projector-dim 16"),
        ("adapter_proj.fc1.weight", (8, 64), "trained on a --vision-tower of width 64"),
        ("adapter_proj_cls.fc2.bias", (33,), "--language-model of width 33"),
        ("backbone.visual.transformer.resblocks.0.adapter_mlp.fc1.weight", (12, 24), "try --vision-adapter-dim 12"),
        ("backbone.visual.transformer.resblocks.1.adapter_mlp.fc2.weight", (24, 5), "try --vision-adapter-dim 5"),
        ("adapter_emb1", (320, 32), "no tensor of an ADEM-VL adapter"),
    ],
)
def test_a_tensor_of_another_shape_names_the_option(content, bases, tmp_path, name, shape, message):
    with pytest.raises(ValueError, match=message):
        convert(changed(content, name, torch.zeros(shape)), bases, tmp_path, **FIELDS)
    assert not (tmp_path / "out").exists()


def test_missing_tensors_are_named(content, bases, tmp_path):
    with pytest.raises(ValueError, match=r"lacks adapter_proj\.fc2\.weight; give the authors' whole file"):
        convert(changed(content, "adapter_proj.fc2.weight", None), bases, tmp_path, **FIELDS)
    tensors = {name: value for name, value in content["model"].items() if "adapter_proj_cls" not in name}
    with pytest.raises(ValueError, match=r"lacks adapter_proj_cls\.fc1\.weight.*--use-cls-token false"):
        convert({"model": tensors}, bases, tmp_path, **FIELDS)
    tensors = {name: value for name, value in content["model"].items() if "resblocks" not in name}
    with pytest.raises(ValueError, match=r"lacks backbone\.visual\.transformer\.resblocks\.0.*--vision-adapter-dim 0"):
        convert({"model": tensors}, bases, tmp_path, **FIELDS)


def test_numbers_that_are_none(content, bases, tmp_path):
    broken = content["model"]["module.adapter_emb2"].clone()
    broken[0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="adapter_emb2.* not finite numbers"):
        convert(changed(content, "adapter_emb2", broken), bases, tmp_path, **FIELDS)


def test_numbers_that_are_too_large_for_a_checkpoint(content, bases, tmp_path):
    """In float32, which a checkpoint has, they are infinite."""
    large = content["model"]["module.adapter_emb2"].double()
    convert(changed(content, "adapter_emb2", large), bases, tmp_path, **FIELDS)
    large[0, 3, 3] = 1e300
    with pytest.raises(ValueError, match=r"adapter_emb2.* not finite numbers in torch\.float32; fetch"):
        convert(changed(content, "adapter_emb2", large), bases, tmp_path, **FIELDS)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_that_are_not_plain_ones(content, bases, tmp_path):
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    whole = content["model"]["module.adapter_emb1"]
    for tensor, message in (
        (nested, "adapter_emb1 in .* is a nested tensor; it must hold"),
        (whole.to("meta"), r"adapter_emb1 in .* has no numbers \(it is on the device meta\)"),
        (whole.to_sparse(), r"adapter_emb1 in .* is torch\.float32, torch\.sparse_coo; it must hold"),
        (whole.to(torch.int8), r"adapter_emb1 in .* is torch\.int8, torch\.strided; it must hold"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(changed(content, "adapter_emb1", tensor), bases, tmp_path, **FIELDS)


def test_settings_that_are_no_numbers(content, bases, tmp_path):
    for name, value, message in (
        ("no_cls", "False", "args.no_cls in .* is 'False', and True or False is needed; .* --use-cls-token"),
        ("no_cls", torch.tensor([1, 0]), r"args.no_cls in .* is tensor\(\[1, 0\]\), and True or False"),
        ("alpha", torch.tensor([1, 0]), "args.alpha in .* and a number is needed; .* --fusion-scale"),
        ("down_sample_num", ["16"], "args.down_sample_num in .* is .'16'., and a number is needed"),
    ):
        settings = argparse.Namespace(**vars(content["args"]) | {name: value})
        with pytest.raises(ValueError, match=message):
            convert(content | {"args": settings}, bases, tmp_path)
    settings.no_cls, settings.down_sample_num = "False", [16, 4]
    convert(content | {"args": settings}, bases, tmp_path, use_cls_token=True)
    config = AdemVLForConditionalGeneration.from_pretrained(tmp_path / "out").config
    assert config.use_cls_token is True


def test_a_tensor_that_is_there_twice(content, bases, tmp_path):
    tensors = content["model"] | {"adapter_emb1": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"holds both module\.adapter_emb1 and adapter_emb1; remove the one"):
        convert(content | {"model": tensors}, bases, tmp_path)


def test_a_report_of_many_foreign_tensors_is_short(content, bases, tmp_path):
    foreign = {"x" * 1000 + str(number): torch.zeros(1) for number in range(500)}
    others = {f"entry {number}": 0 for number in range(500)}
    report = convert(content | others | {"model": content["model"] | foreign}, bases, tmp_path)
    assert len(report.dropped) == 502
    assert len(str(report)) < 5000
    assert "\ndropped 492 more\n" in str(report)
    assert ", 494 more: state of" in str(report)


def test_objects_other_than_settings_are_refused(content, bases, tmp_path):
    made = tmp_path / "made"
    with pytest.raises(ValueError, match=r"is refused: it holds posix\.mkdir"):
        convert(content | {"args": argparse.Namespace(data=MakesFolder(str(made)))}, bases, tmp_path)
    assert not made.exists()
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_files_that_are_no_checkpoints(bases, tmp_path):
    path = tmp_path / "file.pth"
    with pytest.raises(ValueError, match=r"file\.pth is no file"):
        convert_official(path, bases / "llama", bases / "clip", tmp_path / "out")
    for data in (b"", b"<html>not found</html>", b"PK\x03\x04 cut short"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"file\.pth (cannot be read|is refused)"):
            convert_official(path, bases / "llama", bases / "clip", tmp_path / "out")
    for wrong in ({"adapter_emb1": torch.zeros(1)}, {"model": torch.zeros(1)}, [1, 2]):
        torch.save(wrong, path)
        with pytest.raises(ValueError, match="no dictionary of tensors under 'model'"):
            convert_official(path, bases / "llama", bases / "clip", tmp_path / "out")


def test_a_language_model_without_a_tokenizer_needs_the_image_token(golden, tmp_path):
    path = tiny.GOLDEN / golden.bases.name[:-1] / "official_checkpoint.pth"
    if not golden.settings["use_cls"]:  # nothing to mark: no token needed
        convert_official(path, golden.bases / "llama", golden.bases / "clip", tmp_path, use_cls_token=False)
        return
    with pytest.raises(ValueError, match="has no tokenizer that can be loaded.*image_token_id"):
        convert_official(path, golden.bases / "llama", golden.bases / "clip", tmp_path)


@pytest.mark.parametrize("broken", [AdemVLForConditionalGeneration, AdemVLProcessor])
def test_the_same_command_goes_on_after_a_full_disk_and_a_kill(content, bases, tmp_path, monkeypatch, capsys, broken):
    path, out = tmp_path / "checkpoint-19.pth", tmp_path / "out"
    torch.save(content, path)
    argv = ["convert", str(path), str(out), "--language-model", str(bases / "llama"), "--vision-tower",
            str(bases / "clip")]  # fmt: skip
    save = broken.save_pretrained

    def full(*args, **kwargs):
        save(*args, **kwargs)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(broken, "save_pretrained", full)
        assert main(argv) == 1
    assert f"of {out} is full. " in capsys.readouterr().err
    assert not list(out.iterdir())
    (out / ".saving-dead").mkdir()
    (out / ".saving-dead" / "config.json").write_text("{")
    assert main(argv) == 0
    assert not [entry.name for entry in out.iterdir() if entry.name.startswith(".")]
    assert not any(b".saving-" in entry.read_bytes() for entry in out.iterdir() if entry.name != "one_save.py")
    load_checkpoint(str(out))
    assert main(argv) == 2
    assert f"{out} holds files already" in capsys.readouterr().err
    (out / ".saved-dead").mkdir()
    (out / "config.json").rename(out / ".saved-dead" / "config.json")
    assert main(argv) == 2
    assert f"{out} is complete now: the conversion that was interrupted" in capsys.readouterr().err
    load_checkpoint(str(out))
