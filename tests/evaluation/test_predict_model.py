"""Running a real, tiny and random ADEM-VL over mixed samples: batches answer as single samples do, images are seen."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, PreTrainedTokenizerFast

from adem_vl_hf.data.sample import Sample
from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.modeling.configuration_adem_vl import AdemVLConfig
from adem_vl_hf.modeling.modeling_adem_vl import AdemVLForConditionalGeneration
from adem_vl_hf.modeling.processing_adem_vl import AdemVLProcessor

SPECIALS = ["<unk>", "<s>", "</s>", "<image>"]


@pytest.fixture(scope="module")
def processor() -> AdemVLProcessor:
    """One token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate([*SPECIALS, *alphabet])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = CLIPImageProcessor(size={"height": 16, "width": 16}, do_center_crop=False)
    return AdemVLProcessor(images, tokenizer)


@pytest.fixture(scope="module")
def model(processor: AdemVLProcessor) -> AdemVLForConditionalGeneration:
    torch.manual_seed(0)
    config = AdemVLConfig(
        text_config=LlamaConfig(
            vocab_size=len(SPECIALS) + 256,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=16,
            patch_size=4,
        ),
        visual_token_counts=[16, 4],
        visual_scale=1.0,
        projector_dim=8,
        vision_adapter_dim=2,
        image_token_id=processor.image_token_id,
    )
    model = AdemVLForConditionalGeneration(config)
    for parameter in model.parameters():  # far from the initial values, which would give equal answers
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def samples() -> list[Sample]:
    colours = ["red", "lime", "blue", "white", "black"]
    rows = []
    for number, (colour, prompt) in enumerate(zip(colours, ["a", "a picture of", "what?", "", "hm"], strict=True)):
        image = None if number == 2 else Image.new("RGB", (20, 12), colour)
        rows.append(Sample(id=str(number), image=image, prompt=prompt, answer=" x", references=["x"], kind="caption"))
    return rows


def test_a_batch_answers_as_its_samples_alone(model, processor, tmp_path: Path):
    options = {"max_new_tokens": 6, "progress": False}
    together = predict(model, processor, samples(), output=tmp_path / "4.jsonl", batch_size=4, **options)
    alone = predict(model, processor, samples(), output=tmp_path / "1.jsonl", batch_size=1, **options)
    assert together == alone
    assert len({row["prediction"] for row in alone}) > 1


def test_the_model_sees_what_it_is_given(model, processor, tmp_path: Path):
    answers = {
        images: predict(
            model, processor, samples(), output=tmp_path / images, images=images, max_new_tokens=6, progress=False
        )
        for images in ("true", "shuffled", "none")
    }
    seen = {images: [row["prediction"] for row in rows] for images, rows in answers.items()}
    assert seen["true"][2] == seen["shuffled"][2] == seen["none"][2]  # the sample without an image
    assert seen["true"] != seen["shuffled"]
    assert seen["true"] != seen["none"]
