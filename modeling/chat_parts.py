"""Reads chats, in every spelling that training knows, into the roles and parts that chat templates know.

A chat that is trained and a chat that the model is asked about are read by the same function. A chat template passes
over parts of a type that it does not know, so that the model would be asked without them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .field_values import shown
from .images import IMAGE_MARK
from .row_layout import check_marks
from .videos import VIDEO_MARK

MARK_OF = {"image": IMAGE_MARK, "video": VIDEO_MARK}
MARKS = re.compile(f"({re.escape(IMAGE_MARK)}|{re.escape(VIDEO_MARK)})")
TEXTS = ("text", "input_text", "output_text")
URLS = {"image_url": "image", "input_image": "image", "video_url": "video"}
SOURCES = ("url", "path", "base64", "bytes")  # further keys of a part, beside its own type, that hold its image
# the names that data sets give the speakers -> those of chat templates
ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
}  # fmt: skip
A_TURN = 'a turn is {"role": ..., "content": ...}'


def plain_part(part: Any, where: str) -> dict[str, Any]:
    """Write a part of a content as chat templates know it.

    Args:
        part (Any): A text, or a part in the spelling of OpenAI, Transformers or Qwen.
        where (str): Names the turn in error messages.

    Returns:
        dict[str, Any]: ``{"type": "text", "text": ...}``, ``{"type": "image"}`` or ``{"type": "video"}``. Of the latter
        two, an image or a video that the part has is under its kind, or, as Transformers' templates write them, an
        address under "url" and a file under "path".

    Raises:
        ValueError: Its type is unknown, a text is missing, or it is several parts in one.
    """
    if isinstance(part, str):
        return {"type": "text", "text": part}
    fields = _fields(part)
    kind = fields.get("type")
    if kind is None:  # Qwen's parts say by their key alone what they are
        named = [known for known in ("text", *MARK_OF) if fields.get(known) is not None]
        if len(named) > 1:
            raise ValueError(
                f"{where}: a part of its content is {shown(part)}, which has {' and '.join(named)} in one; make a part "
                "of each"
            )
        kind = next(iter(named), None)
    if isinstance(kind, str):
        if kind in TEXTS and isinstance(fields.get("text"), str):
            return {"type": "text", "text": fields["text"]}
        if kind in URLS:
            source = fields.get("video_url" if kind == "video_url" else "image_url")
            source = source.get("url") if isinstance(source, Mapping) else getattr(source, "url", source)
            return {"type": URLS[kind]} | ({} if source is None else {"url": source})
        if kind in MARK_OF:
            key = next((key for key in (kind, *SOURCES) if fields.get(key) is not None), None)
            return {"type": kind} | ({} if key is None else {key if key in ("url", "path") else kind: fields[key]})
    raise ValueError(f"{where}: a part of its content is {shown(part)}; known are text, image, image_url and video")


def source_of(part: Mapping[str, Any]) -> Any:
    """Return what a part shows.

    Args:
        part (Mapping[str, Any]): A part of type "image" or "video".

    Returns:
        Any: Its image or video, or None if it has none.
    """
    return next((part[key] for key in (part["type"], *SOURCES) if part.get(key) is not None), None)


def plain_chat(chat: Any, where: str, may_call: bool = False) -> list[dict[str, Any]]:
    """Write the contents of a chat as chat templates know them.

    Args:
        chat (Any): The messages, or an object with ``messages``, as Transformers' pipelines have it.
        where (str): Names the chat in error messages.
        may_call (bool): Whether a message may have tool calls in place of a content.

    Returns:
        list[dict[str, Any]]: The messages with all their keys. A content is a text or a list of plain parts.

    Raises:
        ValueError: It is no list of messages, a message has no role or no content, or a part is unknown.
    """
    messages = getattr(chat, "messages", chat)
    if isinstance(messages, (str, bytes, Mapping)) or not hasattr(messages, "__iter__"):
        raise ValueError(f"{where}: the chat is {shown(chat)}; it must be a list of turns, and {A_TURN}")
    turns = ((message, f"{where}, turn {number}") for number, message in enumerate(messages))
    return [_plain_message(message, turn, may_call) for message, turn in turns]


def plain_chats(conversation: Any) -> tuple[list[list[dict[str, Any]]], bool]:
    """Write the contents of a chat, or of several chats, as chat templates know them.

    Args:
        conversation (Any): The messages of a chat, or several chats. A message may have tool calls in place of a
            content.

    Returns:
        tuple[list[list[dict[str, Any]]], bool]: The chats, and whether several were given.

    Raises:
        ValueError: There is none, or as of ``plain_chat``. The message names the chat by its number.
    """
    if isinstance(conversation, (list, tuple)) and not conversation:
        raise ValueError(f"the chat has no turn; give at least one, and {A_TURN}")
    first = conversation[0] if isinstance(conversation, (list, tuple)) else None
    is_batch = isinstance(first, (list, tuple)) or hasattr(first, "messages")
    chats = conversation if is_batch else [conversation]
    return [plain_chat(chat, f"sample {number}", may_call=True) for number, chat in enumerate(chats)], is_batch


def in_parts(content: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turn a content into parts, of which one is a text between two marks, an image or a video.

    Args:
        content (str | Sequence[Mapping[str, Any]]): A text with marks, or plain parts.

    Returns:
        list[dict[str, Any]]: The parts. Those of images and videos keep their sources.
    """
    kinds = {mark: kind for kind, mark in MARK_OF.items()}
    parts: list[dict[str, Any]] = []
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        if part["type"] != "text":
            parts.append(dict(part))
            continue
        for piece in filter(None, MARKS.split(part["text"])):
            if piece in kinds:
                parts.append({"type": kinds[piece]})
            elif parts and parts[-1]["type"] == "text":
                parts[-1]["text"] += piece
            else:
                parts.append({"type": "text", "text": piece})
    return parts


