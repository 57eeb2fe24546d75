"""ScienceQA as the Hub has it: the same samples from parquet files, and the columns of its table."""

import datasets
import pytest
from PIL import Image

from adem_vl_hf.data import HubScienceQA, open_dataset
from adem_vl_hf.evaluation.score import score

ROW = {
    "question": "Which is red?", "choices": ["sky", "blood"], "answer": 1, "hint": "", "task": "closed choice",
    "grade": "grade2", "subject": "natural science", "topic": "", "category": "", "skill": "",
    "lecture": "Look.", "solution": "",
}  # fmt: skip


def save(folder, split, rows):
    """Write one parquet file with the column types of derek-thomas/ScienceQA."""
    texts = {name: datasets.Value("string") for name in ROW if name not in ("choices", "answer")}
    features = {"image": datasets.Image(), **texts, "choices": datasets.List(datasets.Value("string")),
                "answer": datasets.Value("int8")}  # fmt: skip
    (folder / "data").mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_list(rows, datasets.Features(features))
    table.to_parquet(folder / "data" / f"{split}-00000-of-00001-1028f23e353fbe3e.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
        red = Image.new("RGB", (5, 3), "red")
        save(folder, "validation", [{**ROW, "image": red, "hint": "Colours."}, {**ROW, "image": None, "answer": 0}])
        save(folder, "test", [{**ROW, "image": None, "grade": "grade8", "subject": "language science"}])
        yield folder


def test_samples_are_those_of_the_benchmarks_own_files(folder):
    dataset = open_dataset(str(folder), "val", prompt_format="QCM-LA")
    assert isinstance(dataset, HubScienceQA)
    first, second = dataset
    assert first["image"].size == (5, 3)
    assert first["prompt"] == "Question: Which is red?\nContext: Colours.\nOptions: (A) sky (B) blood\nResponse:"
    assert first["answer"] == " Look. The answer is B."
    assert second == {
        "id": "val-1",
        "image": None,
        "prompt": "Question: Which is red?\nContext: N/A\nOptions: (A) sky (B) blood\nResponse:",
        "answer": " Look. The answer is A.",
        "references": ["sky"],
        "kind": "choice",
        "choices": ["sky", "blood"],
    }


def test_its_problems_give_the_columns_of_the_table(folder):
    dataset = HubScienceQA(folder, "val")
    rows = [
        {"id": f"val-{n}", "kind": "choice", "prediction": "The answer is B.", "references": [], "choices": []}
        for n in range(2)
    ]
    columns = score("scienceqa", rows, dataset.problems)["columns"]
    expected = {"NAT": 0.5, "SOC": None, "TXT": 1.0, "IMG": 1.0, "NO": 0.0, "G1-6": 0.5, "G7-12": None, "Avg": 0.5}
    assert {name: columns[name] for name in expected} == expected


def test_what_the_hub_has_not(folder):
    with pytest.raises(ValueError, match="ScienceQA on the Hub has no captions"):
        open_dataset(str(folder), "test", use_captions=True)
    with pytest.raises(ValueError, match="minitest"):
        HubScienceQA(folder, "minitest")
    with pytest.raises(ValueError, match="prompt_format 'QM'"):
        HubScienceQA(folder, prompt_format="QM")
    assert len(HubScienceQA(folder, "test")) == 1
