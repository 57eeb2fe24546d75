"""The server of Transformers (``transformers serve``) with one of our checkpoints in it.

The library looks up a model's class by its name in ``transformers`` and its modalities in lists of built-in models,
neither of which has classes from elsewhere. Everything that has to be said to it otherwise is in this file. It is made
from the library's own parts, and ``check_library`` says what is missing if a later version has others.
"""

import json
from collections.abc import AsyncIterator
from threading import Event
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from jinja2 import TemplateError
from transformers import LogitsProcessorList, PreTrainedModel, ProcessorMixin, StoppingCriteriaList
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.server import build_server
from transformers.cli.serving.utils import GenerateManager, GenerationState, Modality

from ..data.turns import latest_shown
from .answers import Answer, cut_stream
from .refusals import add_refusals
from .requests import OPTIONS, checked, open_images, read_object, refuse_long, shortened, tokens_left
from .seeds import Seeded
from .stopping import Leaving, OneAtATime

ROUTES = ("/v1/chat/completions", "/v1/models", "/load_model", "/health")  # `transformers chat` asks for all of them
# what this file replaces in the library
REPLACED = {
    GenerateManager: ("async_submit",),
    GenerationState: ("get_manager",),
    ModelManager: ("_load_model", "_load_processor", "process_model_name", "get_model_modality", "shutdown"),
    ChatCompletionHandler: (
        "handle_request", "get_processor_inputs_from_messages", "_build_generation_config", "_streaming",
        "_non_streaming",
    ),
}  # fmt: skip

# what comes of reading a request; a chat template computes what it likes
OF_A_REQUEST = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, OSError, TemplateError)


def check_library() -> None:
    """Check that the library still has what this file replaces.

    Raises:
        ImportError: It has not.
    """
    gone = [f"{kind.__name__}.{name}" for kind, names in REPLACED.items() for name in names if not hasattr(kind, name)]
    if gone:
        raise ImportError(
            f"this version of Transformers has no {', '.join(gone)}, which adem-vl serve builds on; "
            "install another version (5.24 is tested)"
        )


class OneModel(ModelManager):
    """Holds the one model that is served.

    Args:
        name (str): How requests name it.
        model (PreTrainedModel): The model.
        processor (ServedProcessor): Its processor.
    """

    def __init__(self, name: str, model: PreTrainedModel, processor: "ServedProcessor") -> None:
        self.model, self.processor = model, processor
        self.context = context_of(model, processor)
        self.longest_token = max(map(len, processor.get_vocab()))
        super().__init__(force_model=name)

    def _load_model(self, model_id_and_revision: str, *args: Any, **kwargs: Any) -> PreTrainedModel:
        return self.model

    def _load_processor(self, model_id_and_revision: str, *args: Any, **kwargs: Any) -> Any:
        if model_id_and_revision != self.force_model:
            raise ValueError(f"this server has {self.force_model} alone")
        return self.processor

    def shutdown(self) -> None:
        """Leave the model where it is: the process ends, and the library's garbage collection would hold that up."""

    @staticmethod
    def process_model_name(model_id: str) -> str:
        """Return the name under which the model is held: as it is, where the library would add a revision.

        Args:
            model_id (str): The name.

        Returns:
            The name.
        """
        return model_id

    @staticmethod
    def get_model_modality(model: PreTrainedModel, processor: Any = None) -> Modality:
        """Say that the model takes texts and images.

        Args:
            model (PreTrainedModel): The model.
            processor (Any): Its processor.

        Returns:
            Modality.VLM.
        """
        return Modality.VLM


