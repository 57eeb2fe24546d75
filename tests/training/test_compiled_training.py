"""Training with ``torch_compile=True``: the stock Trainer's wrapper changes neither the adapter nor its file."""

import architectures
import numpy as np
import pytest
import scripts
import tiny
import torch
from closeness import assert_close, assert_equal
from safetensors.torch import load_file
from training_runs import PLAIN, adapter, assert_moved_alike, blocks, samples, trainer

from adem_vl_hf.training import train


@pytest.mark.slow
@architectures.each()
def test_a_compiled_training_moves_the_adapter_as_a_plain_one_does(bases, arch, tmp_path):
    """Train on batches of different lengths, with and without images, and evaluate in between."""
    fresh, moved = adapter(arch.build(bases)), {}
    torch.compiler.reset()
    for compiled in (False, True):
        settings = {"torch_compile": True, "torch_compile_backend": "eager"} if compiled else {}
        made, processor = trainer(
            bases, tmp_path / str(compiled), blocks(4), arch.build(bases), max_steps=2, logging_steps=1,
            eval_dataset=samples(3), eval_strategy="steps", eval_steps=1, **PLAIN, **settings,
        )  # fmt: skip
        train(made, processor)
        losses = [value for entry in made.state.log_history for key, value in entry.items() if key.endswith("loss")]
        moved[compiled] = losses, adapter(made.model), load_file(tmp_path / str(compiled) / "model.safetensors")
    assert moved[True][0] == pytest.approx(moved[False][0], rel=2e-4)  # the logged loss is rounded
    assert moved[True][2].keys() == moved[False][2].keys()  # no name of a wrapper
    assert_moved_alike(moved[True][1], moved[False][1], fresh)
    assert_equal(moved[True][2], moved[True][1])


BATCHES = {
    "one shape": [([9, 9], [True, True], seed) for seed in (1, 2, 3)],
    "a row without an image": [([9, 6], [True, False], seed) for seed in (1, 2)],
    "many lengths": [([length, length], [True, True], 1) for length in (9, 11, 13, 15)],
    "many sizes": [([9] * size, [True] * size, 1) for size in (2, 3, 4, 5)],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BATCHES)
@architectures.each()
def test_a_training_step_is_one_graph(bases, arch, kind):
    """Without a break, and with at most one more for all other shapes; its gradients are those without compiling."""
    model, graphs = arch.build(bases).train(), []
    batches = [tiny.batch(lengths, images, seed=seed) for lengths, images, seed in BATCHES[kind]]

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def gradients(forward):
        for batch in batches:
            forward(**batch).loss.backward()
        return tiny.gradients(model)

    torch.compiler.reset()
    compiled = gradients(torch.compile(model.forward, fullgraph=True, backend=backend))
    assert len(graphs) <= (2 if kind.startswith("many") else 1)
    assert_close(compiled, gradients(model.forward))


@pytest.mark.slow
def test_a_compiled_step_refuses_what_a_plain_one_refuses(bases, arch):
    model, batch = arch.build(bases).train(), tiny.batch([9, 9], [True, True])
    torch.compiler.reset()
    compiled = torch.compile(model.forward, fullgraph=True, backend="aot_eager")
    batch["labels"] = torch.full_like(batch["labels"], -100)
    with pytest.raises(RuntimeError, match="no position of the batch is supervised"):
        compiled(**batch)


@pytest.fixture
def compiled(tmp_path, monkeypatch, bases):
    """The benchmark of compiled passes on tiny bases, with a compiler that is quick because it does nothing."""
    script = scripts.load("benchmarks/compiled.py")
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path / "results")
    tiny_bases = script.BACKBONES["smollm2"]._replace(
        bases=lambda folder: (str(bases / "llama"), str(bases / "clip")), batch_size=2, matched=False
    )
    monkeypatch.setattr(script, "BACKBONES", {"smollm2": tiny_bases})
    monkeypatch.setattr(script, "default_batch_size", lambda backbone: 2)
    monkeypatch.setattr(script, "BACKEND", "eager")
    monkeypatch.setattr(script, "NEW_TOKENS", 4)
    return script


@pytest.mark.slow
def test_what_compiling_saves(compiled, monkeypatch, capsys):
    torch.compiler.reset()
    scripts.call(compiled, monkeypatch, "--texts", 24, "--repeats", 2)
    saved = compiled.tables.load("compiled")["smollm2/24"]
    assert saved["compiled_over_plain"]["step"].keys() == {"floor", "tower", "adem_vl"}
    assert saved["step_with_tower"].keys() == saved["token"].keys() == {"plain", "compiled"}
    assert all(np.isfinite(value) and value > 0 for value in saved["seconds_of_first_calls"].values())
    lines = compiled.sections()["compiled table"].splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert lines[-1] in capsys.readouterr().out


def test_a_compiled_answer_is_the_plain_one(compiled, tmp_path):
    made = compiled.parts("smollm2", 24, tmp_path)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled.BACKEND = backend
    said = []
    for functions in (compiled.answers(made), compiled.compiled_answers(made)):
        call = functions["adem_vl, 4"]
        said.append(made.model.generate(**call.args[1], max_new_tokens=4, do_sample=False, **call.keywords).tolist())
    assert said[0] == said[1]
    assert graphs
