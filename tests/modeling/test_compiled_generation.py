"""generate() with a compiled forward pass and a static cache: one graph, and the same answers."""

import architectures
import pytest
import tiny
import torch
from transformers import CompileConfig

STEPS = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 3}


@pytest.mark.slow  # the test below compiles the steps of both models in `make test`
@architectures.each_family()
def test_compiled_steps_answer_the_same(bases, arch):
    model, graphs = arch.build(bases), []
    prompt = tiny.batch([9, 6, 8], [True, False, True], side="left")
    del prompt["labels"]
    other = prompt | {"pixel_values": tiny.pictures(3, seed=8)}
    expected = [model.generate(**inputs, **STEPS) for inputs in (prompt, other)]

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    model.forward = torch.compile(model.forward, fullgraph=True, backend=backend)
    static = {**STEPS, "cache_implementation": "static"}
    assert torch.equal(model.generate(**prompt, **static), expected[0])
    number = len(graphs)
    assert torch.equal(model.generate(**other, **static), expected[1])
    assert 0 < number == len(graphs)  # another picture asks for no other graph


@architectures.each()
def test_generate_compiles_its_steps_once_for_every_picture(bases, arch):
    """As the library's own test of it asks: one graph, fixed shapes, and no second compilation."""
    model = arch.build(bases)
    whole = CompileConfig(fullgraph=True, dynamic=False, backend="eager")
    whole._compile_all_devices = True
    one, other = (tiny.batch([9, 9], [True, True], side="left", seed=seed) for seed in (3, 5))
    other["pixel_values"] = tiny.pictures(2, seed=8)
    torch.compiler.reset()
    for prompt in (one, other):
        del prompt["labels"]
        expected = model.generate(**prompt, **STEPS)
        with torch._dynamo.config.patch(error_on_recompile=True):
            static = model.generate(**prompt, **STEPS, cache_implementation="static", compile_config=whole)
        assert torch.equal(static, expected)
    assert hasattr(model, "_compiled_call")
