"""Chats in one row: which tokens are supervised, and that asking about a chat gives the tokens that were trained."""

import evlm
import pytest
import tiny
import torch
from closeness import assert_close
from transformers import AutoImageProcessor, AutoTokenizer, pipeline

from adem_vl_hf import AdemVLProcessor, EvlmProcessor
from adem_vl_hf.modeling.chat_rows import chat_passage
from adem_vl_hf.modeling.labels import NOT_SUPERVISED

pytestmark = [pytest.mark.core, pytest.mark.kernels]
# SmolLM2-Instruct's own: a system turn of its own comes first, unless the chat has one
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message['content'] }}{% endgeneration %}<|im_end|>\n"
    "{% else %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# turns end with the end of sequence, as in Mistral's, and nothing but the question asks for an answer
INST = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] }} "
    "[/INST]{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
# turns end with a line, so that no token says that an answer is over
LINES = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
# only the last answer of a chat keeps what was thought
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if loop.last and message['role'] == 'assistant'"
    " %}<think>\n\n</think>\n\n{% endif %}{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {"SmolLM2": SMOLLM2, "marked": MARKED, "instructions": INST, "lines": LINES, "none": None}
ENDS = {"SmolLM2": "<|im_end|>", "marked": "<|im_end|>"}
CHAT = [
    {"role": "user", "content": "<image>\nWhat is it?"},
    {"role": "assistant", "content": "a photo of a cat."},
    {"role": "user", "content": "Is it\ngrey?"},
    {"role": "assistant", "content": "No."},
    {"role": "user", "content": "and the sea"},
    {"role": "assistant", "content": "two birds flying over the sea"},
]
ANSWERS = [message["content"] for message in CHAT if message["role"] == "assistant"]


def make(bases, template, cls=AdemVLProcessor, image_tokens=1):
    tokenizer = AutoTokenizer.from_pretrained(bases / "llama")
    if template and "<|im_start|>" in template:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<reserved_0>", "<|im_start|>", "<|im_end|>"]})
        tokenizer.eos_token = "<|im_end|>"
        tokenizer.bos_token = "<|im_start|>"
    tokenizer.chat_template = template
    images = AutoImageProcessor.from_pretrained(bases / "clip")
    return cls(images, tokenizer, image_token="<reserved_0>", image_tokens=image_tokens)


@pytest.fixture(params=TEMPLATES)
def processor(request, bases):
    made = make(bases, TEMPLATES[request.param])
    made.named = request.param
    return made


def encoded(processor, chat, answer=None, **options):
    images = [tiny.picture()] if "<image>" in str(chat) else None
    return processor(images=images, text=[chat], suffix=None if answer is None else [answer], **options)


def supervised(processor, batch, row=0):
    """The supervised tokens of a row, cut where others lie between them, as texts."""
    runs, open_run = [], False
    for token, label in zip(batch["input_ids"][row].tolist(), batch["labels"][row].tolist(), strict=True):
        if label == NOT_SUPERVISED:
            open_run = False
            continue
        assert token == label
        runs, open_run = ([*runs, []] if not open_run else runs), True
        runs[-1].append(token)
    return [processor.decode(run) for run in runs]


def expected_answers(processor, answers=ANSWERS):
    space = "" if processor.named in ENDS else " "
    if processor.named == "lines":  # only the last one can be seen to end; "." and the line are tokens of their own
        return [*(space + answer for answer in answers[:-1]), space + answers[-1] + "</s>"]
    return [space + answer + ENDS.get(processor.named, "</s>") for answer in answers]


def test_all_answers_are_supervised_and_nothing_else(processor):
    batch = encoded(processor, CHAT)
    assert supervised(processor, batch) == expected_answers(processor)
    assert batch["pixel_values"].shape[0] == 1
    assert (batch["input_ids"] == processor.image_token_id).sum() == 1


@pytest.mark.parametrize("asked", [1, 3, 5])
def test_asking_gives_the_tokens_that_were_trained_before_the_answer(processor, asked):
    whole = encoded(processor, CHAT)
    parts = [
        {"role": message["role"], "content": [{"type": "text", "text": message["content"].replace("<image>", "")}]}
        for message in CHAT[:asked]
    ]
    parts[0]["content"].insert(0, {"type": "image", "image": tiny.picture()})
    prompt = processor.apply_chat_template(
        parts, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    length = prompt["input_ids"].shape[1]
    assert prompt["input_ids"][0].tolist() == whole["input_ids"][0, :length].tolist()
    assert whole["labels"][0, length] != NOT_SUPERVISED
    assert whole["labels"][0, length - 1] == NOT_SUPERVISED
    assert torch.equal(prompt["pixel_values"], whole["pixel_values"])
    asked_alone = encoded(processor, CHAT[:asked])  # the processor itself asks, too
    assert torch.equal(asked_alone["input_ids"], prompt["input_ids"])
    assert "labels" not in asked_alone


def test_an_answer_to_a_chat_is_supervised_alone(processor):
    batch = encoded(processor, CHAT[:-1], ANSWERS[-1])
    whole = encoded(processor, CHAT)
    assert torch.equal(batch["input_ids"], whole["input_ids"])
    assert supervised(processor, batch) == expected_answers(processor)[-1:]


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "instructions"])  # which has no system turns
def test_a_system_turn_is_kept(bases, name):
    processor = make(bases, TEMPLATES[name])
    processor.named = name
    batch = encoded(processor, [{"role": "system", "content": "Be brief."}, *CHAT])
    assert "Be brief." in processor.decode(batch["input_ids"][0])
    assert "SmolLM" not in processor.decode(batch["input_ids"][0])
    assert supervised(processor, batch) == expected_answers(processor)


