"""Features that are computed once for each image: the same training, and files that survive all kinds of damage."""

import logging
import multiprocessing
import os
import shutil
from types import SimpleNamespace

import architectures
import evlm
import pytest
import tiny
import torch
import towers
from closeness import assert_close
from training_runs import adapter, picture_folder, samples, trainer

from adem_vl_hf.cli.parser import main
from adem_vl_hf.feature_cache import FeatureCache
from adem_vl_hf.feature_files import FeatureFiles
from adem_vl_hf.modeling.open_clip_tower import OpenClipVisionTower
from adem_vl_hf.modeling.vision import tower_blocks

pytestmark = [pytest.mark.core]
WITHOUT_ADAPTERS = {"adem_vl": {"vision_adapter_dim": 0}, "evlm": {}}


def built(bases, arch, **fields):
    return arch.build(bases, **WITHOUT_ADAPTERS[arch.model_type], **fields)


@pytest.fixture
def counted():
    """Makes a list of the numbers of images that a model's tower ran for."""

    def count(model):
        numbers = []
        tower_blocks(model.vision_tower)[0].register_forward_hook(
            lambda block, args, output: numbers.append(len(args[0]))
        )
        return numbers

    return count


@architectures.each()
def test_training_with_kept_features_ends_with_the_same_bits(bases, arch, tmp_path, counted):
    # two batches of two images; the second epoch has no other
    def run(folder, cached):
        model = built(bases, arch)
        if cached:
            FeatureCache(tmp_path / "features").attach(model)
        images = counted(model)
        made, _ = trainer(bases, tmp_path / folder, samples(4), model, max_steps=6, dataloader_num_workers=0)
        made.train()
        return adapter(model), images

    start = adapter(built(bases, arch))
    expected, always = run("without", False)
    found, once = run("with", True)
    again, never = run("again", True)
    assert (always, once, never) == ([2] * 6, [2, 2], [])
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key
        assert torch.equal(again[key], tensor), key
    assert any(not torch.equal(found[key], tensor) for key, tensor in start.items())


@pytest.mark.parametrize("kind", ["open_clip", *towers.KINDS])
@pytest.mark.parametrize("model_type", towers.MODELS)
def test_every_tower_and_both_models_see_the_same(bases, kind, model_type, tmp_path, counted):
    if kind == "open_clip":
        from open_clip_folder import open_clip_folder

        open_clip_folder(tmp_path / "tower")
        tower = OpenClipVisionTower.from_pretrained(f"local-dir:{tmp_path / 'tower'}")
    else:
        tower = towers.tower(kind)
    fields = {"image_size": towers.SIDE, **WITHOUT_ADAPTERS[model_type]}
    model = towers.build(model_type, bases, tower, **fields).eval()
    inputs = towers.rows()
    with torch.no_grad():
        expected = model(**inputs)
        FeatureCache(tmp_path / "features").attach(model)
        images = counted(model)
        first, second = model(**inputs), model(**inputs)
        FeatureCache(tmp_path / "features").attach(model)  # as a new process reads the files
        third = model(**inputs)
    assert images == [2]
    for found in (first, second, third):
        assert torch.equal(found.logits, expected.logits)
        assert torch.equal(found.image_outputs.pooler_output, expected.image_outputs.pooler_output)


@torch.no_grad()
def test_of_several_images_a_row_only_the_new_ones_run(bases, tmp_path, counted):
    model = evlm.build(bases).eval()
    inputs = evlm.batch()  # rows of 2, 0, 1 and 3 images
    inputs["pixel_values"][3, 1] = inputs["pixel_values"][3, 0]  # the same image twice
    expected = model(**inputs).logits
    FeatureCache(tmp_path).attach(model)
    images = counted(model)
    model(**evlm.alone(inputs, 0))
    # not equal: the tower ran for another number of images
    assert_close(model(**inputs).logits, expected)
    assert images == [2, 3]
    model(**inputs)
    assert images == [2, 3]


@torch.no_grad()
def test_another_tower_another_size_and_another_precision_are_kept_apart(bases, tmp_path):
    pixels = tiny.pictures(2)
    model = tiny.build(bases, vision_adapter_dim=0)
    cache = FeatureCache(tmp_path).attach(model)
    features = cache.outputs(model, pixels).pooler_output
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(cache.outputs(model, pixels).pooler_output, features)
    assert torch.equal(cache.outputs(model, pixels).pooler_output, features)

    one = next(module for module in model.vision_tower.modules() if isinstance(module, torch.nn.Linear))
    one.weight[0, 0] += 1  # of one matrix one number
    changed = FeatureCache(tmp_path).attach(model).outputs(model, pixels).pooler_output
    assert not torch.equal(changed, features)
    model.config.vision_feature_layer = -1
    assert not torch.equal(FeatureCache(tmp_path).attach(model).outputs(model, pixels).pooler_output, changed)
    half = model.to(torch.bfloat16)
    found = [FeatureCache(tmp_path).attach(half).outputs(half, pixels).pooler_output for _ in range(2)]
    assert torch.equal(*found)
    assert found[0].dtype == torch.bfloat16
    assert len(list(tmp_path.iterdir())) == 5


