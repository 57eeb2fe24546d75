"""What one would run instead: every model at a tiny size has the shape and the inputs that its row is named for."""

import re
from functools import partial

import pytest
import scripts
import tiny
import torch
from bitsandbytes.nn import Linear4bit
from closeness import assert_close
from transformers import AutoConfig, Qwen2VLImageProcessor

# PEFT asks by that name, and versions before 5.23 know no other
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
WIDTH, INNER, LAYERS, KV_WIDTH, RANK = 64, 128, 3, 32, 4  # wide enough for 4 bits, which have blocks of 64 numbers
VISION = (24, 96, 2, 3)  # width, width of the MLP, blocks, heads
LORA = LAYERS * RANK * (2 * (WIDTH + WIDTH) + 2 * (WIDTH + KV_WIDTH) + 3 * (WIDTH + INNER))
PICTURES = [tiny.picture(0), tiny.picture(1)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alternatives")
    language_model = tiny.save_llama(folder / "llama", hidden_size=WIDTH, intermediate_size=INNER)
    return str(language_model), str(tiny.save_clip(folder / "clip"))


@pytest.fixture
def script(folders, monkeypatch, tmp_path):
    script = scripts.load("benchmarks/alternatives.py")
    monkeypatch.setattr(script, "BASES", folders)
    monkeypatch.setattr(script, "RANK", RANK)
    monkeypatch.setattr(script, "TEXT", 10)
    monkeypatch.setattr(script, "NEW_TOKENS", 2)
    monkeypatch.setattr(script, "FIGURES", tmp_path)
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path)
    for name in ("smolvlm", "qwen2_vl"):
        small = partial(getattr(script.other_models, name), vision=VISION)
        monkeypatch.setattr(script.other_models, name, small)
    return script


def build(script, arm):
    torch.manual_seed(0)
    return script.ALTERNATIVES[arm].build(dtype=torch.float32, attn_implementation="eager")


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("arm", ["llava_lora", "llava_qlora", "smolvlm_lora", "qwen2_vl_lora"])
def test_lora_is_in_all_linear_layers_of_the_language_model_and_learns(script, arm):
    model, processor = build(script, arm)
    # LLaVA has a new projector of two linear layers, the others come with theirs
    projector = (tiny.VISION_WIDTH + 1 + WIDTH + 1) * WIDTH if arm.startswith("llava") else 0
    found = trained(model)
    assert sum(p.numel() for p in found.values()) == LORA + projector
    assert sum("lora_" in name for name in found) == 2 * 7 * LAYERS
    batch = processor(images=PICTURES, text=["a photo of", "hello"], suffix=[" a cat", " a dog"])
    model.train()(**batch).loss.backward()
    for name, parameter in found.items():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() == ("lora_A" not in name), name  # B is zero at first
    packed = sum(isinstance(module, Linear4bit) for module in model.modules())
    assert packed == (7 * LAYERS if arm == "llava_qlora" else 0)


@pytest.mark.parametrize("arm", ["smolvlm_lora", "qwen2_vl_lora"])
def test_64_tokens_stand_for_a_picture_and_carry_it(script, arm):
    model, processor = build(script, arm)
    inputs = processor(images=PICTURES, text=["hello", "hello"])
    image = inputs["input_ids"] == processor.image_token_id
    assert image.sum(1).tolist() == [64, 64]
    logits = model(**inputs).logits.detach()
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    again = model(**processor(images=PICTURES[:1] * 2, text=["hello", "hello"])).logits.detach()
    assert_close(again[0], again[1])
    config = model.config
    parts = {"text_config": "eager", "vision_config": "sdpa"}
    assert {part: getattr(config, part)._attn_implementation for part in parts} == parts


