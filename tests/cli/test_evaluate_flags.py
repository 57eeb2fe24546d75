"""``adem-vl evaluate``: flags without effect, data that do not fit the task and files that are none are refused."""

import json

import pytest
from coco_folder import ENTRIES
from coco_folder import write as write_coco
from scienceqa_folder import problem
from scienceqa_folder import write as write_scienceqa
from training_runs import picture_folder

from adem_vl_hf.cli import evaluate
from adem_vl_hf.cli.parser import main
from adem_vl_hf.data.sample import images_of


@pytest.fixture
def pictures(tmp_path):
    picture_folder(tmp_path / "pictures", 2)
    return tmp_path / "pictures"


def made(folder):
    folder.mkdir()
    return folder


def refused(capsys, *flags):
    assert main(["evaluate", *map(str, flags)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--task", "caption", "--data", "HERE", "--size", "1"], "--size is for openmoji, "),
        (["--task", "caption", "--data", "HERE", "--tasks", "gqa"], "--tasks belongs to --harness; leave it out"),
        (["--task", "caption", "--data", "HERE", "--include-path", "HERE"], "--include-path belongs to --harness"),
        (["--task", "caption", "--data", "HERE", "--problems", "HERE"], "--problems belongs to --task scienceqa"),
        (["--task", "caption", "--data", "HERE", "--split", ""], "--split is empty"),
        (["--task", "caption", "--data", "HERE", "--split", "validation"], "pictures has no splits and is taken whole"),
        (["--task", "caption", "--data", "HERE", "--split", "test"], "--split test: "),
        (["--task", "caption", "--data", "HERE", "--use-captions"], "--use-captions is of ScienceQA"),
        (["--task", "caption", "--data", "HERE", "--prompt-format", "QCM-A"], "--prompt-format is of ScienceQA"),
        (["--task", "caption", "--data", "HERE", "--output", "HERE"], "--output HERE is a folder; name a file in it"),
        (["--task", "caption", "--data", "HERE", "--output", "/dev/null"], "--output /dev/null is a pipe or a device"),
        (["--task", "caption", "--predictions", "HERE"], "--predictions HERE is a folder; name a file in it"),
        (["--task", "scienceqa", "--data", "HERE", "--problems", "HERE"], "--problems HERE is a folder"),
        (["--task", "caption", "--predictions", "HERE/metadata.jsonl", "--images", "none"],
         "--images has no effect on predictions that --predictions gives"),
        (["--task", "caption", "--predictions", "HERE/metadata.jsonl", "--data", "HERE"], "--data has no effect"),
        (["--task", "caption", "--predictions", "HERE/metadata.jsonl", "--load-in-4bit"], "--load-in-4bit has no"),
        (["--task", "openmoji-names", "--data", "HERE"], "--data has no effect on --task openmoji-names"),
        (["--task", "openmoji-names", "--columns", "image=x"], "--columns has no effect on --task openmoji-names"),
        (["--harness", "lmms-eval", "--tasks", "gqa", "--split", "val"], "--split has no effect on --harness lmms"),
        (["--task", "mme", "--data", "HERE", "--result-files", "HERE/metadata.jsonl"], "is a file, not a folder"),
        (["--task", "caption", "--data", "HERE", "--image-folder", "HERE"], "--image-folder has no effect on HERE"),
        (["--task", "caption", "--data", "HERE", "--image-folder", "HERE/nowhere"], "folder HERE/nowhere: there is no"),
        (["--task", "openmoji-names", "--image-folder", "HERE"], "--image-folder has no effect on --task openmoji-n"),
        (["--task", "scienceqa", "--data", "HERE"], "is not ScienceQA, whose questions have choices"),
    ],
)  # fmt: skip
def test_flags_without_effect_are_refused(flags, words, pictures, capsys):
    said = refused(capsys, *(flag.replace("HERE", str(pictures)) for flag in flags))
    assert words.replace("HERE", str(pictures)) in said


def test_columns_of_a_format_of_its_own_are_refused(tmp_path, capsys):
    coco = write_coco(tmp_path, ENTRIES)
    assert "--columns has no effect on" in refused(capsys, "--task", "caption", "--data", coco, "--columns", "image=x")


def test_problems_of_other_questions_are_refused_before_a_model_loads(tmp_path, monkeypatch, capsys):
    data = write_scienceqa(made(tmp_path / "data"), {"1": problem("test")}, {"test": ["1"]})
    others = write_scienceqa(made(tmp_path / "others"), {"2": problem("test")}, {"test": ["2"]})
    monkeypatch.setattr(evaluate, "load", lambda args: pytest.fail("a model is loaded"))
    said = refused(capsys, "--task", "scienceqa", "--data", data, "--problems", others / "problems.json")
    assert "prediction '1' is not in problems.json" in said


@pytest.mark.parametrize("form", ["csv", "conversations"])
def test_images_are_found_in_another_folder_as_in_training(pictures, tmp_path, monkeypatch, form):
    table = tmp_path / "tables" / f"rows.{'csv' if form == 'csv' else 'json'}"
    table.parent.mkdir()
    turns = [{"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "a cat"}]
    table.write_text("image,text\n0.png,a cat\n" if form == "csv" else
                     json.dumps([{"id": "0", "image": "0.png", "conversations": turns}]))  # fmt: skip
    seen = []

    def predictions(args, dataset, problems):
        seen.extend(images_of(dataset[index]).images for index in range(len(dataset)))
        return [{"id": "0", "kind": "caption", "prediction": "a cat", "references": ["a cat"]}]

    monkeypatch.setattr(evaluate, "_predictions", predictions)
    argv = ["evaluate", "--task", "questions", "--data", str(table), "--image-folder", str(pictures)]
    assert main(argv + (["--split", "train"] if form == "csv" else [])) == 0
    assert [len(images) for images in seen] == [1]


def test_another_split_is_named(tmp_path, capsys):
    (tmp_path / "rows.csv").write_text("image,text\na.png,a cat\n")
    said = refused(capsys, "--task", "caption", "--data", tmp_path / "rows.csv")
    assert "no split 'test'; it has train; name one by --split train" in said
    folder = write_scienceqa(made(tmp_path / "sqa"), {"1": problem("val")}, {"val": ["1"]})
    assert "name one by --split val" in refused(capsys, "--task", "scienceqa", "--data", folder)


def test_an_interrupted_evaluation_says_how_it_goes_on(pictures, tmp_path, monkeypatch, capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "run", interrupt)
    output = tmp_path / "p.jsonl"
    argv = ["evaluate", "--task", "caption", "--data", str(pictures)]
    assert main(argv) == 1
    assert main([*argv, "--output", str(output)]) == 1
    output.write_text(json.dumps({}))
    assert main([*argv, "--output", str(output)]) == 1
    first, second, third = (line.split(": interrupted")[1] for line in capsys.readouterr().err.splitlines())
    assert first == "; with --output, the same command would go on where it stopped"
    assert second == ", before its first prediction"
    assert third == f"; the same command goes on from {output}"