class ServedProcessor:
    """Makes model inputs of the messages of a request, by a processor.

    Args:
        processor (ProcessorMixin): The processor.
        plain (bool): Whether the last message of the user is the prompt as it stands, as captions and questions are
            trained. Otherwise the messages are a chat.
    """

    def __init__(self, processor: ProcessorMixin, plain: bool) -> None:
        self.processor, self.plain = processor, plain

    def __call__(self, text: Any, **kwargs: Any) -> Any:
        """Tokenise a text: where it looks for stop strings, the library takes this object for a tokenizer.

        Args:
            text (Any): The text.
            **kwargs (Any): The arguments of the tokenizer.

        Returns:
            What the tokenizer returns.
        """
        return self.processor.tokenizer(text, **kwargs)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        """Return what the processor has, or else its tokenizer.

        Args:
            name (str): The name of the attribute.

        Returns:
            The attribute.
        """
        found = self.processor if hasattr(self.processor, name) else self.processor.tokenizer  # type: ignore[attr-defined]
        return getattr(found, name)

    def apply_chat_template(self, messages: list[dict[str, Any]], **kwargs: Any) -> Any:
        """Make the model inputs of a request.

        Args:
            messages (list[dict[str, Any]]): The messages.
            **kwargs (Any): The arguments of the processor's method.

        Returns:
            The model inputs.

        Raises:
            ValueError: An image cannot be used.
        """
        if not self.plain:
            kwargs.pop("load_audio_from_video", None)
            return self.processor.apply_chat_template(messages, **kwargs)
        users = [message["content"] for message in messages if message["role"] == "user"]
        prompt = "".join(part["text"] for part in users[-1] if part["type"] == "text")
        shown = ([part["image"] for part in content if part["type"] == "image"] for content in reversed(users))
        return self.processor(images=latest_shown(shown), text=[prompt or self.processor.default_prompt])


