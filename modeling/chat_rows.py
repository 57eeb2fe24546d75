"""Renders chats with a chat template, and finds the answers of the assistant in what it renders.

A model is asked about a chat by ``processor.apply_chat_template``. Training renders the whole chat with the same
template, so that what stands before each answer is the same text as when the model is asked for that answer.
"""

import re
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, TypedDict

from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils.chat_template_utils import render_jinja_template

from .chat_parts import as_text, check_shown, in_parts, plain_chat, plain_chats, sources_in
from .images import IMAGE_MARK
from .row_layout import Passage
from .videos import VIDEO_MARK

INSTRUCTION_PROMPT = "Instruction: {instruction}\nResponse:"  # the prompt of ADEM-VL's code
# of ``apply_chat_template`` itself, beside those of the chat, since Transformers 5
TAKES_IMAGES = "processor_kwargs" in signature(ProcessorMixin.apply_chat_template).parameters
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")  # what chat templates write before an answer

# A Jinja template that turns the content lists of multimodal chats into text with marks. It is put before the
# tokenizer's own chat template, which then sees plain text.
FLATTEN_CONTENT = (
    "{%- set flat = namespace(messages=[]) -%}{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{%- set text = message['content'] -%}{%- else -%}{%- set text -%}"
    "{%- for part in message['content'] -%}{%- if part['type'] == 'image' -%}"
    + IMAGE_MARK
    + "{%- elif part['type'] == 'video' -%}"
    + VIDEO_MARK
    + "{%- elif part['type'] == 'text' -%}"
    "{{ part['text'] }}{%- endif -%}{%- endfor -%}{%- endset -%}{%- endif -%}"
    "{%- set flat.messages = flat.messages + [dict(message, content=text)] -%}{%- endfor -%}"
    "{%- set messages = flat.messages -%}"
)

# The chat template of a tokenizer that has none: every turn as the prompt and the answer that ADEM-VL's code makes of
# an instruction. Marks at the ends of the first instruction are taken out if all marks of the chat are there, because
# images without marks stand before the text, as in a row of one instruction. ``whole`` has the texts of the whole chat
# where its beginning is rendered.
_BEFORE, _AFTER = INSTRUCTION_PROMPT.split("{instruction}")
INSTRUCTION_TEMPLATE = (
    FLATTEN_CONTENT + "{%- set all = whole | default(messages | map(attribute='content') | join) -%}"
    "{%- set first = messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | first | default('')"
    " -%}"
    "{%- set bare = (first | replace('" + IMAGE_MARK + "', '') | replace('" + VIDEO_MARK + "', '')).strip() -%}"
    "{%- set at_the_ends = bare in first and all.count('" + IMAGE_MARK + "') == first.count('" + IMAGE_MARK + "')"
    " and all.count('" + VIDEO_MARK + "') == first.count('" + VIDEO_MARK + "')"
    " and not ('" + IMAGE_MARK + "' in first and '" + VIDEO_MARK + "' in first) -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}{{ ' ' ~ message['content'].strip() ~ eos_token }}"
    "{%- elif message['role'] == 'system' -%}{{ message['content'] + '\n' }}"
    "{%- elif at_the_ends and message['content'] == first -%}{{ " + repr(_BEFORE) + " + bare + " + repr(_AFTER) + " }}"
    "{%- else -%}{{ " + repr(_BEFORE) + " + message['content'] + " + repr(_AFTER) + " }}{%- endif -%}"
    "{%- endfor -%}"
)  # fmt: skip


class Message(TypedDict):
    """Holds one turn of a chat.

    Attributes:
        role (str): "system", "user" or "assistant".
        content (str | Sequence[Mapping[str, Any]]): Its text, with marks where images and videos stand, or a list of
            parts, as ``plain_part`` reads them.
    """

    role: str
    content: str | Sequence[Mapping[str, Any]]


def flatten_content(template: str | dict[str, str]) -> str | dict[str, str]:
    """Extend a tokenizer's chat template to messages whose content is a list of texts, images and videos.

    Args:
        template (str | dict[str, str]): The chat template in Jinja, or several by name.

    Returns:
        str | dict[str, str]: The same with ``FLATTEN_CONTENT`` before each.
    """
    if isinstance(template, dict):
        return {name: FLATTEN_CONTENT + one for name, one in template.items()}
    return FLATTEN_CONTENT + template


