"""``adem-vl``: every command in process, on tiny bases: what it prints and what it leaves."""

import gc
import json
import shutil

import golden_files
import pytest
import tiny
from PIL import Image
from safetensors.torch import load_file

from adem_vl_hf import AdemVLConfig, EvlmConfig, training
from adem_vl_hf.cli import caption
from adem_vl_hf.cli.parser import main
from adem_vl_hf.counting import count_adapter_parameters
from adem_vl_hf.data import OpenMojiVideos
from adem_vl_hf.data.media import save_gif
from adem_vl_hf.evaluation import predict


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three pictures with metadata.jsonl, the last a question."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = [{"file_name": f"{c}.png", "text": f"a {c} cat"} for c in ("red", "blue")]
    lines.append({"file_name": "green.png", "prompt": "What?", "answer": "a dog", "kind": "question"})
    for line in lines:
        Image.new("RGB", (20, 16), line["file_name"].removesuffix(".png")).save(folder / line["file_name"])
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(scope="module")
def trained(bases, folder, tmp_path_factory):
    """What ``adem-vl train`` leaves after two steps."""
    output = tmp_path_factory.mktemp("run")
    code = main(["train", *tiny.base_flags(bases), "--data", str(folder), "--output-dir", str(output),
                 "--max-steps", "2", "--batch-size", "2", "--dtype", "float32", "--attn-implementation", "eager",
                 "--projector-dim", "8",
                 "--visual-token-counts", "4", "1", "--use-cls-token", "true", "--drop-ratio", "0.25",
                 "--set", "use_cpu=true", "save_steps=1", "disable_tqdm=true"])  # fmt: skip
    assert code == 0
    return output


def output_of(capsys, *argv):
    """The standard output of a command that succeeds."""
    capsys.readouterr()
    assert main([str(argument) for argument in argv]) == 0
    return capsys.readouterr().out


def test_a_used_folder_is_refused_and_overwritten_when_asked(bases, folder, tmp_path, capsys):
    argv = ["train", *tiny.base_flags(bases), "--data", str(folder), "--output-dir", str(tmp_path), "--batch-size", "2",
            "--max-steps", "2", "--projector-dim", "8", "--set", "use_cpu=true", "save_steps=1",
            "logging_steps=1"]  # fmt: skip
    assert main(argv) == 0
    assert main(argv) == 2
    assert "holds a run already (checkpoint-1): add --resume" in capsys.readouterr().err
    argv[argv.index("2", argv.index("--max-steps"))] = "1"
    assert main([*argv, "--overwrite"]) == 0
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert set(steps) == {1}


def test_a_run_that_goes_on_with_other_data_says_so_and_its_card_names_both(bases, folder, tmp_path, capsys):
    run, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(folder, other)

    def train(data, steps, *more):
        argv = ["train", *tiny.base_flags(bases), "--data", str(data), "--output-dir", str(run), "--batch-size", "2",
                "--max-steps", str(steps), "--projector-dim", "8", "--set", "use_cpu=true", "save_steps=1"]  # fmt: skip
        assert main([*argv, *more]) == 0
        return capsys.readouterr()

    train(folder, 1)
    before = (run / "README.md").read_text()
    assert "nothing was left to do: the run in" in train(other, 1, "--resume").out
    assert (run / "README.md").read_text() == before
    said = train(other, 2, "--resume").err
    assert f"the run was trained on {folder} until now, and goes on with {other}" in said
    card = (run / "README.md").read_text()
    assert f"- {folder.name}\n" in card
    assert "- other\n" in card
    assert "until now" not in train(other, 3, "--resume").err


def test_a_run_begins_with_a_trained_adapter_and_evaluates(trained, folder, tmp_path, capsys):
    argv = ["train", "--from-checkpoint", str(trained), "--data", str(folder), "--eval-data", str(folder),
            "--eval-steps", "1", "--output-dir", str(tmp_path / "on"), "--batch-size", "2", "--max-steps", "2",
            "--learning-rate", "1e-9", "--set", "use_cpu=true"]  # fmt: skip
    assert main(argv) == 0
    logged = [json.loads(line) for line in (tmp_path / "on" / "log.jsonl").read_text().splitlines()]
    assert sum("eval_loss" in entry for entry in logged) == 2
    before, after = (load_file(place / "model.safetensors") for place in (trained, tmp_path / "on"))
    assert before.keys() == after.keys()
    assert all((after[key] - tensor).abs().max() < 1e-6 for key, tensor in before.items())
    argv[argv.index("--output-dir") + 1] = str(tmp_path / "another")
    assert main([*argv, "--projector-dim", "16"]) == 2
    assert "--from-checkpoint brings projector_dim" in capsys.readouterr().err


