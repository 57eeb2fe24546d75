"""``adem-vl evaluate`` on every benchmark's own files: predictions first, scores second, interrupted it goes on."""

import json

import mme_folder
import pytest
import tiny
from coco_folder import ENTRIES
from coco_folder import write as write_coco
from scienceqa_folder import problem
from scienceqa_folder import write as write_scienceqa
from training_runs import processor_of

from adem_vl_hf.cli.parser import main
from adem_vl_hf.evaluation.predictions import read_predictions


@pytest.fixture
def benchmark(tmp_path):
    return mme_folder.write(tmp_path)


@pytest.fixture(scope="module")
def checkpoint(bases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model = tiny.build(bases)
    model.save_pretrained(folder)
    processor_of(bases, model).save_pretrained(folder)
    return folder


@pytest.fixture
def scores_of(checkpoint, tmp_path, capsys):
    """The scores that a task prints, twice: the second time its last prediction is missing and another is changed."""

    def call(task, data, *flags):
        output = tmp_path / f"{task}.jsonl"
        argv = ["evaluate", "--task", task, "--data-dir", str(data), "--checkpoint", str(checkpoint), "--json",
                "--max-new-tokens", "4", "--output", str(output), *map(str, flags)]  # fmt: skip
        capsys.readouterr()
        assert main(argv) == 0
        scores = json.loads(capsys.readouterr().out)
        lines = output.read_text().splitlines(keepends=True)
        first = json.loads(lines[0]) | {"prediction": "from before"}
        output.write_text("".join([json.dumps(first) + "\n", *lines[1:-1]]))
        assert main(argv) == 0
        again = read_predictions(output)
        assert again[0]["prediction"] == "from before"
        assert again[1:] == [json.loads(line) for line in lines[1:]]
        return scores

    return call


def test_mme_writes_its_result_files(benchmark, scores_of, tmp_path, capsys):
    scores = scores_of("mme", benchmark, "--result-files", tmp_path / "results")
    assert (scores["n"], len(scores["missing"])) == (8, 12)
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["existence.txt", "landmark.txt"]
    capsys.readouterr()
    assert main(["evaluate", "--task", "mme", "--predictions", str(tmp_path / "results"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["evaluate", "--task", "mme", "--predictions", str(tmp_path / "mme.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_coco_takes_the_test_split(scores_of, tmp_path):
    scores = scores_of("coco-caption", write_coco(tmp_path, [*ENTRIES, {**ENTRIES[0], "cocoid": 9}]))
    assert scores["n"] == 2
    assert scores["caption"]["tokenizer"] in ("ptb", "treebank")


def test_scienceqa_has_its_columns_and_the_authors_two_prompts(scores_of, tmp_path, capsys):
    problems = {"1": problem("test", hint="A hint."), "2": problem("test")}
    folder = write_scienceqa(tmp_path, problems, {"test": ["1", "2"]}, {"1": "a flag"})
    scores = scores_of("scienceqa", folder, "--prompt-format", "QCM-A", "--use-captions")
    assert scores["n"] == 2
    assert set(scores["columns"]) == {"NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12", "Avg"}
    flags = ["--predictions", str(tmp_path / "scienceqa.jsonl"), "--data", str(folder), "--json"]
    capsys.readouterr()
    assert main(["evaluate", "--task", "scienceqa", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["columns"]["TXT"] == 0.0


def test_bad_input_is_named(benchmark, tmp_path, capsys):
    cases = {
        "is not MME": ["--task", "mme", "--data", str(write_coco(tmp_path / "coco", ENTRIES))],
        "--result-files is for": ["--task", "caption", "--data", str(benchmark), "--result-files", "x"],
        "choose one of CQM-A": ["--task", "scienceqa", "--prompt-format", "QM-A", "--data",
                                str(write_scienceqa(tmp_path, {"1": problem("test")}, {"test": ["1"]}))],
    }  # fmt: skip
    for words, flags in cases.items():
        assert main(["evaluate", *flags]) == 2
        assert words in capsys.readouterr().err