def test_a_tower_that_trains_is_refused(bases, tmp_path):
    with pytest.raises(ValueError, match=r"its adapters \(vision_adapter_dim=4\)"):
        FeatureCache(tmp_path).attach(tiny.build(bases))
    with pytest.raises(ValueError, match=r"its last blocks \(train_vision_blocks=1\)"):
        FeatureCache(tmp_path).attach(evlm.build(bases, train_vision_blocks=1))
    model = evlm.build(bases)
    cache = FeatureCache(tmp_path).attach(model)
    next(model.vision_tower.parameters()).requires_grad_(True)  # such as PEFT does later
    with pytest.raises(ValueError, match="freeze them"):
        cache.outputs(model, tiny.pictures(1))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="it is a file"):
        FeatureCache(tmp_path / "file").attach(evlm.build(bases))


def test_weights_that_are_spread_over_processes_are_refused(bases, tmp_path):
    model = evlm.build(bases)
    next(model.vision_tower.parameters()).ds_id = 0  # as ZeRO-3 marks a parameter
    with pytest.raises(ValueError, match="FSDP or ZeRO-3"):
        FeatureCache(tmp_path).attach(model).outputs(model, tiny.pictures(1))


@pytest.mark.slow
def test_the_command_keeps_features(bases, tmp_path, capsys):
    picture_folder(tmp_path / "pictures")
    argv = [
        *("train", *tiny.base_flags(bases), "--data", str(tmp_path / "pictures"), "--batch-size", "3"),
        *("--max-steps", "1", "--projector-dim", "8", "--set", "use_cpu=true"),
        *("--cache-features", str(tmp_path / "features")),
    ]  # fmt: skip
    assert main([*argv, "--output-dir", str(tmp_path / "refused")]) == 2
    assert "vision_adapter_dim=0" in capsys.readouterr().err
    assert main([*argv, "--output-dir", str(tmp_path / "run"), "--vision-adapter-dim", "0"]) == 0
    (index,) = (tmp_path / "features").glob("*/*.index")
    assert index.stat().st_size == 3 * 20


# the files


KEYS = [bytes([number]) * 16 for number in range(4)]
TENSORS = torch.arange(24, dtype=torch.float32).view(4, 2, 3)