def test_training_leaves_a_checkpoint_with_its_settings(trained, bases, folder):
    config = AdemVLConfig.from_pretrained(trained)
    assert (config.visual_token_counts, config.projector_dim, config.drop_ratio) == ([4, 1], 8, 0.25)
    assert config.text_model_name_or_path == str(bases / "llama")
    assert {path.name for path in trained.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    assert all(key.startswith("adapter.") for key in load_file(trained / "model.safetensors"))
    facts = json.loads((trained / "training.json").read_text())
    assert (facts["samples"], facts["prompt"]) == (3, "a picture of")  # of two of the three
    for saved in (trained, trained / "checkpoint-1"):
        assert json.loads((saved / "processor_config.json").read_text())["prompt"] == "a picture of"
    card = (trained / "README.md").read_text()
    assert folder.name in card
    assert str(folder) not in card  # where a machine keeps its files is nobody's business


def test_an_evlm_learns_clips_and_describes_one(bases, tmp_path, capsys, monkeypatch):
    made, make = [], training.training_arguments
    monkeypatch.setattr(training, "training_arguments", lambda *args, **kw: made.append(make(*args, **kw)) or made[0])
    run, clip = tmp_path / "run", tmp_path / "clip.gif"
    argv = ["train", "--model", "evlm", *tiny.base_flags(bases), "--data", "openmoji-videos", "--train-size", "4",
            "--output-dir", run, "--max-steps", "2", "--batch-size", "2", "--dtype", "float32", "--media-tokens", "1",
            "--frame-embeddings", "8", "--vision-feature-layer", "-2", "-1", "--set", "use_cpu=true",
            "disable_tqdm=true"]  # fmt: skip
    assert "trained " in output_of(capsys, *argv)
    config = EvlmConfig.from_pretrained(run)
    assert (config.media_tokens, config.frame_embeddings, config.vision_feature_layer) == (1, 8, [2, 3])
    assert made[0].max_grad_norm == 1.0
    assert "EVLM" in (run / "README.md").read_text()
    save_gif(OpenMojiVideos("test", size=1)[0]["video"], clip)
    said = output_of(capsys, "caption", "--video", clip, "--checkpoint", run, "--max-new-tokens", "3", "--json")
    assert json.loads(said)["video"] == str(clip)
    assert json.loads(output_of(capsys, "info", run, "--json"))["media_tokens"] == 1


def test_training_goes_on_where_it_stopped(trained, bases, folder, capsys):
    before = [json.loads(line)["step"] for line in (trained / "log.jsonl").read_text().splitlines()]
    argv = ["train", *tiny.base_flags(bases), "--data", folder, "--output-dir", trained, "--max-steps", "3", "--resume",
            "--batch-size", "2", "--dtype", "float32", "--visual-token-counts", "4", "1", "--projector-dim", "8",
            "--drop-ratio", "0.25", "--set", "use_cpu=true", "disable_tqdm=true", "logging_steps=1"]  # fmt: skip
    assert "trained " in output_of(capsys, *argv)
    steps = [json.loads(line)["step"] for line in (trained / "log.jsonl").read_text().splitlines()][len(before) :]
    assert set(steps) == {3}
    assert json.loads((trained / "training.json").read_text())["steps"] == 3


def test_captions_are_one_line_per_picture(trained, folder, capsys):
    pictures = [folder / "red.png", folder / "blue.png"]
    flags = ["--checkpoint", trained, "--max-new-tokens", "4"]
    lines = output_of(capsys, "caption", *pictures, *flags).splitlines()
    assert [line.split(": ")[0] for line in lines] == list(map(str, pictures))
    rows = [json.loads(row) for row in output_of(capsys, "caption", *pictures, *flags, "--json").splitlines()]
    assert [row["image"] for row in rows] == list(map(str, pictures))
    assert [f"{row['image']}: {row['text']}".strip() for row in rows] == [line.strip() for line in lines]
    output_of(capsys, "caption", *pictures, *flags, "--num-beams", "2", "--prompt", "a photo of")


def test_many_images_are_answered_in_batches_and_a_damaged_one_is_found_before(
    trained, folder, tmp_path, capsys, monkeypatch
):
    paths = [folder / "red.png", folder / "blue.png"] * 2 + [folder / "red.png"]
    flags = ["--checkpoint", trained, "--max-new-tokens", "4"]
    alone = [output_of(capsys, "caption", path, *flags) for path in paths]
    assert "".join(alone) == output_of(capsys, "caption", *paths, *flags)
    sizes, held, generate = [], [], predict.generate_texts

    def count(*args, **kwargs):
        sizes.append(len(args[3]))
        held.append(sum(isinstance(one, Image.Image) and one.size == (20, 16) for one in gc.get_objects()))
        return generate(*args, **kwargs)

    monkeypatch.setattr(predict, "generate_texts", count)
    monkeypatch.setattr(caption, "AT_ONCE", 2)
    assert "".join(alone) == output_of(capsys, "caption", *paths, *flags)
    assert sizes == [2, 2, 1]
    assert max(held) - held[-1] <= 1  # no batch but the one that is answered
    (tmp_path / "damaged.png").write_bytes((folder / "red.png").read_bytes()[:60])
    assert main([*map(str, ("caption", *paths, tmp_path / "damaged.png", *flags))]) == 2
    printed = capsys.readouterr()
    assert (printed.out, len(sizes)) == ("", 3)
    assert "damaged.png" in printed.err


def test_an_animated_image_is_said_to_be_seen_by_its_first_frame(trained, tmp_path, capsys):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    moving, still = tmp_path / "moving.gif", tmp_path / "still.gif"
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    frames[0].save(still)
    for path, said in ((moving, 1), (still, 0)):
        main([*map(str, ("caption", path, "--checkpoint", trained, "--max-new-tokens", "3"))])
        printed = capsys.readouterr()
        assert printed.out.startswith(f"{path}: ")
        assert printed.err.count(f"adem-vl caption: {path} is animated, and its first frame is taken") == said


def test_evaluation_prints_one_object_and_scores_its_own_file_alike(trained, folder, tmp_path, capsys):
    flags = ["--checkpoint", trained, "--data", folder, "--max-new-tokens", "4", "--output", tmp_path / "p.jsonl"]
    scores = json.loads(output_of(capsys, "evaluate", "--task", "caption", *flags, "--json"))
    assert (scores["task"], scores["n"]) == ("caption", 3)
    assert set(scores["caption"]) == {"exact_match", "bleu4", "cider", "n"}
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 3
    again = output_of(capsys, "evaluate", "--task", "caption", "--predictions", tmp_path / "p.jsonl", "--json")
    assert json.loads(again) == scores
    assert len(again.splitlines()) == 1
    text = output_of(capsys, "evaluate", "--task", "questions", "--predictions", tmp_path / "p.jsonl")
    assert "accuracy" in text
    flags[-1] = tmp_path / "shuffled.jsonl"
    output_of(capsys, "evaluate", "--task", "caption", *flags, "--images", "shuffled")
    rows = [json.loads(line) for line in (tmp_path / "shuffled.jsonl").read_text().splitlines()]
    assert {row["images"] for row in rows} == {"shuffled"}


def test_info_says_what_a_checkpoint_is(trained, capsys):
    facts = json.loads(output_of(capsys, "info", trained, "--json"))
    config = AdemVLConfig.from_pretrained(trained)
    assert facts["trained_numbers"] == count_adapter_parameters(config)
    assert (facts["visual_token_counts"], facts["drop_ratio"]) == ([4, 1], 0.25)
    assert facts["language_model"] == "llama, 3 layers of width 32"
    assert facts["tower"] == "clip_vision_model, 3 blocks of width 24, grid 4 x 4"
    text = output_of(capsys, "info", trained)
    assert all(name in text for name in facts)


def test_conversion_by_flags_is_the_librarys(golden, tmp_path, capsys):
    fields = golden_files.config_fields(golden.settings)
    expected = AdemVLConfig.from_pretrained(golden.checkpoint)
    flags = [] if expected.image_token_id is None else ["--image-token-id", expected.image_token_id]
    for name, value in fields.items():
        values = value if isinstance(value, list) else [str(value).lower() if isinstance(value, bool) else value]
        flags += [f"--{name.replace('_', '-')}", *values]
    official = tiny.GOLDEN / golden.bases.name[:-1] / "official_checkpoint.pth"
    report = output_of(capsys, "convert", official, tmp_path / "out", *tiny.base_flags(golden.bases), *flags)
    assert "ignored epoch" in report
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (golden.checkpoint / name).read_bytes()
