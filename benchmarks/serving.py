"""`adem-vl serve` under load: 200 requests, 16 at a time, beside the bare language model under the library's server.

python benchmarks/serving.py           # resumable: what has a result is not measured again
python benchmarks/write_tables.py      # puts the table into docs/serving.md

Both servers run in this process, one after the other, on the embedded models. A request of ours has one drawn scene and
its prompt, one of the language model the same prompt; an answer has 16 tokens in both.
"""

import argparse
import base64
import io
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import measures
import tables
from local_server import served
from openai import OpenAI
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.server import build_server
from transformers.cli.serving.utils import GenerationState

from adem_vl_hf.data import OpenMojiScenes
from adem_vl_hf.embedded.smollm2 import resolve_language_model
from adem_vl_hf.loading import load_checkpoint
from adem_vl_hf.serving.server import make_app

REQUESTS, AT_ONCE, TOKENS = 200, 16, 16


def ours() -> tuple[Any, list[Any]]:
    """Make the server of the shipped checkpoint, and what is asked of it.

    Returns:
        The application, and the content of each message.
    """
    model, processor = load_checkpoint()
    model.generation_config.eos_token_id = None  # every answer has all of its tokens
    contents = []
    for sample in OpenMojiScenes("test", size=REQUESTS, kinds=("caption",)):
        file = io.BytesIO()
        sample["image"].save(file, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        text = {"type": "text", "text": sample["prompt"]}
        contents.append([{"type": "image_url", "image_url": {"url": url}}, text])
    return make_app("served", model, processor, plain=True), contents


def bare() -> tuple[Any, list[Any]]:
    """Make the library's server of the language model alone, and what is asked of it.

    Returns:
        The application, and the content of each message.
    """
    folder = resolve_language_model("embedded")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model.generation_config.eos_token_id = None
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"

    class Loaded(ModelManager):
        def _load_model(self, *args: Any, **kwargs: Any) -> Any:
            return model

        def _load_processor(self, *args: Any, **kwargs: Any) -> Any:
            return tokenizer

    manager, state = Loaded(force_model="served"), GenerationState()
    unused: Any = None
    chat = ChatCompletionHandler(model_manager=manager, generation_state=state)
    prompts = [sample["prompt"] for sample in OpenMojiScenes("test", size=REQUESTS, kinds=("caption",))]
    return build_server(manager, chat, unused, unused, unused, unused, generation_state=state), prompts


SERVERS = {"language model alone": bare, "ADEM-VL": ours}


def measure(name: str) -> dict[str, Any]:
    """Ask one server all questions, first in a warm-up of 16.

    Args:
        name (str): a key of ``SERVERS``.

    Returns:
        What the result file holds.
    """
    app, contents = SERVERS[name]()
    with served(app) as address, ThreadPoolExecutor(AT_ONCE) as pool:
        client = OpenAI(base_url=address, api_key="none", max_retries=0, timeout=3600)

        def ask(content: Any) -> tuple[int, float]:
            began = time.perf_counter()
            messages: Any = [{"role": "user", "content": content}]
            answer = client.chat.completions.create(model="served", messages=messages, max_tokens=TOKENS)
            assert answer.usage is not None
            return answer.usage.completion_tokens, time.perf_counter() - began

        list(pool.map(ask, contents[:AT_ONCE]))
        before, began = measures.peak_memory(), time.perf_counter()
        answers = list(tqdm(pool.map(ask, contents), total=len(contents), desc=name, unit="request"))
        seconds = time.perf_counter() - began
    waited = sorted(second for _, second in answers)
    return {
        "requests": len(contents),
        "whole_answers": sum(tokens == TOKENS for tokens, _ in answers),
        "tokens_per_second": round(sum(tokens for tokens, _ in answers) / seconds, 1),
        "median_wait": round(waited[len(waited) // 2], 2),
        "grown_mb": round((measures.peak_memory() - before) / 2**20, 1),
    }


def sections() -> dict[str, str]:
    """The table of docs/serving.md.

    Returns:
        The text by the name of the section.
    """
    found = {name: tables.load(f"serving/{tables.file_name(name)}") for name in SERVERS}
    rows = [
        [name, f"{one['whole_answers']} of {one['requests']}", str(one["tokens_per_second"]), str(one["median_wait"]),
         str(one["grown_mb"])]
        for name, one in found.items() if one
    ]  # fmt: skip
    head = ["served", "whole answers", "tokens a second", "median wait, s", "memory grown, MB"]
    return {"serving table": tables.markdown(head, rows) if rows else tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS), metavar="SERVER",
                        help="; ".join(SERVERS))  # fmt: skip
    args = parser.parse_args()
    for name in args.servers:
        file = f"serving/{tables.file_name(name)}"
        if tables.load(file) is None:
            tables.save(file, measure(name))
    print(sections()["serving table"])


if __name__ == "__main__":
    main()
