"""The tables of the pages come from result files alone, and the benchmark fills those from what it measured."""

import json
import re
import shutil

import pytest
import scripts
import tiny

from adem_vl_hf.data import OpenMojiNames
from adem_vl_hf.data.openmoji.styles import STYLES
from adem_vl_hf.loading import CHECKPOINT, TOWER, build_model


def tables_of(name):
    """A result file of the repository."""
    return json.loads((scripts.ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


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


def test_a_table_holds_every_measure_under_every_condition():
    script = scripts.load("benchmarks/quality.py")
    made = {"true": 0.5, "shuffled": 0.25, "none": 0.125}
    metrics = {task: {c: scores(v) for c, v in made.items()} for task in ("openmoji-scenes", "openmoji-names")}
    del metrics["openmoji-names"]["none"]["questions"]["choice"]["n"]  # only the first condition's is shown
    lines = script.quality_table(metrics).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].split(" | ")[-3:] == ["own image", "another image", "no image |"]
    assert lines[2:6] == [
        "| scenes | caption, exact match, % | 7 | | 50.0 | 25.0 | 12.5 |",
        "| scenes | caption, BLEU-4 | 7 | | 25.0 | 12.5 | 6.2 |",
        "| scenes | caption, CIDEr | 7 | | 100.0 | 50.0 | 25.0 |",
        "| scenes | four-way choice, % right | 5 | 25.0 | 50.0 | 25.0 | 12.5 |",
    ]
    # a name has too few words for BLEU-4, which would be 0 even if every name were right
    expected = [line.replace("| scenes", "| names") for line in lines[2:6]]
    expected[1] = "| names | caption, BLEU-4 | 7 | | n/a | n/a | n/a |"
    assert lines[6:] == expected


def test_names_have_too_few_words_for_bleu4():
    """Which is why the table does not show it."""
    names = OpenMojiNames("test", kinds=("caption",))
    assert max(len(names[index]["references"][0].split()) for index in range(len(names))) < 4


def test_the_small_tables_are_parts_of_the_large_ones(tmp_path, monkeypatch):
    """Each figure of README.md stands in a row of docs/results.md, too."""
    script = scripts.load("benchmarks/at_a_glance.py")
    large = scripts.load("benchmarks/quality.py").quality_table(tables_of("shipped")["metrics"])
    lines = script.quality_table(tables_of("shipped")["metrics"]).splitlines()
    assert lines[2] == "| names: four-way choice | 99.4 | 16.1 | 25.0 |"
    for line in lines[2:]:
        label, own, other, chance = (cell.strip() for cell in line.strip("|").split("|"))
        test_set, measure = label.replace("whole caption, exact", "caption, exact").split(": ")
        (row,) = [row for row in large.splitlines() if row.startswith(f"| {test_set} | {measure}, %")]
        assert [cell.strip() for cell in row.strip("|").split("|")][3:6] == [chance, own, other]
    costs = {file: tables_of(file) for file in ("efficiency", "efficiency_gpu")}
    large = scripts.load("benchmarks/efficiency.py").table({**costs["efficiency"], **costs["efficiency_gpu"]})
    lines = script.cost_table(costs).splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines][:2] == ["ADEM-VL", "MemVP"]
    for line in lines:
        label, method, trainable, step, *_ = (cell.strip() for cell in line.strip("|").split("|"))
        backbone = {"S": "smollm2, 256", "L": "random-7b, 256"}[label[0]]
        (row,) = [row for row in large.splitlines() if row.startswith(f"| {backbone} | {method} | {trainable} |")]
        assert row.split(" | ")[5] == step
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path)
    assert set(script.sections().values()) == {script.tables.NOT_MEASURED}


def test_a_row_with_too_few_cells_is_refused(results):
    assert results.markdown(["a", "b"], [["1", ""]]) == "| a | b |\n|---|---|\n| 1 | |"
    with pytest.raises(ValueError, match=r"\['1'\] has 1 cells, and the table has 2 columns"):
        results.markdown(["a", "b"], [["1"]])


