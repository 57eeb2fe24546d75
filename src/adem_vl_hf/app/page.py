"""The web page, made with Gradio: a chat with images, videos and the camera, and a panel about the words of an answer.

Nothing is fetched from the network, by this process or by the page: Gradio's analytics are off, fonts are those of the
reader's system, and ``page_guard.py`` refuses the addresses of visitors and tells the browser to ask no other server.
"""

import html
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio
from PIL import Image
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from ..inspection.look_page import look_page
from ..loopback import OwnHostOnly, is_loopback
from ..modeling.images import SHARE_OF_LIMIT
from .answers import Answers, Turn
from .page_guard import OwnServerOnly, Page
from .uploads import FRAMES, MEGABYTES, PIXELS, SUFFIXES, open_files

EXAMPLES = Path(__file__).parent / "examples"
IN_CHAT = 32  # images and frames of one chat
TEXT = 2000  # characters of one turn
AT_ONCE = 4  # requests whose files are opened, so that a film that takes long keeps nobody waiting
WAITING = 32  # requests in the queue
KEPT = 3600  # seconds that uploads and chats are kept after they were used last
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
NOTHING_YET = "<p>Ask about an image first. Then choose a word of the answer here.</p>"
# hidden: a button that would post the chat on the Hub, one that would empty the chat without its images, and the word
# "Error" that would cover the chat or the maps, while a message says what is wrong
STYLE = (
    "footer, #chat button[title=Share], #chat button[title=Clear] { display: none !important; } "
    "#chat .wrap:has(> .error), #where .wrap:has(> .error) { display: none !important; } "
    "#where iframe { width: 100%; height: 46rem; border: 0; }"
)


def build_page(answers: Answers, title: str, note: str | None = None) -> Any:
    """Make the page of a model.

    Args:
        answers (Answers): What answers.
        title (str): The title, such as the name of the checkpoint.
        note (str | None): A sentence that users should know.

    Returns:
        A ``gradio.Blocks``.
    """
    prompt = answers.processor.prompt
    with Page(title=title, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        # what the page shows is kept here as well: a visitor could send anything as the chat so far
        shown, turns = gradio.State([], time_to_live=KEPT), gradio.State([], time_to_live=KEPT)
        gradio.Markdown(f"# {html.escape(title)}\n{html.escape(note or '')}")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=320):
                chat = gradio.Chatbot(
                    label="Chat", height=420, elem_id="chat", render_markdown=False, buttons=[], feedback_options=None,
                    allow_tags=False, allow_file_downloads=False,
                )  # fmt: skip
                box = gradio.MultimodalTextbox(
                    value={"text": prompt or "", "files": []}, sources=["upload"], file_count="multiple",
                    file_types=list(SUFFIXES), show_label=False, elem_id="box", max_plain_text_length=TEXT,
                    placeholder="Drop images or a video here, and write what to continue or what to ask",
                )  # fmt: skip
                with gradio.Accordion("Camera", open=False):
                    camera = gradio.Image(
                        sources=["webcam"], type="filepath", image_mode=None, show_label=False, buttons=[],
                        elem_id="camera",
                    )  # fmt: skip
                as_chat = gradio.Checkbox(
                    prompt is None, label="The model reads the turns before", elem_id="as-chat",
                    info="Sensible for a checkpoint that was trained on chats. Otherwise each text is continued by "
                    "itself, with the latest images.",
                )  # fmt: skip
                clear = gradio.Button("New chat", elem_id="clear")
                text = prompt or "What is this?"
                gradio.Examples(
                    [[{"text": text, "files": [str(path)]}] for path in sorted(EXAMPLES.glob("*.png"))], box,
                    label="Example images (OpenMoji, CC BY-SA 4.0)", cache_examples=False, api_visibility="private",
                )  # fmt: skip
            with gradio.Column(scale=1, min_width=320):
                gradio.Markdown("## Where it looks")
                ask_where = gradio.Button("Show where the last answer comes from", elem_id="ask-where")
                where = gradio.HTML(NOTHING_YET, elem_id="where")
        # a few at a time open their files, and Answers lets one at a time reach the model; others wait in the queue
        few: dict[str, Any] = {"concurrency_limit": AT_ONCE, "concurrency_id": "model", "api_visibility": "private"}
        private: dict[str, Any] = {"queue": False, "api_visibility": "private"}

        def answer(said: dict[str, Any], shot: str | None, shown: list[Any], turns: list[Turn], as_chat: bool) -> Any:
            yield from _answer(answers, said, shot, shown, turns, as_chat)

        def show_where(turns: list[Turn]) -> str:
            return _where(answers, turns)

        answered = box.submit(
            answer,
            [box, camera, shown, turns, as_chat],
            [chat, shown, turns, box, camera, where, ask_where],
            show_progress_on=chat,  # on the box, an error would cover the text that the user may want to correct
            **few,
        )
        # while an answer is written, its turn is not there yet; this follows errors, too
        answered.then(lambda: gradio.Button(interactive=True), None, ask_where, **private)
        ask_where.click(show_where, turns, where, **few)
        clear.click(lambda: ([], [], [], NOTHING_YET), None, [chat, shown, turns, where], **private)
    return page


