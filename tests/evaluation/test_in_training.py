"""Metrics of generated answers in the trainer equal the scores of the same answers outside it."""

import pytest
import tiny
from training_runs import processor_of, samples, trainer
from transformers import EvalPrediction

from adem_vl_hf.evaluation.in_training import answer_metrics
from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.evaluation.score import score
from adem_vl_hf.modeling.labels import NOT_SUPERVISED


@pytest.mark.parametrize("stop_strings", [None, ["a"]])
def test_the_trainer_logs_what_evaluation_scores(bases, tmp_path, stop_strings):
    held_out = samples(4, images="some")
    held_out[0] |= {"kind": "count", "references": ["a cat", "two cats"]}
    model = tiny.build(bases)
    model.generation_config.max_new_tokens = 6
    model.generation_config.stop_strings = stop_strings  # as a base's generation_config.json may have them
    processor = processor_of(bases, model)
    made, _ = trainer(
        bases, tmp_path, samples(4), model, eval_dataset=held_out, predict_with_generate=True,
        compute_metrics=answer_metrics(processor, held_out, "openmoji-scenes"),
    )  # fmt: skip
    found = made.evaluate()
    assert model.generation_config.max_length is None  # Transformers filled in 20 for each batch
    rows = predict(model, processor, held_out, output=tmp_path / "p.jsonl", max_new_tokens=6, progress=False)
    scores = score("openmoji-scenes", rows)
    for name in ("exact_match", "bleu4", "cider"):
        assert found[f"eval_caption_{name}"] == pytest.approx(scores["caption"][name])
    assert found["eval_count_accuracy"] == scores["questions"]["count"]["accuracy"]


def test_every_reference_counts_and_padding_does_not(bases):
    processor = processor_of(bases, tiny.build(bases))
    dataset = samples(2)
    dataset[0]["references"] = ["no", "hello"]
    ids = processor.tokenizer(["hello", "two birds"], add_special_tokens=False)["input_ids"]
    width = max(map(len, ids))
    padded = [one + [NOT_SUPERVISED] * (width - len(one)) for one in ids]
    found = answer_metrics(processor, dataset)(EvalPrediction(padded, padded))
    assert found["caption_exact_match"] == 0.5
    with pytest.raises(ValueError, match="1 predictions and 2 samples: give answer_metrics the eval_dataset"):
        answer_metrics(processor, dataset)(EvalPrediction(padded[:1], padded[:1]))
