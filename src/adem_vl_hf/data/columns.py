"""Recognises the columns of a row by the names that people give them, and makes a sample of the row."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from PIL import Image

from ..modeling.field_values import fits, shown
from .cells import answers_of, as_list, looks_like_image, value_of
from .chats import ReadChat, is_chat, read_chat
from .choice_columns import choices_in_columns, chosen
from .choices import with_options
from .sample import CAPTION_PROMPT, Question, Sample, continuation

# what a column is for -> the names that are known for it, in any mixture of capitals; the first that a row has counts
SPELLINGS: dict[str, tuple[str, ...]] = {
    "image": (
        "image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_path", "img_path", "image_file",
        "file_name", "image_bytes", "image_base64", "image_base64_str", "image_url",
    ),
    "images": ("images", "image_paths"),
    "video": ("video", "videos"),
    "text": ("text", "caption", "captions", "sentence", "sentences", "txt", "description"),
    "question": ("question", "questions", "query", "problem"),
    "answer": ("answer", "answers", "multiple_choice_answer", "solution", "label"),
    "choices": ("choices", "options"),
    "prompt": ("prompt", "instruction"),
    "input": ("input", "inputs"),
    "completion": ("completion", "response", "output", "outputs"),
    "messages": ("messages", "conversations", "conversation", "texts"),
    "system": ("system",),
    "history": ("history",),
    "references": ("references",),
    "kind": ("kind",),
    "id": ("id", "__key__"),
}  # fmt: skip
# what a sample of this package never has, whatever else a row with all its fields may have
FOREIGN = {name for names in SPELLINGS.values() for name in names} - Sample.__annotations__.keys()

SPEAKERS = ("user", "assistant")

# what asks, what answers, and the prompt where nothing asks; the first that a row has counts
ASKED: tuple[tuple[str, tuple[str, ...], str | None], ...] = (
    ("prompt", ("completion", "answer"), None),
    ("question", ("answer", "completion", "text"), None),
    ("prompt", ("text", "answer"), CAPTION_PROMPT),
    ("input", ("completion",), None),
)


def sample_of(row: Mapping[str, Any], position: int, columns: Mapping[str, str] | None = None) -> Sample:
    """Make a sample of a row of any data set.

    A row is recognised by its columns: a chat (a list of messages, or a prompt and a completion that are such lists); a
    text or caption (or a list of captions) of an image; a question with an answer or a list of answers, as VQA has
    them; several questions, a list, with as many answers; or a prompt with a completion or answer. Of several answers
    to one question, the commonest is trained and all are references. A question with choices shows them, and its answer
    is one of them, in any capitals, its letter, its label, or its number from 0. A number among choices that are
    numbers is always one of them. A list that is written as a text is read in a column whose name ends with "s".
    Choices may also have columns of their own, ``A``, ``B``, ... or ``option_a``, .... A question with a system prompt
    or a history is a chat. An answer gets the space that separates it from its prompt, unless it begins with one.
    ``references`` are further true answers, and ``kind`` is the name under which the answers to a question or a prompt
    are counted. A sample of this package, which has a prompt, an answer, references and a kind, stays as it is.

    Args:
        row (Mapping[str, Any]): The row.
        position (int): Its place in the data set or the batch, which names it if it has no ``id``.
        columns (Mapping[str, str] | None): The names of columns that have other names than those in ``SPELLINGS``:
            ``{"image": "photo_file"}``.

    Returns:
        Sample: The sample. Its images are not opened.

    Raises:
        ValueError: A named column is not there, there is no text to train on or there are two without a question, an
            answer is no text, empty or none of the choices, a question is empty, an image is in a column that would not
            be seen, or the turns or the marks of a chat do not fit. The message lists the columns found and the names
            that are known, or names the row.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"sample {position} is {shown(row)}; a row is a dictionary of columns, as datasets give it")
    if not columns and _is_sample(row):
        for key, hint in (("kind", str), ("prompt", str), ("answer", str), ("references", list[str])):
            if not fits(row[key], hint):
                raise ValueError(f"sample {row.get('id', position)}: its {key} is {shown(row[key])}, no text")
        return row | {"id": str(row.get("id", position))}  # type: ignore[operator,return-value]
    places = places_of(row, position, columns or {})
    found = {role: None if place is None else value_of(row[place], role, place) for role, place in places.items()}
    name = str(position if found["id"] is None else found["id"])
    if found["choices"] is None:
        named_otherwise = set((columns or {}).values())
        found["choices"] = choices_in_columns(
            {key: row[key] for key in row if key not in named_otherwise}, found["answer"]
        )
    _check_question(name, row, places, found, columns or {})
    if found["prompt"] is None and found["question"] is None and not is_chat(found["messages"]):
        named = (columns or {}).keys() & {"text", "answer"}
        if len(named) != 1:
            check_texts(f"sample {name}", places, found)
        elif named == {"answer"} and found["answer"] is not None:
            found["text"] = None  # the named one is the one to train
    sample = _chat_sample(name, found)
    if sample is None:
        sample = _question_sample(name, found)
    if sample is None:
        raise ValueError(_no_text(name, row, found))
    if all(sample.get(field) is None for field in ("image", "images", "video")):
        check_unseen(name, row, columns or {})
    return sample


