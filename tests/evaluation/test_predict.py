"""Running over a data set: order, resuming, which image each sample sees. The model is a stand-in that sees colours."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from adem_vl_hf.data.sample import Sample
from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.evaluation.predictions import read_predictions


class Colours(Dataset[Sample]):
    """Sample i has an image of grey value i, or no image if i is in ``blind``."""

    def __init__(self, size: int, blind: tuple[int, ...] = (), answer: str = "grey") -> None:
        self.size, self.blind, self.answer = size, blind, answer

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        return Sample(
            id=f"s{index}",
            image=None if index in self.blind else Image.new("RGB", (4, 4), (index, index, index)),
            prompt="x" * (index % 3 + 1),
            answer=f" {self.answer}",
            references=[self.answer],
            kind="caption",
        )


class Processor:
    """Turns a prompt into as many ones, padded on the left. Token 100 + v decodes to " v"."""

    def __call__(self, images, text, return_tensors):
        assert return_tensors == "pt"
        longest = max(map(len, text))
        ids = torch.tensor([[0] * (longest - len(t)) + [1] * len(t) for t in text])
        values = [-1 if image is None else image.getpixel((0, 0))[0] for image in images]
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "pixel_values": torch.tensor(values)}

    def batch_decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return ["".join(f" {i - 100}" for i in one.tolist()) for one in ids]


class Model:
    """Answers with the grey value it sees."""

    device = torch.device("cpu")

    def __init__(self, fail_at: int | None = None) -> None:
        self.training, self.calls, self.fail_at = True, [], fail_at

    def eval(self):
        self.training = False

    def train(self, mode=True):
        self.training = mode

    def generate(self, input_ids, attention_mask, pixel_values, **options):
        assert not self.training
        assert not torch.is_grad_enabled()
        assert options == {
            "max_new_tokens": 5,
            "do_sample": False,
            "num_beams": 1,
            "num_return_sequences": 1,
            "tokenizer": None,
        }
        if self.fail_at == len(self.calls):
            raise KeyboardInterrupt
        self.calls.append(len(input_ids))
        return torch.cat([input_ids, 100 + pixel_values[:, None]], dim=1)


@pytest.fixture
def run(tmp_path: Path):
    def call(dataset, model=None, **options):
        options = {"output": tmp_path / "p.jsonl", "batch_size": 3, "max_new_tokens": 5, "progress": False, **options}
        return predict(model or Model(), Processor(), dataset, **options)

    return call


def test_answers_in_order_and_on_disk(run, tmp_path: Path):
    model = Model()
    rows = run(Colours(7), model)
    assert [row["id"] for row in rows] == [f"s{i}" for i in range(7)]
    assert [row["prediction"] for row in rows] == [str(i) for i in range(7)]
    assert rows[0]["references"] == ["grey"]
    assert model.calls == [3, 3, 1]
    assert model.training  # as it was before
    assert read_predictions(tmp_path / "p.jsonl") == rows


def test_a_stopped_run_goes_on(run, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        run(Colours(7), Model(fail_at=2))
    path = tmp_path / "p.jsonl"
    assert len(read_predictions(path)) == 6
    path.write_bytes(path.read_bytes()[:-5])
    model = Model()
    rows = run(Colours(7), model)
    assert model.calls == [1, 1]  # the sixth, whose line was cut, and the seventh
    assert [row["prediction"] for row in rows] == [str(i) for i in range(7)]
    assert run(Colours(7), model) == rows
    assert model.calls == [1, 1]


def test_shuffled_images_are_those_of_others_and_stay_the_same(run, tmp_path: Path):
    dataset = Colours(9, blind=(2, 5))
    rows = run(dataset, images="shuffled")
    seen = {row["id"]: row["prediction"] for row in rows}
    assert seen["s2"] == seen["s5"] == "-1"
    with_image = [i for i in range(9) if i not in dataset.blind]
    assert all(seen[f"s{i}"] != str(i) for i in with_image)
    assert sorted(seen[f"s{i}"] for i in with_image) == [str(i) for i in with_image]  # each image is shown once
    assert run(dataset, images="shuffled", output=tmp_path / "again.jsonl") == rows


def test_no_images(run):
    assert {row["prediction"] for row in run(Colours(4), images="none")} == {"-1"}


def test_a_file_of_something_else_is_not_gone_on_with(run):
    run(Colours(4))
    with pytest.raises(ValueError, match="sample 's0' was made for another question or other images"):
        run(Colours(4), images="none")
    with pytest.raises(ValueError, match="sample 's0' was made for another"):
        run(Colours(4, answer="blue"))
    with pytest.raises(ValueError, match="another data set"):
        run(Colours(3))
    with pytest.raises(ValueError, match="another data set"):
        run([{**Colours(9)[i], "id": f"t{i}"} for i in range(9)])


class Named(Model):
    """Answers as the other, with an adapter to tell it by."""

    def __init__(self, weight: float, fail_at: int | None = None) -> None:
        super().__init__(fail_at)
        self.tensors = {"adapter.weight": torch.tensor([weight])}

    def state_dict(self):
        return self.tensors

    def adapter_state_dict(self):
        return self.tensors


def test_a_file_of_another_model_or_length_is_not_gone_on_with(run, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        run(Colours(7), Named(1.0, fail_at=1))
    with pytest.raises(ValueError, match=r"p\.jsonl holds predictions of another model or checkpoint; remove the file"):
        run(Colours(7), Named(2.0))
    with pytest.raises(ValueError, match="of at most 5 new tokens, not 6; remove the file"):
        run(Colours(7), Named(1.0), max_new_tokens=6)
    model = Named(1.0)
    run(Colours(7), model)
    assert model.calls == [3, 1]


def test_a_file_of_other_pictures_or_prompts_is_not_gone_on_with(run):
    samples = [Colours(4)[index] for index in range(4)]
    run(samples)
    for field, other in (("image", Image.new("RGB", (4, 4), "red")), ("prompt", "y")):
        with pytest.raises(ValueError, match="sample 's2' was made for another question or other images"):
            run([*samples[:2], samples[2] | {field: other}, samples[3]])


def test_a_file_that_does_not_note_what_made_it_goes_on_with_a_warning(run, tmp_path: Path, caplog):
    rows = run(Colours(4), Named(1.0))
    assert not caplog.records
    for row in rows[:2]:
        del row["made_with"]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    assert [row["prediction"] for row in run(Colours(4), Named(2.0))] == list("0123")
    (record,) = caplog.records
    assert "p.jsonl: 2 of its predictions do not note which model made them" in record.message


def test_choices_are_written(run, tmp_path: Path):
    rows = run([{**Colours(1)[0], "kind": "choice", "choices": ["grey", "blue"]}])
    assert rows[0]["choices"] == ["grey", "blue"]
    assert json.loads((tmp_path / "p.jsonl").read_text())["choices"] == ["grey", "blue"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"images": "mine"}, "images 'mine': choose one of true, shuffled, none, shuffled_frames, swapped_images"),
    ],
)
def test_bad_arguments(run, options, message):
    with pytest.raises(ValueError, match=message):
        run(Colours(2), **options)


def test_samples_that_cannot_be_run(run):
    with pytest.raises(ValueError, match="two samples have the id 's0'"):
        run([Colours(1)[0], Colours(1)[0]])
    with pytest.raises(ValueError, match="sample 's0' has the only image"):
        run(Colours(2, blind=(1,)), images="shuffled")


class Frames(Processor):
    """Answers with the first grey value of several images or a video."""

    def __call__(self, images, text, return_tensors, videos=None):
        self.text = text
        rows = [next(iter(video or row or []), None) for video, row in zip(videos or images, images, strict=True)]
        return super().__call__(rows, text, return_tensors)


class Clips(Colours):
    """Sample i has the grey values i, i + 20, i + 40 as frames, or the first two of them as images."""

    def __init__(self, size: int, field: str) -> None:
        super().__init__(size)
        self.field = field

    def __getitem__(self, index: int) -> Sample:
        number = 3 if self.field == "video" else 2
        pictures = [Image.new("RGB", (4, 4), (index + 20 * place,) * 3) for place in range(number)]
        mark = "<video>" if self.field == "video" else "<image><image>"
        return super().__getitem__(index) | {"image": None, self.field: pictures, "prompt": f"{mark}Q"}


@pytest.mark.parametrize(("field", "order"), [("video", "shuffled_frames"), ("images", "swapped_images")])
def test_videos_and_several_pictures_have_every_control(field, order, tmp_path: Path):
    def seen(images):
        rows = predict(Model(), processor, Clips(6, field), output=tmp_path / f"{images}.jsonl", batch_size=4,
                       max_new_tokens=5, images=images, progress=False)  # fmt: skip
        assert {row.get("images", "true") for row in rows} == {images}
        return [int(row["prediction"]) for row in rows]

    processor = Frames()
    assert seen("true") == list(range(6))
    assert "<" in processor.text[0]
    other = seen("shuffled")
    assert sorted(other) == list(range(6))
    assert all(one != index for index, one in enumerate(other))
    assert all(value % 20 == index for index, value in enumerate(seen(order)))
    assert max(seen(order)) >= 20
    assert seen("none") == [-1] * 6
    assert processor.text == ["Q", "Q"]  # no mark without an image


def test_a_control_of_order_needs_an_order(run):
    with pytest.raises(ValueError, match="sample 's0' has no video, so no frames to shuffle"):
        run(Colours(2), images="shuffled_frames")
