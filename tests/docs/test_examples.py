"""The scripts that users copy: each explains itself, and each works at a tiny size."""

import json
import re
import shutil
from functools import partial

import pytest
import scripts
import tiny
import torch
from closeness import assert_close
from hub_server import hub_env, run_client, serve_hub
from PIL import Image
from safetensors.torch import load_file
from training_runs import picture_folder
from transformers import AutoImageProcessor, AutoTokenizer, CLIPVisionModel

from adem_vl_hf import AdemVLForConditionalGeneration, openmoji_training
from adem_vl_hf.data import OpenMojiScenes, OpenMojiVideos, ScienceQA
from adem_vl_hf.data.media import save_gif
from adem_vl_hf.loading import build_model
from adem_vl_hf.modeling.bases import load_vision_tower

SCRIPTS = sorted(path for folder in ("examples", "benchmarks") for path in (scripts.ROOT / folder).glob("*.py"))
TEXTS = ["a cat", "two birds", "a dog"]
TOP1 = {"names_top1": 0.5, "scenes_top1": 0.25}


@pytest.fixture
def tower_script(monkeypatch):
    """``train_tower.py`` at a tiny size, its evaluation on 1,210 pictures replaced."""
    module = scripts.load("examples/train_tower.py")
    tiny_vision = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 24, "image_size": 96}
    monkeypatch.setattr(module, "VISION", tiny_vision)
    monkeypatch.setattr(module, "TEXT", {"context_length": 24, "width": 16, "heads": 2, "layers": 1})
    monkeypatch.setattr(module, "EMBED_DIM", 16)
    monkeypatch.setattr(module, "retrieval", lambda model, tokenizer: TOP1)
    return module


@pytest.mark.parametrize(
    "path", [path for path in SCRIPTS if "def main(" in path.read_text()], ids=lambda path: path.name
)
def test_help_begins_with_what_the_script_is_for(path, monkeypatch, capsys):
    script = path.relative_to(scripts.ROOT)
    module = scripts.load(str(script))
    with pytest.raises(SystemExit) as done:
        scripts.call(module, monkeypatch, "--help")
    assert done.value.code == 0
    printed = capsys.readouterr().out
    assert module.__doc__.strip().splitlines()[0] in printed
    assert f"python {script}" in printed


def test_a_sheet_of_videos(tmp_path, monkeypatch, capsys):
    module = scripts.load("examples/show_videos.py")
    options = ["--number", 3, "--frames", 5, "--split", "test", "--kind", "order", "--gifs", tmp_path / "gifs"]
    scripts.call(module, monkeypatch, tmp_path / "sheet.png", *options)
    assert "sheet.png: 3 clips of 5 frames" in capsys.readouterr().out
    data = OpenMojiVideos("test", 3, kinds=("order",), frames=5)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (5 * (96 + 4) + 4, 3 * (96 + 16 + 4) + 4)
        for row in range(3):
            for column, frame in enumerate(data[row]["video"]):
                left, top = 4 + column * 100, 4 + row * 116
                assert sheet.crop((left, top, left + 96, top + 96)).tobytes() == frame.tobytes()
            texts = sheet.crop((0, 4 + row * 116 + 96, 504, (row + 1) * 116)).convert("L")
            assert texts.getextrema()[0] < 50  # something is written beneath
    assert sorted(path.name for path in (tmp_path / "gifs").iterdir()) == [f"videos-test-{i}.gif" for i in range(3)]


def test_choice_questions_in_the_format_of_scienceqa(tmp_path, monkeypatch):
    module = scripts.load("examples/write_scienceqa.py")
    scripts.call(module, monkeypatch, "--output-dir", tmp_path, "--train", 3, "--test", 6)
    assert len(ScienceQA(tmp_path, "train")) == 3
    written, drawn = ScienceQA(tmp_path, "test"), OpenMojiScenes("test", size=6, kinds=("choice",))
    assert len(written) == 6
    for index in range(6):
        sample, original = written[index], drawn[index]
        assert sample["id"] == original["id"]
        assert sample["image"].tobytes() == original["image"].tobytes()
        assert sample["choices"] == original["choices"]
        assert sample["references"] == original["references"]
        letter = "ABCD"[original["choices"].index(original["answer"].strip())]
        assert sample["answer"] == f" The answer is {letter}."
        assert "Question: Which of these is in the picture?" in sample["prompt"]


def test_batches_for_the_tower_hold_no_text_twice_and_groups_of_one_pair(tower_script):
    data = tower_script.ContrastiveBatches(batches=3, names=5, scenes=8, seed=0)
    for index in range(3):
        pixels, texts = data[index]
        assert pixels.shape == (13, 96, 96, 3)
        assert len(set(texts)) == len(texts) == 13
        again, same = data[index]
        assert (pixels == again).all()
        assert texts == same
    assert data[0][1] != data[1][1]


