"""Training on streams: nobody knows their length, and a resumed run goes on with the next sample."""

import json

import datasets
import pytest
import tiny
import torch
from PIL import Image
from training_runs import COLOURS, Interrupted, StopAt, adapter, assert_moved_alike, processor_of

from adem_vl_hf.cli.parser import main
from adem_vl_hf.data import open_dataset
from adem_vl_hf.data.stream import MixedStream
from adem_vl_hf.training import build_trainer, train, training_arguments

pytestmark = pytest.mark.core


@pytest.fixture
def rows(tmp_path):
    """A parquet file of twelve images and their texts."""
    given = {"image": [Image.new("RGB", (16, 16), colour) for colour in COLOURS] * 3,
             "text": [f"{text} {number}" for number in range(3) for text in COLOURS.values()]}  # fmt: skip
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(given, features=features).to_parquet(tmp_path / "rows.parquet")
    return str(tmp_path / "rows.parquet")


class Noting:
    """Notes the text of every sample that is collated."""

    def __init__(self, collate):
        self.collate, self.texts = collate, []

    def __call__(self, samples):
        self.texts += [sample["references"][0] for sample in samples]
        return self.collate(samples)


def run(bases, rows, folder, stop=None, resume=False, kind="rows", **settings):
    torch.manual_seed(0)
    model = tiny.build(bases)
    processor = processor_of(bases, model)
    stream = open_dataset(rows, streaming=True, shuffle_buffer=5, each_turn_alone=kind == "turns")
    if kind == "mixed":
        stream = MixedStream([stream, open_dataset(rows, streaming=True, seed=1, shuffle_buffer=3)], [1, 2])
    arguments = training_arguments(
        folder, None, 2, max_steps=8, learning_rate=1e-2, use_cpu=True, disable_tqdm=True, save_steps=3, **settings
    )
    trainer = build_trainer(model, processor, stream, arguments, callbacks=[StopAt(stop)] if stop else None)
    trainer.data_collator = noting = Noting(trainer.data_collator)
    start = adapter(model)
    if stop:
        with pytest.raises(Interrupted):
            train(trainer, processor)
        return noting.texts
    facts = train(trainer, processor, resume)
    assert (facts["samples"], facts["steps"]) == (None, 8)
    return start, adapter(trainer.model), noting.texts


@pytest.mark.parametrize("accumulated", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_resumed_stream_goes_on_with_the_next_sample(bases, rows, tmp_path, accumulated):
    settings = {"gradient_accumulation_steps": accumulated}
    start, whole, texts = run(bases, rows, tmp_path / "whole", **settings)
    run(bases, rows, tmp_path / "parts", stop=5, **settings)
    place = json.loads((tmp_path / "parts" / "checkpoint-3" / "stream.json").read_text())
    assert place["sample"] == 6 * accumulated
    _, resumed, later = run(bases, rows, tmp_path / "parts", resume=True, **settings)
    assert later[: 10 * accumulated] == texts[6 * accumulated : 16 * accumulated]
    assert_moved_alike(resumed, whole, start)


@pytest.mark.parametrize("kind", ["rows", "turns", "mixed"])
@pytest.mark.parametrize(("before", "after"), [(1, 1), pytest.param(1, 0, marks=pytest.mark.slow), (0, 1)])
def test_a_worker_reads_a_stream_in_order_and_tells_its_place(bases, rows, tmp_path, before, after, kind):
    start, whole, _ = run(bases, rows, tmp_path / "whole", kind=kind)
    run(bases, rows, tmp_path / "parts", stop=5, kind=kind, dataloader_num_workers=before)
    place = json.loads((tmp_path / "parts" / "checkpoint-3" / "stream.json").read_text())
    assert place["sample"] == 6
    _, resumed, _ = run(bases, rows, tmp_path / "parts", resume=True, kind=kind, dataloader_num_workers=after)
    assert_moved_alike(resumed, whole, start)
    with pytest.raises(ValueError, match="2 workers would read it in another; resume with one worker or none"):
        run(bases, rows, tmp_path / "parts", resume=True, kind=kind, dataloader_num_workers=2)


@pytest.mark.slow
def test_with_several_workers_the_stream_is_read_again_up_to_the_sample(bases, rows, tmp_path):
    settings = {"dataloader_num_workers": 2}
    start, whole, _ = run(bases, rows, tmp_path / "whole", **settings)
    run(bases, rows, tmp_path / "parts", stop=5, **settings)
    assert not (tmp_path / "parts" / "checkpoint-3" / "stream.json").exists()
    _, resumed, _ = run(bases, rows, tmp_path / "parts", resume=True, **settings)
    assert_moved_alike(resumed, whole, start)


def test_the_command_line_trains_on_a_stream(bases, rows, tmp_path, capsys):
    argv = ["train", *tiny.base_flags(bases), "--data", rows, rows, "--weights", "2", "1", "--streaming",
            "--shuffle-buffer", "4", "--output-dir", str(tmp_path / "run"), "--batch-size", "2", "--projector-dim", "8",
            "--set", "use_cpu=true", "save_steps=2"]  # fmt: skip
    assert main(argv) == 2
    assert "--streaming needs --max-steps" in capsys.readouterr().err
    assert main([*argv, "--max-steps", "3"]) == 0
    assert json.loads((tmp_path / "run" / "training.json").read_text())["samples"] is None
    assert main([*argv, "--max-steps", "5", "--resume"]) == 0
    assert (tmp_path / "run" / "report.html").is_file()
