"""Tasks of lmms-eval on a tiny model: through the harness where it is installed, and everywhere by its interface."""

import json
import sys
import types
from importlib.util import find_spec

import pytest
import tiny
from training_runs import picture_folder, processor_of

from adem_vl_hf.cli.parser import main

HARNESS = find_spec("lmms_eval") is not None
TASK = """task: adem_vl_tiny
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 5
process_results: !function utils.results
metric_list:
  - metric: right
    aggregation: mean
    higher_is_better: true
"""
UTILS = """from PIL import Image

def visual(doc):
    return [Image.open(doc["picture"])] if doc["picture"] else []

def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def results(doc, results):
    return {"right": float(results[0] == doc["answer"])}
"""


@pytest.fixture(scope="module")
def checkpoint(bases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model = tiny.build(bases)
    model.save_pretrained(folder)
    processor_of(bases, model).save_pretrained(folder)
    return folder


def answers(checkpoint, rows):
    """Return the answers of ``adem-vl caption`` to the same prompts."""
    from adem_vl_hf.loading import load_checkpoint
    from adem_vl_hf.modeling.images import open_image

    model, processor = load_checkpoint(str(checkpoint))
    said = []
    for row in rows:
        images = [open_image(row["picture"]) if row["picture"] else None]
        inputs = processor(images=images, text=[f"Instruction: {row['question']}\nResponse:"], return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        said.append(processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
    return [text.strip() for text in said]


@pytest.fixture
def rows(tmp_path):
    picture_folder(tmp_path / "pictures", 3)
    made = [{"picture": str(tmp_path / "pictures" / f"{n}.png"), "question": "What is it?"} for n in range(3)]
    return [*made, {"picture": "", "question": "Who?"}]


@pytest.mark.skipif(not HARNESS, reason="lmms-eval is not installed")
def test_the_harness_scores_what_the_model_says(checkpoint, rows, tmp_path, capsys):
    said = answers(checkpoint, rows)
    assert len(set(said)) > 1
    lines = [{**row, "answer": text} for row, text in zip(rows, ["another", *said[1:]], strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "adem_vl_tiny.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl"))
    (tasks / "utils.py").write_text(UTILS)
    argv = ["evaluate", "--harness", "lmms-eval", "--tasks", "adem_vl_tiny", "--include-path", str(tasks),
            "--checkpoint", str(checkpoint), "--batch-size", "2", "--json"]  # fmt: skip
    assert main(argv) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["n"], scores["tasks"]["adem_vl_tiny"]["right"]) == (4, 0.75)


@pytest.mark.skipif(not HARNESS, reason="lmms-eval is not installed")
def test_the_entry_point_names_the_model():
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    from adem_vl_hf.evaluation.lmms_eval.plugin import manifest

    registry = ModelRegistryV2()
    registry.register_manifest(manifest())
    assert registry.get_model_class("adem_vl").__name__ == "AdemVLModel"


@pytest.fixture
def plugin(monkeypatch):
    """Return the plug-in's class. Without the harness its base class is one with the same methods."""
    if not HARNESS:
        base = types.ModuleType("lmms_eval.api.model")

        class lmms:
            def __init__(self):
                self._rank, self._world_size, self.task_dict = 0, 1, {}
                self.cache_hook = types.SimpleNamespace(add_partial=lambda *given: None)

            rank = property(lambda self: self._rank)

        base.lmms = lmms
        for name, module in {"lmms_eval": types.ModuleType("lmms_eval"), "lmms_eval.api": types.ModuleType("api"),
                             "lmms_eval.api.model": base}.items():  # fmt: skip
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, "adem_vl_hf.evaluation.lmms_eval.model", raising=False)
    from adem_vl_hf.evaluation.lmms_eval.model import AdemVLModel

    return AdemVLModel


def request(place, *given):
    return types.SimpleNamespace(args=(*given, place, "task", "test"))


def pictures(doc):
    from PIL import Image

    return [
        Image.open(path) for path in ([doc["picture"]] if isinstance(doc["picture"], str) else doc["picture"]) if path
    ]


def test_requests_are_answered_in_batches_and_cut(plugin, checkpoint, rows):
    model = plugin(str(checkpoint), batch_size=3, device="cpu")
    rows.append({**rows[0], "question": "<image> What is it?"})  # a mark for the only image
    rows.append({"picture": [rows[0]["picture"], rows[1]["picture"]], "question": "Which?"})
    model.task_dict["task"] = {"test": rows}
    requests = [request(n, row["question"], {"max_new_tokens": 5}, pictures) for n, row in enumerate(rows)]
    found = model.generate_until(requests)
    said = answers(checkpoint, rows[:4])
    assert found[:4] == said
    assert found[4] == found[0]
    cut = next(text for text in said if len(text) > 2)
    place = said.index(cut)
    ended = request(place, rows[place]["question"], {"max_new_tokens": 5, "until": [cut[1:]]}, pictures)
    assert model.generate_until([ended]) == [cut[0].strip()]


def test_the_greedy_continuation_is_the_likeliest(plugin, checkpoint, rows):
    model = plugin(str(checkpoint), device="cpu")
    model.task_dict["task"] = {"test": rows}
    (said,) = model.generate_until([request(0, rows[0]["question"], {"max_new_tokens": 1}, pictures)])
    greedy, other = model.loglikelihood(
        [request(0, rows[0]["question"], text, pictures) for text in (said, lambda doc: " zebra")]
    )
    assert greedy[0] > other[0]
    assert not other[1]


def test_what_is_no_picture_is_named(plugin, checkpoint, rows):
    model = plugin(str(checkpoint), device="cpu")
    model.task_dict["task"] = {"test": rows}
    with pytest.raises(ValueError, match="task, test 1: shows something other than images"):
        model.generate_until([request(1, "Q", {}, lambda doc: ["clip.mp4"])])
    with pytest.raises(ValueError, match=r"prompt 'x' has no \{instruction\}"):
        plugin(str(checkpoint), prompt="x")
    with pytest.raises(NotImplementedError, match="one question at a time"):
        model.generate_until_multi_round([])


def test_the_command_asks_for_the_harness_and_its_tasks(checkpoint, monkeypatch, capsys):
    from adem_vl_hf.evaluation.lmms_eval import harness

    argv = ["evaluate", "--harness", "lmms-eval", "--checkpoint", str(checkpoint)]
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    assert main([*argv, "--tasks", "gqa"]) == 2
    assert "pip install 'adem-vl-hf[lmms-eval]'" in capsys.readouterr().err
    monkeypatch.setattr(harness, "find_spec", lambda name: name)
    assert main(argv) == 2
    assert "give --tasks" in capsys.readouterr().err