def test_the_tower_trains_saves_and_goes_on_to_the_same_bits(tower_script, tmp_path, monkeypatch):
    sizes = ["--steps", 3, "--names", 4, "--scenes", 4, "--save-every", 1]
    scripts.call(tower_script, monkeypatch, "--output-dir", tmp_path / "whole", *sizes)
    evaluated = []

    def stop_at_the_second(model, tokenizer):
        evaluated.append(model)
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return TOP1

    with monkeypatch.context() as patch:
        patch.setattr(tower_script, "retrieval", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            scripts.call(tower_script, patch, "--output-dir", tmp_path / "cut", *sizes)
    assert torch.load(tmp_path / "cut" / "resume.pt", weights_only=True)["step"] == 1
    scripts.call(tower_script, monkeypatch, "--output-dir", tmp_path / "cut", *sizes)
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]
    whole, cut = (CLIPVisionModel.from_pretrained(tmp_path / run / "clip").state_dict() for run in ("whole", "cut"))
    assert [key for key in whole if not torch.equal(whole[key], cut[key])] == []
    # the saved folder is complete and names its training settings
    tower = load_vision_tower(str(tmp_path / "cut" / "clip"))
    assert (tower.config.hidden_size, tower.config.num_hidden_layers, tower.config.image_size) == (16, 2, 96)
    assert dict(AutoImageProcessor.from_pretrained(tmp_path / "cut" / "clip").size) == {"height": 96, "width": 96}
    facts = json.loads((tmp_path / "cut" / "clip" / "training.json").read_text())
    assert facts == {"steps": 3, "batch_size": 8, "seed": 0, **TOP1}


def test_train_caption_and_evaluate_on_a_folder_of_pictures(bases, tmp_path, monkeypatch, capsys):
    pictures, run = tmp_path / "pictures", tmp_path / "run"
    texts = picture_folder(pictures)
    scripts.call(
        scripts.load("examples/train.py"), monkeypatch, pictures, "--output-dir", run, "--epochs", 1,
        "--language-model", bases / "llama", "--vision-tower", bases / "clip",
    )  # fmt: skip
    assert json.loads((run / "training.json").read_text())["samples"] == 3
    assert f"saved in {run}" in capsys.readouterr().out
    scripts.call(scripts.load("examples/caption.py"), monkeypatch, run, pictures / "0.png", pictures / "1.png")
    said = [line.split(": ")[0] for line in capsys.readouterr().out.strip().splitlines() if ".png" in line]
    assert said == [str(pictures / "0.png"), str(pictures / "1.png")]
    scripts.call(
        scripts.load("examples/evaluate.py"), monkeypatch, run, "--data", pictures, "--output-dir", tmp_path / "seen"
    )
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("images:")] == [
        "images: true", "images: shuffled", "images: none"
    ]  # fmt: skip
    assert "cider" in printed
    rows = [json.loads(line) for line in (tmp_path / "seen" / "caption-true.jsonl").read_text().splitlines()]
    assert [row["references"] for row in rows] == [[text] for text in texts]


@pytest.mark.parametrize("kind", ["adem_vl", "evlm"])
def test_videos_are_learned_and_captioned(kind, bases, tmp_path, monkeypatch, capsys):
    module = scripts.load("examples/video.py")
    monkeypatch.setattr(module, "fastest_setting", dict)
    monkeypatch.setitem(module.SETTINGS["adem_vl"], "projector_dim", 8)
    sizes = [
        "--output-dir", tmp_path, "--model", kind, "--batch-size", 2, "--frames", 3,
        "--language-model", bases / "llama", "--vision-tower", bases / "clip",
    ]  # fmt: skip
    scripts.call(module, monkeypatch, *sizes, "--steps", 2)
    trained, said = capsys.readouterr().out.strip().splitlines()[-2:]
    assert re.fullmatch(rf"[\d,]+ parameters trained in [\d.]+ s, saved in {tmp_path}", trained)
    assert said.startswith(f"{tmp_path / 'clip.gif'}: ")
    assert f"truth: {OpenMojiVideos('test', 1, kinds=('caption',))[0]['answer'].strip()}" in said
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["frame_embeddings"]) == (kind, 3)
    # a second run continues from the checkpoint and takes a video of any length
    save_gif([tiny.picture(seed) for seed in range(5)], tmp_path / "mine.gif")
    scripts.call(module, monkeypatch, *sizes, "--steps", 3, "--video", tmp_path / "mine.gif")
    assert json.loads((tmp_path / "training.json").read_text())["resumed_at_step"] == 2
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith(f"{tmp_path / 'mine.gif'}: ")
    assert "truth" not in last


