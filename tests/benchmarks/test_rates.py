"""Methods at several learning rates, in miniature: the rate is chosen by its own images; the other seeds have it."""

import easy_vqa_files
import pytest
import scripts


@pytest.fixture
def rates(tmp_path, monkeypatch):
    """The script, with its result files elsewhere and a few samples."""
    script = scripts.load("benchmarks/rates.py")
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path / "results")
    easy_vqa_files.install(tmp_path / "index", monkeypatch)
    sizes = script.DATA["scenes"].held.__globals__
    for name, number in {"CHOOSING_IMAGES": 1, "TEST_IMAGES": 1, "CHOOSING_SCENES": 1, "TEST_SCENES": 6}.items():
        monkeypatch.setitem(sizes, name, number)
    return script


def result(loss, right, rate=1e-3):
    asked = {kind: {"accuracy": right} for kind in ("all", "what", "yes or no", "choice")}
    metrics = {"questions": asked, "caption": {"cider": 2 * right}}
    return {
        "training": {"trained_numbers": 1, "steps": 2, "learning_rate": rate},
        "choosing_loss": loss,
        "loss": {"true": loss, "shuffled": 5.0},
        "metrics": {"true": metrics, "shuffled": metrics},
    }


@pytest.mark.parametrize("data", ["easy-vqa", "scenes"])
@pytest.mark.parametrize(
    ("heading", "names"),
    [("rates", ["ADEM-VL", "MemVP", "LaVIN"]), ("ladder rates", ["ADEM-VL", "+ multiscale visual prompt", "baseline"])],
)
def test_a_method_is_compared_at_its_best_rate(rates, data, heading, names):
    order = dict(zip(names, ((1.0, 0.5), (2.0, 0.4), (3.0, 0.3)), strict=True))
    for name, (loss, right) in order.items():
        for rate, worse in ((1e-3, 0.5), (4e-3, 0.0)):
            rates.tables.save(rates.result_file(data, name, rate, 0), result(loss + worse, right))
        rates.tables.save(rates.result_file(data, name, 4e-3, 1), result(loss + 0.2, right + 0.2))
        rates.tables.save(rates.result_file(data, name, 1e-3, 1), result(0.0, 1.0))  # of a rate that was not chosen
    assert rates.best_rate(rates.tried(data, names[1])) == 4e-3
    lines = rates.table(data, heading).splitlines()
    [ours] = [line for line in lines if line.startswith("| ADEM-VL |")]
    assert ours.startswith("| ADEM-VL | 1 | 1.500, , 1.000,  | 0.004 | 2 | 1.100 (1.000 to 1.200) | 60.0 (50.0 to")
    assert ours.endswith("| 93.85 |")
    if data == "easy-vqa":
        assert lines[-3].startswith("| the question alone |")
        assert lines[-1].endswith("held-out loss 1.00, all 1.00.")
    else:
        assert "| 120.0 (100.0 to 140.0) / 120.0 |" in ours  # CIDEr
        assert lines[-1].endswith("held-out loss 1.00, choice 1.00.")
    assert rates.sections()[f"{heading} on {data.replace('-', ' ')}"] == rates.table(data, heading)


@pytest.mark.parametrize(("data", "tested"), [("easy-vqa", 2), ("scenes", 6)])  # easy-VQA's first is for choosing
def test_every_rate_is_trained_once_and_the_best_with_all_seeds(
    rates, bases, monkeypatch, tmp_path, capsys, data, tested
):
    arm = rates.trained.__globals__["ARMS"]["adem_vl"]
    folders = str(bases / "llama"), str(bases / "clip")
    monkeypatch.setitem(
        rates.trained.__globals__["ARMS"],
        "adem_vl",
        arm._replace(build=lambda text, tower, **own: arm.build(*folders, **own)),
    )
    monkeypatch.setattr(rates, "RUNS", {"ADEM-VL": rates.Run("adem_vl", {}, 93.85)})
    monkeypatch.setattr(rates, "RATES", (1e-3, 8e-3))
    monkeypatch.setattr(rates, "BATCH_SIZE", 2)
    arguments = "--data", data, "--runs", "ADEM-VL", "--steps", 2, "--output-dir", tmp_path / "out"
    scripts.call(rates, monkeypatch, *arguments)
    made = sorted(file.stem for file in (tmp_path / "results/rates" / data).iterdir())
    best = rates.best_rate(rates.tried(data, "ADEM-VL"))
    assert made == sorted([*(f"ADEM_VL-{rate:g}-0" for rate in (1e-3, 8e-3)),
                           *(f"ADEM_VL-{best:g}-{seed}" for seed in (1, 2))])  # fmt: skip
    saved = rates.tables.load(rates.result_file(data, "ADEM-VL", 8e-3, 0))
    assert saved["training"]["learning_rate"] == 8e-3
    assert saved["metrics"]["shuffled"]["n"] == tested
    assert rates.table(data, "rates").startswith("| | trainable parameters |")
    assert rates.sections() == {}  # one method is not compared with any
    capsys.readouterr()
    scripts.call(rates, monkeypatch, *arguments)  # nothing is left to measure
    assert "===" not in capsys.readouterr().out
