"""Streams: every form that the library ``datasets`` reads, shuffled by a buffer, and continued at any sample."""

import itertools
import json
import time

import datasets
import pytest
from PIL import Image
from test_library import COLOURS, FORMS, saved_to_disk
from torch.utils.data import DataLoader

from adem_vl_hf.data import OpenMojiScenes, open_dataset
from adem_vl_hf.data.mixing import mix
from adem_vl_hf.data.stream import Stream
from adem_vl_hf.data.turns import EachTurnOfStream


def numbers(count, buffer=4, seed=0, shards=1, first=0, name="numbers"):
    rows = datasets.Dataset.from_dict({"n": range(first, first + count)}).to_iterable_dataset(num_shards=shards)
    return Stream(rows, numbered, seed, buffer, name)


def numbered(row, position):
    return {"id": str(position), "n": row["n"]}


def taken(stream, number):
    return [sample["n"] for sample in itertools.islice(iter(stream), number)]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_streams(tmp_path, form):
    stream = open_dataset(str(form(tmp_path)), streaming=True, shuffle_buffer=2)
    samples = list(itertools.islice(iter(stream), 6))  # two passes
    for part in (samples[:3], samples[3:]):
        assert {sample["references"][0] for sample in part} == set(COLOURS)
    assert not any(isinstance(sample["image"], Image.Image) for sample in samples)  # the buffer holds files


