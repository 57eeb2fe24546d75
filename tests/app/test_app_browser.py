"""The page in a real browser: load, upload, ask, stream, choose a word, refusals, two users, and no other server.

``make test-browser`` installs what this needs. Elsewhere the tests are skipped where something is missing.
"""

import os
import re
import shutil
import time

import pytest
import tiny
from app_client import free_port
from films import write_mp4
from PIL import Image

from adem_vl_hf import AdemVLProcessor
from adem_vl_hf.data.media import save_gif

CHROMIUM = os.environ.get("CHROMIUM")  # set by the make target
if CHROMIUM is None:
    pytest.importorskip("gradio", reason="needs the extra `app`")
    pytest.importorskip("playwright", reason="needs a driver of browsers")

from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402

from adem_vl_hf.app import page as app_page  # noqa: E402
from adem_vl_hf.app import uploads  # noqa: E402
from adem_vl_hf.app.answers import Answers, Turn  # noqa: E402
from adem_vl_hf.app.page import serve  # noqa: E402
from adem_vl_hf.app.page_guard import POLICY  # noqa: E402

# what Gradio itself is warned of is not ours to mend
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
PATIENCE = 60_000  # milliseconds, on machines that do much else
PROMPT, TOKENS = "a photo of", 12
# keeps each text that the answer had, however seldom this process looks
WATCH = """() => {
    window.seen = [];
    const note = () => document.querySelectorAll("#chat [data-testid=bot]").forEach(bot => seen.push(bot.innerText));
    new MutationObserver(note).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


class SlowAnswers(Answers):
    """Answers with a pause before each piece, so that a browser sees them grow."""

    def stream(self, turns):
        for said in super().stream(turns):
            time.sleep(0.15)
            yield said


@pytest.fixture(scope="module")
def answers(bases):
    """A small model whose words are made of letters alone, so that a page shows them as they are."""
    model = tiny.build(bases)
    processor = AdemVLProcessor.from_base_pretrained(bases / "llama", bases / "clip", model.config)
    processor.prompt = PROMPT
    words = [
        index for index in range(len(processor.tokenizer)) if not re.fullmatch(" [a-z]+", processor.decode([index]))
    ]
    model.generation_config.suppress_tokens = words
    model.generation_config.no_repeat_ngram_size = 2  # or it says one word over and over, whatever the image
    return SlowAnswers(model, processor, TOKENS)


@pytest.fixture(scope="module")
def address(answers):
    port = free_port()
    page = serve(answers, "A <b>title</b>", "127.0.0.1", port, "A note.", wait=False)
    yield f"http://127.0.0.1:{port}"
    page.close()


@pytest.fixture(scope="module")
def browser():
    program = shutil.which(CHROMIUM or "chromium")
    if program is None and CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    assert program, f"there is no browser {CHROMIUM}: apt-get install chromium, or name another with CHROMIUM=PATH"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
        )
        yield browser
        browser.close()


@pytest.fixture
def user(browser, address):
    """Opens the page for a new user, and checks in the end that it asked no other server and had no error."""
    opened = []

    def call() -> Page:
        context = browser.new_context(viewport={"width": 1100, "height": 900}, permissions=["camera"])
        tab = context.new_page()
        tab.set_default_timeout(PATIENCE)
        seen = {"asked": [], "failed": []}
        tab.on("request", lambda request: seen["asked"].append(request.url))
        tab.on("pageerror", lambda error: seen["failed"].append(str(error)))
        tab.goto(address)
        tab.wait_for_selector("#box textarea")
        opened.append((context, seen))
        return tab

    yield call
    for context, seen in opened:
        context.close()
        assert len(seen["asked"]) > 10
        assert [url for url in seen["asked"] if not url.startswith((address, "data:", "blob:", "about:"))] == []
        assert seen["failed"] == []


@pytest.fixture
def picture(tmp_path):
    def save(seed: int):
        tiny.picture(seed).save(tmp_path / f"{seed}.png")
        return tmp_path / f"{seed}.png"

    return save


def expected(answers, *seeds: int, text: str = PROMPT) -> str:
    return list(Answers.stream(answers, [Turn(text, [tiny.picture(seed) for seed in seeds])]))[-1]


def upload(tab: Page, *files) -> None:
    tab.set_input_files("#box input[type=file]", [str(file) for file in files])
    expect(tab.locator("#box .thumbnail-item")).to_have_count(len(files), timeout=PATIENCE)


def ask(tab: Page, text: str = PROMPT) -> None:
    """Send a text. The page takes none before the answer that grows has ended, a little after its last word."""
    taken = tab.locator("#chat [data-testid=bot], .toast-body")
    before = taken.count()
    deadline = time.monotonic() + PATIENCE / 1000
    while taken.count() == before and time.monotonic() < deadline:
        tab.fill("#box textarea", text)
        tab.press("#box textarea", "Enter")
        for _ in range(40):
            if taken.count() == before:
                tab.wait_for_timeout(50)


def last_answer(tab: Page):
    return tab.locator("#chat [data-testid=bot]").last


def refused(tab: Page, what: str) -> None:
    toast = tab.locator(".toast-body").first
    expect(toast).to_contain_text(what, timeout=PATIENCE)


def test_the_page_loads_escaped_and_with_its_policy(user, address):
    tab = user()
    expect(tab.locator("h1")).to_have_text("A <b>title</b>")
    expect(tab.locator("#box textarea")).to_have_value(PROMPT)
    response = tab.request.get(address)
    assert response.headers["content-security-policy"] == POLICY
    assert 'analytics_enabled":false' in response.text().replace(" ", "")


def test_an_answer_streams_and_its_words_are_chosen(user, answers, picture):
    tab = user()
    upload(tab, picture(0))
    whole = expected(answers, 0)
    tab.evaluate(WATCH)
    ask(tab)
    expect(last_answer(tab)).to_have_text(whole, timeout=PATIENCE)
    seen = {text.strip() for text in tab.evaluate("window.seen")}
    growing = sorted(seen - {""}, key=len)
    assert len(growing) > 3
    assert all(whole.startswith(text) for text in growing)
    for hidden in ("Share", "Clear"):  # would post on the Hub; would forget the texts but not the images
        assert not tab.locator(f"#chat button[title={hidden}]:visible").count()
    tab.click("#ask-where")
    frame = tab.frame_locator("#where iframe")
    words = whole.split()
    expect(frame.locator("fieldset label")).to_have_text(words, timeout=PATIENCE)
    for place in (2, 5):
        frame.locator("fieldset label").nth(place).click()
        expect(frame.locator("section.word:visible")).to_have_count(1)
        expect(frame.locator(f"section.w{place}")).to_be_visible()
        assert frame.locator(f"section.w{place} img.map").first.evaluate("image => image.naturalWidth") == 4


def test_a_text_is_shown_as_it_was_written(user, answers, picture):
    tab, text = user(), "is a<b or <b>bold</b>, **this** &amp; <script>that</script>?"
    upload(tab, picture(0))
    ask(tab, text)
    expect(last_answer(tab)).to_have_text(expected(answers, 0, text=text), timeout=PATIENCE)
    expect(tab.locator("#chat [data-testid=user]").last).to_have_text(text)


def test_an_error_leaves_the_box_and_the_chat_within_reach(user, answers, picture, tmp_path):
    tab = user()
    upload(tab, picture(0))
    ask(tab)
    expect(last_answer(tab)).to_have_text(expected(answers, 0), timeout=PATIENCE)
    (tmp_path / "text.png").write_text("this is no image")
    upload(tab, tmp_path / "text.png")
    ask(tab)
    refused(tab, "text.png: not an image")
    for reached in (tab.locator("#box textarea"), last_answer(tab)):
        reached.click(timeout=PATIENCE)  # fails where something lies over it


def test_several_images_a_video_and_several_turns(user, answers, picture, tmp_path):
    tab = user()
    upload(tab, picture(1), picture(2))
    ask(tab, "two photos of")
    expect(last_answer(tab)).to_have_text(expected(answers, 1, 2, text="two photos of"), timeout=PATIENCE)
    ask(tab, "the grass")  # with the same images
    expect(last_answer(tab)).to_have_text(expected(answers, 1, 2, text="the grass"), timeout=PATIENCE)
    frames = [tiny.picture(seed) for seed in range(3)]
    save_gif(frames, tmp_path / "clip.gif")
    upload(tab, tmp_path / "clip.gif")
    ask(tab, "the sea")
    turn = Turn("the sea", *uploads.open_files([str(tmp_path / "clip.gif")]))
    whole = list(Answers.stream(answers, [turn]))[-1]
    expect(last_answer(tab)).to_have_text(whole, timeout=PATIENCE)
    expect(tab.locator("#chat [data-testid=bot]")).to_have_count(3)
    tab.check("#as-chat input")
    ask(tab, "a dog")  # reads all turns before
    chat = [Turn("two photos of", [tiny.picture(1), tiny.picture(2)]), Turn("the grass")]
    for one in chat:
        one.answer = expected(answers, 1, 2, text=one.text)
    turn.answer = whole
    whole = list(Answers.stream(answers, [*chat, turn, Turn("a dog", as_chat=True)]))[-1]
    expect(last_answer(tab)).to_have_text(whole, timeout=PATIENCE)
    tab.click("#clear")
    expect(tab.locator("#chat [data-testid=bot]")).to_have_count(0)
    ask(tab, "and now?")
    refused(tab, "there is no image yet")


def test_a_film_is_shown_and_asked_about(user, answers, tmp_path):
    tab = user()
    write_mp4(tmp_path / "film.mp4", [tiny.picture(seed).resize((64, 48)) for seed in range(12)])
    upload(tab, tmp_path / "film.mp4")
    ask(tab)
    turn = Turn(PROMPT, *uploads.open_files([str(tmp_path / "film.mp4")]))
    whole = list(Answers.stream(answers, [turn]))[-1]
    expect(last_answer(tab)).to_have_text(whole, timeout=PATIENCE)
    assert tab.locator("#chat [data-testid=user] video").count() == 1
    tab.click("#ask-where")
    frame = tab.frame_locator("#where iframe")
    expect(frame.locator("fieldset label")).to_have_text(whole.split(), timeout=PATIENCE)
    expect(frame.locator("section.w2 h2")).to_have_text([f"Image {number} of 8" for number in range(1, 9)])


def test_an_example_is_asked_about(user, answers):
    tab = user()
    tab.locator("button, [role=button], .gallery-item").filter(has_text=PROMPT).first.click()
    expect(tab.locator("#box .thumbnail-item")).to_have_count(1, timeout=PATIENCE)
    ask(tab)
    (first, *_) = sorted(app_page.EXAMPLES.glob("*.png"))
    whole = list(Answers.stream(answers, [Turn(PROMPT, *uploads.open_files([str(first)]))]))[-1]
    expect(last_answer(tab)).to_have_text(whole, timeout=PATIENCE)


def test_the_camera_is_one_more_image(user):
    tab = user()
    tab.get_by_text("Camera").first.click()
    tab.get_by_text("Click to Access Webcam").click()
    tab.wait_for_function("document.querySelector('#camera video')?.videoWidth > 0")
    tab.get_by_role("button", name="capture photo").click()
    tab.wait_for_selector("#camera img[src*='/file=']")  # it has reached the server
    ask(tab)
    expect(last_answer(tab)).to_have_text(re.compile(r"(\w+ ){11}\w+"), timeout=PATIENCE)
    assert tab.locator("#chat [data-testid=user] img").count() == 1


def test_wrong_and_huge_files_are_refused_and_the_chat_goes_on(user, answers, picture, tmp_path):
    tab = user()
    (tmp_path / "text.png").write_text("this is no image")
    upload(tab, tmp_path / "text.png")
    ask(tab)
    refused(tab, "text.png: not an image")
    assert str(tmp_path) not in tab.content()
    tab.reload()
    tab.wait_for_selector("#box textarea")
    Image.new("1", (7000, 7000)).save(tmp_path / "bomb.png")  # few bytes, many pixels
    upload(tab, tmp_path / "bomb.png")
    ask(tab)
    refused(tab, "bomb.png")
    tab.reload()
    tab.wait_for_selector("#box textarea")
    (tmp_path / "huge.png").write_bytes(b"\0" * (uploads.MEGABYTES * 2**20 + 2**20))
    tab.set_input_files("#box input[type=file]", str(tmp_path / "huge.png"))
    refused(tab, "size")
    tab.reload()
    tab.wait_for_selector("#box textarea")
    upload(tab, picture(3))
    ask(tab)
    expect(last_answer(tab)).to_have_text(expected(answers, 3), timeout=PATIENCE)


def test_two_users_at_once_get_their_own_answers(user, answers, picture):
    tabs = [user(), user()]
    for seed, tab in enumerate(tabs, start=4):
        upload(tab, picture(seed))
    for tab in tabs:
        ask(tab)
    wholes = [expected(answers, seed) for seed in (4, 5)]
    assert wholes[0] != wholes[1]
    for tab, whole in zip(tabs, wholes, strict=True):
        expect(last_answer(tab)).to_have_text(whole, timeout=PATIENCE)
    for tab in tabs:
        ask(tab, "the grass")
    for seed, tab in enumerate(tabs, start=4):
        expect(tab.locator("#chat [data-testid=bot]")).to_have_count(2, timeout=PATIENCE)
        expect(last_answer(tab)).to_have_text(expected(answers, seed, text="the grass"), timeout=PATIENCE)