class Chat(ChatCompletionHandler):
    """Answers a request for a chat completion; images come in the request itself.

    Args:
        model_manager (OneModel): Holds the model.
        generation_state (OneAtATime): Generates.
        leaving (Leaving): Ends the generation when nobody waits for it.
    """

    def __init__(self, model_manager: OneModel, generation_state: OneAtATime, leaving: Leaving) -> None:
        super().__init__(model_manager, generation_state)
        self.leaving = leaving
        self.seed: int | None = None  # of the request

    async def handle_request(self, body: dict[str, Any], request_id: str) -> Response:
        """Answer a request.

        Args:
            body (dict[str, Any]): The request, as OpenAI's protocol describes it.
            request_id (str): The id of the request.

        Returns:
            The answer, whole or streamed.

        Raises:
            HTTPException: The request cannot be answered (status 400), or the server stops (503).
        """
        known = frozenset(getattr(self._valid_params_class, "__mutable_keys__", body))
        served = self.model_manager
        body = checked(body, known, served.model.config.get_text_config().vocab_size)
        refuse_long(body["messages"], served.processor.plain, served.context, served.longest_token)
        options = [name for name in ("chat_template_kwargs", "generation_config") if body.get(name)]
        try:
            return await super().handle_request(body, request_id)
        except HTTPException:
            raise
        except Exception as error:
            # with an option of the library, anything may come of what a request says
            if not (options or isinstance(error, OF_A_REQUEST)):
                raise
            remedy = f"leave out {' and '.join(options)}" if options else "check its messages"
            raise HTTPException(
                400, f"the request cannot be answered ({shortened(str(error), 300)}); {remedy}"
            ) from error

    @staticmethod
    def get_processor_inputs_from_messages(messages: list[dict[str, Any]], modality: Modality) -> list[dict[str, Any]]:
        """Turn the messages of a request into a chat of Transformers.

        Args:
            messages (list[dict[str, Any]]): The messages, as ``checked`` lets them pass.
            modality (Modality): What the model takes.

        Returns:
            The chat.

        Raises:
            HTTPException: An image cannot be used (status 400).
        """
        return open_images(ChatCompletionHandler.get_processor_inputs_from_messages(messages, modality))

    def _build_generation_config(self, body: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.seed = body.get("seed")
        unseeded = {name: value for name, value in body.items() if name != "seed"}
        config = super()._build_generation_config(unseeded, *args, **kwargs)
        if not body.get("generation_config"):  # of the checkpoint; one is sent, and beams cannot be streamed
            most = 1 if body.get("stream") else OPTIONS["num_beams"]
            config.num_return_sequences, config.num_beams = 1, min(config.num_beams or 1, most)
        if body.get("temperature"):  # the library sets the temperature alone, which greedy decoding ignores
            config.do_sample = True
        stops = config.stop_strings or []
        config.stop_strings = [stop for stop in ([stops] if isinstance(stops, str) else stops) if stop] or None
        return config

    def _limited(self, inputs: Any, gen_config: Any) -> dict[str, Any]:
        """Add what seeds the generation, and what ends it, at the latest where the context of the model does."""
        context = self.model_manager.context
        left = tokens_left(inputs["input_ids"].shape[-1], context)
        if gen_config.max_new_tokens is not None:
            gen_config.max_new_tokens = min(gen_config.max_new_tokens, left)
        elif gen_config.max_length is not None:
            gen_config.max_length = min(gen_config.max_length, context)
        seeds, ends = LogitsProcessorList([Seeded(self.seed)]), StoppingCriteriaList([self.leaving])
        return {**inputs, "logits_processor": seeds, "stopping_criteria": ends}

    def _streaming(
        self, request_id: str, model: Any, processor: Any, model_id: str, inputs: Any, gen_config: Any, **kwargs: Any
    ) -> Any:
        inputs = self._limited(inputs, gen_config)
        response = super()._streaming(request_id, model, processor, model_id, inputs, gen_config, **kwargs)
        events = self.leaving.until_stopping(response.body_iterator)
        response.body_iterator = cut_stream(events, gen_config.stop_strings or [])
        return response

    async def _non_streaming(
        self, request_id: str, model: Any, processor: Any, model_id: str, inputs: Any, gen_config: Any, **kwargs: Any
    ) -> Any:
        inputs = self._limited(inputs, gen_config)
        response = await super()._non_streaming(request_id, model, processor, model_id, inputs, gen_config, **kwargs)
        self.leaving.refuse_if_stopping()
        found, answer = json.loads(bytes(response.body)), Answer(gen_config.stop_strings or [])
        message = found["choices"][0]["message"]
        message["content"] = answer.feed(message.get("content") or "") + answer.end()
        return JSONResponse(found)


def context_of(model: PreTrainedModel, processor: Any) -> int:
    """Say how many tokens a model reads, prompt and answer together.

    Args:
        model (PreTrainedModel): The model.
        processor (Any): What has the limit of its tokenizer, ``model_max_length``.

    Returns:
        The smaller one of the limits in the two, or 2**20 where they name none or a larger one.
    """
    limits = (getattr(model.config.get_text_config(), "max_position_embeddings", None), processor.model_max_length)
    return int(min(2**20, *(limit for limit in limits if limit)))


def make_app(name: str, model: PreTrainedModel, processor: ProcessorMixin, plain: bool) -> FastAPI:
    """Make the application that serves a model.

    Requests are answered one after the other, in the order in which they come.

    Args:
        name (str): How requests name the model.
        model (PreTrainedModel): The model, on its device, in evaluation mode.
        processor (ProcessorMixin): Its processor.
        plain (bool): Whether the last message of the user is the prompt as it stands (``ServedProcessor``).

    Returns:
        The application, for any ASGI server. It has the routes of ``ROUTES`` alone. Whoever stops it sets the event
        ``app.state.stopping`` first, so that generations end.
    """
    check_library()
    manager, state = OneModel(name, model, ServedProcessor(processor, plain)), OneAtATime()
    unused: Any = None
    app = build_server(manager, unused, unused, unused, unused, unused, generation_state=state)
    app.state.stopping = Event()
    # the library's own routes for these two answer what is no object, and another model, with tracebacks
    own = ("/v1/chat/completions", "/load_model")
    kept = [path for path in ROUTES if path not in own]
    app.router.routes = [route for route in app.router.routes if getattr(route, "path", None) in kept]

    @app.post(own[0])
    async def answer(request: Request) -> Response:
        body, leaving = await read_object(request), Leaving(app.state.stopping)
        leaving.refuse_if_stopping()
        chat = Chat(manager, state, leaving)
        return await leaving.watch(chat.handle_request(body, request.state.request_id), request)

    @app.post(own[1])
    async def load_model(request: Request) -> Response:
        asked = (await read_object(request)).get("model")
        if not isinstance(asked, str):
            raise HTTPException(400, f"model is {shortened(asked)}; give the name {name!r}")
        return StreamingResponse(_loaded(name, asked), media_type="text/event-stream")

    add_refusals(app, ROUTES)
    return app


async def _loaded(name: str, asked: str) -> AsyncIterator[str]:
    """Say that the model is there, or that another one is not, as the library says it where it loads models."""
    state = (
        {"status": "ready", "cached": True}
        if asked == name
        else {"status": "error", "message": f"this server has {name} alone"}
    )
    yield f"data: {json.dumps({**state, 'model': asked})}\n\n"
