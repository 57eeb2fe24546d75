"""A checkpoint of somebody else publishes no files from elsewhere, and its malformed files are named."""

import json
import shutil

import pytest
import tiny
from PIL import Image
from training_runs import processor_of

from adem_vl_hf.hub.model_card import write_model_card
from adem_vl_hf.hub.upload import _stage_samples, stage

SECRET = "TOKEN = 's3cret'\n"
SAMPLE = {"image": "0.png", "prompt": "a picture of", "answer": "a cat", "references": ["a cat"]}


@pytest.fixture(scope="module")
def saved(bases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "run"
    model = tiny.build(bases)
    model.save_pretrained(folder)
    processor_of(bases, model).save_pretrained(folder)
    (folder / "samples").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "samples" / "0.png")
    (folder / "samples" / "samples.json").write_text(json.dumps([SAMPLE]))
    return folder


@pytest.fixture
def run(saved, tmp_path):
    """A copy of the checkpoint, beside a private file."""
    shutil.copytree(saved, tmp_path / "run")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "settings.py").write_text(SECRET)
    (tmp_path / "private" / "settings.json").write_text('{"key": "s3cret"}')
    (tmp_path / "staged").mkdir()
    return tmp_path / "run"


def staged(run, samples=False):
    """What is staged of a run, or what the error says."""
    target = run.parent / "staged"
    try:
        stage(run, None, target)
        if samples:
            _stage_samples(run, target)
    except ValueError as error:
        return str(error)
    finally:
        assert not [path for path in target.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    return {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}


def code_from(run, auto_map):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}))


def test_a_checkpoint_is_staged_with_its_code_and_samples(run):
    names = staged(run, samples=True)
    assert names >= {"config.json", "model.safetensors", "modeling_adem_vl.py", "samples/0.png", "samples/samples.json"}


def test_a_checkpoint_in_the_cache_of_the_hub_consists_of_links(run, tmp_path):
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(path for path in run.iterdir() if path.is_file()):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (snapshot.parent / "staged").mkdir()
    assert staged(snapshot) >= {"config.json", "modeling_adem_vl.py"}


@pytest.mark.parametrize("place", ["{}/settings.X", "../private/settings.X", "settings", "a b.X", "a\0.X", ".X", 3,
                                   ["{}/settings.X", None], {"a": 1}])  # fmt: skip
def test_code_from_elsewhere_is_refused(run, tmp_path, place):
    text = json.dumps(place).replace("{}", str(tmp_path / "private"))
    code_from(run, {"AutoModel": "modeling_adem_vl.AdemVLForConditionalGeneration", "AutoTokenizer": json.loads(text)})
    said = staged(run)
    assert f"{run / 'config.json'}: auto_map names " in said
    assert "it must name a module beside it and a class in that" in said


@pytest.mark.parametrize("auto_map", ["x", [1]])
def test_an_auto_map_that_is_none_is_named(run, auto_map):
    code_from(run, auto_map)
    assert staged(run).startswith(f"{run / 'config.json'}: auto_map is {auto_map!r}; it must be an object")


@pytest.mark.parametrize("place", ["owner/name--modeling_adem_vl.X", ["missing.X", None]])
def test_code_that_is_not_there_is_the_installed_one(run, place):
    code_from(run, {"AutoModel": place})
    assert "modeling_adem_vl.py" in staged(run)
    config = json.loads((run.parent / "staged" / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_adem_vl.AdemVLForConditionalGeneration"


def test_an_import_that_leads_elsewhere_is_not_followed(run, tmp_path):
    with (run / "modeling_adem_vl.py").open("a") as file:
        file.write(f"\nfrom .{tmp_path}/private/settings import TOKEN\n")
    assert "settings.py leads out of " in staged(run)


def test_code_that_imports_what_is_missing_is_not_published(run):
    with (run / "modeling_adem_vl.py").open("a") as file:
        file.write("\nfrom ..private import settings\n")
    assert "modeling_adem_vl.py" in staged(run)
    assert "private" not in (run.parent / "staged" / "modeling_adem_vl.py").read_text()


@pytest.mark.parametrize(("name", "target"), [
    ("generation_config.json", "settings.json"), ("training.json", "settings.json"), ("metrics.json", "settings.json"),
    ("chat_template.jinja", "settings.py"), ("additional_chat_templates/x.jinja", "settings.py"),
    ("fusion.py", "settings.py"), ("samples/0.png", "settings.py"), ("samples/samples.json", "settings.json"),
])  # fmt: skip
def test_a_link_to_elsewhere_is_refused(run, tmp_path, name, target):
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(tmp_path / "private" / target)
    words = "and files from elsewhere are not published: put the file itself there"
    assert staged(run, samples=True) == f"{run / name} leads out of {run}, {words}"


@pytest.mark.parametrize(("change", "words"), [
    ({"image": None}, '"image" is None'), ({"image": 3}, '"image" is 3'), ({"image": ".."}, "has no such file"),
    ({"image": "a\0"}, "has no such file"), ({"image": "../../private/settings.py"}, "has no such file"),
    ({"prompt": 1}, '"prompt" is 1'), ({"answer": []}, '"answer" is []'), ({"references": "x"}, '"references" is'),
    ({"references": [1]}, '"references" is [1]'),
])  # fmt: skip
def test_malformed_sample_answers_are_named(run, change, words):
    path = run / "samples" / "samples.json"
    path.write_text(json.dumps([SAMPLE, SAMPLE | change]))
    said = staged(run, samples=True)
    assert said.startswith(f"{path}, entry 1: ")
    assert words in said
    with pytest.raises(ValueError, match=r"samples\.json, entry 1: "):
        write_model_card(run)


@pytest.mark.parametrize("place", ["PRIVATE/settings.Model", "../private/settings.Model", 3])
def test_a_processor_that_is_saved_into_a_checkpoint_brings_no_code_from_elsewhere(bases, run, place):
    place = place.replace("PRIVATE", str(run.parent / "private")) if isinstance(place, str) else place
    code_from(run, {"AutoModel": place})
    processor_of(bases, tiny.build(bases)).save_pretrained(run)
    assert not (run / "settings.py").exists()
