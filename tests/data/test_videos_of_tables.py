"""Videos that a row names by the path of their file, from the data set to the batch."""

import json
from itertools import islice
from pathlib import Path

import architectures
import numpy as np
import pytest
import tiny
from PIL import Image

from adem_vl_hf.data.by_name import open_dataset
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.data.media import save_gif
from adem_vl_hf.data.sample import Shown, images_of

CHAT = [{"from": "human", "value": "<video>what?"}, {"from": "gpt", "value": "red"}]
FILES = {
    "rows.jsonl": json.dumps({"video": "v.gif", "question": "what?", "answer": "red"}),
    "rows.csv": "video,question,answer\nv.gif,what?,red\n",
    "rows.json": json.dumps([{"video": "v.gif", "conversations": CHAT}]),
}


@pytest.fixture(scope="module")
def collator(bases):
    return AdemVLCollator(architectures.ADEM_VL.processor(bases, tiny.build(bases)))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("file", FILES)
def test_a_video_file_of_a_row_is_trained_as_eight_frames(collator, tmp_path, file, streaming):
    save_gif([Image.new("RGB", (12, 12), (20 * number, 0, 0)) for number in range(12)], tmp_path / "v.gif")
    (tmp_path / file).write_text(FILES[file])
    rows = list(islice(open_dataset(str(tmp_path / file), streaming=streaming), 1))
    batch = collator(rows)
    assert batch["pixel_values"].shape[1] == 8
    reds = batch["pixel_values"][0, :, 0].mean(dim=(1, 2)).tolist()
    assert reds == sorted(set(reds))  # in order, and none twice
    assert np.count_nonzero(batch["labels"] != -100) > 0


def test_one_path_of_images_is_one_image():
    sample = {"id": "a", "prompt": "Q:", "answer": " A", "images": Path("a.png")}
    assert images_of(sample) == Shown("images", (Path("a.png"),))
