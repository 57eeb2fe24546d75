"""The page: escaped, self-contained and complete; the pixels of its maps; the numbers of its tables."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import pytest
import torch
from PIL import Image

from adem_vl_hf.inspection import page
from adem_vl_hf.inspection.attended_patches import AttendedPatches
from adem_vl_hf.inspection.kept_tokens import KeptTokens, split_scales
from adem_vl_hf.inspection.page import GalleryItem, metric_rows, write_page

VOID = {"meta", "img", "input", "hr", "br", "link"}
NASTY = "<script>alert(1)</script> & \"quoted\" 'caption'"


class Reader(HTMLParser):
    """Reads the text and the attributes by tag, and checks that every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data

    def all(self, tag: str, cls: str | None = None) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and (cls is None or cls in (a.get("class") or "").split())]


def kept(tokens=(" a", " croc", "odile"), lowest: float = 0.5) -> KeptTokens:
    """Scales of 2 x 2 and 1 x 1, the first slot kept least; the score of slot s at token t is 10 t + s."""
    shares = torch.tensor([lowest, 1.0, 1.0, 1.0, 1.0])
    scores = 10.0 * torch.arange(len(tokens))[:, None] + torch.arange(5.0)
    return KeptTokens(
        tokens=list(tokens),
        kept=split_scales(shares, [4, 1]),
        kept_by_token=shares.expand(len(tokens), 5),
        scores_by_token=scores,
        image=Image.new("RGB", (8, 8), "teal"),
    )


def attended() -> AttendedPatches:
    """Patches of 2 x 2; of token t the last one has the most, and a fifth goes to nothing."""
    patches = torch.tensor([[0.0, 0.1, 0.2, 0.4], [0.1, 0.1, 0.1, 0.4]])
    return AttendedPatches(
        tokens=[" a", " cat"],
        patches_by_token=patches,
        class_by_token=torch.tensor([0.1, 0.1]),
        zero_by_token=torch.tensor([0.2, 0.2]),
        image=Image.new("RGB", (8, 8), "teal"),
    )


def item(**fields) -> GalleryItem:
    defaults = {
        "image": Image.new("RGB", (8, 6), "pink"),
        "prompt": "a picture of",
        "prediction": "a crocodile",
        "references": ["a crocodile on pink"],
        "correct": False,
        "looked_at": kept(),
    }
    return GalleryItem(**{**defaults, **fields})


def scores(accuracy: float) -> dict:
    return {
        "task": "openmoji-scenes",
        "n": 300,
        "caption": {"exact_match": accuracy / 2, "bleu4": 0.25, "cider": 4.0 * accuracy, "n": 100},
        "questions": {"count": {"accuracy": accuracy, "chance": 0.375, "n": 200}},
    }


@pytest.fixture
def write(tmp_path):
    def call(*items, name="page.html", **fields) -> str:
        defaults = {
            "trainable_parameters": 1234567,
            "model": {"language model": "tiny", "scales": [4, 1]},
            "settings": {"learning rate": 0.005},
            "seconds": {"train": 75.0, "evaluate": 5.25},
            "metrics": {"scenes": {"true": scores(0.75), "shuffled": scores(0.25), "none": scores(0.5)}},
            "gallery": items,
        }
        path = write_page(tmp_path / name, fields.pop("title", "A page"), **{**defaults, **fields})
        assert path == tmp_path / name
        return path.read_text(encoding="utf-8")

    return call


def decode(address: str) -> Image.Image:
    kind, _, data = address.partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(BytesIO(base64.b64decode(data)))


def alpha(address: str) -> list[int]:
    return list(decode(address).getchannel("A").tobytes())


def test_every_text_is_there_and_escaped(write):
    html = write(
        item(
            prediction=NASTY + "1",
            prompt=NASTY + "2",
            references=[NASTY + "3", NASTY + "4"],
            looked_at=kept(["<b>"]),
        ),
        title=NASTY + "5",
        model={NASTY + "6": NASTY + "7"},
        settings={NASTY + "8": [NASTY + "9", True, 0.5]},
        seconds={NASTY + "A": 1.0},
        metrics={NASTY + "B": {"true": scores(0.5)}},
        credits=[NASTY + "C"],
    )  # fmt: skip
    reader = Reader(html)
    assert reader.open == []
    for mark in "123456789ABC":
        assert NASTY + mark in reader.text
    assert "<b>" in reader.text
    assert "yes, 0.5" in reader.text
    assert len(reader.all("script")) == 1  # the page's own
    assert reader.all("b", "") == []
    (picture,) = [a for a in reader.all("img") if NASTY + "1" in (a["alt"] or "")]
    assert NASTY + "2" in picture["alt"]


