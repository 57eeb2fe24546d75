"""The scaling table: its formula by hand, and the processes that check it at a tiny size."""

import sys

import pytest
import scripts

from adem_vl_hf.loading import build_model


@pytest.fixture
def script(monkeypatch, tmp_path):
    script = scripts.load("benchmarks/scaling.py")
    monkeypatch.setattr(script, "FIGURE", tmp_path / "scaling.svg")
    return script


def test_the_time_of_a_ring_by_hand(script):
    assert script.all_reduce_seconds(1e9, 1) == 0
    assert script.sent_by_each(12.0, 4) == 18.0  # of 4 parts, 3 are passed on to be added and 3 to be copied
    in_a_node = 1.75e9 / 450e9 + 8.4e-6 + 14 * 3.4e-6
    assert script.all_reduce_seconds(1e9, 8) == pytest.approx(in_a_node)
    two_nodes = 2 * 15 / 16 * 1e9 / 400e9 + 8.4e-6 + 2 * 14e-6 + 28 * 3.4e-6
    assert script.all_reduce_seconds(1e9, 16) == pytest.approx(two_nodes)
    slow = two_nodes - 2 * 15 / 16 * 1e9 / 400e9 + 2 * 15 / 16 * 1e9 / 12.5e9
    assert script.all_reduce_seconds(1e9, 16, script.SLOW_NETWORK) == pytest.approx(slow)
    assert script.all_reduce_seconds(1e9, 8, script.SLOW_NETWORK) == pytest.approx(in_a_node)
    method = script.Method("x", 250_000_000, 4, in_a_node, True)
    assert script.efficiency(method, 8) == pytest.approx(0.5)
    assert script.efficiency(method, 1) == 1


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
@pytest.mark.slow  # it builds two 7B models without weights
def test_the_methods_have_the_sizes_of_their_papers(script, tmp_path):
    numbers = script.counted()
    assert numbers == script.tables.load("scaling")["numbers"]
    made = {method.name: method for method in script.methods(numbers)}
    assert made["ADEM-VL"].trained == script.SIZES[4] // 4 == 4_505_856
    layer = 16 * (4 * 2 * 4096 + 3 * (4096 + 11008))  # rank 16 of seven linear layers
    assert made["LLaVA-LoRA, rank 16"].trained == 32 * layer + 1025 * 4096 + 4097 * 4096  # and the projector
    assert made["LLaVA, full fine-tuning"].trained == 6_738_415_616 - 2 * (32_000 - script.VOCABULARY) * 4096
    script.plot(script.methods(numbers))
    drawn = script.FIGURE.read_bytes()
    script.plot(script.methods(numbers))
    assert script.FIGURE.read_bytes() == drawn


def test_predictions_are_those_of_a_line_through_two_sizes(script, monkeypatch):
    monkeypatch.setattr(script, "FIT_AT", (0, 2))
    points = [{"bytes": size, "seconds": seconds} for size, seconds in ((10, 3.0), (20, 9.0), (30, 5.0))]
    assert script.fitted(points) == [3.0, 4.0, 5.0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts the bytes of the loopback device")
def test_gloo_processes_send_what_the_formula_says(script, bases, monkeypatch, tmp_path):
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path)
    monkeypatch.setattr(script, "PROCESSES", (2, 3))
    monkeypatch.setattr(script, "SIZES", (240_000, 1_200_000, 6_000_000))
    monkeypatch.setattr(script, "FIT_AT", (0, 2))
    bases_of_tests = str(bases / "llama"), str(bases / "clip")
    found = script.measure(bases_of_tests, repeats=2)
    for number in (2, 3):
        for point in found[str(number)]["sizes"]:
            expected = number * script.sent_by_each(point["bytes"], number)
            assert expected <= point["sent"] < 1.1 * expected, point
    model, _ = build_model(*bases_of_tests)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found["2"]["ddp"]["trained_numbers"] == trained
    assert found["2"]["ddp"]["reduced"] == 4 * trained
    assert found["2"]["ddp"]["sent"] >= 4 * trained * 2
    table = script.check_table(found)
    assert f"{trained:,} trainable parameters, {4 * trained:,} bytes" in table
    assert table.splitlines()[2].startswith("| 0.24 |")
