"""Options of ``TrainingArguments``: accumulation, bfloat16 autocast, metrics of generated answers."""

import json
from concurrent.futures import Future

import architectures
import numpy as np
import pytest
import tiny
import torch
import transformers
from accelerate.state import AcceleratorState
from closeness import assert_equal
from huggingface_hub import HfApi
from safetensors.torch import load_file
from torch.utils.data import IterableDataset
from training_runs import PLAIN, adapter, assert_moved_alike, blocks, samples, trainer

from adem_vl_hf import precision, training
from adem_vl_hf.modeling.labels import NOT_SUPERVISED, prompts_alone
from adem_vl_hf.training import train, training_arguments

pytestmark = [pytest.mark.core, pytest.mark.kernels]


@pytest.fixture(autouse=True)
def no_precision_left_over(monkeypatch):
    """Reset the precision, which Transformers 4.57 leaves in the environment after TrainingArguments are made."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)


@architectures.each()
def test_a_batch_in_parts_moves_the_adapter_as_the_whole_does(bases, arch, tmp_path):
    """The answers differ in length, and every token must have the same weight in any part of the batch."""
    fresh, moved = adapter(arch.build(bases)), {}
    for parts in (1, 2, 4):
        made, processor = trainer(
            bases, tmp_path / str(parts), blocks(8), arch.build(bases), batch_size=4 // parts,
            gradient_accumulation_steps=parts, max_steps=2, logging_steps=1, **PLAIN,
        )  # fmt: skip
        train(made, processor)
        losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
        moved[parts] = losses, adapter(made.model)
    for parts in (2, 4):
        assert moved[parts][0] == pytest.approx(moved[1][0], rel=2e-4)  # as logged: rounded
        assert_moved_alike(moved[parts][1], moved[1][1], fresh)


@architectures.each()
def test_autocast_computes_in_bfloat16_and_trains_float32(bases, arch, tmp_path):
    fresh, moved = adapter(arch.build(bases)), {}
    for bf16 in (False, True):
        made, processor = trainer(
            bases, tmp_path / str(bf16), samples(4, "some"), arch.build(bases), batch_size=4, max_steps=3, bf16=bf16,
            **PLAIN | {"learning_rate": 0.1},
        )  # fmt: skip
        computed = set()
        layer = made.model.get_decoder().layers[1].mlp.up_proj
        layer.register_forward_hook(lambda module, args, out, seen=computed: seen.add(out.dtype))
        assert np.isfinite(train(made, processor)["train_loss"])
        assert computed == {torch.bfloat16 if bf16 else torch.float32}
        assert {p.dtype for p in made.model.parameters()} == {torch.float32}
        saved = load_file(tmp_path / str(bf16) / "model.safetensors")
        assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
        moved[bf16] = torch.cat([(saved[key] - fresh[key]).flatten() for key in fresh])
    assert not torch.equal(moved[True], moved[False])
    assert torch.cosine_similarity(moved[True], moved[False], dim=0) > 0.95


@architectures.each()
def test_metrics_of_generated_answers_choose_the_model(bases, arch, tmp_path):
    held_out, seen = samples(5, images="some"), []

    def compute_metrics(prediction):
        texts = []
        for ids in (prediction.predictions, prediction.label_ids):
            ids = np.where(ids < 0, processor.pad_token_id, ids)
            texts.append([text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)])
        seen.append(texts)
        return {"worth": -len(seen)}  # the first evaluation is the best

    model = arch.build(bases)
    model.generation_config.max_new_tokens = 6
    made, processor = trainer(
        bases, tmp_path, samples(4), model, eval_dataset=held_out, max_steps=4, learning_rate=3e-2,
        eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2, load_best_model_at_end=True,
        metric_for_best_model="worth", predict_with_generate=True, compute_metrics=compute_metrics,
    )  # fmt: skip
    train(made, processor)
    assert [entry["eval_worth"] for entry in made.state.log_history if "eval_worth" in entry] == [-1, -2]
    assert_equal(adapter(model), load_file(tmp_path / "checkpoint-2" / "model.safetensors"))
    assert made.evaluate()["eval_loss"] > 0
    said, true = seen[-1]
    assert true == [sample["references"][0] for sample in held_out]
    assert said == seen[0][0]
    assert said == [answer(model, processor, sample) for sample in held_out]
    assert len(set(said)) > 1


def answer(model, processor, sample):
    """Return the answer of the model to one prompt alone."""
    inputs = processor(images=None if sample["image"] is None else [sample["image"]], text=[sample["prompt"]])
    ids = model.generate(**inputs, do_sample=False)
    return processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0].strip()


@architectures.each()
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_training_batch_is_answered_from_its_prompts(model, side):
    inputs = tiny.batch([9, 6, 8], [True, False, True], side=side)
    labels = inputs.pop("labels")
    prompts, mask = prompts_alone(inputs["input_ids"], inputs["attention_mask"], labels, pad_token_id=3)
    assert mask.tolist() == [[1] * 6, [0] * 3 + [1] * 3, [0] + [1] * 5]
    for row in range(3):
        kept = inputs["attention_mask"][row].bool()
        assert prompts[row][mask[row].bool()].tolist() == inputs["input_ids"][row][kept][:-3].tolist()
    assert (prompts[mask == 0] == 3).all()
    images = {name: inputs[name] for name in ("pixel_values", "image_mask")}
    expected = model.generate(prompts, attention_mask=mask, **images, max_new_tokens=4, do_sample=False)[:, 6:]
    found = model.generate(**inputs, labels=labels, max_new_tokens=4, do_sample=False)
    assert found.tolist() == expected.tolist()
    whole = model.generate(**inputs, labels=labels, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    assert whole.sequences.tolist() == expected.tolist()


def test_a_row_that_is_all_answer_is_named():
    labels = torch.tensor([[NOT_SUPERVISED, 5, 6], [4, 5, 6]])
    with pytest.raises(ValueError, match="row 1 has no prompt"):
        prompts_alone(labels.clamp(min=1), None, labels, 0)


def test_the_recipe_counts_the_samples_of_all_processes(tmp_path, monkeypatch):
    alone = training_arguments(tmp_path, samples=1000, batch_size=16, epochs=20)
    for module in (training, precision):
        monkeypatch.setattr(module, "launched_processes", lambda: 4)
    monkeypatch.setattr(training.TrainingArguments, "world_size", 4)
    together = training_arguments(tmp_path, samples=1000, batch_size=16, epochs=20)
    assert together.learning_rate == pytest.approx(4 * alone.learning_rate) == pytest.approx(9e-3 * 64 / 256)
    assert (alone.warmup_steps, together.warmup_steps) == (126, 32)
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert precision.fastest_setting()["dtype"] == torch.bfloat16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # on the other host may be another processor
    assert precision.fastest_setting()["dtype"] == torch.float32


@architectures.each()
def test_label_smoothing_predicts_the_next_token(bases, arch, tmp_path):
    """A smoothing of almost nothing is the plain loss, so Trainer has shifted the labels."""
    losses = []
    for factor in (0.0, 1e-9):
        made, _ = trainer(
            bases, tmp_path, samples(4), arch.build(bases).eval(), batch_size=4, label_smoothing_factor=factor
        )
        made.model.eval()
        batch = made.data_collator(samples(4))
        losses.append(made.compute_loss(made.model, batch).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


class Stream(IterableDataset):
    """Samples without a length."""

    def __iter__(self):
        yield from samples(8)


def test_a_stream_trains_and_is_saved(bases, tmp_path):
    made, processor = trainer(bases, tmp_path, Stream(), tiny.build(bases), batch_size=2, max_steps=2)
    facts = train(made, processor)
    assert (facts["samples"], facts["steps"]) == (None, 2)
    assert (tmp_path / "model.safetensors").is_file()
    with pytest.raises(ValueError, match="max_steps"):
        training_arguments(tmp_path, samples=None)


def test_what_trainer_pushes_has_the_code_that_its_configuration_names(bases, tmp_path, monkeypatch):
    """Trainer copies configuration and weights into the folder that it uploads; nothing is sent here."""
    sent, uploads = Future(), []
    sent.set_result(None)

    def upload(*args, **kwargs):
        uploads.append(kwargs["folder_path"])
        return sent

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.setattr(transformers.trainer, "upload_folder", upload, raising=False)  # of older versions

    def no_repository(self, token=None):
        self.hub_model_id, self.push_in_progress = "somebody/something", None

    monkeypatch.setattr(transformers.Trainer, "init_hf_repo", no_repository)
    made, _ = trainer(
        bases, tmp_path, samples(4), tiny.build(bases), batch_size=2, max_steps=2, save_steps=2,
        save_strategy="steps", push_to_hub=True, hub_model_id="somebody/something",
    )  # fmt: skip
    made.train()
    config = json.loads((tmp_path / "config.json").read_text())
    named = {f"{place.partition('.')[0]}.py" for place in config["auto_map"].values()}
    assert named <= {path.name for path in tmp_path.glob("*.py")}
    assert str(tmp_path) in uploads
    assert architectures.ADEM_VL.files <= {path.name for path in tmp_path.iterdir()}
