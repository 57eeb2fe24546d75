"""The kernel of adaptive drop beside the reference: in Triton's interpreter, and on a GPU where there is one."""

import os

import pytest
import torch
from closeness import assert_close
from new_process import run_python

from adem_vl_hf.modeling import fusion

pytest.importorskip("triton")  # builds of PyTorch for GPUs bring it
from adem_vl_hf.modeling import drop_kernel

pytestmark = pytest.mark.slow
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def in_use(monkeypatch):
    """``fuse`` with the kernel, which it otherwise takes for scores on a GPU alone."""
    monkeypatch.setattr(fusion, "BY_TRITON", True)
    monkeypatch.setattr(fusion, "kernel_takes", lambda scores: True, raising=False)
    monkeypatch.setattr(fusion, "drop_smallest", drop_kernel.drop_smallest, raising=False)


def some_scores(dtype, slots):
    """Scores [2, 3, slots], some of them equal, with zeros of both signs and the extremes of the precision."""
    torch.manual_seed(slots)
    scores = torch.randn(2, 3, slots).round(decimals=1).to(dtype)
    scores[0, 0, : slots // 2] = scores[0, 0, 0]
    scores[0, 1] = 1.5
    scores[1, 0, ::2], scores[1, 0, 1::2] = -0.0, 0.0
    scores[1, 1, 0], scores[1, 1, -1] = torch.finfo(dtype).min, torch.finfo(dtype).max
    return scores.to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("slots", [1, 7, 64, 337, 5120])
def test_it_drops_what_a_sort_drops(slots, dtype):
    scores = some_scores(dtype, slots)
    for drop_ratio in (0.0, 0.1, 0.5, 0.99):
        wide = scores.double()
        threshold = wide.sort(dim=-1).values[..., int(drop_ratio * slots), None]
        found, kept = drop_kernel.drop_smallest(scores, drop_ratio, None)
        assert torch.equal(kept, wide >= threshold)
        assert torch.equal(found.double(), torch.where(kept, wide, 0))
        assert found.dtype == dtype


@pytest.mark.parametrize("slots", [7, 337])
def test_a_share_of_the_slots_that_exist(slots):
    scores = some_scores(torch.float32, slots)
    mask = torch.rand(2, slots, device=DEVICE) < 0.6
    mask[:, 1] = True
    for drop_ratio in (0.04, 0.1, 0.29, 0.5):  # 0.29 * 100 is 28.999999999999996
        found, kept = drop_kernel.drop_smallest(scores, drop_ratio, mask)
        for row in range(2):
            there = scores[row][:, mask[row]]
            threshold = there.sort(dim=-1).values[:, int(drop_ratio * there.shape[-1]), None]
            assert torch.equal(kept[row][:, mask[row]], there >= threshold)
            assert torch.equal(found[row][:, mask[row]], torch.where(there >= threshold, there, 0))


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_term_and_its_gradients_are_the_same(in_use, monkeypatch, dtype, with_mask):
    torch.manual_seed(0)
    mask = (torch.rand(2, 45) < 0.7).to(DEVICE) if with_mask else None
    inputs = [torch.randn(2, *shape).to(DEVICE, dtype) for shape in ((6, 16), (45, 16), (45, 16))]
    if mask is not None:
        inputs[2] = inputs[2] * mask[..., None]
    results = []
    for by_triton in (True, False):
        monkeypatch.setattr(fusion, "BY_TRITON", by_triton)
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        term = fusion.fuse(*leaves, "silu", 0.1, mask)
        term.square().sum().backward()
        results.append([term.detach(), *(leaf.grad for leaf in leaves)])
    for ours, reference in zip(*results, strict=True):
        assert_close(ours, reference)


def test_it_compiles_without_a_break(in_use):
    torch.manual_seed(0)
    hidden, key, value = (torch.randn(2, *shape, device=DEVICE) for shape in ((6, 16), (45, 16), (45, 16)))
    hidden.requires_grad_()
    compiled = torch.compile(fusion.fuse, fullgraph=True, backend="aot_eager")
    (ours,) = torch.autograd.grad(compiled(hidden, key, value, "silu", 0.1).sum(), hidden)
    (reference,) = torch.autograd.grad(fusion.fuse(hidden, key, value, "silu", 0.1).sum(), hidden)
    assert_close(ours, reference)


def test_torch_accepts_the_operator():
    scores = some_scores(torch.float32, 9).requires_grad_()
    torch.library.opcheck(drop_kernel.drop_smallest, (scores, 0.3, None))


def test_what_it_cannot_take_is_refused():
    scores = some_scores(torch.float32, 7)
    for wrong in (scores.double(), scores[0], scores.new_zeros(1, 1, drop_kernel.LONGEST_ROW + 1)):
        with pytest.raises(ValueError, match="16 or 32 bits"):
            drop_kernel.drop_smallest(wrong, 0.1, None)
    with pytest.raises(ValueError, match="slot_mask is"):
        drop_kernel.drop_smallest(scores, 0.1, torch.ones(2, 6, dtype=torch.bool, device=DEVICE))
    assert drop_kernel.kernel_takes(scores) is (DEVICE == "cuda")


FOR_A_GPU = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from adem_vl_hf.modeling.drop_kernel import _drop_rows

for dtype, width, masked in (("fp32", 32, True), ("bf16", 16, False)):
    types = {"scores": f"*{dtype}", "slot_mask": "*i8", "dropped_scores": f"*{dtype}", "kept": "*i8", "slots": "i32",
             "positions": "i32", "number": "i32", "ratio_bits": "i64"}
    constants = {"masked": masked, "width": width, "block": 512}
    source = ASTSource(_drop_rows, {**types, **dict.fromkeys(constants, "constexpr")}, constants)
    made = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 2})
    assert "st.global" in made.asm["ptx"]
"""


@pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="Triton's builds for other processors may lack the assembler"
)
def test_it_compiles_for_a_gpu_that_is_not_here(tmp_path):
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    # Triton reads the kernel's source, which has to be in a file: here it is in the package
    done = run_python(FOR_A_GPU, env=env | {"TRITON_CACHE_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