def test_without_a_template_the_first_turn_is_that_of_an_instruction(bases):
    processor = make(bases, None)
    prompt, answer = "Instruction: What is it?\nResponse:", " a photo of a cat."
    one = processor(images=[tiny.picture()], text=[prompt], suffix=[answer])
    for content in ("<image>\nWhat is it?", "What is it?\n<image>", "What is it?"):
        chat = [{"role": "user", "content": content}, CHAT[1]]
        found = processor(images=[tiny.picture()], text=[chat])
        assert torch.equal(found["input_ids"], one["input_ids"])
        assert torch.equal(found["labels"], one["labels"])
    whole = encoded(processor, CHAT)
    assert torch.equal(whole["input_ids"][:, : one["input_ids"].shape[1]], one["input_ids"])
    blind = processor(text=[CHAT[2:4]])
    assert torch.equal(
        blind["input_ids"], processor(text=["Instruction: Is it\ngrey?\nResponse:"], suffix=[" No."])["input_ids"]
    )


@pytest.mark.parametrize("template", [SMOLLM2, None], ids=["SmolLM2", "none"])
def test_the_library_s_pipeline_asks_as_was_trained(bases, template):
    processor = make(bases, template)
    asked = [
        {"role": "user", "content": [{"type": "image", "image": tiny.picture()}, {"type": "text", "text": "What?"}]}
    ]
    model, seen = tiny.build(bases).eval(), {}
    if template:
        model.language_model.resize_token_embeddings(len(processor.tokenizer))
    generate = model.generate
    model.generate = lambda **inputs: seen.update(inputs) or generate(**inputs)
    captioner = pipeline("image-text-to-text", model=model, processor=processor)
    captioner(text=asked, generate_kwargs={"max_new_tokens": 2, "do_sample": False})
    trained = encoded(processor, [{"role": "user", "content": "<image>What?"}, CHAT[1]])
    first = int((trained["labels"][0] != NOT_SUPERVISED).nonzero()[0])
    assert seen["input_ids"][0].tolist() == trained["input_ids"][0, :first].tolist()
    assert torch.equal(seen["pixel_values"], trained["pixel_values"])


def test_marks_inside_the_turns_stay_where_they_are(processor):
    chat = [
        {"role": "user", "content": "Is <image> or <image> grey?"}, CHAT[3],
        {"role": "user", "content": "And <image>?"}, CHAT[1],
    ]  # fmt: skip
    batch = processor(images=[[tiny.picture(n) for n in range(3)]], text=[chat])
    text = processor.decode(batch["input_ids"][0])
    assert "Is <reserved_0> or <reserved_0> grey?" in text
    assert "And <reserved_0>?" in text
    assert batch["image_mask"].tolist() == [[True] * 3]


def test_a_template_that_rewrites_turns_is_refused_with_the_remedy(bases):
    processor = make(bases, THINKING)
    with pytest.raises(ValueError, match=r"^sample 0: the chat template writes message 1 differently.*each_turn_alone"):
        encoded(processor, CHAT)
    assert supervised(processor, encoded(processor, CHAT[:2])) == ["<think>\n\n</think>\n\na photo of a cat.<|im_end|>"]


def test_what_a_template_refuses_is_said(bases):
    processor = make(bases, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match="sample 0: the chat template refuses this chat .*roles must alternate"):
        encoded(processor, CHAT)


class SlowTokenizer:
    """A tokenizer that knows no offsets."""

    is_fast = False

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, text, add_special_tokens=True):
        return self._tokenizer(text, add_special_tokens=add_special_tokens)


def test_a_tokenizer_without_offsets_finds_the_same_answers(processor):
    expected = encoded(processor, CHAT)
    processor.tokenizer = SlowTokenizer(processor.tokenizer)
    assert torch.equal(encoded(processor, CHAT)["labels"], expected["labels"])


