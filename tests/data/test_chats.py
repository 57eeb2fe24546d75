"""Rows with several turns, in every spelling that data sets have, from the row to the supervised tokens."""

import base64
import io
import json
from collections import Counter
from itertools import islice

import datasets
import pytest
import tiny
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor, AutoTokenizer, EvalPrediction, Trainer, TrainingArguments

from adem_vl_hf import AdemVLProcessor
from adem_vl_hf.cli import main
from adem_vl_hf.data import open_dataset
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.data.columns import sample_of
from adem_vl_hf.data.media import save_gif
from adem_vl_hf.data.turns import EachTurn, each_turn
from adem_vl_hf.evaluation.image_conditions import choose_images
from adem_vl_hf.evaluation.in_training import answer_metrics
from adem_vl_hf.modeling.labels import NOT_SUPERVISED

pytestmark = pytest.mark.core
RED, BLUE = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))


def said(*texts):
    """A chat in the spelling of OpenAI, TRL and Transformers."""
    return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)]


def valued(*texts, names=("human", "gpt")):
    """The same in that of LLaVA, ShareGPT and LLaMA-Factory."""
    return [{"from": names[n % 2], "value": text} for n, text in enumerate(texts)]


def parts(text, **image):
    return [{"type": "image", **image}, {"type": "text", "text": text}]


def data_url():
    buffer = io.BytesIO()
    RED.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


TURNS = ("What is it?", "a cat", "Is it grey?", "No.")
SPELLINGS = {
    "messages": {"images": [RED], "messages": said("<image>What is it?", *TURNS[1:])},
    "no mark": {"image": RED, "messages": said(*TURNS)},
    "a list of parts": {"images": [RED], "messages": said(parts(TURNS[0]), *TURNS[1:])},
    "images in the parts": {"messages": said(parts(TURNS[0], image=RED), *TURNS[1:])},
    "keys of an arrow table": {
        "messages": said(
            [{"type": "image", "text": None, "image": RED}, {"type": "text", "text": TURNS[0], "image": None}],
            *TURNS[1:],
        )
    },
    "image_url": {
        "messages": said([{"type": "image_url", "image_url": {"url": data_url()}}, {"type": "text", "text": TURNS[0]}],
                         *TURNS[1:])
    },
    "parts of text": {"image": RED, "messages": said(*([{"type": "text", "text": text}] for text in TURNS))},
    "conversations": {"image": RED, "conversations": valued("<image>What is it?", *TURNS[1:])},
    "chatgpt": {"image": RED, "conversations": valued(*TURNS, names=("user", "chatgpt"))},
    "roles in conversations": {"image": RED, "conversations": said(*TURNS)},
    "values in messages": {"image": RED, "messages": valued(*TURNS)},
    "a column of its own": {"image": RED, "chat": said(*TURNS)},
    "texts": {
        "images": [RED],
        "texts": [{"user": TURNS[n], "assistant": TURNS[n + 1], "source": "vqa"} for n in (0, 2)],
    },
    "a dictionary of lists": {"image": RED, "messages": {"role": ["user", "assistant"] * 2, "content": list(TURNS)}},
    "a question behind the last answer": {"image": RED, "messages": [*said(*TURNS), *said("Why?")]},
    "an answer to nothing": {"image": RED, "conversations": [*valued("", "Hello.")[1:], *valued(*TURNS)]},
    "spaces": {"image": RED, "messages": said(*(f" {text}\n" for text in TURNS))},
}  # fmt: skip
EXPECTED = said("<image>What is it?", *TURNS[1:])


@pytest.fixture(scope="module")
def processor(bases):
    tokenizer = AutoTokenizer.from_pretrained(bases / "llama")
    return AdemVLProcessor(AutoImageProcessor.from_pretrained(bases / "clip"), tokenizer)