def _is_sample(row: Mapping[str, Any]) -> bool:
    """Tell a sample of this package from the row of a table that has some columns of the same names."""
    if any(row.get(key) is None for key in ("kind", "prompt", "answer", "references")):
        return False
    return not any(str(name).lower() in FOREIGN and value is not None for name, value in row.items())


def places_of(row: Mapping[str, Any], position: int, columns: Mapping[str, str]) -> dict[str, str | None]:
    """Find the column of each role.

    Args:
        row (Mapping[str, Any]): The row.
        position (int): Its place in the data set or the batch, which names it in an error.
        columns (Mapping[str, str]): The names of columns that have other names than those in ``SPELLINGS``.

    Returns:
        The names of the columns by role; None if the row has no value for it.

    Raises:
        ValueError: A named column is not there, or its role is unknown.
    """
    for role, name in columns.items():
        if role not in SPELLINGS:
            raise ValueError(f"columns: {role!r} is none of {', '.join(SPELLINGS)}")
        if name not in row:
            raise ValueError(f"sample {position}: no column {name!r} but {sorted(row)}")
    small = {**{str(name).lower(): name for name in row}, **{name: name for name in row}}
    places: dict[str, str | None] = {}
    for role, names in SPELLINGS.items():
        known = [columns[role]] if role in columns else [small[name] for name in names if name in small]
        places[role] = next((name for name in known if row[name] is not None), None)
    return places


def _check_question(
    name: str,
    row: Mapping[str, Any],
    places: Mapping[str, str | None],
    found: dict[str, Any],
    columns: Mapping[str, str],
) -> None:
    """Refuse an empty question whose answer would be trained as a caption. A row may have a caption in its place."""
    questions = found["question"] if isinstance(found["question"], list) else [found["question"]]
    if any(question is not None and str(question).strip() for question in questions):
        if any(question is None or not str(question).strip() for question in questions):
            raise ValueError(f"sample {name}: one of its questions is empty; write it, or remove it and its answer")
        return
    found["question"] = None
    others = ("prompt", "input", "text", "messages")
    if places["answer"] is None or any(found[role] is not None for role in others):
        return
    asking = {columns["question"]} if "question" in columns else SPELLINGS["question"]
    empty = next((column for column in row if column in asking or str(column).lower() in asking), None)
    if empty is not None:
        answer = places["answer"]
        raise ValueError(
            f'sample {name}: its "{empty}" is empty, so its "{answer}" would be trained as a caption; write the '
            f"question or remove the row. If it is a caption, say so with columns={{'text': '{answer}'}} "
            f"(on the command line, --columns text={answer})"
        )


