"""Reads chats in the spellings of OpenAI, TRL, LLaVA, ShareGPT, LLaMA-Factory and The Cauldron.

A chat becomes messages whose contents are texts with marks, ``<image>`` and ``<video>``, and the images and videos that
the marks stand for, in their order.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..modeling import field_values
from ..modeling.chat_parts import A_TURN, MARK_OF, MARKS, ROLES, plain_part, source_of
from .cells import as_list
from .sample import IMAGE_MARK, VIDEO_MARK, Chat, ChatTurn


class ReadChat(NamedTuple):
    """Holds a chat and what it shows.

    Args:
        messages (Chat): The messages, each with a text. The last one is an answer of the assistant.
        images (list[Any]): The images in the order of their marks.
        videos (list[Any]): The videos in the order of their marks.
    """

    messages: Chat
    images: list[Any]
    videos: list[Any]


def is_chat(value: Any) -> bool:
    """Tell whether a value of a row is a chat: a list of messages.

    Args:
        value (Any): The value.

    Returns:
        Whether it is a list of dictionaries with a role, a speaker, or a user and an assistant. A dictionary of lists,
        as old versions of the library ``datasets`` make of such a list, is one, too.
    """
    messages = as_list(value)
    keys = {"role", "from", "user"}
    return bool(messages) and all(isinstance(message, Mapping) and keys & message.keys() for message in messages)


def read_chat(
    value: Any, images: Sequence[Any], videos: Sequence[Any], where: str, system: str | None = None
) -> ReadChat:
    """Read a chat.

    What follows the last answer is left out, and so is an answer that nobody asked for at the beginning.

    Args:
        value (Any): The messages: ``{"role", "content"}`` or ``{"from", "value"}``, with a text or a list of parts, or
            The Cauldron's ``{"user", "assistant"}``.
        images (Sequence[Any]): The images of the row, for the marks and the parts that have none of their own. Without
            any mark, they stand before the first turn of the user.
        videos (Sequence[Any]): The videos of the row, likewise.
        where (str): Names the row in error messages.
        system (str | None): A system prompt that stands beside the messages.

    Returns:
        ReadChat: The chat, which ends with an answer.

    Raises:
        ValueError: A role or a content is unknown, the system prompt is no text, an answer is empty or missing, or the
            marks do not fit the images.
    """
    if not field_values.fits(system, str | None):
        raise ValueError(f"{where}: its system prompt is {field_values.shown(system)}; it must be a text")
    turns = [_turn(message, number, where) for number, message in enumerate(_split(as_list(value)))]
    if system and (not turns or turns[0][0] != "system"):
        turns.insert(0, ("system", system, []))
    first = next((number for number, turn in enumerate(turns) if turn[0] == "user"), len(turns))
    last = max((number for number, turn in enumerate(turns) if turn[0] == "assistant"), default=-1)
    if last < first:
        raise ValueError(f"{where}: no answer of the assistant follows a turn of the user, so nothing would be trained")
    shown: dict[str, list[Any]] = {"image": [], "video": []}
    messages: list[list[str]] = [[role, content] for role, content, _ in turns]
    for kind, given in (("image", list(images)), ("video", list(videos))):
        sources = [(number, source) for number, turn in enumerate(turns) for of, source in turn[2] if of == kind]
        open_places = [place for place, (_, source) in enumerate(sources) if source is None]
        if given and not sources:
            messages[first][1] = MARK_OF[kind] * len(given) + messages[first][1]
            sources = [(first, one) for one in given]
        elif len(open_places) != len(given):
            raise ValueError(
                f"{where}: {len(open_places)} {MARK_OF[kind]} marks for {len(given)} {kind}s; write one for each, or "
                "none at all (they then stand before the first turn of the user)"
            )
        for place, one in zip(open_places, given, strict=False):
            sources[place] = (sources[place][0], one)
        kept = (one for number, one in sources if number <= last and (number >= first or turns[number][0] == "system"))
        shown[kind] = list(kept)
    kept_messages = [
        ChatTurn(role=role, content=content)  # type: ignore[typeddict-item]  # the roles are those of ROLES
        for number, (role, content) in enumerate(messages[: last + 1])
        if number >= first or role == "system"
    ]
    return ReadChat(kept_messages, shown["image"], shown["video"])


def _split(messages: Sequence[Any]) -> Iterator[Any]:
    """Make two messages of each ``{"user", "assistant"}``."""
    for message in messages:
        if isinstance(message, Mapping) and "user" in message and not {"role", "from"} & message.keys():
            yield {"role": "user", "content": message["user"]}
            yield {"role": "assistant", "content": message.get("assistant")}
        else:
            yield message


def _turn(message: Any, number: int, where: str) -> tuple[str, str, list[tuple[str, Any]]]:
    """Read one message: its role, its text with marks, and the kind and the image of each mark, None if it has none."""
    where = f"{where}, turn {number}"
    if not isinstance(message, Mapping):
        raise ValueError(f"{where}: {field_values.shown(message)}; {A_TURN}")
    said = message.get("role") if message.get("role") is not None else message.get("from")
    role = ROLES.get(said.lower()) if isinstance(said, str) else None
    if role is None:
        raise ValueError(
            f"{where}: its role is {field_values.shown(said)}; known are {', '.join(ROLES)}, so "
            "remove such turns or rename it"
        )
    content = message.get("content") if message.get("content") is not None else message.get("value")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, (list, tuple)):
        found = "missing" if content is None else field_values.shown(content)
        raise ValueError(f"{where}: its content is {found}; it must be a text or a list of parts")
    parts = [_part(part, where) for part in content]
    shown = [one for _, of_part in parts for one in of_part]
    text = "".join(words for words, _ in parts).strip()
    if not text.replace(IMAGE_MARK, "").replace(VIDEO_MARK, "").strip() and role == "assistant":
        raise ValueError(f"{where}: the answer is empty, so it would train nothing; write its text, or remove the turn")
    return role, text, shown


def _part(part: Any, where: str) -> tuple[str, list[tuple[str, Any]]]:
    """Read one part of a content: its text with marks, and what the marks stand for."""
    plain = plain_part(part, where)
    kind = plain["type"]
    if kind == "text":
        marks = MARKS.findall(plain["text"])
        return plain["text"], [("video" if mark == VIDEO_MARK else "image", None) for mark in marks]
    return MARK_OF[kind], [(kind, source_of(plain))]
