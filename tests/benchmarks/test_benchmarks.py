"""The tables of README.md come from result files alone, and the benchmark fills those from what it measured."""

import json
import re
import shutil

import pytest
import scripts
import tiny

from adem_vl_hf.loading import CHECKPOINT, build_model


def scores(value):
    """Made-up scores of one task under one condition."""
    caption = {"exact_match": value, "bleu4": value / 2, "cider": 2 * value, "n": 7}
    return {"caption": caption, "questions": {"choice": {"accuracy": value, "chance": 0.25, "n": 5}}}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """``tables`` with its result files elsewhere."""
    tables = scripts.load("benchmarks/tables.py")
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    return tables


def test_a_table_holds_every_measure_under_every_condition(results):
    made = {"true": 0.5, "shuffled": 0.25, "none": 0.125}
    metrics = {task: {c: scores(v) for c, v in made.items()} for task in ("openmoji-scenes", "openmoji-names")}
    del metrics["openmoji-names"]["none"]["questions"]["choice"]["n"]  # only the first condition's is shown
    lines = results.quality_table(metrics).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].split(" | ")[-3:] == ["own picture", "another picture", "no picture |"]
    assert lines[2:6] == [
        "| scenes | caption exact match, % | 7 | | 50.0 | 25.0 | 12.5 |",
        "| scenes | caption BLEU-4 | 7 | | 25.0 | 12.5 | 6.2 |",
        "| scenes | caption CIDEr | 7 | | 100.0 | 50.0 | 25.0 |",
        "| scenes | four-way choice, % right | 5 | 25.0 | 50.0 | 25.0 | 12.5 |",
    ]
    assert [line.replace("| names", "| scenes") for line in lines[6:]] == lines[2:6]


def test_results_are_kept_by_name(results):
    assert results.load("shipped") is None
    results.save("shipped", {"a": 1})
    results.save("shipped", {"a": 2})
    assert results.load("shipped") == {"a": 2}
    assert [path.name for path in results.RESULTS.iterdir()] == ["shipped.json"]


def test_only_what_stands_between_the_marks_is_replaced(results, tmp_path):
    page = tmp_path / "README.md"
    before = "# x\n<!-- a -->\nold\n<!-- /a -->\nkept | a\n<!-- b --><!-- /b -->\nend\n"
    page.write_text(before)
    results.write_readme({"a": "| new |", "b": "two\nlines"}, page)
    once = page.read_text()
    assert once == "# x\n<!-- a -->\n| new |\n<!-- /a -->\nkept | a\n<!-- b -->\ntwo\nlines\n<!-- /b -->\nend\n"
    results.write_readme({"a": "| new |"}, page)
    assert page.read_text() == once
    with pytest.raises(ValueError, match=r"README\.md has no place for 'c': put <!-- c --> and <!-- /c -->"):
        results.write_readme({"a": "lost", "c": "x"}, page)
    assert page.read_text() == once
    assert [path.name for path in tmp_path.glob("*README*")] == ["README.md"]


def test_the_readme_states_what_the_result_files_say(results, tmp_path, monkeypatch):
    script = scripts.load("benchmarks/quality.py")
    text = (scripts.ROOT / "README.md").read_text(encoding="utf-8")
    kept = scripts.ROOT / "benchmarks" / "results"
    shutil.copytree(kept, tmp_path / "results")
    for name, content in json.loads((kept / "demo.json").read_text()).items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))  # as `make demo` left them
    made = {}
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(script.tables, "write_readme", made.update)
    cards = []
    monkeypatch.setattr(script, "write_cards", cards.append)
    scripts.call(script, monkeypatch, "--demo", tmp_path, "--write")
    stated = {name: body.strip() for name, body in re.findall(r"<!-- ([a-z ]+) -->(.*?)<!-- /\1 -->", text, re.S)}
    assert cards == [json.loads(path.read_text())["metrics"] for path in kept.glob("shipped.json")]
    assert stated.pop("snippet output")  # run and compared by test_readme
    made |= scripts.load("benchmarks/readme.py").sections()
    assert stated.keys() == {"demo table", *made}
    assert {name: body for name, body in stated.items() if body} == {name: body for name, body in made.items() if body}


