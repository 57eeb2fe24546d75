"""The load test of the server, with a few requests to the embedded models."""

import pytest
import scripts


@pytest.mark.slow
def test_both_servers_answer_all_requests(tmp_path, monkeypatch, capsys):
    script = scripts.load("benchmarks/serving.py")
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path)
    monkeypatch.setattr(script, "REQUESTS", 4)
    monkeypatch.setattr(script, "AT_ONCE", 2)
    scripts.call(script, monkeypatch)
    for name in script.SERVERS:
        found = script.tables.load(f"serving/{script.tables.file_name(name)}")
        assert found["whole_answers"] == found["requests"] == 4
        assert found["tokens_per_second"] > 0
    assert "| ADEM-VL | 4 of 4 |" in capsys.readouterr().out
    monkeypatch.setattr(script, "measure", None)  # nothing is measured again
    scripts.call(script, monkeypatch)
