"""ScienceQA in its official layout."""

import json


def problem(split, **fields):
    base = {"question": "Which is  red?", "choices": ["sky", "blood", "grass"], "answer": 1, "hint": "", "image": None}
    return base | {"subject": "natural science", "grade": "grade2", "split": split} | fields


def write(folder, problems, splits, captions=None):
    (folder / "problems.json").write_text(json.dumps(problems))
    (folder / "pid_splits.json").write_text(json.dumps(splits))
    if captions is not None:
        (folder / "captions.json").write_text(json.dumps({"captions": captions}))
    return folder
