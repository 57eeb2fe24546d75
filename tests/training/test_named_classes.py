"""Numbers of classes are trained and tested by the names that their own data set has for them."""

import datasets
import pytest
from PIL import Image
from transformers import Trainer, TrainingArguments

from adem_vl_hf.data import open_dataset
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.loading import build_model
from adem_vl_hf.training import build_trainer, training_arguments

RED = Image.new("RGB", (8, 8), (255, 0, 0))


def test_numbers_of_classes_are_trained_by_their_names(bases, tmp_path):
    names = datasets.ClassLabel(names=["a_cat", "a_dog"])
    rows = datasets.Dataset.from_dict({"image": [RED, RED], "kind_of": [1, 0]}).cast_column("kind_of", names)
    rows.to_parquet(tmp_path / "a.parquet")
    for streaming in (False, True):
        found = open_dataset(str(tmp_path / "a.parquet"), columns={"text": "kind_of"}, streaming=streaming)
        assert next(iter(found))["answer"] in (" a dog", " a cat")

    model, processor = build_model(str(bases / "llama"), str(bases / "clip"), projector_dim=8)
    arguments = TrainingArguments(
        tmp_path / "run", max_steps=1, remove_unused_columns=False, report_to="none", use_cpu=True, save_strategy="no"
    )
    collator = AdemVLCollator(processor, columns={"text": "kind_of"})
    for given in (rows, rows.to_iterable_dataset()):
        collator.classes = {}
        Trainer(model=model, args=arguments, train_dataset=given, data_collator=collator).train()
        labels = collator([rows[0]])["labels"][0]
        assert processor.decode(labels[labels >= 0], skip_special_tokens=True) == " a dog"


@pytest.fixture
def asked(monkeypatch):
    """The answers of each batch that our collator makes."""
    found, encode = [], AdemVLCollator._encode

    def kept(self, samples, rows):
        found.append([sample["answer"] for sample in samples])
        return encode(self, samples, rows)

    monkeypatch.setattr(AdemVLCollator, "_encode", kept)
    return found


def with_classes(names, numbers):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"image": [RED] * len(numbers), "label": numbers}, features=features)


@pytest.mark.parametrize("streaming", [False, True])
def test_held_out_data_have_the_names_of_their_own_classes(bases, tmp_path, asked, streaming):
    rows, held_out = with_classes(["bird", "cat", "dog"], [0, 1, 2]), with_classes(["cat", "dog"], [0, 1])
    if streaming:
        rows, held_out = rows.to_iterable_dataset(), held_out.to_iterable_dataset()
    model, processor = build_model(str(bases / "llama"), str(bases / "clip"), projector_dim=8)
    common = {"max_steps": 1, "report_to": "none", "use_cpu": True, "save_strategy": "no"}
    ours = training_arguments(tmp_path / "ours", None, batch_size=3, model=model, **common)
    trainer = build_trainer(model, processor, rows, ours, eval_dataset=held_out)
    trainer.evaluate()
    trainer.train()
    trainer.predict(held_out)
    assert asked == [[" cat", " dog"], asked[1], [" cat", " dog"]]
    assert sorted(asked[1]) == [" bird", " cat", " dog"]
    stock = TrainingArguments(tmp_path / "stock", remove_unused_columns=False, **common)
    trainer = Trainer(model=model, args=stock, train_dataset=rows, data_collator=AdemVLCollator(processor))
    trainer.train()
    trainer.evaluate(rows)
    with pytest.raises(ValueError, match=r"'label' are \['cat', 'dog'\] in these data and \['bird', 'cat', 'dog'\]"):
        trainer.evaluate(held_out)
