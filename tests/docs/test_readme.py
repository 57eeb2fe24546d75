"""What README.md and docs/ say: snippets run, command lines parse, paths and targets exist, numbers are right."""

import contextlib
import io
import re
import shlex
import shutil

import pytest
import scripts
import tiny
from closeness import assert_close
from pages import fences
from PIL import Image
from safetensors import safe_open
from transformers import AutoTokenizer, CLIPVisionConfig, LlamaConfig

from adem_vl_hf import AdemVLConfig, AdemVLForConditionalGeneration, AdemVLProcessor, EvlmConfig
from adem_vl_hf.cli.parser import build_parser
from adem_vl_hf.modeling.adapter_adem_vl import count_parameters

ROOT = scripts.ROOT
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LLAMA = {
    "LLaMA 7B + CLIP ViT-L/14": {},
    "LLaMA 13B + CLIP ViT-L/14": {"hidden_size": 5120, "num_attention_heads": 40, "num_hidden_layers": 40},
}


def command_lines(program):
    lines = [line for block in fences(README, "") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]


def test_the_first_snippet_prints_what_stands_below_it():
    """On the shipped checkpoint and the embedded language model (a 93 MB download, once)."""
    expected = README.split("<!-- snippet output -->")[1].split("<!-- /snippet output -->")[0]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(fences(README, "python")[0], "README.md", "exec"), {})
    found = [line.rstrip() for line in printed.getvalue().splitlines()]
    assert len(found) == 4
    (stated,) = fences(expected, "text")
    assert found == [line.rstrip() for line in stated.splitlines()]


def test_the_snippet_for_your_own_model_trains_and_saves(bases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (20, 20), "green").save(images / "dog.png")
    (metadata,) = set(re.findall(r'metadata\.jsonl: (\{"file_name".*\})', fences(README, "python")[1]))
    (images / "metadata.jsonl").write_text(metadata)  # the line that the snippet shows
    names = {"LANGUAGE_MODEL": str(bases / "llama"), "VISION_TOWER": str(bases / "clip"), "IMAGES": str(images)}
    exec(compile(fences(README, "python")[1], "README.md", "exec"), names)
    saved = tmp_path / "runs" / "mine"
    assert AdemVLForConditionalGeneration.from_pretrained(saved).config.text_model_name_or_path == str(bases / "llama")
    assert AdemVLProcessor.from_pretrained(saved).image_token_id == tiny.IMAGE_TOKEN_ID
    with safe_open(saved / "model.safetensors", "pt") as tensors:
        assert all(key.startswith("adapter.") for key in tensors.keys())  # noqa: SIM118 (no mapping)


def test_the_snippet_on_videos_prints_what_stands_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (snippet,) = fences((ROOT / "docs" / "video.md").read_text(encoding="utf-8"), "python")
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(snippet, "video.md", "exec"), names)
    assert printed.getvalue().strip() == re.search(r"print\(.*\)  # (.*)", snippet)[1]
    assert len(names["frames"]) == 4


def test_the_snippets_on_evlm_train_see_and_grow(bases, tmp_path, monkeypatch):
    """One after another, as they stand on the page."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bases / "llama", tmp_path / "llama")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llama")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "llama")
    names = {"LANGUAGE_MODEL": str(tmp_path / "llama"), "VISION_TOWER": str(bases / "clip"), "STEPS": 1}
    train, use, chat, experts, blocks = fences((ROOT / "docs" / "evlm.md").read_text(encoding="utf-8"), "python")
    for snippet in (train, use, chat):
        exec(compile(snippet, "evlm.md", "exec"), names)
    assert names["inputs"]["image_mask"].sum() == 8  # of the chat, whose video is read whole
    before = names["model"](**names["inputs"]).logits
    exec(compile(experts, "evlm.md", "exec"), names)
    assert names["model"].config.num_experts == 16
    assert_close(names["model"](**names["inputs"]).logits, before)
    exec(compile(blocks, "evlm.md", "exec"), names)
    trained = {name for name, p in names["model"].named_parameters() if p.requires_grad}
    assert any(name.startswith("vision_tower.") for name in trained)


def test_the_levels_on_the_page_are_those_of_the_configuration():
    page = (ROOT / "docs" / "evlm.md").read_text(encoding="utf-8")
    deep, large = re.search(r"the last block: (.*?) there; (.*?) in a ViT-L/14", page).groups()
    text = LlamaConfig(num_hidden_layers=40)
    levels = EvlmConfig(text_config=text).vision_feature_layer
    assert ", ".join(map(str, levels)) == large
    levels = EvlmConfig(text_config=text, vision_config=CLIPVisionConfig(num_hidden_layers=64)).vision_feature_layer
    assert ", ".join(map(str, [*levels[:2], "...", levels[-1]])) == deep.replace(" ... ", " ..., ")


@pytest.mark.parametrize("argv", command_lines("adem-vl"), ids=" ".join)
def test_command_lines_parse(argv):
    assert build_parser().parse_args(argv[1:]).command == argv[1]


def test_every_command_is_shown_and_every_flag_exists(capsys):
    shown = {argv[1] for argv in command_lines("adem-vl")}
    assert shown == {"train", "caption", "evaluate", "convert", "info"}
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"python \S+\.py[^`\n]*", "", README)))
    known = ""
    for command in shown:
        with pytest.raises(SystemExit):
            build_parser().parse_args([command, "--help"])
        known += capsys.readouterr().out
    assert flags
    assert [flag for flag in flags if not re.search(rf"{flag}(?![\w-])", known)] == []


def test_make_targets_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    asked = {argv[1] for argv in command_lines("make")} | set(re.findall(r"`make ([\w-]+)`", README))
    assert {"demo", "test"} <= asked
    assert asked <= set(targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
    # paths of the repository, in code or in a diagram
    named = set(re.findall(r"(?<![\w/.])((?:src|modeling|tests|examples|benchmarks|docs)/[\w./-]*\w)", text))
    assert named or page.parent.name == "docs"
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_parameter_table_is_what_the_configuration_counts():
    rows = dict(re.findall(r"^\| (LLaMA [^|]+) \| ([\d,]+ \| [\d,]+) \|$", README, re.M))
    assert rows.keys() == LLAMA.keys()
    for shape, numbers in rows.items():
        counted = count_parameters(AdemVLConfig(text_config=LlamaConfig(**LLAMA[shape])))
        trained, published = (int(number.replace(",", "")) for number in numbers.split(" | "))
        assert (trained, published) == (counted["trained"], counted["as_published"])
    (megabytes,) = re.findall(r"about (\d+) MB for a 7B model", README)
    assert round(4 * count_parameters(AdemVLConfig())["trained"] / 1e6) == int(megabytes)
