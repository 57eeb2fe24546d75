"""The benchmarks of what is seen: the tables of easy-VQA and of unseen styles, and which pictures are photographs."""

import io
import json
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import scripts
import torch
from PIL import Image


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def photographs():
    return scripts.load("benchmarks/photographs.py")


@pytest.fixture
def stamps(tmp_path, monkeypatch, photographs):
    """A package with a photograph and a drawing of a fox, a tiger in a folder of drawings, and an owl."""
    noise = np.random.RandomState(0).randint(0, 256, (60, 40, 4), dtype=np.uint8)
    noise[..., 3] = 255
    plain = np.full((60, 60, 4), 200, np.uint8)
    files = {
        "animals/fox": (png(noise), "A fox.\nEin Fuchs."),
        "animals/drawn_fox": (png(plain), "A red fox."),
        "animals/cartoon/tiger": (png(noise), "A tiger."),
        "animals/owl": (png(plain), "A snowy owl!"),
        "animals/unknown": (png(noise), "A zebu."),
    }
    tar = tmp_path / "data.tar"
    with tarfile.open(tar, "w") as archive:
        for name, (picture, sentence) in files.items():
            for suffix, content in ((".png", picture), (".txt", sentence.encode())):
                member = tarfile.TarInfo(f"./usr/share/tuxpaint/stamps/{name}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    def dpkg_deb(command, stdout, check):
        assert command == ["dpkg-deb", "--fsys-tarfile", tmp_path / "package.deb"]
        stdout.write(tar.read_bytes())

    monkeypatch.setattr(photographs.subprocess, "run", dpkg_deb)
    return tmp_path / "package.deb"


def test_only_photographs_of_things_that_are_drawn_are_asked_about(photographs, stamps):
    data = photographs.photographs_of_names(stamps)
    assert {data[i]["answer"] for i in range(len(data))} == {" fox"}
    assert len(data) == 2
    assert np.asarray(data[0]["image"]).std() > 5


def test_a_sentence_names_the_thing_that_it_ends_with(photographs):
    names = ["apple", "red apple", "rabbit"]
    assert photographs.name_in("A ripe, red apple!", names) == "red apple"
    assert photographs.name_in("A rabbit in the snow.", names) is None


def test_another_package_is_refused(photographs, tmp_path, monkeypatch):
    (tmp_path / f"{photographs.PACKAGE}_1_all.deb").write_bytes(b"another")
    with pytest.raises(SystemExit, match="another SHA-256"):
        photographs.fetch(tmp_path)


def test_without_apt_the_message_says_where_the_photographs_are(photographs, tmp_path, monkeypatch):
    def missing(command, **rest):
        raise FileNotFoundError("apt-get")

    monkeypatch.setattr(photographs.subprocess, "run", missing)
    with pytest.raises(SystemExit, match=r"tuxpaint-stamps-default .* put its \.deb file into"):
        photographs.fetch(tmp_path)


def test_unseen_styles_are_asked_once_for_each_adapter(tmp_path, monkeypatch):
    script, asked, adapters = scripts.load("benchmarks/unseen_styles.py"), [], [1.0, 1.0, 2.0]

    class Stopped(Exception):
        pass

    def answers(model, processor, samples, images, output):
        if len(asked) == 9:
            asked.append("stopped")
            raise Stopped
        asked.append(images)
        found = {"choice": script.share(0.5 if images == "true" else 0.25, 150)}
        return found if isinstance(samples, str) else found | {"caption": script.share(0.125, 160)}

    model = SimpleNamespace(adapter_state_dict=lambda: {"a": torch.tensor(adapters.pop(0))})
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path)
    monkeypatch.setattr(script, "load_checkpoint", lambda **_: (model, None))
    monkeypatch.setattr(script, "fetch", str)
    monkeypatch.setattr(script, "photographs_of_names", str)
    monkeypatch.setattr(script, "answers", answers)
    with pytest.raises(Stopped):
        scripts.call(script, monkeypatch)
    assert script.sections()["unseen styles"] == script.tables.NOT_MEASURED
    scripts.call(script, monkeypatch)
    assert len(asked) == 10 + 1
    lines = script.sections()["unseen styles"].splitlines()
    assert lines[2] == "| openmoji | 160 | 50.0 / 25.0 | 12.5 / 12.5 |"
    assert lines[-2].startswith("| noto, never seen |")
    assert lines[-1] == "| photographs, never seen | 150 | 50.0 / 25.0 | |"
    scripts.call(script, monkeypatch)
    assert len(asked) == 11 + 10


