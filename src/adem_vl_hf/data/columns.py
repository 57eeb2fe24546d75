"""Recognises the columns of a row by the names that people give them, and makes a sample of the row."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from PIL import Image

from ..modeling.field_values import fits, shown
from .chats import ReadChat, is_chat, read_chat
from .sample import CAPTION_PROMPT, Question, Sample, continuation

# what a column is for -> the names that are known for it, the first of which counts if a row has several
SPELLINGS: dict[str, tuple[str, ...]] = {
    "image": ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp"),
    "images": ("images",),
    "video": ("video", "videos"),
    "text": ("text", "caption", "captions", "sentence", "sentences", "txt"),
    "question": ("question", "query"),
    "answer": ("answer", "answers"),
    "prompt": ("prompt", "instruction"),
    "completion": ("completion", "response", "output"),
    "messages": ("messages", "conversations", "conversation", "texts"),
    "system": ("system",),
    "id": ("id", "__key__"),
}

# what asks, what answers, and the prompt where nothing asks; the first that a row has counts
ASKED: tuple[tuple[str, tuple[str, ...], str | None], ...] = (
    ("prompt", ("completion", "answer"), None),
    ("question", ("answer",), None),
    ("prompt", ("text", "answer"), CAPTION_PROMPT),
)


def sample_of(row: Mapping[str, Any], position: int, columns: Mapping[str, str] | None = None) -> Sample:
    """Make a sample of a row of any data set.

    A row is recognised by its columns: a chat (a list of messages, or a prompt and a completion that are such lists); a
    text or caption (or a list of captions) of an image; a question with an answer or a list of answers, as VQA has
    them; several questions, a list, with as many answers; or a prompt with a completion or answer. Of several answers
    to one question, the commonest is trained and all are references. An answer gets the space that separates it from
    its prompt, unless it begins with one. A sample of this package, which has a prompt, an answer and a ``kind``, stays
    as it is.

    Args:
        row (Mapping[str, Any]): The row.
        position (int): Its place in the data set or the batch, which names it if it has no ``id``.
        columns (Mapping[str, str] | None): The names of columns that have other names than those in ``SPELLINGS``:
            ``{"image": "photo_file"}``.

    Returns:
        Sample: The sample. Its images are not opened.

    Raises:
        ValueError: A named column is not there, there is no text to train on, an answer is no text, or the turns or the
            marks of a chat do not fit. The message lists the columns found and the names that are known, or names the
            row.
    """
    if {"kind", "prompt", "answer"} <= row.keys():
        for key, hint in (("kind", str), ("prompt", str), ("answer", str), ("references", list[str] | None)):
            if not fits(row.get(key), hint):
                raise ValueError(f"sample {row.get('id', position)}: its {key} is {shown(row.get(key))}, no text")
        return row | {"id": str(row.get("id", position))}  # type: ignore[operator,return-value]
    columns = columns or {}
    for role, name in columns.items():
        if role not in SPELLINGS:
            raise ValueError(f"columns: {role!r} is none of {', '.join(SPELLINGS)}")
        if name not in row:
            raise ValueError(f"sample {position}: no column {name!r} but {sorted(row)}")
    found: dict[str, Any] = {}
    for role, names in SPELLINGS.items():
        places = [columns[role]] if role in columns else names
        found[role] = next((row[place] for place in places if row.get(place) is not None), None)
    name = str(position if found["id"] is None else found["id"])
    sample = _chat_sample(name, found)
    if sample is None:
        sample = _question_sample(name, found)
    if sample is None:
        known = "; ".join(f"{role}: {', '.join(names)}" for role, names in SPELLINGS.items())
        if found["messages"] is not None:
            known += f" (its chat {shown(found['messages'])} is no list of messages with a role and a content)"
        raise ValueError(
            f"sample {name} has no text to train on but the columns {sorted(row)}. Known are {known}. Name others with "
            "columns={'text': 'your_column'} (on the command line, --columns text=your_column); with Trainer, set "
            "TrainingArguments(remove_unused_columns=False)"
        )
    return sample


def _chat_sample(name: str, found: Mapping[str, Any]) -> Sample | None:
    """Make a sample of a row with a chat, or return None."""
    value, completion = found["messages"], found["completion"]
    is_completion = not is_chat(value) and is_chat(found["prompt"]) and is_chat(completion)
    if is_completion:
        value = [*found["prompt"], *completion]
    elif not is_chat(value):
        return None
    shown = [image for role in ("image", "images") for image in _listed(found[role])]
    chat = read_chat(value, shown, _videos(found["video"]), f"sample {name!r}", found["system"])
    answer = chat.messages[-1]["content"]
    sample = Sample(
        id=name,
        image=None,
        prompt=next(turn["content"] for turn in reversed(chat.messages) if turn["role"] == "user"),
        answer=answer,
        references=[answer],
        kind="chat",
        messages=chat.messages,
    )
    if is_completion:  # the loss is on the completion alone, as in TRL
        if len(completion) != 1 or len(chat.messages) < 2 or completion[0].get("role") == "user":
            raise ValueError(
                f"sample {name!r}: its completion has {len(completion)} messages; give one, of the assistant, or put "
                "the whole chat into a column messages"
            )
        sample["messages"] = chat.messages[:-1]
    _add_shown(sample, chat)
    return sample


def _add_shown(sample: Sample, chat: ReadChat) -> None:
    """Add the images or the video of a chat to its sample."""
    if len(chat.videos) + bool(chat.images) > 1:
        raise ValueError(
            f"sample {sample['id']!r}: {len(chat.images)} images and {len(chat.videos)} videos; a sample has images or "
            "one video"
        )
    if chat.videos:
        sample["video"] = chat.videos[0]
    elif len(chat.images) == 1:
        sample["image"] = chat.images[0]
    elif chat.images:
        sample["images"] = chat.images


def _question_sample(name: str, found: Mapping[str, Any]) -> Sample | None:
    """Make a sample of a row with a text, a question or several, or return None."""
    for question, answers, otherwise in ASKED:
        prompt = found[question] if found[question] is not None else otherwise
        said = next((found[role] for role in answers if found[role] is not None), None)
        if prompt is not None and said is not None:
            break
    else:
        return None
    if isinstance(prompt, (list, tuple)):
        if not prompt or not isinstance(said, (list, tuple)) or len(prompt) != len(said):
            count = len(said) if isinstance(said, (list, tuple)) else 1
            raise ValueError(f"sample {name}: {len(prompt)} questions and {count} answers; give one answer for each")
        turns = [_question(name, *pair) for pair in zip(prompt, said, strict=True)]
    else:
        turns = [_question(name, prompt, said)]
    sample = Sample(id=name, image=None, **turns[-1])
    if len(turns) > 1:
        sample["turns"] = turns
    shown = "images" if isinstance(found["image"], (list, tuple)) else "image"
    for field, value in ((shown, found["image"]), ("images", found["images"]), ("video", found["video"])):
        if value is not None and not (isinstance(value, (list, tuple)) and not value):
            sample[field] = value  # type: ignore[literal-required]
    return sample


def _question(name: str, prompt: Any, said: Any) -> Question:
    """Make a question of a prompt and the answers to it."""
    if not fits(prompt, str):
        raise ValueError(f"sample {name}: its question is {shown(prompt)}; it must be a text")
    texts = _texts(name, said)
    answer = Counter(texts).most_common(1)[0][0]
    return Question(
        prompt=prompt,
        answer=answer if answer[:1].isspace() or not answer.strip() else continuation(prompt, answer),
        references=list(dict.fromkeys(text.strip() for text in texts)),
        kind="caption" if prompt == CAPTION_PROMPT else "question",
    )


def _listed(value: Any) -> list[Any]:
    """Return the images or videos of a column, which has one, several or none."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [one for one in values if one is not None]


def _videos(value: Any) -> list[Any]:
    """Return the videos of a column, which has one, several or none; a list of images is one video."""
    first = value[0] if isinstance(value, (list, tuple)) and value else None
    is_one = isinstance(first, Image.Image) or getattr(first, "ndim", 0) == 3
    return [value] if is_one else _listed(value)


def _texts(name: str, said: Any) -> list[str]:
    """Read an answer, a list of them, or VQA's list of ``{"answer": ...}``."""
    entries = list(said) if isinstance(said, (list, tuple)) else [said]
    texts: list[Any] = [entry.get("answer") if isinstance(entry, Mapping) else entry for entry in entries]
    if not texts or not fits(texts, list[str]):
        raise ValueError(f"sample {name}: its answer is {shown(said)}; it must be a text or a list of texts")
    return texts