def test_lora_beside_the_adapter_and_merged(bases, tmp_path, monkeypatch, capsys):
    pictures, run, merged = tmp_path / "pictures", tmp_path / "run", tmp_path / "merged"
    picture_folder(pictures)
    module = scripts.load("examples/lora.py")
    monkeypatch.setattr(module, "fastest_setting", lambda: {"dtype": torch.float32})
    scripts.call(
        module, monkeypatch, pictures, "--output-dir", run, "--merged-dir", merged,
        "--language-model", bases / "llama", "--vision-tower", bases / "clip", "--rank", 2, "--epochs", 1,
    )  # fmt: skip
    # three layers, two matrices of rank 2 each: q_proj 32 -> 32, v_proj 32 -> 16
    assert f"{3 * 2 * (32 + 32 + 32 + 16):,} of them LoRA, saved in {run}" in capsys.readouterr().out
    model, one = (AdemVLForConditionalGeneration.from_pretrained(folder) for folder in (run, merged))
    assert model.config.lora["lora_alpha"] == 4
    assert one.config.lora is None
    inputs = tiny.batch([8], [True])
    with torch.no_grad():
        assert_close(one(**inputs).logits, model(**inputs).logits)
    scripts.call(scripts.load("examples/caption.py"), monkeypatch, merged, pictures / "0.png")
    assert str(pictures / "0.png") in capsys.readouterr().out


# TRL 1.16 uses older names of parts of Transformers 5.23
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
def test_sft_on_conversations_about_pictures(bases, tmp_path, monkeypatch, capsys):
    pictures, run, chat = tmp_path / "pictures", tmp_path / "run", tmp_path / "llama"
    picture_folder(pictures)
    shutil.copytree(bases / "llama", chat)
    tokenizer = AutoTokenizer.from_pretrained(chat)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] + eos_token }}{% endfor %}"
    tokenizer.save_pretrained(chat)
    module = scripts.load("examples/trl_sft.py")
    monkeypatch.setattr(module, "SFTConfig", partial(module.SFTConfig, use_cpu=True, disable_tqdm=True))
    scripts.call(
        module, monkeypatch, pictures, "--output-dir", run, "--language-model", chat, "--vision-tower",
        bases / "clip", "--rank", 2, "--epochs", 4, "--batch-size", 3, "--learning-rate", 0.01,
    )  # fmt: skip
    printed = capsys.readouterr().out.strip().splitlines()[-1]
    first, last = re.fullmatch(rf"loss ([\d.]+) to ([\d.]+) in 4 steps, saved in {run}", printed).groups()
    assert float(last) < float(first)
    assert AdemVLForConditionalGeneration.from_pretrained(run).config.lora["r"] == 2


def test_training_goes_on_from_a_checkpoint(bases, tmp_path, monkeypatch):
    model, processor = build_model(str(bases / "llama"), str(bases / "clip"), projector_dim=8, drop_ratio=0.25)
    tiny.perturb(model).save_pretrained(tmp_path / "first")
    processor.save_pretrained(tmp_path / "first")
    picture_folder(tmp_path / "pictures")
    module, began = scripts.load("examples/train.py"), {}

    def train(trainer, processor, resume):
        began.update({key: tensor.clone() for key, tensor in trainer.model.adapter_state_dict().items()})
        return run(trainer, processor, resume=resume)

    run = module.train
    monkeypatch.setattr(module, "train", train)
    arguments = ["--output-dir", tmp_path / "second", "--checkpoint", tmp_path / "first", "--epochs", 2]
    scripts.call(module, monkeypatch, tmp_path / "pictures", *arguments)
    first, second = (AdemVLForConditionalGeneration.from_pretrained(tmp_path / name) for name in ("first", "second"))
    assert all(torch.equal(began[key], tensor) for key, tensor in first.adapter_state_dict().items())
    moved = second.adapter_state_dict()
    assert not torch.equal(moved["adapter.value_embedding"], began["adapter.value_embedding"])
    assert (second.config.projector_dim, second.config.drop_ratio) == (8, 0.25)


