"""A small wheel in the form of easy-VQA's, which pip finds in a local folder."""

import hashlib
import json
import zipfile
from dataclasses import replace
from io import BytesIO

import tiny

from adem_vl_hf.data import easy_vqa

WHEEL = "easy_vqa-1.0-py3-none-any.whl"
QUESTIONS = {
    "train": [("is there a red shape?", "no", 0), ("what color is the shape?", "blue", 0),
              ("is there a red shape?", "no", 1), ("is there a red shape?", "yes", 2)],
    "test": [("is there a red shape?", "no", 0), ("what color is the shape?", "red", 1),
             ("is there a red shape?", "yes", 1)],
}  # fmt: skip


def install(folder, monkeypatch):
    """Write the wheel into a folder, and let the package find it there, with a cache beside it."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        for split, questions in QUESTIONS.items():
            wheel.writestr(f"easy_vqa/data/{split}/questions.json", json.dumps(questions))
            for image in {row[2] for row in questions}:
                tiny.picture(image).convert("RGBA").save(png := BytesIO(), "PNG")
                wheel.writestr(f"easy_vqa/data/{split}/images/{image}.png", png.getvalue())
        info = "easy_vqa-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: easy-vqa\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("ADEM_VL_HF_CACHE", str(folder / "cache"))
    sha256 = hashlib.sha256((folder / WHEEL).read_bytes()).hexdigest()
    monkeypatch.setattr(easy_vqa, "PACKAGE", replace(easy_vqa.PACKAGE, sha256=sha256))
