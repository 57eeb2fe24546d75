"""What README.md and docs/ say: snippets run, command lines parse, paths and targets exist, numbers are right."""

import contextlib
import io
import json
import re
import shlex
import shutil
import tomllib

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
from adem_vl_hf.counting import count_adapter_parameters, count_as_published
from adem_vl_hf.data import OpenMojiScenes
from adem_vl_hf.modeling.checkpoint import CUSTOM_PIPELINES

ROOT = scripts.ROOT
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_FOR_USERS = {"docs"}  # extras of those who work on the package, beside "dev"
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
    assert len(found) == 8
    (stated,) = fences(expected, "text")
    assert found == [line.rstrip() for line in stated.splitlines()]
    scenes = OpenMojiScenes("test", kinds=("caption",))
    right = sum(line.split("truth:")[0].strip() in scenes[number]["references"] for number, line in enumerate(found))
    assert f"{('none', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight')[right]} of these eight" in README


def test_the_snippet_for_your_own_model_learns_and_saves(bases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    (line,) = re.findall(r'metadata\.jsonl: (\{"file_name".*\})', fences(README, "python")[1])  # the snippet shows it
    shown = json.loads(line)
    things = {shown["file_name"]: (shown["text"], "green"), "cat.png": ("a cat on the sea", "blue")}
    for name, (_, colour) in things.items():
        Image.new("RGB", (20, 20), colour).save(images / name)
    lines = [line, *(json.dumps({"file_name": n, "text": text}) for n, (text, _) in things.items() if n not in line)]
    (images / "metadata.jsonl").write_text("\n".join(lines))
    names = {"LANGUAGE_MODEL": str(bases / "llama"), "VISION_TOWER": str(bases / "clip"), "IMAGES": str(images)}
    exec(compile(fences(README, "python")[1], "README.md", "exec"), names)
    saved = tmp_path / "runs" / "mine"
    logged = [json.loads(line) for line in (saved / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in logged if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    facts = json.loads((saved / "training.json").read_text())
    assert (facts["samples"], facts["steps"]) == (2, 150)
    assert AdemVLForConditionalGeneration.from_pretrained(saved).config.text_model_name_or_path == str(bases / "llama")
    assert AdemVLProcessor.from_pretrained(saved).image_token_id == tiny.IMAGE_TOKEN_ID
    with safe_open(saved / "model.safetensors", "pt") as tensors:
        assert all(key.startswith("adapter.") for key in tensors.keys())  # noqa: SIM118 (no mapping)


def test_the_command_line_trains_with_the_settings_of_the_snippet():
    (argv,) = [argv for argv in command_lines("adem-vl") if argv[1] == "train" and "IMAGES" in argv]
    parsed = build_parser().parse_args(argv[1:])
    snippet = fences(README, "python")[1]
    for name in ("batch_size", "max_steps"):
        assert float(re.search(rf"{name}=([\de.-]+)", snippet)[1]) == getattr(parsed, name), name
    assert f'"{parsed.output_dir}"' in snippet


def test_the_task_of_the_pipeline_is_one_that_checkpoints_bring():
    (task, arguments) = re.search(r'`pipeline\("([\w-]+)", ([^`]*)\)`', README).groups()
    assert task in CUSTOM_PIPELINES
    assert arguments == '"you/my-adapter", trust_remote_code=True'


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
    assert shown == {"train", "caption", "look", "app", "evaluate", "serve", "push", "convert", "info"}
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"python \S+\.py[^`\n]*", "", README)))
    known = ""
    for command in shown:
        with pytest.raises(SystemExit):
            build_parser().parse_args([command, "--help"])
        known += capsys.readouterr().out
    assert flags
    assert [flag for flag in flags if not re.search(rf"{flag}(?![\w-])", known)] == []


def test_the_readme_names_two_targets_and_they_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    asked = {argv[1] for argv in command_lines("make")} | set(re.findall(r"`make ([\w-]+)`", README))
    assert {"demo", "test"} == asked <= set(targets)


def headings(page):
    """The headings of a page, without what looks like one in a code block."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.findall(r"^#+ (.*)$", text, re.M)


def heading_id(heading):
    """The anchor that GitHub and MkDocs make of it."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def test_the_readme_is_short_and_keeps_its_relative_links_together():
    """A package index cannot follow those: whoever publishes there puts an address in front of one block."""
    assert len(README.splitlines()) <= 180
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
    text, block = prose.split("<!-- The relative links of this page all stand here")
    assert [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https://|#", link)] == []
    defined = set(re.findall(r"^\[([^\]]+)\]: ", block, re.M))
    used = set(re.findall(r"\]\[([\w ]+)\]", text)) | set(re.findall(r"(?<![\]\w])\[(\w+)\](?![\[(:])", text))
    assert used == defined
    assert [line for line in text.splitlines() if re.match(r"\[[^\]]+\]: ", line)] == []


def test_the_installation_names_extras_and_versions_of_the_project():
    extras = PROJECT["optional-dependencies"]
    (named,) = re.findall(r"Other extras: ([^.]*)\.", README)
    assert set(re.findall(r"`([\w-]+)`", named)) == set(extras) - {"demo", "dev", *NOT_FOR_USERS}
    assert set(re.findall(r"\[([\w,-]+)\][ \"]", "\n".join(re.findall(r"pip install .*", README)))) == {"demo"}
    assert f"Python {PROJECT['requires-python'].removeprefix('>=')} or newer" in README
    oldest = re.search(r"transformers>=([\d.]+)", "\n".join(PROJECT["dependencies"]))[1]
    assert f"Transformers {oldest}" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    links = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r"^\[[^\]]+\]: (\S+)$", prose, re.M)
    links = [link.split("#") for link in links if "://" not in link]
    assert [link for link, *_ in links if link and not (page.parent / link).exists()] == []
    for link, *anchors in links:
        target = page.parent / link if link else page
        if anchors and target.suffix == ".md":
            assert anchors[0] in {heading_id(line) for line in headings(target)}, (link, anchors)
    # paths of the repository, in code or in a diagram
    named = set(re.findall(r"(?<![\w/.])((?:src|modeling|tests|examples|benchmarks|docs)/[\w./-]*\w)", text))
    assert named or page.parent.name == "docs"
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_parameter_table_is_what_the_configuration_counts():
    rows = dict(re.findall(r"^\| (LLaMA [^|]+) \| ([\d,]+ \| [\d,]+) \|$", RESULTS, re.M))
    assert rows.keys() == LLAMA.keys()
    for shape, numbers in rows.items():
        config = AdemVLConfig(text_config=LlamaConfig(**LLAMA[shape]))
        trained, published = (int(number.replace(",", "")) for number in numbers.split(" | "))
        assert (trained, published) == (count_adapter_parameters(config), count_as_published(config))
    (megabytes,) = re.findall(r"about (\d+) MB for a 7B model", README)
    assert round(4 * count_adapter_parameters(AdemVLConfig()) / 1e6) == int(megabytes)
    (stated,) = re.findall(r"At 7B the adapter has ([\d,]+)", README)
    assert int(stated.replace(",", "")) == count_adapter_parameters(AdemVLConfig())
