"""The mathematics against slow and plain versions of it."""

import math

import pytest
import tiny
import torch
from closeness import assert_close
from torch.nn import functional as F

from adem_vl_hf import AdemVLConfig, AdemVLForConditionalGeneration
from adem_vl_hf.modeling import fusion
from adem_vl_hf.modeling.adapter_adem_vl import AdemVLAdapter, pool_scales
from adem_vl_hf.modeling.fusion import adaptive_drop_, fuse, kernel_map, memory_for_one_position
from adem_vl_hf.modeling.image_inputs import ImageRows
from adem_vl_hf.modeling.visual_memory import VisualMemory

pytestmark = [pytest.mark.core, pytest.mark.kernels]


def naive_drop(scores, drop_ratio):
    """As the authors write it: sort, take the threshold, zero what is strictly below."""
    out = scores.clone()
    for row in out.view(-1, scores.shape[-1]):
        if drop_ratio > 0:
            threshold = sorted(row.tolist())[int(drop_ratio * len(row))]
            for index, value in enumerate(row.tolist()):
                if value < threshold:
                    row[index] = 0.0
    return out


@pytest.fixture(params=["many", "few", "traced"])  # a GPU selects as among few scores, other devices as traced
def selection(request, monkeypatch):
    monkeypatch.setattr(fusion, "MANY", 0 if request.param == "many" else 4096)
    monkeypatch.setattr(fusion, "_is_traced", lambda: request.param == "traced")


@pytest.mark.usefixtures("selection")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("drop_ratio", [0.0, 0.04, 0.1, 0.3, 0.5, 0.99])
def test_adaptive_drop_is_the_sort(drop_ratio, dtype):
    scores = torch.randn(3, 5, 20, generator=torch.Generator().manual_seed(0)).to(dtype)
    dropped = adaptive_drop_(scores.clone(), drop_ratio)
    assert torch.equal(dropped, naive_drop(scores, drop_ratio))
    assert ((dropped == 0).sum(-1) == int(drop_ratio * 20)).all()


@pytest.mark.usefixtures("selection")
def test_ties_at_the_threshold_are_kept():
    scores = torch.tensor([[[-1.0, -1.0, -1.0, 2.0, -3.0], [0.5, 0.5, 0.5, 0.5, 0.5], [-2.0, -2.0, 1.0, 1.0, 0.0]]])
    dropped = adaptive_drop_(scores.clone(), 0.5)  # the third smallest is the threshold
    expected = torch.tensor([[[-1.0, -1.0, -1.0, 2.0, 0.0], [0.5, 0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0, 0.0]]])
    assert torch.equal(dropped, expected)
    whole = torch.randint(-3, 3, (4, 6, 30), generator=torch.Generator().manual_seed(1)).float()
    for ratio in (0.1, 0.4, 0.8):
        assert torch.equal(adaptive_drop_(whole.clone(), ratio), naive_drop(whole, ratio))


@pytest.mark.usefixtures("selection")
def test_the_most_negative_go_first_and_only_the_kept_get_gradient():
    scores = torch.tensor([[[-5.0, 0.1, -0.2, 4.0]]], requires_grad=True)
    dropped = adaptive_drop_(scores.clone(), 0.25)
    assert torch.equal(dropped, torch.tensor([[[0.0, 0.1, -0.2, 4.0]]]))  # not the smallest in magnitude
    dropped.sum().backward()
    assert torch.equal(scores.grad, torch.tensor([[[0.0, 1.0, 1.0, 1.0]]]))


