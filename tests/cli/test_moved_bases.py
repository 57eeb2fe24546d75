"""Checkpoints that travel: bases in other places than in training, names with spaces, read-only folders, the Hub."""

import json
import shutil

import pytest
import tiny
from hub_server import hub_env, run_client, serve_hub
from PIL import Image

from adem_vl_hf.cli.parser import main
from adem_vl_hf.loading import CLIP, SMOLLM2, build_model, describe, load_checkpoint
from adem_vl_hf.modeling import bases as modeling_bases


@pytest.fixture
def moved(bases, tmp_path):
    """A checkpoint whose bases lie elsewhere since, in a folder with a space, a dot and letters of other alphabets."""
    old = tmp_path / "old"
    shutil.copytree(bases / "llama", old / "llama")
    shutil.copytree(bases / "clip", old / "clip")
    model, processor = build_model(str(old / "llama"), str(old / "clip"), projector_dim=8)
    folder = tmp_path / "mein Adapter v1.0 ü中"
    tiny.perturb(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    shutil.rmtree(old)
    Image.new("RGB", (20, 20), "green").save(folder / "bild eins.png")
    return folder


def test_commands_take_bases_from_elsewhere(moved, bases, capsys):
    argv = ["caption", str(moved / "bild eins.png"), "--checkpoint", str(moved), "--max-new-tokens", "2"]
    assert main(argv) == 2
    assert "the language model" in (said := capsys.readouterr().err)
    assert "say where it is now by --language-model" in said
    assert main([*argv, "--language-model", str(bases / "llama")]) == 2
    assert "say where it is now by --vision-tower" in capsys.readouterr().err
    folder = moved.stat().st_mode
    moved.chmod(0o555)
    try:
        assert main([*argv, *tiny.base_flags(bases)]) == 0
    finally:
        moved.chmod(folder)
    assert capsys.readouterr().out.startswith(f"{moved / 'bild eins.png'}: ")
    assert main(["info", str(moved), *tiny.base_flags(bases), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text_model_name_or_path"] == str(bases / "llama")


def test_info_looks_at_bases_from_elsewhere(moved, bases, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for flag, kind, name in (
        ("--language-model", "language model", "llama"),
        ("--vision-tower", "vision tower", "clip"),
    ):
        other = tmp_path / name
        shutil.copytree(bases / name, other)
        config = json.loads((other / "config.json").read_text())
        (config.get("vision_config") or config)["num_hidden_layers"] += 1
        (other / "config.json").write_text(json.dumps(config))
        for base, words in (("no/pe", "could not be loaded"), (other, "num_hidden_layers")):
            assert main(["info", str(moved), flag, str(base)]) == 2
            said = capsys.readouterr().err
            assert kind in said
            assert words in said


def test_a_push_names_the_bases_for_others(moved, tmp_path):
    with serve_hub() as hub:
        done = run_client(
            "from adem_vl_hf.cli import main; raise SystemExit(main())", hub_env(hub.url, tmp_path / "home", "secret"),
            "push", moved, "acme/adem", "--language-model", "acme/llama", "--vision-tower", "acme/clip", "--private",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "acme/adem" in done.stdout
        repo = hub.repos["acme/adem"]
        files = repo.files()
    config = json.loads(files["config.json"])
    assert (config["text_model_name_or_path"], config["vision_model_name_or_path"]) == ("acme/llama", "acme/clip")
    assert repo.private
    assert "modeling_adem_vl.py" in files
    assert b"base_model:\n- acme/llama\n- acme/clip" in files["README.md"]


def test_the_embedded_models_are_recorded_by_name(bases, tmp_path, monkeypatch):
    """With tiny models in the places of those that the package brings."""
    monkeypatch.setattr("adem_vl_hf.loading.resolve_language_model",
                        lambda name: str(bases / "llama") if name == "embedded" else name)  # fmt: skip
    monkeypatch.setattr("adem_vl_hf.loading.TOWER", bases / "clip")
    model, processor = build_model(projector_dim=8)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["text_model_name_or_path"], config["vision_model_name_or_path"]) == (SMOLLM2, CLIP)
    assert str(bases) not in (tmp_path / "config.json").read_text()
    assert describe(str(tmp_path))["text_model_name_or_path"] == SMOLLM2
    again, _ = load_checkpoint(str(tmp_path))
    assert again.config.text_model_name_or_path == SMOLLM2
    monkeypatch.setattr(modeling_bases, "entry_points", lambda **kwargs: ())  # the package is not installed
    with pytest.raises(ValueError, match="which the package adem-vl-hf brings: install it, or pass"):
        type(again).from_pretrained(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(bases, tmp_path, capsys):
    (tmp_path / "closed").write_text("a file, in which not even root makes a folder")
    argv = ["train", *tiny.base_flags(bases), "--data", "openmoji-scenes", "--train-size", "2", "--max-steps", "1",
            "--output-dir", str(tmp_path / "closed" / "run")]  # fmt: skip
    assert main(argv) == 2
    assert "closed" in capsys.readouterr().err
