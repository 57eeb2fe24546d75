"""The page of other checkpoints than the one that ships, and the Space, each asked over HTTP.

An EVLM that the Hub has, a film, a language model in 4 bits, and ``examples/space`` as a Space runs it.
"""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import contextmanager

import architectures
import families
import pytest
import scripts
import tiny
import yaml
from app_client import AppUser, free_port
from films import write_mp4
from hub_server import hub_env, serve_hub
from packaging.requirements import Requirement

from adem_vl_hf.app import uploads
from adem_vl_hf.app.answers import Answers, Turn
from adem_vl_hf.cli.parser import main
from adem_vl_hf.loading import load_checkpoint
from adem_vl_hf.training import fastest_setting

if "CHROMIUM" not in os.environ:  # set by the make target, which installs the page's packages
    pytest.importorskip("gradio", reason="needs the extra `app`")

from adem_vl_hf.app import page as app_page

# what Gradio itself is warned of is not ours to mend
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
SPACE = scripts.ROOT / "examples" / "space"
TOKENS = 8


def save(arch, bases, folder, **replaced):
    """A checkpoint whose answers are words, which a page shows as they are."""
    model = arch.build(bases)
    processor = arch.processor(bases, model)
    processor.prompt = "a photo of"
    vocabulary = range(len(processor.tokenizer))
    other = [index for index in vocabulary if not re.fullmatch(" [a-z]+", processor.decode([index]))]
    model.generation_config.update(suppress_tokens=other, no_repeat_ngram_size=2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | replaced), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def hub(bases, tmp_path_factory):
    """A Hub with both models and their bases; ``folders`` has the same checkpoints on local bases."""
    root = tmp_path_factory.mktemp("hub")
    named = {"text_model_name_or_path": "acme/llm", "vision_model_name_or_path": "acme/clip"}
    with serve_hub() as server:
        server.publish("acme/llm", bases / "llama")
        server.publish("acme/clip", bases / "clip")
        server.home, server.folders = root / "home", {}
        for arch in architectures.BOTH:
            server.publish(f"acme/{arch}", save(arch, bases, root / f"{arch}-on-the-hub", **named))
            server.folders[f"acme/{arch}"] = save(arch, bases, root / str(arch))
        yield server


@contextmanager
def running(command, port, env, folder):
    """A user of the page that a process serves."""
    env = env | {"OMP_NUM_THREADS": "1"}
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=said, stderr=said)
        try:
            yield AppUser(f"http://127.0.0.1:{port}", process)
        finally:
            process.terminate()
            process.wait(timeout=60)
            said.seek(0)
            print(said.read())  # shown if the test fails


def expected(loaded, *paths, text="a photo of"):
    return list(Answers(*loaded, TOKENS).stream([Turn(text, *uploads.open_files(list(map(str, paths))))]))[-1]


def assert_the_words_can_be_chosen(user, answer):
    page = html.unescape(user.where())
    words = re.findall(r'id="w\d+"(?: checked)?>([^<]*)</label>', page)
    assert words == answer.split() != []


def test_an_evlm_from_the_hub_about_images_and_a_film(hub, tmp_path):
    port, name = free_port(), "acme/evlm"
    command = [sys.executable, "-m", "adem_vl_hf.cli", "app", "--checkpoint", name, "--port", str(port),
               "--max-new-tokens", str(TOKENS)]  # fmt: skip
    tiny.picture(1).save(tmp_path / "one.png")
    tiny.picture(2).save(tmp_path / "two.png")
    write_mp4(tmp_path / "film.mp4", [tiny.picture(seed).resize((64, 48)) for seed in range(12)])
    loaded = load_checkpoint(str(hub.folders[name]), **fastest_setting())
    with running(command, port, hub_env(hub.url, hub.home), tmp_path) as user:
        assert user.config["title"] == name
        two = user.ask("a photo of", tmp_path / "one.png", tmp_path / "two.png")
        assert two == expected(loaded, tmp_path / "one.png", tmp_path / "two.png")
        film = user.ask("the sea", tmp_path / "film.mp4")
        assert film == expected(loaded, tmp_path / "film.mp4", text="the sea")
        assert_the_words_can_be_chosen(user, film)
    assert expected(loaded, tmp_path / "one.png", text="the sea") != film


@pytest.mark.parametrize("arch", architectures.BOTH, ids=str)
def test_a_language_model_in_four_bits_answers_and_shows_where_it_looks(arch, tmp_path, monkeypatch):
    bases = families.save_bases(
        tmp_path, "llama", hidden_size=128, intermediate_size=256, initializer_range=0.05
    )  # blocks of 64 numbers
    folder, port, packed = save(arch, bases, tmp_path / "checkpoint"), free_port(), []
    tiny.picture(1).save(tmp_path / "one.png")
    serve = app_page.serve

    class Served:
        def __init__(self, answers, *args, **kwargs):
            packed.extend(type(module).__name__ for module in answers.model.language_model.modules())
            self.page = serve(answers, *args, **kwargs)

        def block_thread(self):
            """In place of waiting."""
            user = AppUser(f"http://127.0.0.1:{port}")
            answer = user.ask("a photo of", tmp_path / "one.png")
            assert len(answer.split()) == TOKENS
            assert_the_words_can_be_chosen(user, answer)
            self.page.close()

    monkeypatch.setattr(app_page, "serve", Served)
    argv = ["app", "--checkpoint", str(folder), "--port", str(port), "--max-new-tokens", str(TOKENS), "--load-in-4bit"]
    assert main(argv) == 0
    assert packed.count("Linear4bit") == 3 * 7


def test_the_space_serves_a_checkpoint_of_the_hub(hub, tmp_path):
    for path in SPACE.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    (_, header, _) = (tmp_path / "README.md").read_text(encoding="utf-8").split("---\n")
    port = free_port()
    given = {"CHECKPOINT": "acme/adem_vl", "MAX_NEW_TOKENS": str(TOKENS), "GRADIO_SERVER_NAME": "127.0.0.1",
             "GRADIO_SERVER_PORT": str(port)}  # fmt: skip
    tiny.picture(3).save(tmp_path / "one.png")
    command = [sys.executable, yaml.safe_load(header)["app_file"]]
    with running(command, port, hub_env(hub.url, hub.home) | given, tmp_path) as user:
        assert user.config["title"] == "acme/adem_vl"
        assert "<!doctype html>" in user.http.get("/").raise_for_status().text
        answer = user.ask("a photo of", tmp_path / "one.png")
        loaded = load_checkpoint(str(hub.folders["acme/adem_vl"]), **fastest_setting())
        assert answer == expected(loaded, tmp_path / "one.png")
        assert_the_words_can_be_chosen(user, answer)


def test_the_space_asks_for_what_there_is():
    import gradio

    (_, header, _) = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n")
    header = yaml.safe_load(header)
    assert (header["sdk"], header["sdk_version"]) == ("gradio", gradio.__version__)
    assert len(header["short_description"]) <= 60  # or the Hub refuses it
    project = tomllib.loads((scripts.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert header["license"] == project["license"].lower()
    lines = (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (wanted,) = [Requirement(line) for line in lines if not line.startswith("#")]
    assert wanted.name == project["name"]
    assert wanted.extras == wanted.extras & project["optional-dependencies"].keys() >= {"app"}
