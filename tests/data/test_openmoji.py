"""The pictograms and the two data sets drawn from them: names, pictures, seeds, splits, sizes."""

import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from adem_vl_hf.data import OpenMojiNames, OpenMojiScenes, open_dataset
from adem_vl_hf.data.dataset_names import check_name
from adem_vl_hf.data.openmoji import sprites as pictograms
from adem_vl_hf.data.openmoji.sprites import GROUPS, MAX_WORDS, SPRITE_SIZE, openmoji
from adem_vl_hf.data.openmoji.things import EVERY_THING, THINGS

BOTH = [OpenMojiNames, OpenMojiScenes]


def equal(one, other):
    texts = [{key: value for key, value in sample.items() if key != "image"} for sample in (one, other)]
    return texts[0] == texts[1] and one["image"].tobytes() == other["image"].tobytes()


def test_the_things_and_their_names():
    things, sprites = openmoji()
    assert len(things) == 710  # as the README says
    assert sprites.shape == (710, SPRITE_SIZE, SPRITE_SIZE, 4)
    assert sprites.dtype == np.uint8
    names = [thing.name for thing in things]
    assert len(set(names)) == len(names)
    assert all(name.isascii() and name == name.lower().strip() for name in names)
    assert all(1 <= len(name.split()) <= MAX_WORDS for name in names)
    assert {thing.group for thing in things} == set(GROUPS)
    assert len(THINGS) == len(set(THINGS)) == 100
    assert len(EVERY_THING) == len(set(EVERY_THING)) == 382  # as training.json says
    assert set(THINGS) < set(EVERY_THING) <= set(names)