@pytest.mark.slow
def test_training_goes_on_from_a_checkpoint_on_the_hub(bases, tmp_path):
    """Run it in a process of its own that knows only a local Hub, from which adapter and bases come."""
    model, processor = build_model(str(bases / "llama"), str(bases / "clip"), projector_dim=8)
    tiny.perturb(model).save_pretrained(tmp_path / "first")
    processor.save_pretrained(tmp_path / "first")
    config = json.loads((tmp_path / "first" / "config.json").read_text())
    config |= {"text_model_name_or_path": "acme/llm", "vision_model_name_or_path": "acme/clip"}
    (tmp_path / "first" / "config.json").write_text(json.dumps(config))
    picture_folder(tmp_path / "pictures")
    arguments = [tmp_path / "pictures", "--output-dir", tmp_path / "second", "--checkpoint", "acme/sees", "--epochs", 2]
    with serve_hub() as hub:
        for name, folder in (("llm", bases / "llama"), ("clip", bases / "clip"), ("sees", tmp_path / "first")):
            hub.publish(f"acme/{name}", folder)
        code = "import runpy, sys; sys.argv[0] = sys.argv.pop(1); runpy.run_path(sys.argv[0], run_name='__main__')"
        script = scripts.ROOT / "examples" / "train.py"
        done = run_client(code, hub_env(hub.url, tmp_path / "home"), script, *map(str, arguments))
        fetched = {request.path.split("/")[2] for request in hub.requests if request.path.endswith("model.safetensors")}
    assert done.returncode == 0, done.stderr
    assert fetched == {"llm", "clip", "sees"}
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert not torch.equal(first["adapter.value_embedding"], second["adapter.value_embedding"])
    assert (
        first["adapter.value_embedding"] - second["adapter.value_embedding"]
    ).abs().max() < 0.1  # it continued from there
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert (config["text_model_name_or_path"], config["projector_dim"]) == ("acme/llm", 8)


def test_the_shipped_adapter_is_trained_in_stages_of_which_none_comes_twice(bases, tmp_path, monkeypatch):
    module = scripts.load("examples/train_openmoji.py")
    fresh = partial(build_model, str(bases / "llama"), "embedded", projector_dim=8)
    monkeypatch.setattr(openmoji_training, "build_model", lambda *_, **__: fresh())
    command = ["train_openmoji.py", "--output-dir", str(tmp_path), "--steps", "1", "2", "3", "2", "2", "2", "2"]
    monkeypatch.setattr("sys.argv", command)
    module.main()
    stages = [name for name, *_ in module.STAGES]
    weights = [(tmp_path / stage / "model.safetensors").read_bytes() for stage in stages]
    facts = [json.loads((tmp_path / stage / "training.json").read_text()) for stage in stages]
    assert len(set(weights)) == len(stages) == 7
    assert [(one["steps"], one["learning_rate"]) for one in facts[:3]] == [(1, 2e-3), (2, 1.5e-3), (3, 1.2e-3)]
    assert [any("Twemoji" in text for text in one["data"]) for one in facts[:3]] == [False, True, True]
    assert [any("382 things" in text for text in one["data"]) for one in facts[:3]] == [False, False, True]
    assert all(one["data"] for one in facts)
    monkeypatch.setattr(openmoji_training, "build_model", None)
    module.main()
    assert weights == [(tmp_path / stage / "model.safetensors").read_bytes() for stage in stages]


def test_an_exported_checkpoint_takes_no_path_along_and_finds_its_tower(bases, tmp_path):
    module = scripts.load("examples/train_openmoji.py")
    model, processor = build_model(str(bases / "llama"), "embedded", projector_dim=8)
    trained, shipped = tmp_path / "run", tmp_path / "shipped"
    model.save_pretrained(tiny.perturb(model) and trained)
    processor.save_pretrained(trained)
    for name in ("training_args.bin", "metrics.json", "log.jsonl"):
        (trained / name).write_text("{}")
    shipped.mkdir()
    before = tmp_path / "before"
    before.mkdir()
    for stage, facts in (
        (before, {"samples": 8, "steps": 2, "seconds": 0.5}),
        (trained, {"samples": 4, "steps": 1, "seconds": 1}),
    ):
        (stage / "training.json").write_text(json.dumps(facts))
    module.export([before, trained], shipped / "adapter")
    module.export([before, trained], shipped / "adapter")  # over an older one
    facts = json.loads((shipped / "adapter" / "training.json").read_text())
    assert facts == {"samples": 12, "steps": 3, "seconds": 1.5}
    names = {path.name for path in (shipped / "adapter").iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= names
    assert not names & {"training_args.bin", "metrics.json", "log.jsonl"}
    assert {path.name for path in shipped.iterdir()} == {"adapter"}
    assert "PreTrainedTokenizerFast" in (shipped / "adapter" / "tokenizer_config.json").read_text()
    for path in (shipped / "adapter").glob("*.json"):
        assert str(tmp_path) not in path.read_text()
        assert str(bases) not in path.read_text(), path.name
    loaded = AdemVLForConditionalGeneration.from_pretrained(
        shipped / "adapter", text_model_name_or_path=str(bases / "llama")
    )
    assert all(torch.equal(loaded.state_dict()[key], tensor) for key, tensor in model.adapter_state_dict().items())