def test_a_probe_of_scenes_counts_both_groups_of_each(tmp_path, monkeypatch):
    script = scripts.load("benchmarks/scene_probe.py")
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path)
    assert script.sections()["scene probe"] == script.tables.NOT_MEASURED
    scripts.call(script, monkeypatch, "--towers", "embedded", "--learned", "100", "--tested", "20")
    number = json.loads((tmp_path / "scene_probe.json").read_text())["towers"]["embedded"]["number"]
    assert number["n"] == 40
    assert number["share"] > 0.5  # one copy is the commonest by far, and the features tell the others
    assert script.sections()["scene probe"].endswith("40 groups of 20 test scenes.")


@pytest.mark.slow
@pytest.mark.parametrize(("run_name", "trained"), [("LoRA", "800,128"), ("frozen, comparison first", "339,328")])
def test_easy_vqa_is_trained_and_tested(tmp_path, monkeypatch, run_name, trained):
    script = scripts.load("benchmarks/easy_vqa.py")
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path)
    arguments = ["--runs", run_name, "--steps", "2", "--test-images", "2", "--output-dir", tmp_path / "runs"]
    scripts.call(script, monkeypatch, *arguments)
    saved = json.loads((tmp_path / "easy_vqa.json").read_text())
    (run,) = saved["runs"].values()
    assert run["training"]["steps"] == 2
    assert set(run["metrics"]) == {"true", "shuffled"}
    lines = script.sections()["easy vqa table"].splitlines()
    assert lines[2].startswith(f"| {run_name} | {trained} | 2 |")
    assert lines[3].endswith("| 67.0 | 23.3 | 82.5 |")


@pytest.mark.slow
def test_the_shipped_recipe_is_trained_with_and_without_lora(tmp_path, monkeypatch):
    script = scripts.load("benchmarks/frozen_or_lora.py")
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path)
    arguments = ["--steps", "1", "--scenes", "24", "--names", "4", "--output-dir", tmp_path / "runs"]
    monkeypatch.setattr(script, "launched_processes", lambda: 2)  # of which each trains alone here
    scripts.call(script, monkeypatch, *arguments)
    assert script.sections()["frozen or lora"] == script.tables.NOT_MEASURED
    monkeypatch.setattr(script, "launched_processes", lambda: 1)
    monkeypatch.setattr(script, "fine_tune", None)  # nothing is trained again
    scripts.call(script, monkeypatch, *arguments)
    lines = script.sections()["frozen or lora"].splitlines()
    assert lines[0] == "| | frozen | LoRA |"
    assert lines[2] == "| trainable parameters | 1,077,376 | 1,538,176 |"
    assert [line.split(" | ")[0] for line in lines[5:7]] == [
        "| names: four-way choice", "| names: whole caption, exact match",
    ]  # fmt: skip


def test_places_are_asked_by_numbers_and_once_for_each_adapter(tmp_path, monkeypatch):
    script, asked = scripts.load("benchmarks/which_is_where.py"), []

    def answers(model, processor, samples, images, output):
        asked.append(len(samples))
        return {"relation": {"share": 0.75 if images == "true" else 0.25, "n": len(samples)}}

    def load(checkpoint, **_):
        return SimpleNamespace(adapter_state_dict=lambda: {"a": torch.tensor(1.0 if checkpoint else 2.0)}), None

    monkeypatch.setattr(script.tables, "RESULTS", tmp_path)
    monkeypatch.setattr(script, "load_checkpoint", load)
    monkeypatch.setattr(script, "answers", answers)
    scripts.call(script, monkeypatch)
    assert script.sections()["which is where"] == script.tables.NOT_MEASURED
    scripts.call(script, monkeypatch, "--before", "folder")
    assert len(asked) == 2 * 2 * 2
    assert sum(asked) == 2 * 2 * script.TESTED
    lines = script.sections()["which is where"].splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| different", "| the same"]
    assert all(line.endswith("| 75.0 / 25.0 | 75.0 / 25.0 |") for line in lines[2:])


def test_groups_of_the_same_number_are_told_from_others():
    script = scripts.load("benchmarks/which_is_where.py")
    data = script.OpenMojiScenes("test", size=60, kinds=("relation",))
    found = script.by_numbers(data)
    assert sorted(i for part in found.values() for i in part.indices) == list(range(60))
    for numbers, part in found.items():
        pairs = [tuple(group.number for group in data.scene(i)[0].groups) for i in part.indices]
        assert pairs
        assert all((one == other) == (numbers == "the same") for one, other in pairs)