def answers(processor, batch):
    return [processor.decode(labels[labels != NOT_SUPERVISED]) for labels in batch["labels"]]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_same_chat(processor, spelling):
    row = SPELLINGS[spelling]
    columns = {"messages": "chat"} if "chat" in row else None
    sample = sample_of(row, 3, columns)
    assert sample["messages"] == EXPECTED
    assert (sample["id"], sample["prompt"], sample["answer"]) == ("3", "Is it grey?", "No.")
    batch = AdemVLCollator(processor, columns=columns)([row])
    assert answers(processor, batch) == [" a cat</s> No.</s>"]
    expected = processor(images=[RED], text=[EXPECTED])
    for name in expected:
        assert torch.equal(batch[name], expected[name])


def test_images_stand_where_their_marks_are(processor):
    row = {"images": [RED, BLUE], "messages": said("Is <image> red?", "yes", "And <image>?", "no")}
    ids = AdemVLCollator(processor)([row])["input_ids"][0]
    assert "Is <reserved_0> red?" in processor.decode(ids)
    assert "And <reserved_0>?" in processor.decode(ids)
    mixed = said(["Is ", {"type": "image"}, " or ", {"type": "image", "image": RED}, "?"], "yes")
    assert sample_of({"images": [BLUE], "messages": mixed}, 0)["images"] == [BLUE, RED]


def test_two_turns_may_begin_with_an_image_each(processor):
    row = {"images": [RED, BLUE], "conversations": valued("<image>\nWhat?", "red", "<image>\nAnd this?", "blue")}
    batch = AdemVLCollator(processor)([row])
    text = processor.decode(batch["input_ids"][0])
    assert text.index("<reserved_0>\nWhat?") < text.index("<reserved_0>\nAnd this?")
    assert processor.decode(batch["labels"][0][batch["labels"][0] >= 0]) == " red</s> blue</s>"


def test_a_system_turn_and_a_system_column():
    turn = {"role": "system", "content": "Be brief."}
    assert sample_of({"messages": [turn, *said(*TURNS)]}, 0)["messages"][0] == turn
    assert sample_of({"system": "Be brief.", "conversations": valued(*TURNS)}, 0)["messages"][0] == turn


def test_a_prompt_and_a_completion_that_are_chats(processor):
    row = {"images": [RED], "prompt": said(parts(TURNS[0]), *TURNS[1:3]), "completion": said("", TURNS[3])[1:]}
    assert answers(processor, AdemVLCollator(processor)([row])) == [" No.</s>"]
    assert sample_of(row, 0)["messages"] == EXPECTED[:3]
    for completion in (said("", "No.", "Why?", "So.")[1:], said("No.")):
        with pytest.raises(ValueError, match="sample '0': its completion has .*; give one, of the assistant"):
            sample_of({**row, "completion": completion}, 0)


