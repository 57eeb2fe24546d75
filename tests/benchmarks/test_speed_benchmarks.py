"""The benchmarks of time, operations and memory: what they compute is what they say, at tiny sizes."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import scripts
import tiny
import torch
from closeness import assert_close

from adem_vl_hf import EvlmForConditionalGeneration


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A loader of scripts whose result files and figures go elsewhere."""

    def load(name):
        script = scripts.load(f"benchmarks/{name}.py")
        monkeypatch.setattr(script.tables, "RESULTS", tmp_path / "results")
        monkeypatch.setattr(script.tables, "ROOT", tmp_path)
        return script

    return load


def test_functions_take_turns_and_the_first_turn_warms_up():
    measures, calls = scripts.load("benchmarks/measures.py"), []
    times = measures.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert "".join(calls) == "abababab"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
    assert measures.ratios({"a": [1.0, 9.0, 2.0], "b": [4.0, 1.0, 5.0]}, "a") == {"a": 1.0, "b": 2.5}


def test_operations_and_memory_are_counted():
    measures = scripts.load("benchmarks/measures.py")
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert measures.counted_flops(lambda: a @ b) == 2 * 3 * 5 * 7
    before = measures.peak_memory()
    held = torch.ones(60_000_000)  # 240 MB, more than was let go since the peak before
    more = [torch.ones(60_000_000) for _ in range(8)] if measures.peak_memory() < before + held.nbytes / 2 else []
    assert measures.peak_memory() >= before + (0 if more else held.nbytes / 2)
    assert measures.peak_memory() > 100e6


def test_the_peak_of_a_process_is_not_that_of_the_one_that_started_it():
    held = bytearray(b"x") * 900_000_000  # more than a process takes that imports torch
    path = [str(Path(__file__).parents[2] / "benchmarks"), *sys.path]
    ask = "import measures; print(measures.peak_memory())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    answer = subprocess.run([sys.executable, "-c", ask], stdout=subprocess.PIPE, check=True, env=environment)
    assert 0 < int(answer.stdout) < len(held)


@pytest.mark.parametrize("backward", [False, True])
def test_every_way_of_the_fused_term_computes_the_same(backward, monkeypatch):
    script = scripts.load("benchmarks/fusion_speed.py")
    torch.manual_seed(0)
    hidden_states, visual = torch.randn(2, 7, 12), torch.randn(2, 9, 12)
    embeddings = torch.randn(1, 9, 12), torch.randn(1, 9, 12)
    key = script.kernel_map(visual + embeddings[0], "silu")
    ours = script.fuse(hidden_states, key, script.SCALE * (visual + embeddings[1]), "silu", script.DROP_RATIO)
    assert_close(script.authors_way(hidden_states, visual, *embeddings), ours)
    made = script.ways(2, 7, 9, 12, torch.float32, backward)
    assert tuple(made) == script.WAYS
    for run in made.values():
        run()


def test_the_table_of_the_fused_term(results, monkeypatch, capsys):
    script = results("fusion_speed")
    monkeypatch.setattr(script, "SHAPES", ((1, 4, 10, 8), (2, 1, 10, 8)))
    scripts.call(script, monkeypatch, "--repeats", 2)
    saved = script.tables.load("fusion_speed")
    assert len(saved["rows"]) == 6  # two precisions; forward and both, of one more token forward alone
    ratios = saved["rows"][0]["ratios"]
    line = f"| 1, 4, 10, 8 | float32 | forward | {ratios['fused term']:.2f} |"
    assert line in capsys.readouterr().out
    assert script.sections()["fusion table"].count("\n") == 7