def kept(folder, number=4):
    files = FeatureFiles(folder, {})
    files.keep(KEYS[:number], TENSORS[:number])
    return next(folder.glob("*.features"))


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_file_is_named_and_its_features_are_made_again(damage, tmp_path, caplog):
    path = kept(tmp_path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "changed":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    else:
        path.unlink()
    lost = KEYS if damage == "gone" else KEYS[3:]
    files = FeatureFiles(tmp_path, {})
    assert files.find(KEYS).keys() == set(KEYS) - set(lost)
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    files.keep(lost, TENSORS[-len(lost) :])
    caplog.clear()
    found = FeatureFiles(tmp_path, {}).find(KEYS)
    assert all(torch.equal(found[key], tensor) for key, tensor in zip(KEYS, TENSORS, strict=True))
    assert not caplog.records


def test_a_folder_that_is_deleted_meanwhile_is_made_again(tmp_path):
    files = FeatureFiles(tmp_path / "kept", {})
    files.keep(KEYS[:2], TENSORS[:2])
    shutil.rmtree(tmp_path / "kept")
    files.keep(KEYS[2:], TENSORS[2:])
    for reader in (files, FeatureFiles(tmp_path / "kept", {})):
        found = reader.find(KEYS)
        assert {key: tensor.tolist() for key, tensor in found.items()} == {
            key: tensor.tolist() for key, tensor in zip(KEYS[2:], TENSORS[2:], strict=True)
        }


def test_a_process_that_dies_loses_no_more_than_what_it_was_writing(tmp_path, caplog):
    path = kept(tmp_path)
    index = path.with_suffix(".index")
    index.write_bytes(index.read_bytes()[:-1])  # in the middle of the last entry
    path.write_bytes(path.read_bytes() + b"half a tensor")
    assert FeatureFiles(tmp_path, {}).find(KEYS).keys() == set(KEYS[:3])
    assert not caplog.records


@pytest.mark.parametrize("noted", ["{", '{"shape": [-1, 2], "dtype": "float32"}', '{"shape": [2], "dtype": "nn"}'])
def test_what_says_the_shape_is_made_again(noted, tmp_path, caplog):
    kept(tmp_path)
    (tmp_path / "features.json").write_text(noted)
    files = FeatureFiles(tmp_path, {})
    assert files.find(KEYS) == {}
    assert str(tmp_path / "features.json") in caplog.text
    files.keep(KEYS[:1], TENSORS[:1])
    assert len(FeatureFiles(tmp_path, {}).find(KEYS)) == 4


def test_a_shape_that_no_memory_could_hold_is_damage_as_any(tmp_path, caplog):
    path = kept(tmp_path)
    (tmp_path / "features.json").write_text('{"shape": [1000000000, 1000000000], "dtype": "float32"}')
    files = FeatureFiles(tmp_path, {})
    assert files.find(KEYS) == {}
    assert f"{path} is cut off" in caplog.text
    files.keep(KEYS[:1], TENSORS[:1])
    assert torch.equal(FeatureFiles(tmp_path, {}).find(KEYS)[KEYS[0]], TENSORS[0])


def test_a_full_disk_is_named_and_the_training_goes_on(tmp_path, caplog, monkeypatch):
    files = FeatureFiles(tmp_path, {})
    files.keep(KEYS[:1], TENSORS[:1])
    monkeypatch.setattr("adem_vl_hf.feature_files.zlib", SimpleNamespace(crc32=full_disk))
    with caplog.at_level(logging.WARNING):
        files.keep(KEYS[1:], TENSORS[1:])
        files.keep(KEYS[1:], TENSORS[1:])
    monkeypatch.undo()
    assert len(caplog.records) == 1
    assert "No space left on device" in caplog.text
    assert str(tmp_path) in caplog.text
    assert files.find(KEYS).keys() == {KEYS[0]}
    assert FeatureFiles(tmp_path, {}).find(KEYS).keys() == {KEYS[0]}


def full_disk(content):
    raise OSError(28, "No space left on device")


def test_processes_write_and_read_at_the_same_time(tmp_path):
    fork = multiprocessing.get_context("fork")
    files = FeatureFiles(tmp_path, {})
    files.keep([b"-" * 16], torch.zeros(1, 2000))  # forked, nobody goes on writing to this file
    workers = [fork.Process(target=write_and_read, args=(files, worker)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 3
    assert len(list(tmp_path.glob("*.index"))) == 4
    found = FeatureFiles(tmp_path, {}).find([key_of(worker, number) for worker in range(3) for number in range(50)])
    assert len(found) == 150
    assert all(torch.equal(tensor, torch.full((2000,), float(key[0] * 100 + key[1]))) for key, tensor in found.items())


def key_of(worker, number):
    return bytes([worker, number]) * 8


def write_and_read(files, worker):
    for number in range(50):
        files.keep([key_of(worker, number)], torch.full((1, 2000), float(worker * 100 + number)))
        others = files.find([key_of(other, number) for other in range(3)])
        assert all(tensor.eq(key[0] * 100 + key[1]).all() for key, tensor in others.items())


@torch.no_grad()
@architectures.each()
def test_one_cache_on_two_models_and_on_edited_weights_gives_each_its_own_features(bases, arch, tmp_path, counted):
    shutil.copytree(bases / "llama", tmp_path / "other" / "llama")
    tiny.save_clip(tmp_path / "other" / "clip", seed=7)  # of the same shape
    first, second = (built(folder, arch).eval() for folder in (bases, tmp_path / "other"))
    inputs = tiny.batch([9], [True])
    expected = [model(**inputs).logits for model in (first, second)]
    cache = FeatureCache(tmp_path / "features").attach(first)
    assert torch.equal(first(**inputs).logits, expected[0])
    cache.attach(second)
    for model, right in ((second, expected[1]), (first, expected[0])):  # the first one still has the cache
        assert torch.equal(model(**inputs).logits, right)
    images = counted(first)
    first(**inputs)
    assert images == []
    for parameter in first.vision_tower.parameters():
        parameter *= 1.5
    edited = first(**inputs).logits
    first.feature_cache = None
    assert torch.equal(edited, first(**inputs).logits)
    assert not torch.equal(edited, expected[0])


@pytest.mark.parametrize("shape", ["[1e400]", "[-1]", '"no list"'])
def test_a_shape_that_is_no_shape_is_damage(tmp_path, caplog, shape):
    (tmp_path / "features.json").write_text(f'{{"shape": {shape}, "dtype": "float32"}}')
    with caplog.at_level(logging.WARNING):
        assert FeatureFiles(tmp_path, {}).find([b"0" * 16]) == {}
    assert "features.json is damaged" in caplog.text


@pytest.mark.parametrize("name", ["features.json", "0.index"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere", path)])
def test_what_is_no_file_is_passed_over(tmp_path, name, make):
    make(tmp_path / name)
    assert FeatureFiles(tmp_path, {}).find([b"0" * 16]) == {}


def test_a_folder_that_may_not_be_written_to_ends_no_training(tmp_path, caplog, monkeypatch):
    def closed(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "features.json")

    monkeypatch.setattr("adem_vl_hf.feature_files.write_json", closed)
    with caplog.at_level(logging.WARNING):
        files = FeatureFiles(tmp_path, {})
        files.keep([b"0" * 16], torch.zeros(1, 2))
        files.keep([b"1" * 16], torch.zeros(1, 2))
    assert caplog.text.count("Permission denied") == 1
    assert "Training continues without caching more features" in caplog.text
