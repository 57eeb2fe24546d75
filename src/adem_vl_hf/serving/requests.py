"""Checks requests for chat completions: what is impossible is refused by the name of its field, with the remedy."""

import json
from collections.abc import Iterator
from inspect import signature
from typing import Any

from fastapi import HTTPException, Request
from PIL import Image
from starlette.requests import ClientDisconnect
from transformers import ProcessorMixin
from transformers.processing_utils import ImagesKwargs

from ..modeling.field_values import fits
from ..modeling.image_forms import plain_form
from ..modeling.images import most_pixels, open_image, size_in_header
from ..modeling.processor_options import GROUPS, TEXT_DEFAULTS, VIDEO_OPTIONS

# fields of a request by name: the type, the least and the greatest value
NUMBERS: dict[str, tuple[type, float, float]] = {
    "max_tokens": (int, 1, 2**20), "max_completion_tokens": (int, 1, 2**20), "seed": (int, 0, 2**63 - 1),
    "temperature": (float, 0, 100), "top_p": (float, 0, 1), "frequency_penalty": (float, -0.9, 2),
}  # fmt: skip
# Numbers in generation_config, with the greatest value. As many answers are computed side by side as there are beams or
# sequences, and one of them is sent.
OPTIONS = {"num_beams": 16, "num_return_sequences": 16, "max_new_tokens": 2**20, "max_length": 2**20,
           "prompt_lookup_num_tokens": 64}  # fmt: skip
MOST_STOPS = 10_000  # characters of all stop strings together
# what chat_template_kwargs would set of the processor's call, such as the length that rows are padded to
OF_PROCESSOR = {*TEXT_DEFAULTS, *VIDEO_OPTIONS, *GROUPS, *ImagesKwargs.__annotations__}
ROLES = ("system", "developer", "user", "assistant", "tool")
IMAGE_REMEDY = "send the image as data:image/png;base64,..."
MOST_IMAGES = 64  # in a request
SHARE = 2  # of the pixels that one image may have, for all images of a request together
SHOWN = 40  # characters of a value in an error


def shortened(value: Any, most: int = SHOWN) -> str:
    """Write a value of a request for an error, which nobody reads if it repeats a photograph.

    Args:
        value (Any): The value. A text is written with quotation marks.
        most (int): How many characters of it are shown.

    Returns:
        The text.
    """
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


async def read_object(request: Request) -> dict[str, Any]:
    """Read the body of a request.

    Args:
        request (Request): The request.

    Returns:
        The JSON object in it.

    Raises:
        HTTPException: It is of another content type (status 415), no JSON, no object, or not sent to its end (400).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # a page in a browser may send the other types to a server of this machine without asking it first
    if not (kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))):
        said = f"is {shortened(kind)}" if kind else "is missing"
        raise HTTPException(415, f"the content-type {said}; send a JSON object as application/json")
    try:
        body = json.loads(await request.body())
    except ClientDisconnect as error:  # nobody reads the refusal, and a traceback in the log would help nobody
        raise HTTPException(400, "the client has hung up before the end of the body; send it again") from error
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else "damaged"
        raise HTTPException(400, f"the body is not JSON in UTF-8 ({reason}); send a JSON object") from error
    if not isinstance(body, dict):
        raise HTTPException(400, "the body is not a JSON object; send one with the fields model and messages")
    return body


def checked(body: dict[str, Any], known: frozenset[str], vocabulary: int) -> dict[str, Any]:
    """Refuse a request with an impossible value, by the name of its field.

    Args:
        body (dict[str, Any]): The request.
        known (frozenset[str]): The names of all fields of the protocol.
        vocabulary (int): The number of tokens that the model knows.

    Returns:
        The request without the fields that are null, and with the numbers of ``logit_bias`` as floating point.

    Raises:
        HTTPException: A value is impossible (status 400).
    """
    unknown = ", ".join(shortened(name) for name in sorted(set(body) - known)[:5])
    _refuse_if(unknown, f"unknown fields: {unknown}; leave them out")
    body = {name: value for name, value in body.items() if value is not None}
    for name, (kind, least, most) in NUMBERS.items():
        fits = name not in body or (_is_number(body[name], kind) and least <= body[name] <= most)
        number = "a whole number" if kind is int else "a number"
        _refuse_if(not fits, f"{name} is {shortened(body.get(name))}; give {number} from {least} to {most}")
    stream, stop, model = body.get("stream", False), body.get("stop", []), body.get("model", "")
    _refuse_if(not isinstance(stream, bool), f"stream is {shortened(stream)}; give true or false")
    _refuse_if(not isinstance(model, str), f"model is {shortened(model)}; give a name that /v1/models lists")
    texts = stop if isinstance(stop, list) else [stop]
    _refuse_if(not all(map(_is_text, texts)), f"stop is {shortened(stop)}; give a text or a list of texts")
    length = sum(len(text) + 1 for text in texts)
    _refuse_if(length > MOST_STOPS, f"stop has more than {MOST_STOPS} characters; give fewer or shorter texts")
    _refuse_if(body.get("tools"), "tools: this model calls none; leave them out")
    _check_options(body)
    if "logit_bias" in body:
        body["logit_bias"] = _checked_bias(body["logit_bias"], vocabulary)
    body = body if body.get("logit_bias") else {name: body[name] for name in body if name != "logit_bias"}
    _check_messages(body.get("messages"))
    return body


def open_images(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Open the images of a chat, which are in it as ``data:`` URLs.

    Args:
        messages (list[dict[str, Any]]): The chat, as Transformers holds it.

    Returns:
        The chat with the images.

    Raises:
        HTTPException: One cannot be used, there are more than ``MOST_IMAGES``, or they have too many pixels together
            (status 400).
    """
    given = sum(part["type"] == "image" for message in messages for part in message["content"])
    _refuse_if(given > MOST_IMAGES, f"the request has {given} images; send at most {MOST_IMAGES}")
    opened, left = [], SHARE * most_pixels()
    for number, message in enumerate(messages, 1):
        images, parts = 0, []
        for part in message["content"]:
            if part["type"] != "image":
                parts.append(part)
                continue
            images += 1
            image = _opened(part["url"], f"image {images} of message {number}", left)
            left -= image.width * image.height
            parts.append({"type": "image", "image": image})
        opened.append({**message, "content": parts})
    return opened