def taking_parts(template: Any) -> Any:
    """Extend a chat template that somebody sets, if it takes texts alone and would print a list of parts as it stands.

    Args:
        template (Any): The chat template in Jinja, several by name, or None.

    Returns:
        Any: The same with ``FLATTEN_CONTENT`` before each that takes texts alone.
    """
    if isinstance(template, dict):
        return {name: taking_parts(one) for name, one in template.items()}
    if template is None or FLATTEN_CONTENT in template:
        return template
    parts, text = ([{"role": "user", "content": content}] for content in ([{"type": "text", "text": "?"}], "?"))
    try:
        takes_parts = not re.search("['\"]type['\"]", render_jinja_template([parts], chat_template=template)[0][0])
    except Exception:  # a template adds texts to one another, or refuses what it does not know
        try:
            render_jinja_template([text], chat_template=template)
        except Exception:
            return template  # it needs more than one message, and says so where it is used
        takes_parts = False
    return template if takes_parts else flatten_content(template)


def ready_chats(conversation: Any, given: Any, own: Any, options: Mapping[str, Any]) -> Any:
    """Check a chat, or several chats, and write them as Transformers' ``apply_chat_template`` needs them.

    Args:
        conversation (Any): The messages of a chat, or several chats.
        given (Any): The chat template of the call in Jinja, or its name. None means the processor's own.
        own (Any): The chat template of the processor, or several by name.
        options (Mapping[str, Any]): The keyword arguments of the call.

    Returns:
        Any: The same with contents as the template asks for them.

    Raises:
        ValueError: A message or a part is unknown, or the images of a chat do not fit its marks.
    """
    template = own.get(given or "default", given) if isinstance(own, dict) else given or own
    chats, is_batch = plain_chats(conversation)
    if _takes_parts(template):  # also before version 5.1, Transformers looks for images in lists of parts alone
        chats = [[turn | {"content": in_parts(turn.get("content") or "")} for turn in chat] for chat in chats]
    # this template takes marks out, so that nobody could count them later
    if options.get("tokenize") and template == INSTRUCTION_TEMPLATE:
        images: list[int] = [sources_in(chat, "image") for chat in chats]
        further = {**options, **(options.get("processor_kwargs") or {})}.get("images")
        if further is not None and TAKES_IMAGES:
            rows = further if is_batch else [further]
            images = [len(row) if isinstance(row, (list, tuple)) else int(row is not None) for row in rows]
        for number, (chat, count) in enumerate(zip(chats, images, strict=False)):
            check_shown(number, chat, count, sources_in(chat, "video"))
    return chats if is_batch else chats[0]


def chat_row(
    number: int,
    messages: Any,
    answer: str | None,
    template: str | dict[str, str] | None,
    tokenizer: PreTrainedTokenizerBase,
    images: int,
    videos: int,
) -> Passage:
    """Read and render the chat of a row, and find the answers in it that are supervised.

    Args:
        number (int): The position of the row in its batch, for error messages.
        messages (Any): The messages of the chat.
        answer (str | None): The answer to the chat, as for ``chat_passage``.
        template (str | dict[str, str] | None): The chat template, as for ``chat_passage``.
        tokenizer (PreTrainedTokenizerBase): The tokenizer, which knows the special tokens.
        images (int): How many images the row has.
        videos (int): How many videos it has.

    Returns:
        Passage: The text with its answers.

    Raises:
        ValueError: A message or a part is unknown, the images do not fit the marks, or the template refuses the chat.
            The message names the row.
    """
    chat = plain_chat(messages, f"sample {number}")
    if template in (None, INSTRUCTION_TEMPLATE):  # it takes marks out, so that nobody could count them later
        check_shown(number, [*chat, {"content": answer}], images, videos)
    try:
        return chat_passage(chat, answer, template, tokenizer)
    except ValueError as error:
        raise ValueError(f"sample {number}: {error}") from error


