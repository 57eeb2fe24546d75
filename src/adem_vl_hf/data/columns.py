"""Recognises the columns of a row by the names that people give them, and makes a sample of the row."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from .sample import CAPTION_PROMPT, Sample, continuation

# what a column is for -> the names that are known for it, the first of which counts if a row has several
SPELLINGS: dict[str, tuple[str, ...]] = {
    "image": ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp"),
    "images": ("images",),
    "video": ("video",),
    "text": ("text", "caption", "captions", "sentence", "sentences", "txt"),
    "question": ("question", "query"),
    "answer": ("answer", "answers"),
    "prompt": ("prompt", "instruction"),
    "completion": ("completion", "response", "output"),
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

    A row is recognised by its columns: a text or caption (or a list of captions) of an image; a question with an answer
    or a list of answers, as VQA has them; or a prompt with a completion or answer. Of several answers, the commonest is
    trained and all are references. An answer gets the space that separates it from its prompt, unless it begins with
    one. A sample of this package, which has a prompt, an answer and a ``kind``, stays as it is.

    Args:
        row (Mapping[str, Any]): The row.
        position (int): Its place in the data set or the batch, which names it if it has no ``id``.
        columns (Mapping[str, str] | None): The names of columns that have other names than those in ``SPELLINGS``:
            ``{"image": "photo_file"}``.

    Returns:
        Sample: The sample. Its images are not opened.

    Raises:
        ValueError: A named column is not there, there is no text to train on, or an answer is no text. The message
            lists the columns found and the names that are known.
    """
    if {"kind", "prompt", "answer"} <= row.keys():
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
    for question, answers, otherwise in ASKED:
        prompt = found[question] if found[question] is not None else otherwise
        said = next((found[role] for role in answers if found[role] is not None), None)
        if prompt is not None and said is not None:
            break
    else:
        known = "; ".join(f"{role}: {', '.join(names)}" for role, names in SPELLINGS.items())
        raise ValueError(
            f"sample {name} has no text to train on but the columns {sorted(row)}. Known are {known}. Name others with "
            "columns={'text': 'your_column'} (on the command line, --columns text=your_column); with Trainer, set "
            "TrainingArguments(remove_unused_columns=False)"
        )
    texts = _texts(name, said)
    answer = Counter(texts).most_common(1)[0][0]
    sample = Sample(
        id=name,
        image=None,
        prompt=prompt,
        answer=answer if answer[:1].isspace() or not answer.strip() else continuation(prompt, answer),
        references=list(dict.fromkeys(text.strip() for text in texts)),
        kind="caption" if prompt == CAPTION_PROMPT else "question",
    )
    shown = "images" if isinstance(found["image"], (list, tuple)) else "image"
    for field, value in ((shown, found["image"]), ("images", found["images"]), ("video", found["video"])):
        if value is not None and not (isinstance(value, (list, tuple)) and not value):
            sample[field] = value  # type: ignore[literal-required]
    return sample


def _texts(name: str, said: Any) -> list[str]:
    """Read an answer, a list of them, or VQA's list of ``{"answer": ...}``."""
    entries = list(said) if isinstance(said, (list, tuple)) else [said]
    texts: list[Any] = [entry.get("answer") if isinstance(entry, Mapping) else entry for entry in entries]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"sample {name}: its answer is {str(said)[:100]!r}; it must be a text or a list of texts")
    return texts