def refuse_long(messages: list[dict[str, Any]], plain: bool, context: int, longest: int) -> None:
    """Refuse a prompt that cannot fit, by its number of characters, before anything is made of it.

    Args:
        messages (list[dict[str, Any]]): The messages, as ``checked`` lets them pass.
        plain (bool): Whether the last message of the user alone is the prompt.
        context (int): The number of tokens that the model reads.
        longest (int): The number of characters of the longest token.

    Raises:
        HTTPException: The prompt has more characters than ``context`` tokens stand for (status 400).
    """
    counted = [message for message in messages if message["role"] == "user"][-1:] if plain else messages
    # a part without a text counts, too, for it takes its time
    given = sum(len(part.get("text") or " ") for message in counted for part in _parts(message))
    most = context * longest
    _refuse_if(
        given > most,
        f"the messages have {given} characters, and the {context} tokens that the model reads stand for {most} at "
        "most; shorten them",
    )


def tokens_left(prompt: int, context: int) -> int:
    """Say how many tokens a prompt leaves for its answer.

    Args:
        prompt (int): The number of tokens of the prompt.
        context (int): The number of tokens that the model reads, prompt and answer together.

    Returns:
        The number, at least 1.

    Raises:
        HTTPException: It leaves none (status 400).
    """
    long = f"the prompt has {prompt} tokens, and the model reads {context} with the answer; shorten the messages"
    _refuse_if(prompt >= context, long)
    return context - prompt


def _opened(url: str, name: str, left: float) -> Image.Image:
    """Open an image under a name that is shorter than itself, unless it has more pixels than are left."""
    try:
        data = plain_form(url)
    except ValueError as error:
        raise HTTPException(400, f"{name}: {error}; {IMAGE_REMEDY}") from error
    _refuse_if(not isinstance(data, bytes), f"{name}: {shortened(url)} is no image in base64; {IMAGE_REMEDY}")
    try:
        width, height = size_in_header(data)
        _refuse_if(
            width * height > left,
            f"{name}: with its {width} x {height} pixels, the images of the request have more than the "
            f"{SHARE * most_pixels():,.0f} that they may have together; send fewer or smaller ones",
        )
        return open_image(data)
    except ValueError as error:
        raise HTTPException(400, f"{name}: {str(error).removeprefix(f'image of {len(data)} bytes: ')}") from error


