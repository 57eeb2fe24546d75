"""A file that takes long to open keeps only the one waiting who sent it."""

import os
import threading

import pytest
import tiny
from app_client import AppUser, free_port

from adem_vl_hf import AdemVLProcessor
from adem_vl_hf.app.answers import Answers

if "CHROMIUM" not in os.environ:  # set by the make target, which installs the page's packages
    pytest.importorskip("gradio", reason="needs the extra `app`")

from adem_vl_hf.app import page as app_page

# what Gradio itself is warned of is not ours to mend
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def test_others_are_answered_while_a_file_is_opened(bases, tmp_path, monkeypatch):
    model, port = tiny.build(bases), free_port()
    processor = AdemVLProcessor.from_base_pretrained(bases / "llama", bases / "clip", model.config)
    opening, other_was_answered, outcome = threading.Event(), threading.Event(), []
    open_files = app_page.open_files

    def open_slowly(paths):
        if any("slow" in path for path in paths):
            opening.set()
            if not other_was_answered.wait(60):
                raise ValueError("nobody else was answered")
        return open_files(paths)

    monkeypatch.setattr(app_page, "open_files", open_slowly)
    for name in ("slow", "other"):
        tiny.picture(1).save(tmp_path / f"{name}.png")
    page = app_page.serve(Answers(model, processor, 4), "A title", "127.0.0.1", port, wait=False)
    try:
        slow, other = (AppUser(f"http://127.0.0.1:{port}") for _ in range(2))

        def ask_slowly():
            try:
                outcome.append(slow.ask("a photo of", tmp_path / "slow.png"))
            except ValueError as error:
                outcome.append(error)

        thread = threading.Thread(target=ask_slowly)
        thread.start()
        assert opening.wait(60)
        answer = other.ask("a photo of", tmp_path / "other.png")
        assert other.where()
        other_was_answered.set()
        thread.join()
        assert outcome == [answer]
    finally:
        page.close()