def test_kernel_maps():
    x = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)) * 3
    sigmoid = 1 / (1 + torch.exp(-x))
    expected = {
        "silu": x * sigmoid,
        "none": x,
        "softmax": torch.exp(x) / torch.exp(x).sum(-1, keepdim=True),
        "relu": torch.where(x > 0, x, torch.zeros(())),
        "elu": torch.where(x > 0, x, torch.exp(x) - 1),
        "silu-min": x * sigmoid - x.min(-1, keepdim=True).values,
    }
    for kernel, values in expected.items():
        assert_close(kernel_map(x, kernel), values, name=kernel)
    with pytest.raises(ValueError, match="gelu"):
        kernel_map(x, "gelu")


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("counts", [[16, 4], [4, 16], [1], [9], [4, 1, 16]])
def test_pool_scales_in_the_given_order(pooling, counts):
    patches = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(0))
    grid = patches.view(2, 4, 4, 5)  # row by row
    expected = []
    for count in counts:
        side = math.isqrt(count)
        for y in range(side):
            for x in range(side):  # the windows of adaptive pooling: they may overlap
                rows = slice(y * 4 // side, -(-(y + 1) * 4 // side))
                columns = slice(x * 4 // side, -(-(x + 1) * 4 // side))
                window = grid[:, rows, columns].flatten(1, 2)
                expected.append(window.mean(1) if pooling == "avg" else window.amax(1))
    pooled = pool_scales(patches, counts, pooling)
    assert pooled.shape == (2, sum(counts), 5)
    assert_close(pooled, torch.stack(expected, 1))


def test_fuse_is_drop_of_the_scores_times_the_values():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 3, 8, generator=generator)
    key, value = (torch.randn(2, 10, 8, generator=generator) for _ in "kv")
    fused = fuse(hidden, key, value, "silu", 0.2)
    for b in range(2):
        for t in range(3):
            query = F.silu(hidden[b, t])
            scores = torch.stack([query @ slot for slot in key[b]])
            kept = scores * (scores >= scores.sort().values[2])
            assert_close(fused[b, t], (kept[:, None] * value[b]).sum(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_single_position_reads_the_memory_in_32_bits(dtype):
    generator = torch.Generator().manual_seed(0)
    hidden, key, value = (torch.randn(2, n, 8, generator=generator).to(dtype) for n in (1, 10, 10))
    memory = memory_for_one_position(VisualMemory(key, value))
    assert [part.dtype for part in memory[:2]] == [torch.float32] * 2
    fused = fuse(hidden, *memory[:2], "silu", 0.2)
    assert fused.dtype == dtype
    exact = fuse(hidden.double(), key.double(), value.double(), "silu", 0.2)
    assert_close(fused, exact.to(dtype))


def test_a_compiled_step_of_decoding_reads_it_in_32_bits_too():
    read = torch.compile(memory_for_one_position, backend="eager", fullgraph=True)
    memory = read(VisualMemory(*torch.randn(2, 1, 10, 8).bfloat16()))
    assert [part.dtype for part in memory[:2]] == [torch.float32] * 2


def test_only_a_pass_of_one_position_reads_another_copy(model):
    memory = VisualMemory(*torch.randn(2, 1, 10, tiny.TEXT_WIDTH).bfloat16())
    one, two = (model.for_layers(memory, torch.ones(1, n, dtype=torch.long), None, None)[0] for n in (1, 2))
    assert one["visual_memory"].key.dtype == torch.float32
    assert two["visual_memory"] is memory


@pytest.fixture
def adapter():
    config = AdemVLConfig(
        text_config={"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 300},
        vision_config=tiny.clip_config(), projector_dim=8, vision_adapter_dim=4, fusion_scale=0.5, visual_scale=0.25,
    )  # fmt: skip
    adapter = AdemVLAdapter(config)
    torch.manual_seed(0)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return adapter


def test_the_memory_adds_each_embedding_to_its_own_part(adapter):
    features = torch.randn(2, 17, tiny.VISION_WIDTH)
    rows = ImageRows(None, torch.tensor([[True], [False], [True]]), 3)
    memory = adapter(features, rows)
    key, value, mask, visual = memory.key, memory.value, memory.slots, memory.prompt
    assert mask is None
    projector = adapter.visual_projector
    for row, image in ((0, 0), (2, 1)):
        pooled = pool_scales(features[image : image + 1, 1:], [16, 4])
        prompt = F.linear(F.silu(F.linear(pooled, projector.fc1.weight, projector.fc1.bias)), projector.fc2.weight)
        prompt = 0.25 * (prompt + projector.fc2.bias)
        assert_close(visual[row : row + 1], prompt)
        assert_close(key[row : row + 1], F.silu(prompt + adapter.key_embedding))
        assert_close(value[row : row + 1], 0.5 * (prompt + adapter.value_embedding))
    # a row without an image attends to the learned slots alone
    assert (visual[1] == 0).all()
    assert_close(key[1:2], F.silu(adapter.key_embedding))
    assert_close(value[1:2], 0.5 * adapter.value_embedding)
    text = adapter(None, ImageRows(None, None, 2))
    assert text.prompt is None
    assert_close(text.value, 0.5 * adapter.value_embedding.expand(2, -1, -1))


def test_a_fresh_adapter_starts_as_the_authors_do(bases):
    torch.manual_seed(0)
    model = AdemVLForConditionalGeneration.from_base_pretrained(bases / "llama", bases / "clip")
    adapter = model.adapter
    assert adapter.key_embedding.std().item() == pytest.approx(0.02, rel=0.1)
    assert (adapter.value_embedding == 0).all()
    for projector in (adapter.visual_projector, adapter.cls_projector):
        for linear in (projector.fc1, projector.fc2):
            bound = math.sqrt(6 / sum(linear.weight.shape))  # Xavier, uniform
            assert 0.9 * bound < linear.weight.abs().max() <= bound
            assert (linear.bias == 0).all()
    assert not torch.equal(adapter.visual_projector.fc1.weight, adapter.cls_projector.fc1.weight)
    for one in adapter.vision_adapters:
        assert (one.up.weight == 0).all()
        assert 0 < one.down.weight.abs().max() <= 1 / math.sqrt(tiny.VISION_WIDTH)
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