def test_results_are_kept_by_name(results):
    assert results.load("shipped") is None
    results.save("shipped", {"a": 1})
    results.save("shipped", {"a": 2})
    assert results.load("shipped") == {"a": 2}
    assert [path.name for path in results.RESULTS.iterdir()] == ["shipped.json"]


def test_only_what_stands_between_the_marks_is_replaced(results, tmp_path):
    page, other = tmp_path / "README.md", tmp_path / "results.md"
    before = "# x\n<!-- a -->\nold\n<!-- /a -->\nkept | a\n<!-- b --><!-- /b -->\nend\n"
    page.write_text(before)
    other.write_text("<!-- c --><!-- /c -->")
    pages = (page, other)
    results.write_sections({"a": "| new |", "b": "two\nlines", "c": "3"}, pages)
    once = page.read_text()
    assert once == "# x\n<!-- a -->\n| new |\n<!-- /a -->\nkept | a\n<!-- b -->\ntwo\nlines\n<!-- /b -->\nend\n"
    assert other.read_text() == "<!-- c -->\n3\n<!-- /c -->"
    results.write_sections({"a": "| new |"}, pages)
    assert page.read_text() == once
    with pytest.raises(
        ValueError, match=r"no place for 'd': put <!-- d --> and <!-- /d --> into README\.md or results"
    ):
        results.write_sections({"a": "lost", "d": "x"}, pages)
    assert page.read_text() == once
    assert {path.name for path in tmp_path.glob("*.md*")} == {"README.md", "results.md"}


@pytest.mark.parametrize("page", ["README.md", "docs/results.md", "docs/towers.md"])
def test_the_pages_state_what_the_result_files_say(page):
    tables, made = scripts.package("tables"), scripts.load("benchmarks/write_tables.py").sections()
    assert scripts.ROOT / page in tables.PAGES
    text = (scripts.ROOT / page).read_text(encoding="utf-8")
    stated = {name: body.strip() for name, body in re.findall(r"<!-- ([a-z ]+) -->(.*?)<!-- /\1 -->", text, re.S)}
    stated.pop("snippet output", None)  # run and compared by test_readme
    assert stated
    assert stated == {name: made[name] for name in stated}
    assert [name for name, body in stated.items() if body == tables.NOT_MEASURED] == []


def test_every_section_has_its_place_and_every_table_of_figures_is_made():
    made = scripts.load("benchmarks/write_tables.py").sections()
    texts = {page: page.read_text(encoding="utf-8") for page in scripts.package("tables").PAGES}
    assert {name: sum(f"<!-- {name} -->" in text for text in texts.values()) for name in made} == dict.fromkeys(made, 1)
    for page, text in texts.items():
        by_hand = re.sub(r"<!-- ([a-z ]+) -->.*?<!-- /\1 -->", "", text, flags=re.S)
        rows = [line for line in by_hand.splitlines() if line.startswith("| ") and re.search(r"\d\.\d", line)]
        assert rows == [], page.name


def test_the_figures_in_sentences_are_those_of_the_tables():
    """Prose rounds; what it rounds stands here."""
    readme, page, *_ = (path.read_text(encoding="utf-8") for path in scripts.package("tables").PAGES)
    shipped, demo = tables_of("shipped")["metrics"], tables_of("demo")["training"]
    exact = shipped["openmoji-scenes"]["true"]["caption"]["exact_match"]
    assert f"as are {round(100 * exact)} % of all" in readme
    trained = json.loads((CHECKPOINT / "training.json").read_text())
    assert f"{trained['steps']:,} steps of {trained['batch_size']} samples" in page
    for text in (readme, page):
        assert f"{trained['trained_numbers']:,} trainable parameters" in text
    assert f"The demo trains for {demo['steps']} steps" in page
    floors = [result for name, result in tables_of("efficiency").items() if name.endswith("/floor")]
    noise = {key: [round(100 * abs(one[key] - 1)) for one in floors] for key in ("step", "token")}
    said = re.search(r"(\d+) to (\d+) % of a step, and up to (\d+) % of a generated\s+token", page)
    assert tuple(map(int, said.groups())) == (min(noise["step"]), max(noise["step"]), max(noise["token"]))
    looks = tables_of("where_it_looks")
    assert looks["effect"]["own_thing_higher"] > 0.9  # "nearly always"
    assert looks["score"]["highest_place"]["neither"] < 0.05  # "finds things"
    assert 0.7 < looks["score"]["own_thing_higher"] < 0.8  # "in seven of ten cases"
    assert looks["scenes"] == 100
    named, exact = re.search(r"of 100\s+images .* (\d+) captions name both, and (\d+) are\s+exact", readme).groups()
    parts = [round(100 * looks["captions"][part]) for part in ("all things", "everything")]
    assert [int(named), int(exact)] == parts
    assert round(6 * parts[0] / 100) == 5
    assert "five captions of six name both" in page