def test_the_file_stands_alone(write):
    html = write(item(), item(looked_at=None, correct=None))
    reader = Reader(html)
    addresses = [v for _, a in reader.tags for k, v in a.items() if k in ("src", "href", "srcset", "action", "data")]
    addresses += re.findall(r"url\((.*?)\)", html)
    assert len(addresses) > 8
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert "//" not in re.sub(r"^\s*//.*$", "", re.sub(r"base64,[^\"')]*", "", html), flags=re.MULTILINE)
    assert not reader.all("link")
    assert "@import" not in html
    policy = next(a["content"] for a in reader.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_every_picture_has_a_text(write):
    reader = Reader(write(item(), item(looked_at=None)))
    images = reader.all("img")
    assert len(images) == 2 + 1 + 2 + 2 * 2  # pictures, the large map (hidden from readers), kept, two words a scale
    assert [a for a in images if not a.get("alt")] == [{"alt": "", "src": images[1]["src"]}]
    assert "2 by 2 squares over the picture, kept in 50% to 100%" in images[2]["alt"]
    assert images[4]["alt"] == "a: score of 2 by 2 squares, highest in row 2, column 2"


def test_the_same_input_gives_the_same_bytes(write):
    assert write(item(), item(correct=True)) == write(item(), item(correct=True), name="sub/folder/again.html")


def test_a_failed_page_leaves_the_old_one(write, tmp_path):
    before = write(item())
    with pytest.raises(ValueError, match=r"metrics\['scenes'\] has \['blurred'\]"):
        write(item(), metrics={"scenes": {"blurred": scores(0.5)}})
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_darkness_is_what_was_dropped_on_one_scale_for_the_page(write):
    reader = Reader(write(item(), item(looked_at=kept(lowest=0.75))))
    maps = [a["src"] for a in reader.all("img") if "kept in" in (a["alt"] or "")]
    darkest = round(255 * page.DARKEST)
    assert [decode(m).size for m in maps] == [(2, 2), (1, 1)] * 2
    assert alpha(maps[0]) == [darkest, 0, 0, 0]
    assert alpha(maps[2]) == pytest.approx([darkest / 2, 0, 0, 0], abs=1)
    assert alpha(maps[1]) == [0]
    assert "kept 50%" in reader.text


def test_nothing_dropped_is_not_dark(write):
    reader = Reader(write(item(looked_at=kept(lowest=1.0))))
    (first, second) = [a["src"] for a in reader.all("img") if "kept in" in (a["alt"] or "")]
    assert set(alpha(first) + alpha(second)) == {0}


def test_words_are_whole_and_their_tokens_averaged(write):
    reader = Reader(write(item()))
    maps = [a for a in reader.all("img") if "score of 2 by 2" in (a["alt"] or "")]
    assert [a["alt"].split(":")[0] for a in maps] == ["a", "crocodile"]
    darkest = 255 * page.DARKEST
    for one in maps:  # from the map's own lowest score to its highest
        assert alpha(one["src"]) == pytest.approx([darkest, darkest * 2 / 3, darkest / 3, 0], abs=1)
    assert "0.00 – 3.00" in reader.text
    assert "15.00 – 18.00" in reader.text  # the mean of the tokens "croc" and "odile"
    labels = [a["data-label"] for a in reader.all("button")]
    assert labels == ["kept, 2 × 2", "kept, 1 × 1", "a, 2 × 2", "a, 1 × 1", "crocodile, 2 × 2", "crocodile, 1 × 1"]


def test_maps_of_an_evlm(write):
    html = write(item(looked_at=attended()), item(looked_at=None), kind="evlm")
    reader = Reader(html)
    assert reader.open == []
    maps = [a for a in reader.all("img") if "2 by 2" in (a["alt"] or "")]
    assert [a["alt"].split(",")[0].split(":")[0] for a in maps] == ["2 by 2 squares over the picture", "a", "cat"]
    assert "with 5.0% to 40.0% of the attention each, most in row 2, column 2" in maps[0]["alt"]
    assert maps[1]["alt"] == "a: attention of 2 by 2 squares, highest in row 2, column 2"
    darkest = 255 * page.DARKEST
    assert alpha(maps[1]["src"]) == pytest.approx([darkest, darkest * 3 / 4, darkest / 2, 0], abs=1)
    assert alpha(maps[0]["src"]) == pytest.approx([darkest, darkest * 6 / 7, darkest * 5 / 7, 0], abs=1)
    for text in ("Looked at", "20% on nothing", "10% class token", "0.0% – 40.0%", "EVLM, an efficient", "2407.14177"):
        assert text in reader.text
    for text in ("Kept", "kept", "Drawn from", "ADEM-VL"):
        assert text not in reader.text
    assert [a["data-label"] for a in reader.all("button")] == ["all words, 2 × 2", "a, 2 × 2", "cat, 2 × 2"]


def test_the_page_says_which_method_it_is_and_knows_two(write):
    assert "Method: ADEM-VL" in Reader(write(item())).text
    with pytest.raises(ValueError, match="kind 'clip': the page knows adem_vl and evlm"):
        write(item(), kind="clip")


def test_cards_without_maps_marks_or_answers(write):
    html = write(item(looked_at=None, correct=None, references=[], prediction=""))
    reader = Reader(html)
    assert "(nothing)" in reader.text
    assert not reader.all("button")
    assert not reader.all("div", "ramp")
    assert not reader.all("input")
    assert "wrong" not in reader.text
    assert [a["class"] for a in reader.all("article")] == ["card"]


def test_marks_and_their_counts(write):
    reader = Reader(write(item(correct=True), item(), item(correct=True), item(correct=None)))
    assert [a["class"] for a in reader.all("article")] == ["card right", "card wrong", "card right", "card"]
    assert reader.text.count("✓ right") == 2
    assert reader.text.count("✗ wrong") == 1
    for label in ("all 4", "2 right", "1 wrong"):
        assert label in reader.text


def test_large_pictures_are_scaled_and_carry_nothing_else(write):
    photo = Image.new("RGB", (2000, 500), "teal")
    photo.info["icc_profile"] = b"where it was taken"
    picture = decode(next(a["src"] for a in Reader(write(item(image=photo))).all("img")))
    assert picture.size == (384, 96)
    assert picture.info == {}
    assert photo.size == (2000, 500)


def test_header_and_table(write):
    reader = Reader(write(item()))
    for text in ("1,234,567", "4, 1", "0.005", "1 min 15 s", "5.2 s", "1 min 20 s", "match, 100 samples"):
        assert text in reader.text
    for text in ("75.0%", "25.0%", "50.0%", "37.5%", "300.0", "own picture", "another picture", "no picture"):
        assert text in reader.text


def test_rows_of_openmoji():
    rows = metric_rows("scenes", {"none": scores(0.5), "true": scores(0.75)})
    assert [(row.group, row.measure, row.n) for row in rows] == [
        ("caption", "exact match", 100),
        ("caption", "BLEU-4", 100),
        ("caption", "CIDEr", 100),
        ("count", "accuracy", 200),
    ]
    assert rows[3].values == {"true": 75.0, "shuffled": None, "none": 50.0}
    assert [row.chance for row in rows] == [None, None, None, 37.5]
    assert [row.is_share for row in rows] == [True, False, False, True]
    assert rows[2].values["true"] == 300.0
    assert [row.bar(row.values["true"]) for row in rows] == [37.5, 25.0, 100.0, 75.0]
    assert rows[2].bar(200.0) == pytest.approx(200 / 3)  # beyond 100 the row's largest is the full length


def test_rows_of_scienceqa_and_mme():
    columns = {"NAT": 0.5, "SOC": None}
    science = {"task": "scienceqa", "accuracy": 0.5, "chance": 0.4, "n": 8, "unreadable": 1, "columns": columns}
    first, second = metric_rows("scienceqa", {"true": science})
    assert (first.group, first.measure, first.n, first.chance) == ("", "accuracy", 8, 40.0)
    assert (second.group, second.measure, second.n) == ("NAT", "accuracy", None)
    assert second.values["true"] == 50.0
    count = {"accuracy": 0.5, "accuracy_plus": 0.25, "score": 75.0, "n": 8}
    mme = {"task": "mme", "n": 8, "perception": 75.0, "cognition": None, "missing": [], "tasks": {"count": count}}
    rows = metric_rows("mme", {"true": mme})
    assert [(row.group, row.measure, row.values["true"]) for row in rows] == [
        ("", "perception", 75.0),
        ("count", "accuracy", 50.0),
        ("count", "accuracy+", 25.0),
        ("count", "score", 75.0),
    ]


def test_a_control_of_order_is_a_further_column_where_it_was_measured():
    made = {source: {"questions": {"order": {"accuracy": share, "chance": 0.5, "n": 4}}}
            for source, share in (("true", 1.0), ("shuffled_frames", 0.5))}  # fmt: skip
    (row,) = metric_rows("videos", made)
    assert row.values == {"true": 100.0, "shuffled": None, "none": None, "shuffled_frames": 50.0}
    (row,) = metric_rows("scenes", {"true": made["true"]})
    assert list(row.values) == ["true", "shuffled", "none"]


def test_small_numbers_have_short_bars():
    (row,) = metric_rows("x", {"true": {"caption": {"cider": 0.002, "n": 1}}, "none": {"caption": {"cider": 0.0}}})
    assert row.values == {"true": 0.2, "shuffled": None, "none": 0.0}
    assert [row.bar(value) for value in (0.2, 0.0, -1.0)] == [0.2, 0.0, 0.0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (41.4, "41 s"), (59.6, "1 min 00 s"), (725, "12 min 05 s"), (3780, "1 h 03 min")],
)
def test_durations(write, seconds, text):
    assert f">{text}</td></tr>\n</tbody>" in write(seconds={"train": seconds})
