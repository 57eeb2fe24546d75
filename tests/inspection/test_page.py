"""The page: escaped, self-contained and complete; its maps and links; the numbers of its tables."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from adem_vl_hf.inspection.look import Look, Part, faded, overlay
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


def looked(words=("a", "crocodile"), kind: str = "adem_vl", images: int = 1) -> Look:
    """Scales of 2 x 2 and 1 x 1; word w has w + 1 times the contributions of the first word."""
    fine, coarse = np.array([[1.0, -0.5], [0.25, 0.0]]), np.array([[-2.0]])
    factors = np.arange(1.0, len(words) + 1)[:, None, None, None]  # [W, 1, 1, 1]
    parts = [
        Part(f"part {side}", *[np.tile(grid, (len(words), images, 1, 1)) * factors] * 2)
        for side, grid in ((2, fine), (1, coarse))
    ]
    return Look(
        kind=kind,
        prompt="a picture of",
        answer=" ".join(words),
        words=list(words),
        tokens=[[f" {word}"] for word in words],
        log_probabilities=np.zeros(len(words)),
        images=[Image.new("RGB", (8, 8), colour) for colour in ("teal", "pink")[:images]],
        parts=parts,
        contribution=parts[0].contribution + parts[1].contribution / 4,
        class_token=np.zeros(len(words)),
    )


def item(**fields) -> GalleryItem:
    defaults = {
        "image": Image.new("RGB", (8, 6), "pink"),
        "prompt": "a picture of",
        "prediction": "a crocodile",
        "references": ["a crocodile on pink"],
        "correct": False,
        "looked_at": looked(),
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


def test_every_text_is_there_and_escaped(write):
    html = write(
        item(
            prediction=NASTY + "1",
            prompt=NASTY + "2",
            references=[NASTY + "3", NASTY + "4"],
            looked_at=looked(["<b>"]),
        ),
        title=NASTY + "5",
        model={NASTY + "6": NASTY + "7"},
        settings={NASTY + "8": [NASTY + "9", True, 0.5]},
        seconds={NASTY + "A": 1.0},
        metrics={NASTY + "B": {"true": scores(0.5)}},
        credits=[NASTY + "C"],
        links={NASTY + "D": "log.jsonl"},
    )  # fmt: skip
    reader = Reader(html)
    assert reader.open == []
    for mark in "123456789ABCD":
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
    assert len(images) == 2 + 1 + 2 * 3  # pictures, the large map (hidden from readers), three maps of each word
    assert [a for a in images if not a.get("alt")] == [{"alt": "", "src": images[1]["src"]}]
    raises = "row 1, column 1 raises the probability most"
    assert [a["alt"] for a in images[2:5]] == [
        f"a, all scales together: 2 by 2 places; {raises}; row 1, column 2 lowers the probability most",
        f"a, part 2: 2 by 2 places; {raises}; row 1, column 2 lowers the probability most",
        "a, part 1: 1 by 1 places; none raises the probability; row 1, column 1 lowers the probability most",
    ]


def test_the_introduction_names_what_is_on_the_page(write):
    def introduced(*items, **fields):
        return re.search(r"This page shows ([^<]*)\.</p>", write(*items, **fields))[1]

    assert introduced(item()) == "what was trained, how well it answers and where it looks"
    plot = {"loss": "data:image/svg+xml;base64,"}
    assert introduced(item(looked_at=None), metrics={}, curves=plot) == (
        "what was trained, how it learned and what it answers"
    )
    assert introduced(metrics={}) == "what was trained"


def test_the_same_input_gives_the_same_bytes(write):
    assert write(item(), item(correct=True)) == write(item(), item(correct=True), name="sub/folder/again.html")


def test_a_failed_page_leaves_the_old_one(write, tmp_path):
    before = write(item())
    with pytest.raises(ValueError, match=r"metrics\['scenes'\] has \['blurred'\]"):
        write(item(), metrics={"scenes": {"blurred": scores(0.5)}})
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(("kind", "together"), [("adem_vl", "all scales together"), ("evlm", "all levels together")])
def test_the_maps_of_a_word(write, kind, together):
    look = looked(kind=kind)
    reader = Reader(write(item(looked_at=look), kind=kind))
    labels = [a["data-label"] for a in reader.all("button")]
    assert labels == [f"{word}, {name}" for word in look.words for name in (together, "part 2", "part 1")]
    maps = [np.asarray(decode(a["src"])) for a in reader.all("img")[2:]]
    for place, (first, *of_parts) in enumerate(maps[start : start + 3] for start in (0, 3)):
        grid = look.contribution[place, 0]
        assert np.array_equal(first, overlay(grid, np.abs(grid).max()))
        for part, drawn in zip(look.parts, of_parts, strict=True):  # the coarse part has the largest contribution
            assert np.array_equal(drawn, overlay(part.contribution[place, 0], 2.0 * (place + 1)))
    for text in ("+1.25 and −0.50 nats", "+0.00 and −2.00 nats", "+2.50 and −1.00 nats"):
        assert text in reader.text
    assert "A red place in the image raises the probability" in reader.text
    assert len(reader.all("div", "ramp")) == 1


def test_maps_lie_on_the_image_that_the_tower_sees(write):
    look = looked()
    (card,) = Reader(write(item(looked_at=look))).all("article")
    seen = decode(card["style"].removeprefix("--seen:url(").removesuffix(")"))
    assert np.array_equal(np.asarray(seen), np.asarray(faded(look.images[0])))


def test_the_first_of_several_images_is_said_to_be_the_first(write):
    assert "in the first of 2 images" in Reader(write(item(looked_at=looked(images=2)))).text
    assert "in the first of" not in Reader(write(item())).text


def test_links_to_files_beside_the_page(write):
    files = {"the log": "log.jsonl", "the other model": "../evlm/index.html"}
    links = Reader(write(links=files)).all("a")
    assert [a["href"] for a in links] == list(files.values())


@pytest.mark.parametrize(
    "address",
    ["", "/etc/passwd", "//host/a", "https://host/a", "javascript:alert(1)", " //host", "\\\\host\\a", "a//b", "a?b",
     "a#b", "java\tscript", "%2f%2fhost", "a/", "a\n"],
)  # fmt: skip
def test_links_elsewhere_are_refused(write, tmp_path, address):
    with pytest.raises(ValueError, match=r"links\['more'\] is .*; give the path of a file, relative to the page"):
        write(links={"more": address})
    assert not (tmp_path / "page.html").exists()


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
    for text in ("75.0%", "25.0%", "50.0%", "37.5%", "300.0", "own image", "another image", "no image"):
        assert text in reader.text


def test_a_note_about_captions_and_a_sum_of_times_stand_where_there_are_several(write):
    several = Reader(write(item()))
    assert "BLEU-4 and CIDEr are times 100" in several.text
    assert "together" in several.text.split("Where it looks")[0]
    one = Reader(write(item(), metrics={"names": {"true": {"accuracy": 0.5, "n": 4}}}, seconds={"training": 4.0}))
    assert "BLEU-4" not in one.text
    assert "together" not in one.text.split("Where it looks")[0]


def test_numbers_of_the_lists_have_separators(write):
    assert "<dd>24,000, yes, 0.5, 1,000</dd>" in write(settings={"all": [24000, True, 0.5, "1,000"]})


def test_texts_have_the_direction_of_their_language(write):
    reader = Reader(write(item()))
    ours = [*reader.all("p", "prompt"), *reader.all("p", "answer"), *reader.all("li"), *reader.all("span", "word")]
    assert {a.get("dir") for a in ours} == {"auto"}


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