def check_texts(where: str, places: Mapping[str, str | None], found: Mapping[str, Any]) -> None:
    """Refuse a row without a question that has a text and another answer: one would be trained, and the other lost.

    Args:
        where (str): Names the row in the error.
        places (Mapping[str, str | None]): The columns of the row, as ``places_of`` finds them.
        found (Mapping[str, Any]): Their values by role.

    Raises:
        ValueError: It has both, and they differ. The message names the columns, and says how to choose one.
    """
    texts = _words(found["text"])
    for role in ("answer", "completion"):
        if texts and not _words(found[role]) <= texts:
            text, answer = places["text"], places[role]
            raise ValueError(
                f'{where}: both "{text}" and "{answer}"; give one. If "{text}" is the question, name it with '
                f"columns={{'question': '{text}'}} (on the command line, --columns question={text}); with "
                f"columns={{'text': '{text}'}}, \"{answer}\" is ignored"
            )


def _words(value: Any) -> set[str]:
    """Return the texts of a column, without empty ones and without what cannot be trained."""
    try:
        return {text.strip() for text in answers_of(value)} - {""}
    except ValueError:  # nothing, or what pandas has where a cell is empty
        return set()


def _no_text(name: str, row: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Say what a row without a text to train on has instead."""
    roles = ("text", "answer", "completion", "messages")
    texts = [column for column in row if str(column).lower() in {known for role in roles for known in SPELLINGS[role]}]
    if texts and all(row[column] is None for column in texts):
        return f"sample {name}: its {' and its '.join(texts)} is empty (None), so it would train nothing; remove it"
    only, value = next(iter(row.items())) if len(row) == 1 else (None, None)
    if (inner := as_list(value)) and isinstance(inner[0], Mapping):
        return f"sample {name} has the column {only!r} alone, a list of rows: save that list as the table"
    known = "; ".join(f"{role}: {', '.join(names)}" for role, names in SPELLINGS.items())
    if found["messages"] is not None:
        known += f" (its chat {shown(found['messages'])} is no list of messages with a role and a content)"
    return (
        f"sample {name} has no text to train on but the columns {sorted(row)}. Known are {known}. Name others with "
        "columns={'text': 'your_column'} (on the command line, --columns text=your_column); with Trainer, set "
        "TrainingArguments(remove_unused_columns=False)"
    )


def check_unseen(name: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> None:
    """Refuse a row whose image is in a column of another name: it would be trained as a text alone.

    Args:
        name (str): Names the row in an error.
        row (Mapping[str, Any]): The row.
        columns (Mapping[str, str]): The columns that the user named, by role.

    Raises:
        ValueError: A column that nothing reads holds an image. The message names it.
    """
    known = {spelling for names in SPELLINGS.values() for spelling in names} | set(columns.values())
    shows = (*SPELLINGS["image"], *SPELLINGS["images"], *SPELLINGS["video"])
    if any(str(column).lower() in shows for column in row) or {"image", "images", "video"} & columns.keys():
        return  # the row says itself that it has none
    for column, value in row.items():
        if str(column).lower() not in known and looks_like_image(value):
            role = "video" if "video" in str(column).lower() else "image"
            raise ValueError(
                f"sample {name}: the column {column!r} holds an image that would be ignored. Name it with "
                f"columns={{'{role}': {column!r}}} (on the command line, --columns {role}={column}), or remove it"
            )


def _chat_sample(name: str, found: Mapping[str, Any]) -> Sample | None:
    """Make a sample of a row with a chat, or return None."""
    value, completion = found["messages"], found["completion"]
    is_completion = not is_chat(value) and is_chat(found["prompt"]) and is_chat(completion)
    if is_completion:
        value = [*found["prompt"], *completion]
    elif not is_chat(value):
        value = _with_history(name, found)
        if value is None:
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


def _with_history(name: str, found: Mapping[str, Any]) -> list[Any] | None:
    """Make a chat of a question with the turns before it, or with a system prompt; otherwise return None."""
    asked = _asked(found)
    # what is no list is not the turns before: medical data have a patient's history in a column of that name
    history = as_list(found["history"])
    if asked is None or not (history or found["system"]) or not isinstance(asked[0], str):
        return None
    if history and not is_chat(history):
        pairs = [as_list(pair) for pair in history]
        if not all(len(pair) == 2 for pair in pairs):
            raise ValueError(
                f"sample {name}: its history is {shown(history)}; it must be a list of pairs [question, answer]"
            )
        history = [{"role": role, "content": text} for pair in pairs for role, text in zip(SPEAKERS, pair, strict=True)]
    question = _question(name, *asked, found["choices"])
    last = {"role": "user", "content": question["prompt"]}, {"role": "assistant", "content": question["answer"]}
    return [*history, *last]


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
    asked = _asked(found)
    if asked is None:
        return None
    prompt, said = asked
    if isinstance(prompt, (list, tuple)):
        if not prompt or not isinstance(said, (list, tuple)) or len(prompt) != len(said):
            count = len(said) if isinstance(said, (list, tuple)) else 1
            raise ValueError(f"sample {name}: {len(prompt)} questions and {count} answers; give one answer for each")
        turns = [_question(name, *pair) for pair in zip(prompt, said, strict=True)]
    else:
        turns = [_question(name, prompt, said, found["choices"], found["references"], found["kind"])]
    sample = Sample(id=name, image=None, **turns[-1])
    if len(turns) > 1:
        sample["turns"] = turns
    if isinstance(found["image"], (list, tuple)) and found["images"] is not None:
        raise ValueError(f"sample {name}: several images in two columns; put all of them into images")
    shown = "images" if isinstance(found["image"], (list, tuple)) else "image"
    for field, value in ((shown, found["image"]), ("images", found["images"]), ("video", found["video"])):
        if isinstance(value, (list, tuple)):
            value = _listed(value)
        if value is not None and not (isinstance(value, list) and not value):
            sample[field] = value  # type: ignore[literal-required]
    return sample


def _asked(found: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Return the prompt of a row and what is answered to it, or None."""
    for asks, answers, otherwise in ASKED:
        prompt = found[asks] if found[asks] is not None else otherwise
        said = next((found[role] for role in answers if found[role] is not None), None)
        if prompt is not None and said is not None:
            more = found["input"]  # of an instruction, in Alpaca's format and its relatives
            if asks == "prompt" and isinstance(prompt, str) and isinstance(more, str) and more.strip():
                prompt = f"{prompt}\n{more}"
            return prompt, said
    return None


def _question(
    name: str, prompt: Any, said: Any, choices: Any = None, references: Any = None, kind: Any = None
) -> Question:
    """Make a question of a prompt and the answers to it."""
    if not fits(prompt, str):
        raise ValueError(f"sample {name}: its question is {shown(prompt)}; it must be a text")
    is_caption = prompt == CAPTION_PROMPT
    try:
        options = None if is_caption else chosen(choices)
        texts = answers_of(said, options, is_caption)
    except ValueError as error:
        raise ValueError(f"sample {name}: {error}") from error
    further = references if fits(references, list[str]) else []  # others have literature in a column of that name
    answer = Counter(texts).most_common(1)[0][0]
    if not answer.strip():
        raise ValueError(f"sample {name}: its answer is empty, so it would train nothing; write it, or remove the row")
    if options and answer not in options:
        raise ValueError(f"sample {name}: {options.refusal(answer)}")
    prompt = with_options(prompt, options)
    question = Question(
        prompt=prompt,
        answer=answer if answer[:1].isspace() else continuation(prompt, answer),
        references=list(dict.fromkeys(text.strip() for text in [*texts, *further])),
        kind="caption" if is_caption else "question" if kind is None else str(kind),
    )
    if options:
        question["choices"] = list(options)
    return question


def _listed(value: Any) -> list[Any]:
    """Return the images or videos of a column, which has one, several or none."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [one for one in values if one is not None]


def _videos(value: Any) -> list[Any]:
    """Return the videos of a column, which has one, several or none; a list of images is one video."""
    first = value[0] if isinstance(value, (list, tuple)) and value else None
    is_one = isinstance(first, Image.Image) or getattr(first, "ndim", 0) == 3
    return [value] if is_one else _listed(value)