def test_the_cards_state_what_the_result_files_say(tmp_path):
    shipped = tmp_path / "adapter"
    shutil.copytree(CHECKPOINT, shipped)
    metrics = json.loads((scripts.ROOT / "benchmarks" / "results" / "shipped.json").read_text())["metrics"]
    scripts.load("benchmarks/quality.py").write_cards(metrics, shipped, tmp_path)
    made = (shipped / "README.md").read_text()
    assert made == (tmp_path / "MODEL_CARD.md").read_text()
    assert made == (CHECKPOINT / "README.md").read_text() == (scripts.ROOT / "MODEL_CARD.md").read_text()
    measured = metrics["openmoji-scenes"]["true"]["caption"]
    assert f"| openmoji-scenes | own picture caption exact_match | {round(measured['exact_match'], 4)} |" in made


def test_the_benchmark_measures_with_controls_and_takes_over_the_demo(bases, tmp_path, monkeypatch, capsys):
    model, processor = build_model(str(bases / "llama"), str(bases / "clip"), fusion_scale=1.0, visual_scale=1.0)
    script = scripts.load("benchmarks/quality.py")
    written = {}
    (tmp_path / "training.json").write_text(json.dumps({"names_top1": 0.5, "scenes_top1": 0.25, "steps": 3}))
    monkeypatch.setattr(script, "TOWER", tmp_path)
    monkeypatch.setattr(script, "load_checkpoint", lambda name, **setting: (model, processor))
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(script.tables, "write_readme", written.update)
    monkeypatch.setattr(script, "write_cards", lambda metrics: None)
    output = tmp_path / "out"
    scripts.call(script, monkeypatch, "--output-dir", output, "--scenes", 40, "--names", 4, "--write")
    first = script.digest(model)
    metrics = script.tables.load("shipped")["metrics"]
    assert metrics.keys() == {"openmoji-scenes", "openmoji-names"}
    for task, number in (("openmoji-scenes", 40), ("openmoji-names", 4)):
        assert metrics[task].keys() == {"true", "shuffled", "none"}
        for images, part in metrics[task].items():
            assert part["n"] == number
            assert len((output / first / f"{task}-{images}.jsonl").read_text().splitlines()) == number
    assert written["shipped table"] == script.tables.quality_table(metrics)
    assert "names 50.0 %" in written["tower"]
    assert written.keys() == {"shipped table", "tower"}  # nothing for what was never measured
    # another adapter does not go on with this one's predictions
    assert script.digest(tiny.perturb(model)) != first
    # the demo's figures are taken over as they are
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    scripts.call(script, monkeypatch, "--demo", tmp_path)
    assert script.tables.load("demo")["metrics"] == metrics
    assert "demo\n| test set" in capsys.readouterr().out


def test_what_may_be_answered_and_how_order_is_scored():
    module = scripts.load("benchmarks/caption_as_text.py")
    choice = {"kind": "choice", "choices": ["hook", "tent", "sunglasses", "monkey face"]}
    assert module.options(choice) == ("hook", "tent", "sunglasses", "monkey face")
    assert module.options({"kind": "presence", "prompt": "Is there a fox?"}) == ("yes", "no")
    assert module.auc([2.0, 1.0], [0.0, 1.0]) == 0.875


@pytest.mark.parametrize(
    ("prediction", "parts"),
    [
        ("two cats above a dog on red", {"colour", "a thing", "all things", "numbers", "everything"}),
        ("a dog below two cats on red", {"colour", "a thing", "all things", "numbers", "everything"}),
        ("a dog above two cats on red", {"colour", "a thing", "all things", "numbers"}),
        ("two foxes above a dog on blue", {"a thing", "numbers"}),
        ("three owls on red", {"colour"}),
        ("houses", set()),
    ],
)
def test_which_parts_of_a_caption_are_right(prediction, parts):
    module = scripts.load("benchmarks/caption_parts.py")
    assert module.right_parts(prediction, ["two cats above a dog on red", "a dog below two cats on red"]) == parts