def as_text(content: str | Sequence[Mapping[str, Any]]) -> str:
    """Join the plain parts of a content, with marks for images and videos.

    Args:
        content (str | Sequence[Mapping[str, Any]]): The content.

    Returns:
        str: Its text.
    """
    if isinstance(content, str):
        return content
    return "".join(MARK_OF.get(part["type"]) or part["text"] for part in content)


def sources_in(chat: Sequence[Mapping[str, Any]], kind: str) -> int:
    """Count the images or the videos that the parts of a chat bring along.

    Args:
        chat (Sequence[Mapping[str, Any]]): The chat, of plain parts.
        kind (str): "image" or "video".

    Returns:
        int: Their number.
    """
    contents = (message.get("content") for message in chat)
    parts = (part for content in contents if isinstance(content, list) for part in content)
    return sum(part["type"] == kind and source_of(part) is not None for part in parts)


def check_shown(number: int, chat: Sequence[Mapping[str, Any]], images: int, videos: int) -> None:
    """Check that a chat has one mark or part for each image or none, and the same for videos.

    Args:
        number (int): The position of the row in its batch, for error messages.
        chat (Sequence[Mapping[str, Any]]): The chat, of plain parts.
        images (int): How many images are given for it.
        videos (int): How many videos are given for it.

    Raises:
        ValueError: The numbers differ. The message names the row and both numbers.
    """
    marks = [mark for message in chat for mark in MARKS.findall(as_text(message.get("content") or ""))]
    check_marks(number, [mark == VIDEO_MARK for mark in marks], images, videos)


def _plain_message(message: Any, where: str, may_call: bool) -> dict[str, Any]:
    fields = _fields(message)
    if not isinstance(fields.get("role"), str):
        raise ValueError(f"{where}: {shown(message)}; {A_TURN}")
    fields["role"] = ROLES.get(fields["role"].lower(), fields["role"])  # as it is trained; "tool" and others stay
    content = fields.pop("content", None)
    if content is None and may_call and fields.get("tool_calls"):
        return fields
    if isinstance(content, str):
        return fields | {"content": content}
    if not isinstance(content, (list, tuple)):
        found = "missing" if content is None else shown(content)
        raise ValueError(f"{where}: its content is {found}; it must be a text or a list of parts")
    return fields | {"content": [plain_part(part, where) for part in content]}


def _fields(value: Any) -> dict[str, Any]:
    """Return the fields of a message or a part, which may be an object of a class; none of anything else."""
    return dict(value) if isinstance(value, Mapping) else dict(getattr(value, "__dict__", {}))