def test_a_video_in_a_chat(processor, tmp_path):
    save_gif([RED, BLUE], tmp_path / "clip.gif")
    rows = [
        {"videos": [str(tmp_path / "clip.gif")], "messages": said("<video>What is it?", "a cat")},
        {"video": str(tmp_path / "clip.gif"), "messages": said("What is it?", "a cat")},
        {"messages": said([{"type": "video", "path": str(tmp_path / "clip.gif")}, "What is it?"], "a cat")},
    ]
    batch = AdemVLCollator(processor)(rows)
    assert batch["image_mask"].tolist() == [[True] * 8] * 3  # as many frames as `adem-vl caption` looks at
    assert torch.equal(batch["input_ids"][0], batch["input_ids"][2])
    assert sample_of({"video": [RED, BLUE], "messages": said("What?", "a cat")}, 0)["video"] == [RED, BLUE]
    with pytest.raises(ValueError, match="sample '0': 1 images and 1 videos"):
        sample_of({"image": RED, **rows[0]}, 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "x", "messages": [*said("a", "b"), {"role": "tool"}]}, "'x', turn 2: its role is 'tool'"),
        ({"messages": [{"role": None, "content": "a"}]}, "'7', turn 0: its role is None"),
        ({"messages": said("a")}, "'7': no answer of the assistant"),
        ({"messages": said("a", " ")}, "'7', turn 1: the answer is empty"),
        ({"messages": said("a", None)}, "'7', turn 1: its content is missing"),
        ({"messages": said([{"type": "audio"}], "b")}, "turn 0: a part of its content is .*audio"),
        ({"messages": said("<image> a", "b")}, "'7': 1 <image> marks for 0 images"),
        ({"image": RED, "messages": said("<image> <image>", "b")}, "'7': 2 <image> marks for 1 images"),
        ({"image": RED, "messages": said(parts("a", image=RED), "b")}, "'7': 0 <image> marks for 1 images"),
        ({"question": "a", "answer": "b", "system": ["be kind"]}, "'7': its system prompt is .*be kind.*; it must be"),
        ({"messages": said("a", "b"), "system": 3}, "'7': its system prompt is 3; it must be a text"),
        ({"question": ["a", "b"], "answer": ["c"]}, "sample 7: 2 questions and 1 answers"),
        ({"question": ["a", "b"], "answer": "c"}, "sample 7: 2 questions and 1 answers"),
        ({"messages": "a text", "id": "7"}, r"\['id', 'messages'\]. Known are .*messages: messages, conversations"),
    ],
)  # fmt: skip
def test_what_is_no_chat_is_named(row, message):
    with pytest.raises(ValueError, match=message):
        sample_of(row, 7)


QUESTIONS = {"image": RED, "question": ["How many?", "What is it?"], "answer": ["two", "a cat"]}
VQA = [[{"answer": "two"}, {"answer": "2"}, {"answer": "two"}], [{"answer": "a cat"}]]


@pytest.mark.parametrize("row", [QUESTIONS, {"image": RED, "question": QUESTIONS["question"], "answers": VQA}])
def test_several_questions_of_one_row(processor, row):
    sample = sample_of(row, 0)
    assert [turn["prompt"] for turn in sample["turns"]] == QUESTIONS["question"]
    batch = AdemVLCollator(processor)([row])
    assert answers(processor, batch) == [" two</s> a cat</s>"]
    assert batch["pixel_values"].shape[0] == 1
    alone = each_turn(sample)
    assert [one["id"] for one in alone] == ["0/0", "0/1"]
    assert alone[0]["references"] == (["two", "2"] if "answers" in row else ["two"])
    assert [one["prompt"] + one["answer"] for one in alone] == ["How many? two", "What is it? a cat"]


def test_a_batch_may_mix_all_kinds_of_rows(processor):
    rows = [
        QUESTIONS, SPELLINGS["messages"], {"image": BLUE, "caption": "a blue square"}, {"messages": said(*TURNS)},
        {"question": "How many?", "answers": ["two", "two", "2"]}, {"images": [RED, BLUE], "text": "two squares"},
    ]  # fmt: skip
    collator = AdemVLCollator(processor)
    batch = collator(rows)
    assert answers(processor, batch) == [
        " two</s> a cat</s>", " a cat</s> No.</s>", " a blue square</s>", " a cat</s> No.</s>", " two</s>",
        " two squares</s>",
    ]  # fmt: skip
    for number, row in enumerate(rows):
        alone = collator([row])
        length = alone["input_ids"].shape[1]
        assert batch["labels"][number, :length].tolist() == alone["labels"][0].tolist()
        assert batch["input_ids"][number, :length].tolist() == alone["input_ids"][0].tolist()
    with pytest.raises(ValueError, match=r"^sample '1': .* exceed the window of 30"):
        AdemVLCollator(processor, max_length=30)([rows[2], SPELLINGS["messages"]])


