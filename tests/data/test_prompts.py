"""The commonest prompt of a training set is recorded, and commands and pipelines continue it."""

import pytest
import tiny
from PIL import Image

from adem_vl_hf import AdemVLImageToTextPipeline, AdemVLProcessor
from adem_vl_hf.cli import checkpoint, parser
from adem_vl_hf.data.prompts import commonest_prompt
from adem_vl_hf.data.stream import MixedStream, Stream
from adem_vl_hf.modeling.images import CAPTION_PROMPT


class Rows(list):
    """A streamed data set of the library, as far as a stream uses it."""

    def state_dict(self):
        return {}


def sample(prompt: str = "What?", **fields) -> dict:
    return {"id": "0", "image": None, "prompt": prompt, "answer": " a dog", "references": ["a dog"], "kind": "caption",
            **fields}  # fmt: skip


def test_the_commonest_of_samples_from_all_over():
    samples = [sample("first")] * 1000 + [sample("last")] * 1500
    assert commonest_prompt(samples) == "last"
    assert commonest_prompt([sample(f"question {number}") for number in range(100)]) is None
    assert commonest_prompt([{"image": Image.new("RGB", (8, 8)), "text": "a dog"}]) == CAPTION_PROMPT
    assert commonest_prompt([]) is None
    assert commonest_prompt([{"nothing": 1}]) is None  # the training refuses it


def test_questions_of_a_row_count_and_chats_have_none():
    turns = [{"prompt": text, "answer": " yes", "references": ["yes"], "kind": "question"} for text in ("Q", "Q", "R")]
    assert commonest_prompt([sample(turns=turns)]) == "Q"
    chat = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "a dog"}]
    assert commonest_prompt([sample(messages=chat)] * 3 + [sample()]) is None


def test_streams_are_asked_for_their_first_rows():
    def stream(prompt: str, times: int) -> Stream:
        return Stream(Rows([prompt] * times), lambda row, number: sample(row))

    assert commonest_prompt(stream("a", 200)) == "a"
    assert commonest_prompt(MixedStream([stream("a", 10), stream("b", 200)], [1, 1])) == "b"
    assert commonest_prompt(iter([sample()])) is None  # what can be read once is left to the training


def test_the_pipeline_continues_the_recorded_prompt(bases):
    model = tiny.build(bases)
    processor = AdemVLProcessor.from_base_pretrained(bases / "llama", bases / "clip", model.config)
    pipe, asked = AdemVLImageToTextPipeline(model=model, processor=processor), []

    def record(images, text, **options):
        asked.extend(text)
        return AdemVLProcessor.__call__(processor, images, text, **options)

    pipe.processor = type("Recorder", (), {
        "__call__": lambda self, images, text, **options: record(images, text, **options),
        "__getattr__": lambda self, name: getattr(processor, name),
    })()  # fmt: skip
    pipe(tiny.picture(), max_new_tokens=1)
    processor.prompt = "a photo of"
    pipe(tiny.picture(), max_new_tokens=1)
    pipe(tiny.picture(), prompt="two", max_new_tokens=1)
    assert asked == [CAPTION_PROMPT, "a photo of", "two"]


@pytest.mark.parametrize("command", ["caption", "look", "app"])
def test_the_shipped_checkpoint_is_said_to_know_pictograms_only(command, capsys):
    argv = [command] if command == "app" else [command, "x.png"]
    checkpoint.say_what_ships(parser.build_parser().parse_args(argv))
    assert f"adem-vl {command}: The checkpoint that ships with this package has only seen" in capsys.readouterr().err
    checkpoint.say_what_ships(parser.build_parser().parse_args([*argv, "--checkpoint", "mine"]))
    assert capsys.readouterr().err == ""