def chat_passage(
    messages: Sequence[Mapping[str, Any]],
    answer: str | None,
    template: str | dict[str, str] | None,
    tokenizer: PreTrainedTokenizerBase,
) -> Passage:
    """Render a chat, and find the answers in it that are supervised.

    Args:
        messages (Sequence[Mapping[str, Any]]): The messages of the chat, with contents as ``plain_chat`` writes them.
        answer (str | None): The answer to the chat, which alone is supervised then. None means that all answers of a
            chat that ends with an answer are supervised, and that any other chat is a prompt.
        template (str | dict[str, str] | None): The chat template in Jinja, or several by name, of which "default" is
            taken. None means ``INSTRUCTION_TEMPLATE``.
        tokenizer (PreTrainedTokenizerBase): The tokenizer, which knows the special tokens.

    Returns:
        Passage: The text with its answers. Each includes the special token that ends its turn. If the template writes
        none, an end of sequence closes the passage.

    Raises:
        ValueError: The template refuses the chat, or does not render its turns one after the other.
    """
    template = template["default"] if isinstance(template, dict) else template or INSTRUCTION_TEMPLATE
    chat = [{"role": message["role"], "content": _content(message["content"], template)} for message in messages]
    if answer is not None:
        chat.append({"role": "assistant", "content": _content(answer, template)})
        trained = [len(chat) - 1]
    else:
        trained = [place for place, message in enumerate(chat) if message["role"] == "assistant"]
    if not chat or chat[-1]["role"] != "assistant":
        return Passage(_render(chat, template, tokenizer, asks=True)[0])
    ends = _end_tokens(tokenizer)
    text, marked = _render(chat, template, tokenizer, has_marks=GENERATION.search(template) is not None)
    if marked:
        spans = [(begin, _end_of_marked(text, begin, end, ends)) for begin, end in marked]
        spans = spans[-1:] if answer is not None else spans
    else:
        spans = [_span(chat, place, text, template, tokenizer, ends) for place in trained]
    text = text[: spans[-1][1]]
    return Passage(text, spans, is_closed=re.search(rf"(?:{ends})\Z", text) is None)


def _span(
    chat: list[dict[str, Any]], place: int, text: str, template: str, tokenizer: Any, ends: str
) -> tuple[int, int]:
    """Find the answer at a place of a rendered chat: it begins where the prompt for it ends."""
    whole = "".join(as_text(message["content"]) for message in chat)
    before, _ = _render(chat[:place], template, tokenizer, asks=True, whole=whole)
    after, _ = _render(chat[: place + 1], template, tokenizer, whole=whole)
    # templates may write something at the end of the whole chat
    end = next((n for n, (one, other) in enumerate(zip(text, after, strict=False)) if one != other), len(after))
    content = as_text(chat[place]["content"]).strip()
    found = text.find(content, len(before), end)
    if not text.startswith(before) or found < 0:
        raise ValueError(
            f"the chat template writes message {place} differently when others follow or when it is asked for, so the "
            "answers cannot be found in the chat; train each turn alone (each_turn_alone=True, --each-turn-alone), or "
            "set processor.chat_template to a template with {% generation %} around the answers"
        )
    # the answer goes on to the first special token of its turn
    end_token = re.compile(ends).search(text, found + len(content), end)
    return len(before), end_token.end() if end_token else found + len(content)


def _end_of_marked(text: str, begin: int, end: int, ends: str) -> int:
    """Find the end of an answer that the template marks: with the special token inside or behind the marks, if any."""
    end = begin + len(text[begin:end].rstrip())
    if re.search(rf"(?:{ends})\Z", text[begin:end]):
        return end
    end_token = re.compile(rf"\s*(?:{ends})").match(text, end)
    return end_token.end() if end_token else end


def _end_tokens(tokenizer: PreTrainedTokenizerBase) -> str:
    """Make a pattern of the special tokens, which may end a turn. Without any, it matches nothing."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    specials = sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True)
    return "|".join(map(re.escape, specials)) or "(?!)"


def _render(
    chat: list[dict[str, Any]],
    template: str,
    tokenizer: Any,
    asks: bool = False,
    has_marks: bool = False,
    **variables: str,
) -> tuple[str, list[tuple[int, int]]]:
    """Render a chat as ``apply_chat_template`` does, and return the answers that the template itself marks."""
    try:
        texts, marked = render_jinja_template(
            conversations=[chat],
            chat_template=template,
            add_generation_prompt=asks,
            return_assistant_tokens_mask=has_marks,
            **tokenizer.special_tokens_map,
            **variables,
        )
    except Exception as error:  # a template may raise whatever it likes
        raise ValueError(f"the chat template refuses this chat ({error})") from error
    return texts[0], [(begin, end) for begin, end in marked[0]] if marked else []


def _takes_parts(template: Any) -> bool:
    """Tell whether a template is for contents in parts, of which it asks the type."""
    return isinstance(template, str) and "type" in template


def _content(content: Any, template: str) -> Any:
    """Give a content the form that a template asks for: parts, without their sources, or a text."""
    text = as_text(content)
    return in_parts(text) if _takes_parts(template) else text
