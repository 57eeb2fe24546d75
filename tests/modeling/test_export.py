"""``torch.export`` traces a forward pass, and decoding, with the visual memory as an input."""

import pytest
import tiny
import torch
import transformers
from architectures import BOTH
from closeness import assert_close
from packaging.version import Version
from torch import nn
from torch.utils._pytree import tree_flatten

from adem_vl_hf.exporting import Prefill, Step

pytestmark = pytest.mark.parametrize("arch", BOTH, ids=str, indirect=True, scope="module")
PROMPT, TOKENS = 6, 6
NEWEST = pytest.mark.skipif(Version(transformers.__version__) < Version("5.24"), reason="older caches are others")


class Forward(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, memory):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **memory).logits


def inputs_and_memory(model, seed=2):
    inputs = tiny.batch([PROMPT, PROMPT], [True, True])
    memory = dict(model.get_visual_memory(tiny.pictures(2, seed=seed), inputs["image_mask"]))
    memory.pop("image_hidden_states", None)  # an output of ADEM-VL
    return inputs["input_ids"], inputs["attention_mask"], {n: value for n, value in memory.items() if value is not None}


@torch.no_grad()
@pytest.mark.slow
def test_a_forward_pass_is_exported(model):
    ids, mask, memory = inputs_and_memory(model)
    exported = torch.export.export(Forward(model), (ids, mask, memory), strict=False).module()
    assert_close(exported(ids, mask, memory), Forward(model)(ids, mask, memory))
    _, _, other = inputs_and_memory(model, seed=3)
    assert_close(exported(ids, mask, other), Forward(model)(ids, mask, other))


def decode(prefill, step, ids, memory):
    """The tokens of greedy decoding, [B, TOKENS]."""
    seen = {name: value for name, value in memory.items() if name != "image_embeds"}
    logits, state = prefill(ids, memory)
    tokens = [logits.argmax(-1, keepdim=True)]
    for _ in range(TOKENS - 1):
        logits, state = step(tokens[-1], state, seen)
        tokens.append(logits.argmax(-1, keepdim=True))
    assert state["length"] == PROMPT + TOKENS - 1
    return torch.cat(tokens, 1)


def export(model):
    """``Prefill`` and ``Step``, exported: the program of each, the arguments of its trace, and its logits for them."""
    ids, _, memory = inputs_and_memory(model)
    seen = {name: value for name, value in memory.items() if name != "image_embeds"}
    prefill, step = Prefill(model, places=PROMPT + TOKENS), Step(model, places=PROMPT + TOKENS)
    logits, state = prefill(ids, memory)
    calls = [(prefill, (ids, memory)), (step, (logits.argmax(-1, keepdim=True), state, seen))]
    return [(torch.export.export(part, given, strict=False), given, part(*given)[0]) for part, given in calls]


@torch.no_grad()
@pytest.mark.slow
@NEWEST
def test_decoding_is_exported(model):
    """The exported functions write what ``generate`` writes, about other images than those of the trace, too."""
    ids, mask, _ = inputs_and_memory(model)
    exported = [program.module() for program, _, _ in export(model)]
    answers = []
    for seed in (2, 3):
        _, _, memory = inputs_and_memory(model, seed)
        options = {"max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": None}
        expected = model.generate(input_ids=ids, attention_mask=mask, **memory, **options)[:, PROMPT:]
        assert torch.equal(decode(*exported, ids, memory), expected)
        answers.append(expected)
    assert not torch.equal(*answers)  # the images show


@NEWEST
@pytest.mark.slow
@pytest.mark.parametrize("bases", ["gemma2"], indirect=True)
def test_windows_are_refused(arch, bases):
    model = arch.build(bases)
    ids, _, memory = inputs_and_memory(model)
    with pytest.raises(ValueError, match="attend to a window of tokens"):
        Prefill(model, places=12)(ids, memory)


def run_by_openvino(program, feed, folder):
    import openvino

    # it would compute in bfloat16 where the processor multiplies that
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.compile_model(openvino.convert_model(program), "CPU", exact)(feed)[0]


def run_by_onnx_runtime(program, feed, folder):
    import onnxruntime

    torch.onnx.export(program, (), str(folder / "model.onnx"), dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip((given.name for given in session.get_inputs()), feed, strict=True)))[0]


@torch.no_grad()
@pytest.mark.slow
@NEWEST
@pytest.mark.filterwarnings("default")  # what the converters say of PyTorch is not ours to mend
@pytest.mark.parametrize("run", [run_by_openvino, run_by_onnx_runtime])
def test_what_is_exported_runs_elsewhere(model, run, tmp_path):
    """OpenVINO and ONNX Runtime compute what PyTorch does."""
    for program, given, logits in export(model):
        feed = [tensor.numpy() for tensor in tree_flatten(given)[0]]
        assert_close(torch.from_numpy(run(program, feed, tmp_path)), logits)  # 2.6e-6 apart at most here
