"""Names that may be paths or Hub ids, and what commands say of what they are given."""

import shutil

import pytest

from adem_vl_hf.cli.arguments import check_there
from adem_vl_hf.cli.train import _tower_for
from adem_vl_hf.loading import CHECKPOINT, describe


def test_a_mistyped_folder_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "other"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"the checkpoint runs/mien: .* did you mean runs/mine\?"):
        check_there("the checkpoint", "runs/mien")
    with pytest.raises(ValueError, match="no such file or folder"):
        check_there("the checkpoint", "runs/mine/checkpoint-3")
    (tmp_path / "pictures").mkdir()
    for name in (None, "runs/mine", "you/my-adapter", "pictures/my-adapter", "embedded"):
        check_there("the checkpoint", name)


def test_info_looks_at_the_weights(tmp_path):
    assert "model.safetensors, " in describe()["weights"]
    folder = tmp_path / "copy"
    shutil.copytree(CHECKPOINT, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert describe(str(folder))["weights"].startswith("damaged: model.safetensors (")
    weights.unlink()
    assert describe(str(folder))["weights"] == f"missing: there is no model.safetensors in {folder}"


def test_data_choose_the_vision_tower():
    assert _tower_for(["openmoji", "openmoji-names"]) == "embedded"
    assert _tower_for(["pictures"]) == "embedded-dinov2"
    assert _tower_for(["openmoji", "easy-vqa"]) == "embedded-dinov2"