def test_the_cards_state_what_the_result_files_say(tmp_path):
    shipped = tmp_path / "adapter"
    shutil.copytree(CHECKPOINT, shipped)
    (tmp_path / "tower").mkdir()
    shutil.copyfile(TOWER / "README.md", tmp_path / "tower" / "README.md")  # which names its licence
    metrics = json.loads((scripts.ROOT / "benchmarks" / "results" / "shipped.json").read_text())["metrics"]
    scripts.load("benchmarks/quality.py").write_cards(metrics, shipped, tmp_path)
    made = (shipped / "README.md").read_text()
    assert made == (tmp_path / "MODEL_CARD.md").read_text()
    assert made == (CHECKPOINT / "README.md").read_text() == (scripts.ROOT / "MODEL_CARD.md").read_text()
    measured = metrics["openmoji-scenes"]["true"]["caption"]
    assert f"| openmoji-scenes | own image caption exact_match | {round(measured['exact_match'], 4)} |" in made


def test_the_benchmark_measures_with_controls_and_takes_over_the_demo(bases, tmp_path, monkeypatch, capsys):
    model, processor = build_model(str(bases / "llama"), str(bases / "clip"), fusion_scale=1.0, visual_scale=1.0)
    script = scripts.load("benchmarks/quality.py")
    cards = []
    (tmp_path / "training.json").write_text(json.dumps({f"{style}_named": 0.5 for style in STYLES}))
    monkeypatch.setattr(script, "TOWER", tmp_path)
    monkeypatch.setattr(script, "load_checkpoint", lambda name, **setting: (model, processor))
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(script, "write_cards", cards.append)
    output = tmp_path / "out"
    scripts.call(script, monkeypatch, "--output-dir", output, "--scenes", 40, "--names", 4, "--card")
    first = script.digest(model)
    metrics = script.tables.load("shipped")["metrics"]
    assert metrics.keys() == {"openmoji-scenes", "openmoji-names"}
    for task, number in (("openmoji-scenes", 40), ("openmoji-names", 4)):
        assert metrics[task].keys() == {"true", "shuffled", "none"}
        for images, part in metrics[task].items():
            assert part["n"] == number
            assert len((output / first / f"{task}-{images}.jsonl").read_text().splitlines()) == number
    assert cards == [metrics]
    made = script.sections()
    assert made["shipped table"] == script.quality_table(metrics)
    assert "openmoji 50.0 %" in made["tower"]
    assert "noto 50.0 %" in made["tower"]
    assert made["demo table"] == script.tables.NOT_MEASURED
    # another adapter does not go on with this one's predictions
    assert script.digest(tiny.perturb(model)) != first
    # a checkpoint that is named gets its own card, and nothing else is saved
    named = {}
    with monkeypatch.context() as patch:
        patch.setattr(script, "write_model_card", lambda folder, repo_id, metrics: named.update({folder: metrics}))
        scripts.call(script, patch, "--checkpoint", tmp_path, "--output-dir", output, "--scenes", 40, "--names", 4,
                     "--card")  # fmt: skip
    assert named[tmp_path].keys() == metrics.keys()
    assert script.tables.load("shipped")["metrics"] == metrics
    # the demo's figures are taken over as they are
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    scripts.call(script, monkeypatch, "--demo", tmp_path)
    assert script.tables.load("demo")["metrics"] == metrics
    assert cards == [metrics]  # the card is the shipped checkpoint's
    assert "demo table\n| test set" in capsys.readouterr().out


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
