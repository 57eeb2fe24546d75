"""Fields of the evaluation: when it runs, what it hands to the metrics, and answers that are generated."""

import architectures
import numpy as np
import pytest
import torch
from field_runs import EACH_STEP, logged, stock
from training_runs import samples
from transformers import GenerationConfig, Seq2SeqTrainer, Seq2SeqTrainingArguments

from adem_vl_hf.modeling.labels import NOT_SUPERVISED

pytestmark = pytest.mark.slow
SEQ2SEQ = {"trainer": Seq2SeqTrainer, "arguments": Seq2SeqTrainingArguments, "predict_with_generate": True}


class Seen:
    """Metrics that note what they are given."""

    def __init__(self):
        self.calls = []

    def __call__(self, prediction):
        self.calls.append(prediction)
        return {"number": float(len(self.calls))}


@architectures.each()
def test_when_it_runs(bases, arch, tmp_path):
    every = stock(bases, arch, tmp_path, **EACH_STEP)
    assert len(logged(every, "eval_loss")) == 3
    some = stock(bases, arch, tmp_path, eval_strategy="steps", eval_steps=2)
    assert [entry["step"] for entry in some.state.log_history if "eval_loss" in entry] == [2, 3]  # and after the last
    assert len(logged(stock(bases, arch, tmp_path, eval_on_start=True, **EACH_STEP), "eval_loss")) == 4
    late = logged(stock(bases, arch, tmp_path, eval_delay=2, **EACH_STEP), "eval_loss")
    assert late == logged(every, "eval_loss")[1:]
    epochs = stock(bases, arch, tmp_path, eval_strategy="epoch", max_steps=-1, num_train_epochs=2)
    assert len(logged(epochs, "eval_loss")) == 2


@architectures.each()
@pytest.mark.parametrize(
    "fields",
    [{}, {"eval_accumulation_steps": 1}, {"per_device_eval_batch_size": 1}, {"eval_use_gather_object": True}],
    ids=str,
)
def test_metrics_see_every_row(bases, arch, tmp_path, fields):
    """The logits of each row are those that the model gives it alone, however they are collected."""
    seen = Seen()
    fields = {"per_device_eval_batch_size": 2, **fields}
    made = stock(bases, arch, tmp_path, max_steps=1, around={"compute_metrics": seen}, **EACH_STEP, **fields)
    assert logged(made, "eval_number") == [1.0]
    (prediction,) = seen.calls
    assert len(prediction.predictions) == len(prediction.label_ids) == 5
    for row, sample in enumerate(samples(5, "some")):
        batch = made.data_collator([sample])
        with torch.no_grad():
            alone = made.model.eval()(**batch).logits[0].numpy()
        assert np.abs(prediction.predictions[row, : len(alone)] - alone).max() < 1e-4
        labels = prediction.label_ids[row]
        assert labels[labels != NOT_SUPERVISED].tolist() == batch["labels"][batch["labels"] != NOT_SUPERVISED].tolist()


@architectures.each()
def test_what_the_metrics_are_given(bases, arch, tmp_path):
    two = {"per_device_eval_batch_size": 2, "max_steps": 1, **EACH_STEP}
    seen = Seen()
    stock(bases, arch, tmp_path, include_for_metrics=["inputs", "loss"], around={"compute_metrics": seen}, **two)
    assert seen.calls[0].inputs.shape[0] == seen.calls[0].losses.shape[0] == 5
    seen = Seen()
    stock(bases, arch, tmp_path, eval_do_concat_batches=False, around={"compute_metrics": seen}, **two)
    assert [len(batch) for batch in seen.calls[0].predictions] == [2, 2, 1]
    seen = Seen()
    stock(bases, arch, tmp_path, prediction_loss_only=True, around={"compute_metrics": seen}, **two)
    assert not seen.calls

    def ids(logits, labels):
        assert labels is not None
        return logits.argmax(-1)

    seen = Seen()
    stock(bases, arch, tmp_path, around={"compute_metrics": seen, "preprocess_logits_for_metrics": ids}, **two)
    assert seen.calls[0].predictions.shape == seen.calls[0].label_ids.shape
    sizes = []

    def in_batches(prediction, compute_result=False):
        sizes.append(len(prediction.label_ids))
        return {"rows": sum(sizes)} if compute_result else {}

    made = stock(bases, arch, tmp_path, batch_eval_metrics=True, around={"compute_metrics": in_batches}, **two)
    assert sizes == [2, 2, 1]
    assert logged(made, "eval_rows") == [5]


@architectures.each()
def test_several_data_sets_are_evaluated(bases, arch, tmp_path):
    held_out = {"one": samples(4), "two": samples(3, False)}
    made = stock(bases, arch, tmp_path, max_steps=1, around={"eval_dataset": held_out}, **EACH_STEP)
    assert len(logged(made, "eval_one_loss")) == len(logged(made, "eval_two_loss")) == 1


@architectures.each()
def test_generated_answers(bases, arch, tmp_path):
    """``generation_max_length`` is the length of the answers, whatever the prompts' length."""
    found = {}
    for name, fields in {
        "five": {"generation_max_length": 5},
        "beams": {"generation_max_length": 5, "generation_num_beams": 3},
        "config": {"generation_config": GenerationConfig(max_new_tokens=3)},
        "sorted": {"generation_max_length": 5, "sortish_sampler": True},
    }.items():
        seen = Seen()
        made = stock(bases, arch, tmp_path, max_steps=1, around={"compute_metrics": seen}, **EACH_STEP, **SEQ2SEQ,
                     **fields)  # fmt: skip
        pad = made.processing_class.pad_token_id
        found[name] = [[token for token in row if token != pad] for row in seen.calls[0].predictions.tolist()]
        if name != "sorted":
            batch = made.data_collator(samples(5, "some"))
            short = {"five": {"max_new_tokens": 5}, "beams": {"max_new_tokens": 5, "num_beams": 3}}.get(name, {})
            expected = made.model.generate(**batch, do_sample=False, **short).tolist()
            assert found[name] == [[token for token in row if token != pad] for row in expected]
    assert [max(map(len, rows)) for rows in found.values()] == [5, 5, 3, 5]
    assert found["sorted"] == found["five"]