def test_conversations_stream(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    turns = [("human", "<image>\nWhat?"), ("gpt", "A cat."), ("human", "Where?"), ("gpt", "On a mat.")]
    said = [{"from": who, "value": text} for who, text in turns]
    entry = json.dumps({"id": "1", "image": "a.png", "conversations": said})
    (tmp_path / "talk.jsonl").write_text(f"{entry}\n{entry}\n")
    first = next(iter(open_dataset(str(tmp_path / "talk.jsonl"), streaming=True)))
    assert len(first["messages"]) == 4
    assert (tmp_path / "a.png") == first["image"]


def test_a_folder_of_images_streams_as_it_is_read(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    lines = [
        {"prompt": "How many?", "answer": "two", "kind": "count", "references": ["2"], "choices": ["two", "one"]},
        {"text": "a dog", "captions": ["a hound"]},
        {"question": "What?", "answer": "a dog", "kind": "thing", "references": ["a hound"]},
        {"Prompt": "Colour:", "Answer": "red"},
    ]
    (tmp_path / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": "a.png", **line}) + "\n" for line in lines)
    )
    whole, stream = open_dataset(str(tmp_path)), open_dataset(str(tmp_path), streaming=True, shuffle_buffer=1)
    for expected, sample in zip(list(whole), stream, strict=False):
        assert sample.pop("image") == tmp_path / "a.png"
        assert sample | {"id": "", "image": None} == expected | {"id": "", "image": None}


def test_a_stream_shuffles_within_its_buffer_and_goes_on_for_ever():
    found = taken(numbers(10), 20)
    assert sorted(found[:4]) == [0, 1, 2, 3]
    assert sorted(found[4:8]) == [4, 5, 6, 7]
    assert sorted(found[:10]) == list(range(10)) == sorted(found[10:])
    assert found[:4] != [0, 1, 2, 3] or found[4:8] != [4, 5, 6, 7]
    assert found[:10] != found[10:]  # another order in the second pass
    assert found == taken(numbers(10), 20)
    assert found != taken(numbers(10, seed=1), 20)
    assert taken(numbers(10, buffer=1), 12) == [*range(10), 0, 1]


@pytest.mark.parametrize("used", [0, 1, 3, 4, 9, 10, 13, 25])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_stream_goes_on_at_any_sample(used, shards):
    whole = taken(numbers(10, shards=shards), 40)
    first = numbers(10, shards=shards)
    taken(first, used + 5)  # a DataLoader reads ahead
    state = json.loads(json.dumps(first.state_dict(used)))
    second = numbers(10, shards=shards)
    second.load_state_dict(state)
    assert taken(second, 10) == whole[used : used + 10]
    state = second.state_dict(used + 7)  # and is interrupted again
    third = numbers(10, shards=shards)
    third.load_state_dict(state)
    assert taken(third, 5) == whole[used + 7 : used + 12]


def test_a_sample_has_the_number_of_its_row_in_every_pass():
    stream = numbers(10)
    assert all(sample["id"] == str(sample["n"]) for sample in itertools.islice(iter(stream), 25))
    again = numbers(10)
    again.load_state_dict(json.loads(json.dumps(stream.state_dict(17))))
    assert all(sample["id"] == str(sample["n"]) for sample in itertools.islice(iter(again), 25))


def test_the_state_of_other_data_is_refused(tmp_path):
    two = mix([numbers(5, name="a"), numbers(5, name="b")])
    for stream, other in (
        (numbers(5, name="a"), numbers(5, name="b")),
        (numbers(5, name="a"), two),
        (two, numbers(5, name="a")),
        (two, mix([numbers(5, name="a"), numbers(5, name="b"), numbers(5, name="c")])),
        (EachTurnOfStream(numbers(5, name="a")), numbers(5, name="a")),
        (numbers(5, name="a"), EachTurnOfStream(numbers(5, name="a"))),
    ):
        with pytest.raises(ValueError, match="this run reads a.*, and the checkpoint was saved by .* the same data"):
            stream.load_state_dict(json.loads(json.dumps(other.state_dict(0))))
    numbers(5, name="data/a").load_state_dict(numbers(5, name=str(tmp_path / "a")).state_dict(0))  # it was moved


def test_two_streams_have_enough_parts_for_their_workers_or_say_so():
    streams = mix([numbers(8, shards=2), numbers(8, shards=1, name="whole")])
    with pytest.raises(ValueError, match="whole is in fewer parts than there are workers; take one worker at most"):
        list(itertools.islice(DataLoader(streams, batch_size=None, num_workers=2), 9))


@pytest.mark.parametrize("used", [3, 9, 25])
def test_a_stream_goes_on_from_a_buffer_before_the_right_one(used):
    whole, second = taken(numbers(10), 40), numbers(10)
    beginning = numbers(10).state_dict(0)  # all that a process knows whose worker has not told more
    second.load_state_dict({**beginning, "sample": used})
    assert taken(second, 10) == whole[used : used + 10]


@pytest.mark.parametrize("context", [None, "spawn"])
def test_a_worker_tells_where_it_reads(context):
    whole, first, second = taken(numbers(10), 40), numbers(10), numbers(10)
    first.follow_worker(context)
    loaded = iter(DataLoader(first, batch_size=None, num_workers=1, multiprocessing_context=context))
    assert [next(loaded)["n"] for _ in range(13)] == whole[:13]
    state, waited = first.state_dict(13), 0
    while state["first"] < 10 and (waited := waited + 1) < 100:  # its note may come later than its samples
        time.sleep(0.1)
        state = first.state_dict(13)
    assert (state["first"], state["sample"]) == (10, 13)
    second.load_state_dict(state)
    assert taken(second, 10) == whole[13:23]


def test_a_mixture_of_streams_follows_its_weights_and_goes_on():
    def mixed():
        return mix([numbers(50, first=100), numbers(7)], [3, 1], seed=5)

    def drawn(stream, number):
        return [(sample["id"], sample["n"]) for sample in itertools.islice(iter(stream), number)]

    whole = drawn(mixed(), 60)
    assert 35 <= sum(n >= 100 for _, n in whole) <= 55  # three of four
    first = mixed()
    drawn(first, 33)
    second = mixed()
    second.load_state_dict(json.loads(json.dumps(first.state_dict(31))))
    assert drawn(second, 20) == whole[31:51]


def test_weights_say_how_often_samples_come():
    parts = [OpenMojiScenes("train", size=8), OpenMojiScenes("train", size=8)]
    assert len(mix(parts)) == 16
    assert mix(parts[:1]) is parts[0]
    weighted = mix(parts, [2.0, 0.25])
    assert len(weighted) == 18
    ids = [weighted[index]["id"] for index in range(16)]
    assert ids[:8] == ids[8:]


def test_what_cannot_be_streamed_says_so(tmp_path):
    with pytest.raises(ValueError, match="openmoji cannot be streamed .drawn on demand"):
        open_dataset("openmoji", streaming=True)
    folder = saved_to_disk(tmp_path)
    with pytest.raises(ValueError, match="no split 'val'"):
        open_dataset(str(folder), "val", streaming=True)
    empty = Stream(numbers(3).rows.filter(lambda row: row["n"] > 5), dict)
    for rows in (empty, DataLoader(empty, num_workers=1)):
        with pytest.raises(ValueError, match="no rows"):
            next(iter(rows))
    with pytest.raises(ValueError, match="no column 'nothing'"):
        open_dataset(str(folder), columns={"text": "nothing"}, streaming=True)
