"""The benchmark of the tower's styles: its probe finds what is there, and its tables hold what was measured."""

import scripts
import torch

PARTS = {
    "names probe": {"share": 0.5, "n": 8},
    "shapes probe": {"share": 0.25, "n": 4},
    "forty shapes": {"exact_match": 0.5},
}


def test_a_probe_finds_what_features_tell_and_nothing_else():
    script = scripts.load("benchmarks/tower_styles.py")
    generator = torch.Generator().manual_seed(0)
    y, x = torch.arange(300) % 3, torch.randn(300, 16, generator=generator)
    telling = x + 3 * torch.nn.functional.one_hot(y, 16)
    assert script.probe(telling[:200], y[:200], telling[200:], y[200:])["share"] > 0.8
    nothing = script.probe(x[:200], y[:200], x[200:], y[200:])
    assert nothing["share"] < 0.5
    assert nothing["n"] == 100


def test_tables_hold_the_towers_that_were_measured_to_the_end(tmp_path, monkeypatch):
    script = scripts.load("benchmarks/tower_styles.py")
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path)
    assert set(script.sections().values()) == {script.tables.NOT_MEASURED}
    answered = {style: {"names choice": {"share": number / 10, "n": 150}} for number, style in enumerate(script.STYLES)}
    script.tables.save("styles/shipped", PARTS | answered)
    script.tables.save("styles/begun", PARTS)
    made = script.sections()
    assert made["styles table"].splitlines()[2:] == [
        f"| shipped | {style} | {10 * number:.1f} |" for number, style in enumerate(script.STYLES)
    ]
    assert made["styles probes"].splitlines()[2:] == ["| shipped | 50.0 (8) | 25.0 (4) | 30 of 60 |"]


def test_a_part_is_measured_once(tmp_path, monkeypatch, capsys):
    script = scripts.load("benchmarks/tower_styles.py")
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path)
    measured = []
    monkeypatch.setattr(script, "probe_of_shapes", lambda tower: measured.append(tower) or PARTS["shapes probe"])
    for _ in range(2):
        arguments = ["--parts", "shapes probe", "--name", "a new one", "--vision-tower", tmp_path]
        scripts.call(script, monkeypatch, *arguments)
    assert measured == [tmp_path]
    assert script.tables.load("styles/a_new_one") == {"shapes probe": PARTS["shapes probe"]}