def _refuse_if(wrong: Any, message: str) -> None:
    if wrong:
        raise HTTPException(400, message)


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    """Tell whether something is a text that can be tokenised: JSON can hold half of a surrogate pair."""
    return fits(value, str)


def _check_options(body: dict[str, Any]) -> None:
    """Refuse options of the library that are of another type, or that set what the server sets."""
    given, config = body.get("chat_template_kwargs", {}), body.get("generation_config", "{}")
    _refuse_if(not isinstance(given, dict), f"chat_template_kwargs is {shortened(given)}; give an object")
    own = ", ".join(sorted(set(given) & {*signature(ProcessorMixin.apply_chat_template).parameters, *OF_PROCESSOR}))
    _refuse_if(own, f"chat_template_kwargs may not set {own}; leave it out")
    try:
        options: Any = json.loads(config) if isinstance(config, str) else None
    except (ValueError, RecursionError):
        options = None
    is_object = isinstance(options, dict)
    _refuse_if(not is_object, f"generation_config is {shortened(config)}; give a text with a JSON object in it")
    for name, most in OPTIONS.items():
        value = options.get(name)
        wrong = isinstance(value, int | float) and not 1 <= value <= most
        _refuse_if(wrong, f"{name} of generation_config is {shortened(value)}; give a whole number from 1 to {most}")


def _checked_bias(given: Any, vocabulary: int) -> dict[str, float]:
    _refuse_if(
        not isinstance(given, dict), f"logit_bias is {shortened(given)}; give an object of token ids and numbers"
    )
    for token, bias in given.items():
        is_token = token.isascii() and token.isdecimal() and len(token) < 10 and int(token) < vocabulary
        _refuse_if(not is_token, f"logit_bias has {shortened(token)}; give token ids from 0 to {vocabulary - 1}")
        fits = _is_number(bias, float) and -100 <= bias <= 100
        _refuse_if(not fits, f"logit_bias of token {token} is {shortened(bias)}; give a number from -100 to 100")
    return {token: float(bias) for token, bias in given.items()}


def _check_messages(messages: Any) -> None:
    is_list = isinstance(messages, list) and all(isinstance(one, dict) for one in messages)
    _refuse_if(not is_list, "messages is not a list of objects with a role and a content; give one")
    for number, message in enumerate(messages, 1):
        where, role = f"message {number}", message.get("role")
        _refuse_if(role not in ROLES, f"the role of {where} is {shortened(role)}; give one of {', '.join(ROLES)}")
        for name in ("tool_calls", "function_call"):
            _refuse_if(message.get(name), f"{name} of {where}: this model calls none; leave it out")
        content = message.get("content")
        _refuse_if(content is None, f"{where} has no content; give a text or a list of parts")
        fits = isinstance(content, str | list)
        _refuse_if(not fits, f"the content of {where} is {shortened(content)}; give a text or a list of parts")
        for part, value in enumerate([content] if isinstance(content, str) else content, 1):
            if isinstance(content, str):
                _refuse_if(not _is_text(value), f"the content of {where} has half of a surrogate pair; remove it")
            else:
                _check_part(value, f"part {part} of {where}")
    users = [message for message in messages if message["role"] == "user"]
    _refuse_if(not users, "messages has none with the role 'user'; add one")
    has_image = any(part["type"] == "image_url" for message in users for part in _parts(message))
    has_text = any(part.get("text") for part in _parts(users[-1]))
    _refuse_if(not has_text and not has_image, "the last message of the user has neither a text nor an image; add one")


def _parts(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    content = message["content"]
    yield from [{"type": "text", "text": content}] if isinstance(content, str) else content


def _check_part(part: Any, where: str) -> None:
    is_object = isinstance(part, dict)
    _refuse_if(not is_object, f"{where} is {shortened(part)}; give an object with the type 'text' or 'image_url'")
    kind = part.get("type")
    _refuse_if(
        kind not in ("text", "image_url"), f"{where} is of the type {shortened(kind)}; use 'text' or 'image_url'"
    )
    if kind == "text":
        text = part.get("text")
        _refuse_if(text is None, f"{where} has no text; give it the field 'text'")
        _refuse_if(not _is_text(text), f"the text of {where} is {shortened(text)}; give a text")
        return
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    # no file of this machine and nothing of the network is opened for a request
    is_data = isinstance(url, str) and url.startswith("data:")
    _refuse_if(not is_data, f"image_url of {where} is {shortened(url)}, which is not a data: URL; {IMAGE_REMEDY}")