def test_no_two_pictures_are_equal_not_even_on_white():
    _, sprites = openmoji()
    assert len({sprite.tobytes() for sprite in sprites}) == len(sprites)
    alpha = sprites[..., 3:].astype(np.float32) / 255
    on_white = (sprites[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    assert len({picture.tobytes() for picture in on_white}) == len(sprites)
    assert (np.abs(on_white.astype(int) - 255).max((1, 2, 3)) > 100).all()  # none is blank


def test_pictures_are_drawn_once_and_look_alikes_are_left_out(tmp_path, monkeypatch):
    fox, owl = (thing for thing in openmoji()[0] if thing.name in ("fox", "owl"))
    candidates = [fox, replace(fox, name="red fox", code="again"), owl]
    drawn = []

    def rasterise(code):
        drawn.append(code)
        return np.full((SPRITE_SIZE, SPRITE_SIZE, 4), 7 if code == owl.code else 5, np.uint8)

    monkeypatch.setenv("ADEM_VL_HF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pictograms, "_rasterise", rasterise)
    monkeypatch.setattr(pictograms, "_candidates", lambda: candidates)
    things, sprites = openmoji.__wrapped__()
    assert things == (fox, owl)
    assert drawn == [fox.code, "again", owl.code]
    things_again, sprites_again = openmoji.__wrapped__()
    assert len(drawn) == 3  # read from the file
    assert things_again == things
    assert np.array_equal(sprites_again, sprites)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npz"]


def test_a_missing_package_names_the_extra(monkeypatch):
    with pytest.raises(ImportError, match=r"'no_such_package': pip install 'adem-vl-hf\[demo\]'"):
        pictograms.need("no_such_package")


@pytest.mark.parametrize("dataset", BOTH)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_sample_follows_from_seed_split_and_index(dataset, split):
    one, again = dataset(split, size=50, seed=3), dataset(split, size=10**6, seed=3)
    other_seed, other_split = dataset(split, size=50, seed=4), dataset({"train": "test", "test": "train"}[split], 50, 3)
    for index in reversed(range(0, 50, 7)):  # in any order
        sample = one[index]
        assert equal(sample, again[index])
        assert not equal(sample, other_seed[index])
        assert sample["image"].tobytes() != other_split[index]["image"].tobytes()
        assert sample["id"] != other_split[index]["id"]


@pytest.mark.parametrize("dataset", BOTH)
def test_a_sample_is_what_sample_says(dataset):
    data = dataset("train", size=40, seed=1)
    ids = set()
    for index in range(40):
        sample = data[index]
        ids.add(sample["id"])
        assert type(sample["image"]) is Image.Image
        assert (sample["image"].mode, sample["image"].size) == ("RGB", (96, 96))
        assert sample["answer"][0] == " "
        assert sample["answer"].strip() in sample["references"]
        assert ("choices" in sample) == (sample["kind"] == "choice")
    assert len(ids) == 40


def test_every_thing_comes_once_per_kind_before_any_comes_again():
    data = OpenMojiNames("train")
    assert len(data) == 2 * 710
    turn = [data.thing_index(i) for i in range(1420)]
    assert turn[::2] == turn[1::2]  # the same thing as a caption and as a choice
    assert sorted(turn[::2]) == list(range(710))
    longer = OpenMojiNames("train", size=3000)
    assert [longer.thing_index(i) for i in range(1420)] == turn
    assert [longer.thing_index(i) for i in range(1420, 2840)] != turn
    for index in range(0, 60, 5):
        sample, name = data[index], data.things[data.thing_index(index)].name
        assert sample["references"] == [name]
        assert sample["kind"] == ("caption", "choice")[index % 2]
        if index % 2:
            assert len(set(sample["choices"])) == 4
            assert sample["choices"].count(name) == 1
            assert all(choice in sample["prompt"] for choice in sample["choices"])


def test_names_and_scenes_do_not_ask_the_same_question():
    """For the image of one emoji the answers would be of two forms, "owl" and "an owl on red", both right."""
    asked = [
        {data[index]["prompt"] for index in range(8)} for data in (cls("train", kinds=("caption",)) for cls in BOTH)
    ]
    assert asked == [{"What is this?"}, {"a picture of"}]


def test_a_billion_samples_cost_nothing():
    openmoji()  # drawn once for any size
    began = time.process_time()
    names, scenes = OpenMojiNames("train", size=10**9), OpenMojiScenes("train", size=10**9)
    mixture = open_dataset("openmoji", "train", 10**9)
    assert time.process_time() - began < 0.5
    assert len(names) == len(scenes) == len(mixture) == 10**9
    assert names[10**9 - 1]["id"] == f"names-train-{10**9 - 1}"
    assert scenes[10**9 - 1]["id"] == f"scenes-train-{10**9 - 1}"
    assert mixture[10**9 - 1]["id"] == f"openmoji-train-{10**9 - 1}"
    for index in (10**9, -(10**9) - 1):
        with pytest.raises(IndexError):
            names[index]
        with pytest.raises(IndexError):
            scenes[index]


@pytest.mark.parametrize("dataset", BOTH)
def test_bad_arguments_are_named(dataset):
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'val'"):
        dataset("val")
    with pytest.raises(ValueError, match=r"unknown kinds \['colour'\].*'caption'"):
        dataset("test", kinds=("caption", "colour"))
    for size in (0, -5):
        with pytest.raises(ValueError, match=f"size must be at least 1, got {size}"):
            dataset("test", size=size)


def test_datasets_by_name(tmp_path):
    assert len(open_dataset("openmoji-names", "test")) == 1420
    assert len(open_dataset("openmoji-scenes")) == len(open_dataset("openmoji")) == 20_000
    assert [len(open_dataset("openmoji", size=size)) for size in (1, 3, 10)] == [1, 3, 10]
    train, test = open_dataset("openmoji-scenes", "train", 300), open_dataset("openmoji-scenes", "test", 300)
    captions = [sum(data.scene(i)[1] == "caption" for i in range(300)) / 300 for data in (train, test)]
    assert captions[0] == pytest.approx(3 / 7, abs=0.1)
    assert captions[1] == pytest.approx(1 / 5, abs=0.1)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        open_dataset("openmoji", size=0)
    with pytest.raises(ValueError, match="no data set 'emoji': give openmoji"):
        open_dataset("emoji")
    with pytest.raises(ValueError, match="the folder is empty; give .*a folder or file that datasets reads"):
        open_dataset(str(tmp_path))
    for name, words in (
        ("a.xyz", r"is a file of no format that data sets have \(\.xyz\)"),
        ("", "such as a.xyz, are of no known format"),
    ):
        (tmp_path / "a.xyz").write_text("a")
        with pytest.raises(ValueError, match=words):
            open_dataset(str(tmp_path / name))
    with pytest.raises(ValueError, match="an empty name"):
        open_dataset("")
    for name, words in (
        (" ", "an empty name"),
        ("", "an empty name"),
        ("https://x.org/a.csv", "a URL; download it first"),
    ):
        with pytest.raises(ValueError, match=words):
            check_name(name)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")


def pickled(path):
    np.savez(path, kept=np.array(["1F98A"]), sprites=np.array([{"a": 1}], dtype=object))


def of_another_size(path):
    np.savez(path, kept=np.array(["1F98A"]), sprites=np.zeros((1, 8, 8, 4), np.uint8))


@pytest.mark.parametrize("damage", [cut, pointer, pickled, of_another_size])
def test_a_damaged_cache_is_named_and_made_again(damage, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ADEM_VL_HF_CACHE", str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (1, SPRITE_SIZE, SPRITE_SIZE, 4), np.uint8)
    drawn = []

    def draw():
        drawn.append(1)
        return ["1F98A"], pixels

    def read():
        codes, found = pictograms.rendered_once("some", draw)
        assert codes == ["1F98A"]
        assert np.array_equal(found, pixels)
        return len(drawn), capsys.readouterr().err

    assert [read(), read()] == [(1, ""), (1, "")]
    damage(tmp_path / "some.npz")
    number, said = read()
    assert number == 2
    assert f"{tmp_path / 'some.npz'} is damaged" in said
    assert read() == (2, "")