def test_each_turn_of_a_chat():
    sample = sample_of({"messages": [{"role": "system", "content": "Be brief."}, *said(*TURNS)], "image": RED}, 5)
    alone, told = each_turn(sample), each_turn(sample, "history")
    assert [one["id"] for one in alone] == [one["id"] for one in told] == ["5/0", "5/1"]
    assert [one["prompt"] + one["answer"] for one in alone] == [
        "Be brief.\nInstruction: What is it?\nResponse: a cat", "Be brief.\nInstruction: Is it grey?\nResponse: No.",
    ]  # fmt: skip
    assert [len(one["messages"]) for one in told] == [2, 4]
    assert [one["references"] for one in told] == [["a cat"], ["No."]]
    assert all(one["image"] is RED and "messages" not in one for one in alone)


def test_turns_of_one_row_are_not_shown_their_own_image_as_another():
    rows = [sample_of({"image": image, "messages": said(*TURNS * 2)}, n) for n, image in enumerate((RED, BLUE))]
    told = EachTurn(rows, "history")
    for index in range(len(told)):
        sample = told[index]
        (other,) = choose_images(told, index, sample, "shuffled").images
        assert other is not sample["image"]


def chats(number=4):
    rows = [SPELLINGS["a list of parts"], {"images": [], "messages": said(parts("hello")[1:], "hello world")}]
    return datasets.Dataset.from_list(
        [
            {**row, "messages": [*({**turn, "content": listed(turn["content"])} for turn in row["messages"])]}
            for row in rows
        ]
        * (number // 2)
    )


def listed(content):
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def test_the_stock_trainer_trains_on_chats_without_a_map(bases, processor, tmp_path):
    model = tiny.build(bases)
    arguments = TrainingArguments(
        str(tmp_path), use_cpu=True, max_steps=12, per_device_train_batch_size=2, learning_rate=1e-2, logging_steps=1,
        report_to="none", save_strategy="no", disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=chats(), data_collator=AdemVLCollator(processor))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.9 * losses[0]


def files(folder):
    """The same two chats as messages in JSON Lines, in LLaVA's JSON file, and as a parquet file."""
    RED.save(folder / "red.png")
    messages = [
        {"images": ["red.png"], "messages": said(parts(TURNS[0]), *TURNS[1:])},
        {"messages": said("hello", "hello world")},
    ]  # fmt: skip
    (folder / "messages.jsonl").write_text("\n".join(map(json.dumps, messages)))
    llava = [
        {"id": 1, "image": "red.png", "conversations": valued(*TURNS)},
        {"conversations": valued("hello", "hello world")},
    ]
    (folder / "llava.json").write_text(json.dumps(llava))
    chats(2).to_parquet(folder / "chats.parquet")
    return [folder / name for name in ("messages.jsonl", "llava.json", "chats.parquet")]


def test_every_file_of_chats_is_opened(tmp_path):
    for path in files(tmp_path):
        found = open_dataset(str(path))
        assert found[0]["messages"] == EXPECTED
        assert len(found[1]["messages"]) == 2
        alone = open_dataset(str(path), each_turn_alone=True)
        assert [alone[n]["prompt"] for n in range(len(alone))] == [
            f"Instruction: {text}\nResponse:" for text in ("What is it?", "Is it grey?", "hello")
        ]
        told = EachTurn(found, "history")
        assert [len(told[n]["messages"]) for n in range(len(told))] == [1, 3, 1]


@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_the_command_line_trains_and_evaluates(bases, tmp_path, which, capsys):
    path, run = files(tmp_path)[which], tmp_path / "run"
    options = ["--max-steps", "2", "--batch-size", "2", "--projector-dim", "8", "--set", "use_cpu=true"]
    main(["train", *tiny.base_flags(bases), "--data", str(path), "--output-dir", str(run), *options])
    assert (run / "model.safetensors").is_file()
    main(["train", *tiny.base_flags(bases), "--data", str(path), "--output-dir", str(tmp_path / "alone"),
          "--each-turn-alone", *options])  # fmt: skip
    assert json.loads((tmp_path / "alone" / "training.json").read_text())["samples"] == 3
    assert json.loads((run / "training.json").read_text())["samples"] == 2
    capsys.readouterr()
    output = tmp_path / "said.jsonl"
    main(["evaluate", "--task", "questions", "--data", str(path), "--split", "train", "--checkpoint", str(run),
          "--output", str(output), "--max-new-tokens", "3", "--json"])  # fmt: skip
    assert json.loads(capsys.readouterr().out)["n"] == 3
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["references"] for row in rows] == [["a cat"], ["No."], ["hello world"]]
    main(["caption", str(tmp_path / "red.png"), "--checkpoint", str(run), "--prompt", TURNS[0], "--chat",
          "--max-new-tokens", "3", "--json"])  # fmt: skip
    assert json.loads(capsys.readouterr().out)["text"] == rows[0]["prediction"]