def test_the_patches_of_qwen2_vl_are_those_of_its_own_processor(script):
    _, processor = build(script, "qwen2_vl_lora")
    pictures = [picture.resize((224, 224)) for picture in PICTURES]
    inputs = processor(images=pictures, text=["hello", "hello"])
    own = Qwen2VLImageProcessor()(images=pictures, return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == own["image_grid_thw"].tolist() == [[1, 16, 16]] * 2
    assert inputs["pixel_values"].shape == (2 * 256, 3 * 2 * 14 * 14)
    assert torch.allclose(inputs["pixel_values"], own["pixel_values"], atol=1e-4)
    assert torch.equal(inputs["mm_token_type_ids"] == 1, inputs["input_ids"] == processor.image_token_id)


def test_at_full_size_they_have_the_published_shapes(tmp_path):
    """SmolVLM-256M has 256,484,928 parameters."""
    script = scripts.load("benchmarks/alternatives.py")
    language_model = str(tiny.save_llama(tmp_path))  # of which only the tokenizer stays
    AutoConfig.for_model(
        "llama", hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True,
    ).save_pretrained(tmp_path)  # fmt: skip
    lora = 30 * 16 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))
    with torch.device("meta"):
        smolvlm, _ = script.other_models.smolvlm(language_model, 16)
        assert sum(p.numel() for p in trained(smolvlm).values()) == lora == 4_884_480
        assert sum(p.numel() for p in smolvlm.parameters()) - lora == 256_484_928
        qwen, _ = script.other_models.qwen2_vl(language_model, 16)
        assert sum(p.numel() for p in trained(qwen).values()) == lora
    base = qwen.get_base_model()
    blocks = sum(p.numel() for p in base.model.visual.blocks.parameters())
    assert blocks == 12 * (12 * 768**2 + 13 * 768)
    bias_of_queries = 30 * (576 + 2 * 192)  # which Llama has not
    text = sum(p.numel() for p in base.model.language_model.parameters()) - lora
    assert text - bias_of_queries == 134_515_008  # SmolLM2-135M
    assert base.config.text_config.rope_parameters["mrope_section"] == [8, 12, 12]


@pytest.mark.slow
def test_every_row_is_measured_once_and_drawn(script, monkeypatch, capsys):
    began = []

    def in_this_process(command, check):
        began.append(command[3])
        scripts.call(script, monkeypatch, *command[2:])

    monkeypatch.setattr(script.subprocess, "run", in_this_process)
    arms = list(script.ALTERNATIVES)
    scripts.call(script, monkeypatch, "--repeats", 1, "--arms", *arms[:2])
    scripts.call(script, monkeypatch, "--repeats", 1)
    assert began == arms
    saved = script.tables.load(script.measures.result_file("alternatives"))
    lora, packed = (saved[arm] for arm in arms[1:3])
    assert lora["trained_numbers"] == packed["trained_numbers"]
    for one in saved.values():
        assert all(value > 0 for part in ("seconds", "rates") for value in one[part].values())
        numbers = 4 * one["trained_numbers"]  # in float32
        assert numbers < one["adapter_bytes"] < numbers + 30_000
        assert one["memory"] >= one["empty"] > 0
    assert saved["smolvlm_lora"]["tokens"] == lora["tokens"] + 64 - tiny.GRID**2
    drawn = (script.FIGURES / "alternatives.png").read_bytes()
    script.plot(saved)
    assert (script.FIGURES / "alternatives.png").read_bytes() == drawn
    assert script.sections()["alternatives table"] in capsys.readouterr().out


def test_the_table_of_figures_made_by_hand(script):
    one = {
        "trained_numbers": 1234, "tokens": 36, "adapter_bytes": 5_600_000, "empty": 1e9, "memory": 2e9,
        "seconds": {"step": 2.0, "answer 1": 0.5, "answer 8": 1.0},
        "rates": {"step": 1.0, "answer 1": 1.0, "answer 8": 1.0},
    }  # fmt: skip
    other = one | {"memory": 3e9, "rates": {"step": 0.25, "answer 1": 1.1, "answer 8": 0.5}}
    made = script.table({"qwen2_vl_lora": other, "adem_vl": one}).splitlines()
    assert made[2] == (
        "| ADEM-VL, small CLIP | 36 | 1,234 | 4.0 (1.00) | 2.00 (1.00) | 4.0 (1.00) | 16.0 (1.00) | 5.6 |"
    )
    assert made[3].startswith("| Qwen2-VL's shape + LoRA | 36 | 1,234 | 4.0 (0.25) | 3.00 (1.50) | 4.0 (1.10) |")
    assert set(script.sections().values()) == {script.tables.NOT_MEASURED}


def test_the_page_has_a_row_and_a_figure_for_each():
    script = scripts.load("benchmarks/alternatives.py")
    text = (scripts.ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    section = re.search(r"### What one would run instead\n(.*?)\n### ", text, re.S)[1]
    assert script.sections()["alternatives table"] in section
    for alternative in script.ALTERNATIVES.values():
        assert section.count(f"\n| {alternative.label} | ") == 1
    assert "](figures/alternatives.png)" in section
    assert (script.FIGURES / "alternatives.png").stat().st_size <= 60_000
