"""The pages for users: snippets run, commands parse, quoted error messages are those of the code."""

import ast
import contextlib
import io
import json
import re
import shlex

import pytest
import scripts
import tiny
from pages import fences
from PIL import Image

from adem_vl_hf import AdemVLForConditionalGeneration
from adem_vl_hf.cli.parser import build_parser
from adem_vl_hf.data import ImageFolder
from adem_vl_hf.loading import build_model

DOCS = scripts.ROOT / "docs"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}
COMMANDS = [
    line
    for text in PAGES.values()
    for block in fences(text, "")
    for line in block.splitlines()
    if line.startswith("adem-vl ") and " ..." not in line
]


def run(snippet, names=None):
    """Executes a snippet of a page; returns what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(snippet, "docs", "exec"), {} if names is None else names)
    return printed.getvalue().strip()


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """The folder of images that the first page draws, in the current folder."""
    monkeypatch.chdir(tmp_path)
    run(fences(PAGES["index"], "python")[1])
    return tmp_path / "shapes"


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line):
    argv = shlex.split(line, comments=True)[1:]
    assert build_parser().parse_args(argv).command == argv[0]


def test_the_first_caption_is_the_one_beside_it():
    """On the shipped checkpoint and the embedded language model (a 93 MB download, once)."""
    snippet = fences(PAGES["index"], "python")[0]
    assert run(snippet) == re.search(r"print\(.*\)  # (.*)", snippet)[1]


def test_the_first_training_set_is_what_the_page_says(shapes):
    counts = [
        int(number) for number in re.findall(r"with (\d+) images to train on and (\d+) to test", PAGES["index"])[0]
    ]
    data = [ImageFolder(shapes, split=split) for split in ("train", "test")]
    assert [len(one) for one in data] == counts
    texts = [{one[index]["references"][0] for index in range(len(one))} for one in data]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 6
    sample = data[0][0]
    assert sample["references"] == ["a red circle"]
    assert (255, 0, 0) in [colour for _, colour in sample["image"].getcolors()]


def test_rows_of_the_library_datasets_train(bases, shapes):
    names = {"LANGUAGE_MODEL": str(bases / "llama"), "VISION_TOWER": str(bases / "clip"), "STEPS": 2}
    run(fences(PAGES["your_data"], "python")[0], names)
    assert names["rows"][0]["text"] == "a red circle"
    record = json.loads((shapes.parent / "runs" / "mine" / "training.json").read_text())
    assert (record["samples"], record["steps"]) == (40, 2)


def test_the_lines_of_metadata_are_read(tmp_path):
    (lines,) = fences(PAGES["your_data"], "json")
    (tmp_path / "metadata.jsonl").write_text(lines)
    (tmp_path / "sub").mkdir()
    for name in ("0001.png", "sub/0002.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    first, second = ImageFolder(tmp_path)
    assert (first["prompt"], first["answer"]) == ("a picture of", " two dogs on the grass")
    assert (second["prompt"], second["answer"], second["kind"]) == ("Question: how many dogs? Answer:", " two", "count")


@pytest.fixture
def processor(bases, tmp_path, monkeypatch):
    """Of a checkpoint in the folder ``saved`` of the current folder, where ``picture.png`` is, too."""
    monkeypatch.chdir(tmp_path)
    model, processor = build_model(str(bases / "llama"), str(bases / "clip"), projector_dim=8)
    tiny.perturb(model).save_pretrained("saved")
    processor.save_pretrained("saved")
    Image.new("RGB", (20, 20), "green").save("picture.png")
    return processor


def test_serving(processor, tmp_path):
    with_task, with_class, with_token, memory, as_a_client, _ = fences(PAGES["serving"], "python")
    assert "generated_text" in run(with_task, {"CHECKPOINT": "saved"})
    loaded = {"model": AdemVLForConditionalGeneration.from_pretrained("saved"), "processor": processor}
    run(with_class, loaded)
    private = {"CHECKPOINT": str(tmp_path / "saved")}
    run(with_token, private)  # a folder has no revisions, and needs no token
    assert private["model"].config.projector_dim == 8
    run(memory, loaded)
    assert loaded["ids"].shape[0] == 1
    from adem_vl_hf.serving.server import make_app  # on the newest Transformers alone

    with scripts.package("local_server").served(
        make_app("runs/mine", loaded["model"], processor, plain=False)
    ) as address:
        run(as_a_client.replace("http://127.0.0.1:8000/v1", address), client := {})
    assert client["answer"].usage.completion_tokens > 0


@pytest.mark.slow
def test_exporting(processor):
    names = {"model": AdemVLForConditionalGeneration.from_pretrained("saved"), "processor": processor}
    run(fences(PAGES["serving"], "python")[-1], names)
    assert names["state"]["length"] == names["inputs"]["input_ids"].shape[1] + 10


@pytest.mark.usefixtures("processor")
def test_looking(tmp_path):
    names = {"CHECKPOINT": "saved", "PICTURE": "picture.png"}
    printed = run(fences(PAGES["app"], "python")[0], names)
    assert len(printed.splitlines()) == len(names["found"].words) + len(names["found"].parts)
    assert (tmp_path / "look.png").stat().st_size > 1000


def texts(tree):
    """Every string of a module, with ... for what is put into it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)


def test_quoted_error_messages_are_raised():
    entries = [line[2:] for line in PAGES["troubleshooting"].splitlines() if line.startswith("- `")]
    quoted = [one for line in entries for one in re.findall(r"`([^`]+)`", line)]
    of_transformers = {"Loading ... requires you to execute the configuration file"}
    of_transformers |= {"does not appear to have a file named configuration_adem_vl.py"}
    assert of_transformers < set(quoted)
    sources = [path for folder in ("modeling", "src") for path in (scripts.ROOT / folder).rglob("*.py")]
    raised = {text for path in sources for text in texts(ast.parse(path.read_text(encoding="utf-8")))}
    for message in set(quoted) - of_transformers:
        parts = [re.escape(part) for part in re.split(r"\.\.\.", message)]
        assert any(re.search(".*".join(parts), text) for text in raised), message