def test_held_out_chats_are_asked_turn_by_turn(bases, tmp_path):
    path, run = files(tmp_path)[0], tmp_path / "run"
    main(["train", *tiny.base_flags(bases), "--data", str(path), "--eval-data", str(path), "--eval-task", "questions",
          "--output-dir", str(run), "--max-steps", "2", "--batch-size", "2", "--projector-dim", "8",
          "--eval-steps", "1", "--set", "use_cpu=true"])  # fmt: skip
    logged = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert any("eval_chat_accuracy" in entry for entry in logged)


def test_a_trainer_that_generates_is_scored_by_the_first_turn(processor):
    rows = [sample_of(SPELLINGS["messages"], 0), sample_of(QUESTIONS, 1)]
    ids = processor.tokenizer(["a cat</s>", "two</s>"], padding=True, add_special_tokens=False)["input_ids"]
    found = answer_metrics(processor, rows, "questions")(EvalPrediction(ids, None))
    assert (found["chat_accuracy"], found["question_accuracy"]) == (1.0, 1.0)


@pytest.mark.parametrize("used", [0, 1, 2, 3, 5, 8])
def test_turns_of_a_stream_are_trained_alone_and_go_on(tmp_path, used):
    def stream():
        return open_dataset(str(files(tmp_path)[2]), streaming=True, each_turn_alone=True, shuffle_buffer=2)

    def taken(found, number):
        return [(sample["id"], sample["prompt"], sample["answer"]) for sample in islice(iter(found), number)]

    whole = taken(stream(), 14)
    alone = open_dataset(str(files(tmp_path)[2]), each_turn_alone=True)
    answers = Counter(sample["answer"] for sample in alone)
    assert Counter(answer for *_, answer in whole[: len(alone)]) == answers  # the first pass
    assert len({name for name, *_ in whole[:3]}) == 3
    assert stream().name == str(files(tmp_path)[2])  # which errors say
    first = stream()
    taken(first, used + 3)  # a DataLoader reads ahead
    second = stream()
    second.load_state_dict(json.loads(json.dumps(first.state_dict(used))))
    assert taken(second, 4) == whole[used : used + 4]
    third = stream()
    third.load_state_dict(json.loads(json.dumps(second.state_dict(used + 1))))  # interrupted again
    assert taken(third, 3) == whole[used + 1 : used + 4]
    with pytest.raises(ValueError, match="does not know where its turn 100 was read"):
        stream().state_dict(100)
    followed, after_worker = stream(), stream()
    followed.follow_worker()
    loaded = iter(DataLoader(followed, batch_size=None, num_workers=1))
    assert [next(loaded)["answer"] for _ in range(used + 1)] == [answer for *_, answer in whole[: used + 1]]
    after_worker.load_state_dict(json.loads(json.dumps(followed.state_dict(used))))  # whatever it has told by now
    assert taken(after_worker, 4) == whole[used : used + 4]


def test_counting_turns_opens_no_image(tmp_path, monkeypatch):
    found = open_dataset(str(files(tmp_path)[2]))
    monkeypatch.setattr(Image, "open", None)
    assert [found.number_of_turns(n) for n in range(2)] == [2, 1]
