"""The comparison in miniature: every run is one that can be built, and what is measured goes into its table."""

import subprocess
import sys

import pytest
import scripts
from closeness import assert_close
from transformers import AutoConfig, CLIPVisionConfig

from adem_vl_hf.loading import CHECKPOINT, TOWER

# of PEFT's, which the LLaVA arm is made with
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """The script, with its result files elsewhere."""
    script = scripts.load("benchmarks/compare.py")
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path / "results")
    return script


@pytest.mark.slow
def test_every_run_fits_the_embedded_bases(compare):
    text = AutoConfig.from_pretrained(CHECKPOINT).text_config
    tower = CLIPVisionConfig.from_pretrained(TOWER)
    runs = {(group, name): run for group, all_of in compare.GROUPS.items() for name, run in all_of.items()}
    counts = {name: compare.ARMS[run.arm].count(text, tower, **run.settings)["trained"] for name, run in runs.items()}
    ours = counts["peers", "ADEM-VL"]
    for (group, name), number in counts.items():
        if group == "peers" and name != "language model alone":
            assert abs(number / ours - 1) < 0.05, name
    assert (
        counts["ladder", "baseline"]
        < counts["ladder", "+ class token"]
        == counts["ladder", "+ parameter-free cross-attention"]
    )
    assert counts["ladder", "+ adaptive fusion"] == ours
    assert max(run.paper for (group, _), run in runs.items() if group == "placement") == 93.85


def test_the_same_run_of_two_tables_is_made_once(compare):
    groups = compare.GROUPS
    one = groups["peers"]["ADEM-VL"]
    same = (
        ("ladder", "+ adaptive fusion"),
        ("placement", "mlp_in, mlp_out"),
        ("kernel", "silu"),
        ("scales", "64 + 16"),
    )
    assert {compare.key(groups[group][name]) for group, name in same} == {compare.key(one)} == {"peers_ADEM_VL"}
    different = {compare.key(run) for runs in groups.values() for run in runs.values()}
    assert len(different) == sum(map(len, groups.values())) - len(same) - 1  # and of "visual input" one


def test_a_run_is_trained_and_measured_and_not_again(compare, bases, monkeypatch, tmp_path, capsys):
    arm = compare.ARMS["adem_vl"]
    folders = str(bases / "llama"), str(bases / "clip")
    monkeypatch.setitem(
        compare.ARMS, "adem_vl", arm._replace(build=lambda text, tower, **own: arm.build(*folders, **own))
    )
    floor = compare.ARMS["floor"]
    monkeypatch.setitem(
        compare.ARMS, "floor", floor._replace(build=lambda text, tower, **own: floor.build(*folders, **own))
    )
    monkeypatch.setattr(compare, "TEST_SIZE", 6)
    monkeypatch.setattr(compare, "BATCH_SIZE", 2)
    few = {
        "peers": {
            "alone": compare.GROUPS["peers"]["language model alone"],
            "ADEM-VL": compare.Run("adem_vl", {}, 93.85),
        }
    }
    monkeypatch.setattr(compare, "GROUPS", few)
    monkeypatch.setattr(compare, "key", lambda run: run.arm)
    arguments = "--groups", "peers", "--seeds", 0, 1, "--steps", 2, "--output-dir", tmp_path / "out"
    scripts.call(compare, monkeypatch, *arguments)
    saved = compare.tables.load("compare/adem_vl-1")
    assert saved["training"]["seed"] == 1
    assert saved["metrics"]["shuffled"]["n"] == 6
    assert saved["held_out_loss"]["true"] > 0
    lines = compare.sections()["peers table"].splitlines()
    assert lines[2].startswith("| alone | 0 | 2 | ")
    assert " | 2 | " in lines[3]
    assert lines[3].endswith("| 93.85 |")
    capsys.readouterr()
    scripts.call(compare, monkeypatch, *arguments)  # nothing is left to measure
    assert "===" not in capsys.readouterr().out


def test_the_held_out_loss_counts_every_supervised_token_alike(compare, bases, monkeypatch):
    model, processor = compare.ARMS["adem_vl"].build(str(bases / "llama"), str(bases / "clip"))
    test = compare.OpenMojiScenes("test", 6, kinds=("caption", "choice"))
    whole = compare.held_out_loss(model, processor, test, "true")
    monkeypatch.setattr(compare, "BATCH_SIZE", 4)
    assert_close(compare.held_out_loss(model, processor, test, "true"), whole)
    batch = compare.AdemVLCollator(processor)([test[i] for i in range(6)])
    assert_close(model(**batch).loss, whole)


def test_the_order_of_a_table_beside_the_papers(compare, monkeypatch):
    assert compare.rank_correlation([1.0, 2.0, 9.0], [0.1, 0.2, 0.3]) == pytest.approx(1)
    assert compare.rank_correlation([3.0, 2.0, 1.0], [0.1, 0.2, 0.3]) == pytest.approx(-1)
    runs = {name: compare.Run("adem_vl", {}, paper) for name, paper in (("a", 90.0), ("b", 91.0), ("c", 92.0))}
    monkeypatch.setattr(compare, "GROUPS", {"kernel": {**runs, "never measured": compare.Run("floor", {}, 1.0)}})
    values = {"a": (3.0, 0.2), "b": (2.0, 0.3), "c": (1.0, 0.1)}  # loss, share of right choices
    results = {
        name: {
            "training": {"trained_numbers": 1},
            "held_out_loss": {"true": loss, "shuffled": 5.0},
            "metrics": {
                images: {"questions": {"choice": {"accuracy": right}}, "caption": {"cider": right}}
                for images in ("true", "shuffled")
            },
        }
        for name, (loss, right) in values.items()
    }
    found = {name: [result] for name, result in results.items()}
    monkeypatch.setattr(compare, "measured", lambda group: found)
    assert compare.order("kernel", found).endswith("held-out loss 1.00, choice -0.50, CIDEr -0.50.")
    assert compare.table("kernel").splitlines()[2] == "| a | 1 | 1 | 3.000 | 5.000 | 20.0 | 20.0 | 20.0 | 90.00 |"
    del found["c"]
    assert compare.order("kernel", found) == ""  # two have one order or the other, by chance


@pytest.mark.slow
def test_several_jobs_go_on_where_one_stopped(compare, monkeypatch):
    done = subprocess.run(
        [sys.executable, str(compare.__file__), "--groups", "ladder", "--seeds", "0", "--jobs", "2"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "===" not in done.stdout  # every result of it is in the repository
    assert "| + adaptive fusion |" in done.stdout
    with pytest.raises(SystemExit):
        scripts.call(compare, monkeypatch, "--jobs", 0)