def test_growth_is_measured_and_plotted(results, bases, monkeypatch, tmp_path):
    script = results("growth")
    monkeypatch.setattr(script, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(script, "build_model", lambda **setting: (tiny.build(bases).to(setting["dtype"]), None))
    monkeypatch.setattr(script, "TEXT", (2, 4))
    one = {"text tokens": ((4, 8), lambda n: (1, n, 5)), "visual slots": ((5, 10), lambda n: (1, 4, n))}
    monkeypatch.setattr(script, "SWEEPS", one)
    scripts.call(script, monkeypatch, "--repeats", 2)
    saved = script.tables.load("growth")["sweeps"]
    assert [point["n"] for point in saved["text tokens"]] == [4, 8]
    assert all(point["floor"] > 0 and point["adem_vl"] > 0 for points in saved.values() for point in points)
    figures = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert figures.keys() == {"growth_text_tokens.svg", "growth_visual_slots.svg"}
    scripts.call(script, monkeypatch, "--plot")
    assert figures == {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert "](figures/growth_visual_slots.svg)" in script.sections()["growth table"]


def test_the_steepest_step():
    script = scripts.load("benchmarks/growth.py")
    points = [{"n": 1, "t": 1.0}, {"n": 2, "t": 3.0}, {"n": 8, "t": 6.0}]
    assert script.worst_step(points, "t") == (1.5, 1, 2)


def test_what_an_image_takes_in_the_cache(bases):
    script = scripts.load("benchmarks/miniature_cost.py")
    model = tiny.build(bases)
    ids = torch.tensor([[1, 5, 6, 7]])
    bare = script.cached_bytes(model.language_model, {"input_ids": ids})
    assert bare == 3 * 2 * 2 * 4 * 8 * 4  # layers, keys and values, key-value heads, positions, head width, bytes
    marked = torch.tensor([[1, tiny.IMAGE_TOKEN_ID, 6, 7]])
    seen = script.cached_bytes(model, {"input_ids": marked, "pixel_values": tiny.pictures(1)})
    slots = sum(model.config.visual_token_counts)
    assert seen - bare == 2 * slots * tiny.TEXT_WIDTH * 4  # key and value, once for all layers
    evlm = EvlmForConditionalGeneration.from_base_pretrained(bases / "llama", bases / "clip", media_tokens=1)
    seen = script.cached_bytes(evlm, {"input_ids": marked, "pixel_values": tiny.pictures(1)})
    slots, width = tiny.GRID**2 + 1 + 1, evlm.config.cross_attention_dim  # the class token and the zero vector
    assert seen - bare == 2 * evlm.config.num_cross_attention_layers * slots * width * 4


def test_costs_of_the_miniature(results, bases, monkeypatch):
    script = results("miniature_cost")
    arms = {"adem_vl": ("adem_vl", {}), "evlm": ("evlm", {"media_tokens": 2})}
    monkeypatch.setattr(script, "ARMS", arms)
    build = script.build_model
    folders = str(bases / "llama"), str(bases / "clip")
    monkeypatch.setattr(script, "build_model", lambda kind, **fields: build(*folders, kind, **fields))
    monkeypatch.setattr(script, "BATCH_SIZE", 2)
    scripts.call(script, monkeypatch, "--repeats", 2)
    saved = script.tables.load("miniature_cost")["arms"]
    assert saved.keys() == arms.keys()
    assert all(value > 0 for part in saved.values() for key, value in part.items() if key != "token")
    assert "| ADEM-VL | 0 | 1.00 | 1.00 | 1.00 |" in script.sections()["miniature cost table"]


def test_the_table_of_clips_and_pairs(results):
    script = results("moving")
    caption = {"exact_match": 0.25, "n": 80}
    questions = {
        kind: {"accuracy": 0.75, "chance": 0.5, "n": 10} for kind in ("order", "what", "which", "more", "same")
    }
    families = {"size, yes or no": {"accuracy": 0.875, "n": 8}}
    right = {"caption": caption, "questions": questions, "order": families}
    control = copy.deepcopy(right)
    control["questions"]["order"]["accuracy"] = control["order"]["size, yes or no"]["accuracy"] = 0.5
    metrics = {
        "openmoji-videos": {"true": right, "shuffled_frames": control},
        "openmoji-pairs": {"true": right, "swapped_images": control},
    }
    assert set(script.sections().values()) == {script.tables.NOT_MEASURED}
    result = {"training": {"trained_numbers": 1234}, "image_tokens": 1, "metrics": metrics}
    script.tables.save("moving/evlm_4_media_tokens", result)
    line = script.sections()["moving table"].splitlines()[2]
    assert line.startswith("| EVLM, 4 media tokens | 1,234 | 1 | 75.0 / 50.0 | 75.0 / 75.0 | 25.0 / 25.0 |")
    order = script.sections()["order table"].splitlines()
    assert order[::2] == [
        "| event, form of the question | n | EVLM, 4 media tokens, % |",
        "| size, yes or no | 8 | 87.5 / 50.0 |",
    ]


def test_clips_go_on_from_single_pictures(results, bases, monkeypatch, tmp_path):
    script = results("moving")
    build = script.build_model
    folders = str(bases / "llama"), str(bases / "clip")
    monkeypatch.setattr(script, "build_model", lambda kind, **fields: build(*folders, kind, **fields))
    monkeypatch.setattr(script, "STEPS", 1)
    monkeypatch.setattr(script, "ARMS", {"evlm, 4 media tokens": script.Arm("evlm", "still", 1e-3)})
    monkeypatch.setattr(script, "BATCH_SIZE", 2)
    videos, pairs = script.OpenMojiVideos, script.OpenMojiPairs
    few = {
        "openmoji-videos": videos("test", 4, kinds=("order", "what", "caption"), frames=script.FRAMES),
        "openmoji-pairs": pairs("test", 3, kinds=("which", "more", "same")),
    }
    monkeypatch.setattr(script, "test_sets", lambda: few)
    still, processor = build(*folders, "evlm", media_tokens=1)
    for part in (tiny.perturb(still), processor):
        part.save_pretrained(tmp_path / "start" / "still")
    arguments = (
        "--start-dir",
        tmp_path / "start",
        "--output-dir",
        tmp_path / "out",
        "--steps",
        2,
    )  # the first one warms up
    scripts.call(script, monkeypatch, *arguments)
    saved = script.tables.load("moving/evlm_4_media_tokens")
    assert saved["metrics"]["openmoji-videos"].keys() == {"true", "shuffled_frames"}
    assert saved["metrics"]["openmoji-videos"]["true"]["order"]["horizontal, which of two"]["n"] == 2
    assert saved["metrics"]["openmoji-pairs"]["swapped_images"]["n"] == 3
    trained = EvlmForConditionalGeneration.from_pretrained(tmp_path / "out" / "evlm_4_media_tokens")
    assert trained.config.frame_embeddings == script.FRAMES
    first, now = (model.adapter.cross_attention[0].q_proj.weight for model in (still, trained))
    assert not torch.equal(first, now)
    assert torch.allclose(first, now, atol=0.05)  # it went on from there
    wrong = tmp_path / "wrong" / "still"
    for part in build(*folders):
        part.save_pretrained(wrong)
    with pytest.raises(ValueError, match="no adapter of evlm, but of adem_vl"):
        script.measure("evlm, 4 media tokens", wrong, tmp_path / "other", 2)


def test_the_cost_of_an_arm_beside_the_floor(results, bases, monkeypatch, capsys):
    script = results("efficiency")
    tower = script.Backbone(lambda folder: (str(bases / "llama"), str(bases / "clip")), 2, 2, False)
    monkeypatch.setattr(script, "BACKBONES", {"tiny": tower})
    monkeypatch.setattr(script, "NEW_TOKENS", 4)

    def in_this_process(command, check):
        scripts.call(script, monkeypatch, *command[2:])

    monkeypatch.setattr(script.subprocess, "run", in_this_process)
    arguments = "--arms", "floor", "adem_vl", "--backbones", "tiny", "--texts", 24, "--repeats", 2
    scripts.call(script, monkeypatch, *arguments)
    saved = script.tables.load("efficiency")
    floor, own = saved["tiny/24/floor"], saved["tiny/24/adem_vl"]
    assert (floor["trained_numbers"], floor["tokens"]) == (0, floor["floor_tokens"])
    assert floor["training_flops"] == floor["floor_training_flops"] < own["training_flops"]
    assert own["trained_numbers"] > 0
    assert own["tokens"] == own["floor_tokens"] + 1 + 3  # the class token and "Image: "
    assert all(own[key] > 0 for key in ("step", "step_with_tower", "answer", "memory"))
    assert script.sections()["cost table"].count("\n") == 3
    saved["tiny/24/floor"]["step"] = 123.0
    saved["tiny/24/lavin"] = own | {"step": 3 * own["step"]}
    script.tables.save("efficiency", saved)
    assert (
        script.sections()["cost of peers table"].splitlines()[2] == "| tiny, 24 | LaVIN | 3.00 | 1.56 | 1.00 | 1.11 |"
    )
    scripts.call(script, monkeypatch, *arguments)  # goes on where it was stopped: nothing is left to measure
    assert script.tables.load("efficiency")["tiny/24/floor"]["step"] == 123.0
