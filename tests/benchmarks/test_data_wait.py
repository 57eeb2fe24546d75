"""The benchmark of waiting for data: what counts as waiting, and a run at a tiny size."""

import time

import pytest
import scripts

from adem_vl_hf.loading import build_model


class Trainer:
    """Waits for batches and trains on them, for times that are known."""

    def get_batch_samples(self, seconds):
        time.sleep(seconds)
        return [seconds]


def test_a_wait_is_the_time_between_asking_for_a_batch_and_having_it():
    script, trainer = scripts.load("benchmarks/data_wait.py"), Trainer()
    with script.timed_waits(trainer) as times:
        assert trainer.get_batch_samples(0.05) == [0.05]
        time.sleep(0.05)
        trainer.get_batch_samples(0.0)
    (asked, got), (asked_again, got_again) = times
    assert got - asked >= 0.05 > got_again - asked_again
    assert asked_again - got >= 0.05
    trainer.get_batch_samples(0.0)
    assert len(times) == 2


@pytest.mark.slow
def test_waits_of_every_source(bases, tmp_path, monkeypatch):
    script = scripts.load("benchmarks/data_wait.py")
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path)
    for name, value in {"WIDTH": 40, "HEIGHT": 30, "FILES": 20, "PICTURES": 12, "IN_TAR": 12, "WORKERS": (0, 1),
                        "BATCH_SIZE": 2, "STEPS": 3, "WARM_UP": 1}.items():  # fmt: skip
        monkeypatch.setattr(script, name, value)
    folders = str(bases / "llama"), str(bases / "clip")
    monkeypatch.setattr(script, "build_model", lambda vision_tower, **setting: build_model(*folders, **setting))
    scripts.call(script, monkeypatch)
    saved = script.tables.load("data_wait")
    assert [*saved["runs"]] == [f"{source}/{workers}" for source in script.SOURCES for workers in (0, 1)]
    assert all(0 < run["share"] < 1 and 0 < run["wait"] < run["step"] for run in saved["runs"].values())
    table = script.sections()["data wait table"]
    assert "| webdataset tar, streamed | 0" in table
    saved["runs"]["OpenMoji, drawn/0"]["share"] = 0.5
    script.tables.save("data_wait", saved)
    scripts.call(script, monkeypatch)  # goes on where it was stopped: nothing is left to measure
    assert "| OpenMoji, drawn | 0 | 50.0 |" in script.sections()["data wait table"].replace("0, the default", "0")