def serve(answers: Answers, title: str, host: str, port: int, note: str | None = None, wait: bool = True) -> Any:
    """Serve the page of a model.

    Args:
        answers (Answers): What answers.
        title (str): The title, such as the name of the checkpoint.
        host (str): The address to listen at. 127.0.0.1 is reached from this machine alone.
        port (int): The port.
        note (str | None): A sentence that users should know.
        wait (bool): Whether to return only when the server ends.

    Returns:
        The ``gradio.Blocks`` that is served, whose ``close`` ends the server.
    """
    Image.MAX_IMAGE_PIXELS = math.ceil(PIXELS / SHARE_OF_LIMIT)
    page = build_page(answers, title, note).queue(max_size=WAITING, api_open=False)
    guards = [Middleware(OwnHostOnly, PlainTextResponse)] if is_loopback(host) else []
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=False,
        quiet=True,
        show_error=True,
        prevent_thread_lock=not wait,
        max_file_size=f"{MEGABYTES}mb",
        state_session_capacity=100,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=[],
        theme=gradio.themes.Base(font=SYSTEM_FONTS, font_mono=("ui-monospace", "monospace")).set(
            block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_400"
        ),
        css=STYLE,
        app_kwargs={"middleware": [*guards, Middleware(OwnServerOnly)], "docs_url": None, "redoc_url": None},
    )
    return page


def _answer(
    answers: Answers, said: dict[str, Any], shot: str | None, shown: list[Any], turns: list[Turn], as_chat: bool
) -> Iterator[tuple[Any, ...]]:
    """Add a turn to a chat, and its answer as it grows."""
    files = [*said.get("files", []), *([shot] if shot else [])]
    text = (said.get("text") or "").strip()
    try:
        images, videos = open_files(files)
        if not (text or files):
            raise ValueError("nothing to answer: write a text, or send an image")
        if len(text) > TEXT:
            raise ValueError(f"{len(text)} characters; write at most {TEXT}")
        turn = Turn(text or answers.processor.default_prompt, images, videos, as_chat)
        number = sum(len(of.images) + FRAMES * len(of.videos) for of in [*turns, turn])
        if number > IN_CHAT:
            raise ValueError(f"{number} images and frames in one chat; begin a new chat after {IN_CHAT}")
        if not any(of.images or of.videos for of in [*turns, turn]):
            raise ValueError("there is no image yet: send one, or click on an example")
        content = [*({"path": path} for path in files), _as_text(turn.text)]
        before, turns, unchanged = turns, [*turns, turn], [gradio.skip()] * 4
        chat = [*shown, *({"role": "user", "content": part} for part in content), {"role": "assistant", "content": ""}]
        box: dict[str, Any] = {"text": answers.processor.prompt or "", "files": []}
        yield chat, shown, before, box, None, NOTHING_YET, gradio.Button(interactive=False)
        for turn.answer in answers.stream(turns):
            chat[-1] = {"role": "assistant", "content": _as_text(turn.answer)}
            yield chat, shown, before, *unchanged
        chat[-1] = {"role": "assistant", "content": _as_text(turn.answer or "(nothing)")}
        yield chat, chat, turns, *unchanged
    except ValueError as error:
        raise gradio.Error(html.escape(str(error)), print_exception=False) from error


def _as_text(text: str) -> str:
    """Escape a text for the chat, which inserts it as HTML even where it renders no Markdown."""
    return html.escape(text, quote=False)


def _where(answers: Answers, turns: list[Turn]) -> str:
    """Make the panel about the words of the last answer: the page of ``adem-vl look``, in a frame of its own."""
    if not turns:
        return NOTHING_YET
    try:
        page = look_page(answers.look(turns), title="The last answer")
    except ValueError as error:
        raise gradio.Error(html.escape(str(error)), print_exception=False) from error
    return f'<iframe sandbox title="Where the words come from" srcdoc="{html.escape(page)}"></iframe>'
