"""What is no checkpoint of ours, or not whole, is refused by name; a failed save leaves the one before as it was."""

import hashlib
import json
import multiprocessing
import re
import resource
import shutil
import signal

import architectures
import pytest
import tiny
import torch
from safetensors.torch import load as read
from safetensors.torch import save_file

pytestmark = [pytest.mark.core, architectures.each()]


@pytest.fixture(scope="module")
def original(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def saved(original, tmp_path):
    return shutil.copytree(original, tmp_path / "saved")


@pytest.fixture
def load(arch):
    return arch.model_class.from_pretrained


def rewrite(folder, change):
    tensors = read((folder / "model.safetensors").read_bytes())  # not mapped from the file that is written next
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_the_class_of_the_other_model_is_named(arch, saved):
    (other,) = (one for one in architectures.BOTH if one is not arch)
    said = f"it describes a '{arch.model_type}' model, and {other.config_class.__name__} a"
    with pytest.raises(ValueError, match=said):
        other.config_class.from_pretrained(saved)
    with pytest.raises(ValueError, match=f"config.json.*{said}"):
        other.model_class.from_pretrained(saved)


# a tensor of each adapter
SOME = {"adem_vl": "adapter.value_embedding", "evlm": "adapter.cross_attention.1.q_proj.weight"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, key: t.pop(key), r"missing KEY"),
        (lambda t, key: t.update({"adapter.gate": torch.zeros(1)}), r"unexpected adapter\.gate"),
        (lambda t, key: t.update({"language_model.lm_head.weight": torch.zeros(1)}), "unexpected language_model"),
        (lambda t, key: t.update({key: torch.zeros(2, 3)}), r"KEY is \(2, 3\) where the config needs \([1-9]"),
        (lambda t, key: t[key].view(-1)[5].fill_(torch.nan), r"KEY holds NaN"),
        (lambda t, key: t[key].view(-1)[5].fill_(torch.inf), r"KEY holds NaN or inf"),
        (lambda t, key: t.clear(), r"missing .* and \d+ more"),
    ],
)
def test_tensors_that_do_not_fit_are_named(load, arch, saved, change, message):
    key = SOME[arch.model_type]
    rewrite(saved, lambda tensors: change(tensors, key))
    with pytest.raises(ValueError, match=message.replace("KEY", re.escape(key))) as error:
        load(saved)
    assert str(saved) in str(error.value)


def test_pickles_are_never_read(load, saved):
    path = saved / "model.safetensors"
    tensors = read(path.read_bytes())
    torch.save(tensors, path)  # under the right name
    with pytest.raises(
        ValueError, match=r"model\.safetensors is not a readable safetensors file.*never read from pickles"
    ):
        load(saved)
    path.rename(saved / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds pytorch_model\.bin, a pickle"):
        load(saved)
    (saved / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        load(saved)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_file_cut_short(load, saved, kept):
    path = saved / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load(saved)


@pytest.mark.parametrize(
    ("base", "fields", "message"),
    [
        ("llama", {"hidden_size": 64}, r"language model of another shape than '.*llama'.*hidden_size 32 / 64"),
        ("llama", {"num_hidden_layers": 2}, "num_hidden_layers 3 / 2"),
        ("llama", {"vocab_size": 400}, "vocab_size"),
        ("clip", {"patch_size": 8}, r"vision tower of another shape than '.*clip'.*patch_size 4 / 8"),
        ("clip", {"hidden_size": 48, "num_attention_heads": 6}, "hidden_size 24 / 48"),
    ],
)
def test_a_base_of_another_shape_is_refused_by_both_names(load, saved, tmp_path, base, fields, message):
    (tiny.save_llama if base == "llama" else tiny.save_clip)(tmp_path / base, **fields)
    field = "text_model_name_or_path" if base == "llama" else "vision_model_name_or_path"
    with pytest.raises(ValueError, match=message) as error:
        load(saved, **{field: str(tmp_path / base)})
    assert str(saved) in str(error.value)


@pytest.mark.parametrize("kind", ["language model", "vision tower"])
@pytest.mark.parametrize("name", ["acme/not-in-the-cache", "gone/on/this/machine"])
def test_a_base_out_of_reach_is_named(load, saved, kind, name):
    field = "text_model_name_or_path" if kind == "language model" else "vision_model_name_or_path"
    with pytest.raises(ValueError, match=f"the {kind} '{name}' could not be loaded.*check the id"):
        load(saved, **{field: name})


def test_a_base_with_weights_missing_is_refused(load, bases, saved, tmp_path):
    for base, field in (("llama", "text_model_name_or_path"), ("clip", "vision_model_name_or_path")):
        folder = shutil.copytree(bases / base, tmp_path / base)
        rewrite(folder, lambda tensors: tensors.pop(next(name for name in tensors if "layers.1.mlp" in name)))
        with pytest.raises(ValueError, match=r"lacks 1 weights of .*layers\.1\.mlp"):
            load(saved, **{field: str(folder)})


def test_folders_that_are_no_checkpoints(load, saved, tmp_path):
    with pytest.raises((OSError, ValueError), match=f"no file named .*{tmp_path}"):
        load(tmp_path)
    (saved / "config.json").write_text('{"model_type": "adem_vl", ')
    with pytest.raises((OSError, ValueError), match=r"config\.json"):
        load(saved)


@pytest.mark.parametrize("name", ["nowhere", "../nowhere/x/y"])
def test_a_path_that_is_not_there_is_named_with_the_remedy(arch, tmp_path, name):
    path = tmp_path / name
    with pytest.raises((OSError, ValueError), match=rf"^{re.escape(str(path))}.*; fetch or save it again"):
        arch.model_class.from_pretrained(path)


def test_a_checkpoint_without_its_processor_is_named(arch, saved):
    with pytest.raises(OSError, match=rf"^{re.escape(str(saved))} has no processor_config\.json: save the processor"):
        arch.processor_class.from_pretrained(saved)


def test_a_processor_without_its_tokenizer_is_named(bases, arch, model, tmp_path):
    arch.processor(bases, model).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(
        ValueError, match=rf"^the processor in {re.escape(str(tmp_path))}, which has no tokenizer\.json"
    ):
        arch.processor_class.from_pretrained(tmp_path)


def test_saving_to_a_file_is_refused(model, tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(ValueError, match="cannot save to .*file: it is a file; name a folder"):
        model.save_pretrained(tmp_path / "file")


def save_on_a_full_disk(model, folder, said):
    """In a process that may write no file beyond 64 KiB: every file of the bundle fits, the weights do not."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
    try:
        model.save_pretrained(folder)
    except Exception as error:
        said.send(str(error))
    said.close()


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def test_a_full_disk_leaves_the_checkpoint_before_as_it_was(load, bases, arch, saved, tmp_path):
    before = digests(tmp_path)
    listener, said = multiprocessing.Pipe(duplex=False)
    arguments = arch.build(bases, **arch.large), saved, said
    process = multiprocessing.get_context("fork").Process(target=save_on_a_full_disk, args=arguments)
    process.start()
    said.close()
    process.join()
    assert "File too large" in listener.recv()  # nothing is there to receive where it did not fail
    assert digests(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]  # no leftovers beside it either
    load(saved)


def test_a_base_that_was_trained_on_is_recorded(original):
    config = json.loads((original / "config.json").read_text())
    for kind in ("text", "vision"):
        fingerprint = config[f"{kind}_model_fingerprint"]
        assert len(fingerprint["tensors"]) == 4
        assert all(len(values) == 8 for values in fingerprint["tensors"].values())
