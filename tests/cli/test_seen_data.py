"""What ``adem-vl train`` says about its data before the first step; it reads every row before a model loads."""

import json
from types import SimpleNamespace

import pytest
from datasets import Dataset, Features, Image, Value
from training_runs import picture_folder

from adem_vl_hf.cli.run_line import SaysWhatIsTrained, what_is_kept
from adem_vl_hf.cli.seen_data import look_at, warn_of_missing_images
from adem_vl_hf.data import open_dataset


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def table(tmp_path):
    """Makes a table with so many rows, of which each second shows the picture and one may lack its caption."""
    picture_folder(tmp_path / "pictures", 1)

    def make(count, broken=None, every=2, name="rows.jsonl"):
        rows = [{"image": "pictures/0.png" if n % every == 0 else None, "caption": f"thing {n}"} for n in range(count)]
        if broken is not None:
            rows[broken]["caption"] = None
        return lines(tmp_path / name, rows)

    return make


def said(seen, capsys, **settings):
    args = SimpleNamespace(train_batch_size=2, gradient_accumulation_steps=2, world_size=1, learning_rate=4.2e-3)
    state = SimpleNamespace(is_world_process_zero=True, max_steps=1150, **settings)
    SaysWhatIsTrained(seen).on_train_begin(args, state, None)
    return capsys.readouterr().err


def test_a_line_tells_what_is_trained(tmp_path, capsys):
    picture_folder(tmp_path / "shapes", 3)
    seen = look_at("shapes", open_dataset(str(tmp_path / "shapes")))
    first = json.loads((tmp_path / "shapes" / "metadata.jsonl").read_text().splitlines()[0])["text"]
    assert said([seen], capsys) == (
        f'adem-vl train: shapes: 3 samples, 3 with images; first: "a picture of" -> " {first}"; 1,150 steps of 4, '
        "peak rate 4.2e-03\n"
    )


def test_images_are_counted_without_being_opened(table, tmp_path, monkeypatch):
    name = table(5)
    (tmp_path / "pictures" / "0.png").write_bytes(b"broken")
    seen = look_at("rows", open_dataset(name))
    assert (seen.size, seen.looked_at, seen.with_images) == (5, 5, 3)
    bytes_in_rows = Features({"image": Image(), "text": Value("string")})
    rows = {"image": [{"bytes": b"broken", "path": None}, None], "text": ["a", "b"]}
    Dataset.from_dict(rows, bytes_in_rows).save_to_disk(tmp_path / "set")
    seen = look_at("set", open_dataset(str(tmp_path / "set")))
    assert (seen.size, seen.with_images, seen.first) == (2, 1, '"a picture of" -> " a"')


def test_of_a_stream_the_first_hundred_rows_are_counted(table, capsys):
    seen = look_at("rows", open_dataset(table(201), streaming=True))
    assert "rows: a stream, 50 of the first 100 with images; first: " in said([seen], capsys)


def test_a_row_that_cannot_be_used_is_found_wherever_it_is(table):
    with pytest.raises(ValueError, match=r"rows\.jsonl, row 1500 .*caption is empty"):
        look_at("rows", open_dataset(table(2000, broken=1500)))


@pytest.mark.parametrize("each_turn_alone", [False, True])
def test_turns_are_counted_as_they_are_trained(tmp_path, each_turn_alone):
    name = lines(tmp_path / "rows.jsonl", [{"question": ["one?", "two?"], "answer": ["a", "b"]}] * 3)
    seen = look_at("rows", open_dataset(name, each_turn_alone=each_turn_alone))
    assert seen.size == seen.looked_at == (6 if each_turn_alone else 3)
    assert seen.first == '"one?" -> " a"'


def test_what_the_data_say_does_not_steer_the_terminal_and_is_cut(tmp_path, capsys):
    chat = [{"role": "user", "content": "\x1b[2J\nhello"}, {"role": "assistant", "content": "x" * 1000}]
    name = lines(tmp_path / "rows.jsonl", [{"messages": chat}])
    err = said([look_at("rows\x1b", open_dataset(name))], capsys)
    assert r"rows\x1b: 1 sample, 0 with images" in err
    assert rf'first: "\x1b[2J\nhello" -> "{"x" * 60}..."; ' in err


def test_samples_without_an_image_are_said_unless_their_format_is_for_texts(table, tmp_path, capsys):
    alpaca = tmp_path / "alpaca.json"
    alpaca.write_text(json.dumps([{"instruction": "say", "input": "", "output": "so"}]))
    texts = look_at("texts", open_dataset(str(alpaca)))
    some, all_of_them = look_at("some", open_dataset(table(5))), look_at("all", open_dataset(table(5, every=1)))
    remedy = "; if that is not meant, name the column of the images, --columns image=NAME\n"
    capsys.readouterr()  # the bars of the library datasets
    warn_of_missing_images([all_of_them, texts])
    assert capsys.readouterr().err == ""
    warn_of_missing_images([some])
    trained = ", so that they are trained as text alone"
    assert capsys.readouterr().err == f"adem-vl train: 2 of the 5 samples of some lack an image{trained}{remedy}"
    none = look_at("none", open_dataset(lines(tmp_path / "qa.jsonl", [{"question": "what?", "answer": "this"}])))
    capsys.readouterr()
    warn_of_missing_images([some, none])
    assert f"none of the 1 samples of none has an image{trained}" in capsys.readouterr().err
    warn_of_missing_images([texts, none])
    assert capsys.readouterr().err == (
        f"adem-vl train: no sample of texts, none has an image, so that nothing is learned about images{remedy}"
    )


@pytest.mark.parametrize(
    ("steps", "metric", "sentence"),
    [
        (9, "caption_cider", "stopped at step 9 of 30: caption_cider is no better than at step 3, which is kept"),
        (30, "loss", "of 30 steps, step 3 is kept, the best by loss (1.235)"),
        (30, None, None),
    ],
)
def test_it_says_which_step_is_kept(steps, metric, sentence):
    state = SimpleNamespace(global_step=steps, max_steps=30, best_metric=1.23456,
                            best_model_checkpoint="runs/a-b/checkpoint-3")  # fmt: skip
    assert what_is_kept(state, metric) == sentence