def test_tokens_that_would_reach_into_an_answer_are_split(bases):
    """Where the text before an answer and the answer have a token in common, the prompt is as when it is asked."""
    words = tiny.tokenizer()
    assert len(words("a photo", add_special_tokens=False)["input_ids"]) == 2
    words.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"  # nothing lies between the turns
    processor = AdemVLProcessor(AutoImageProcessor.from_pretrained(bases / "clip"), words)
    chat = [
        {"role": "user", "content": "a phot"}, {"role": "assistant", "content": "o of"},
        {"role": "user", "content": " a c"}, {"role": "assistant", "content": "at"},
    ]  # fmt: skip
    batch = processor(text=[chat])
    assert supervised(processor, batch) == ["o of", "at</s>"]
    prompt = processor(text=[chat[:1]])["input_ids"][0]
    assert batch["input_ids"][0, : len(prompt)].tolist() == prompt.tolist()


@pytest.mark.parametrize(("build", "cls"), [(tiny.build, AdemVLProcessor), (evlm.build, EvlmProcessor)])
def test_the_loss_of_a_chat_is_the_mean_over_all_answers(bases, build, cls):
    model = build(bases).eval()
    processor = make(bases, INST, cls, model.config.image_tokens)
    batch = encoded(processor, CHAT[:4])
    with torch.no_grad():
        loss = model(**batch).loss
        out = model(**{name: value for name, value in batch.items() if name != "labels"})
    labels = batch["labels"][0, 1:]
    places = (labels != NOT_SUPERVISED).nonzero()[:, 0]
    by_token = -out.logits[0, :-1].log_softmax(-1)[places, labels[places]]
    second = int((places.diff() > 1).nonzero()[0]) + 1  # where the second answer begins
    first, rest = by_token[:second], by_token[second:]
    weighted = (len(first) * first.mean() + len(rest) * rest.mean()) / len(by_token)
    aux = getattr(out, "aux_loss", None)
    assert_close(loss, weighted + (model.config.router_aux_loss_coef * aux if aux is not None else 0))


def test_a_row_of_a_batch_is_the_row_alone(processor):
    rows = [CHAT, CHAT[2:4], "a photo of", ["a photo of", "two birds"]]
    answers = [None, None, " a cat", [" a cat", " flying over the sea"]]
    images = [tiny.picture(), None, tiny.picture(1), tiny.picture(2)]
    together = processor(images=images, text=rows, suffix=answers)
    for number, (asked, answer, image) in enumerate(zip(rows, answers, images, strict=True)):
        alone = processor(images=None if image is None else [image], text=[asked], suffix=[answer])
        length = alone["input_ids"].shape[1]
        for name in ("input_ids", "labels"):
            assert together[name][number, :length].tolist() == alone[name][0].tolist()
        assert not together["attention_mask"][number, length:].any()


def test_questions_of_one_row_are_each_as_alone(bases):
    processor = make(bases, None)
    prompts, answers = ["a photo of", "two birds", "How many?"], [" a cat", " flying", " two"]
    row = processor(images=[tiny.picture()], text=[prompts], suffix=[answers])
    assert supervised(processor, row) == [" a cat</s>", " flying</s>", " two</s>"]
    expected = processor(images=[tiny.picture()], text=prompts[:1], suffix=answers[:1])["input_ids"][0].tolist()
    for prompt, answer in list(zip(prompts, answers, strict=True))[1:]:
        alone = processor(text=[prompt], suffix=[answer])["input_ids"][0].tolist()
        prefix = len(processor(text=[""])["input_ids"][0])  # <s>Image: N/A
        expected += alone[prefix:]
    assert row["input_ids"][0].tolist() == expected
    for wrong in ([answers[:2]], [" a cat"], [answers[0]]):
        with pytest.raises(ValueError, match="sample 0: 3 prompts and the answers"):
            processor(images=[tiny.picture()], text=[prompts], suffix=wrong)


def test_the_limit_counts_the_whole_row(processor):
    length = encoded(processor, CHAT)["input_ids"].shape[1]
    assert encoded(processor, CHAT, max_length=length)["input_ids"].shape[1] == length
    with pytest.raises(ValueError, match=f"exceed the window of {length - 1}"):
        encoded(processor, CHAT, max_length=length - 1)


def test_a_video_in_a_chat(processor):
    frames = [tiny.picture(n) for n in range(2)]
    chat = [{"role": "user", "content": "<video>What is it?"}, *CHAT[1:4]]
    batch = processor(videos=[frames], text=[chat])
    assert (batch["input_ids"] == processor.image_token_id).sum() == 2
    assert supervised(processor, batch) == expected_answers(processor, ANSWERS[:2])


def test_an_answer_without_an_end_is_refused(bases):
    words = tiny.tokenizer()
    words.eos_token, words.chat_template = None, None
    with pytest.raises(ValueError, match="set tokenizer.eos_token"):
        AdemVLProcessor(AutoImageProcessor.from_pretrained(bases / "clip"), words)(text=[CHAT[2:4]])


def test_a_passage_names_its_answers():
    passage = chat_passage(CHAT[2:], None, None, tiny.tokenizer())
    found = [passage.text[begin:end] for begin, end in passage.answers]
    assert found == [" No.</s>", " two birds flying over the sea</s>"]
    assert not passage.is_closed
