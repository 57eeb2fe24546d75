"""What survives the way into a new process: models, processors and data sets, by pickle, torch.load and spawn."""

import multiprocessing
import pickle

import architectures
import datasets
import pytest
import tiny
import torch
from new_process import run_python
from PIL import Image
from torch.utils.data import DataLoader
from training_runs import picture_folder

from adem_vl_hf.data import ImageFolder, OpenMojiScenes, open_dataset
from adem_vl_hf.data.collator import AdemVLCollator

pytestmark = pytest.mark.core
CHECK = """
import pickle, sys, torch
kind, path, out = sys.argv[1:]
if kind == "pickle":
    model, processor, inputs = pickle.load(open(path, "rb"))
else:
    model, processor, inputs = torch.load(path, weights_only=False)
again = processor(images=inputs["picture"], text=inputs["text"])
assert torch.equal(again["input_ids"], inputs["made"]["input_ids"])
logits = model(**again).logits
model.train()  # hooks and frozen parameters came along
model(**again, labels=again["input_ids"]).loss.backward()
trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
assert trained and all("adapter" in name or "lora" in name for name in trained), trained
torch.save(logits.detach(), out)
"""


@pytest.mark.parametrize("arch", [architectures.ADEM_VL, pytest.param(architectures.EVLM, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["pickle", pytest.param("torch", marks=pytest.mark.slow)])
def test_a_model_and_its_processor_in_a_new_process(bases, tmp_path, arch, kind):
    model = tiny.perturb(arch.build(bases))
    processor = arch.processor(bases, model)
    picture, text = Image.new("RGB", (20, 16), "red"), "a photo of"
    made = processor(images=picture, text=text)
    model(**made)  # the library installs hooks in the first forward
    whole = (model, processor, {"picture": picture, "text": text, "made": made})
    if kind == "pickle":
        (tmp_path / "it").write_bytes(pickle.dumps(whole))
    else:
        torch.save(whole, tmp_path / "it")
    done = run_python(CHECK, kind, tmp_path / "it", tmp_path / "logits")
    assert done.returncode == 0, done.stderr
    logits = model(**made).logits
    assert (torch.load(tmp_path / "logits") - logits).abs().max() < 1e-4 * logits.abs().max()


def first_batch(data, collate):
    return next(iter(DataLoader(data, 2, collate_fn=collate)))


@pytest.mark.slow
def test_data_sets_and_collator_in_a_spawned_process(bases, tmp_path):
    """As the workers of a DataLoader are, where a process cannot be forked."""
    model = tiny.build(bases)
    processor = architectures.ADEM_VL.processor(bases, model)
    picture_folder(tmp_path / "pictures")
    rows = datasets.Dataset.from_dict({"image": [Image.new("RGB", (8, 8), "red")] * 4, "text": ["a cat"] * 4})
    rows.cast_column("image", datasets.Image()).to_parquet(tmp_path / "rows.parquet")
    sets = [
        ImageFolder(tmp_path / "pictures"),
        open_dataset(str(tmp_path / "rows.parquet")),
        OpenMojiScenes("train", size=4),
        open_dataset(str(tmp_path / "rows.parquet"), streaming=True),
    ]
    collate = AdemVLCollator(processor)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for data in sets:
            here, there = first_batch(data, collate), pool.apply(first_batch, (data, collate))
            assert here.keys() == there.keys()
            assert all(torch.equal(here[name], there[name]) for name in here), type(data)


@pytest.mark.slow
def test_a_processor_in_the_processes_of_map(bases):
    model = tiny.build(bases)
    processor = architectures.ADEM_VL.processor(bases, model)
    rows = datasets.Dataset.from_dict({"text": ["a cat", "two birds"] * 4})
    alone, together = (
        rows.map(lambda row: {"ids": processor(text=row["text"])["input_ids"][0].tolist()}, num_proc=number)
        for number in (1, 2)
    )
    assert together["ids"] == alone["ids"]
