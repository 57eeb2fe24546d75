"""The model card: its statements come from the checkpoint's folder, and the Hub accepts it."""

import json

import pytest
import torch
from hub_store import card_errors
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, LlamaConfig

from adem_vl_hf.hub.model_card import write_model_card
from adem_vl_hf.loading import CLIP, SMOLLM2
from adem_vl_hf.modeling.configuration_adem_vl import AdemVLConfig

REVISION = "0123456789abcdef0123456789abcdef01234567"
TENSORS = {"adapter.key": torch.zeros(5, 400), "adapter.value": torch.zeros(21)}  # 2,021 parameters


def checkpoint(folder, tensors=TENSORS, **fields):
    """Write a folder with the sources of the card: a config and the adapter's tensors."""
    names = {"text_model_name_or_path": "acme/llama", "vision_model_name_or_path": "acme/clip"}
    config = AdemVLConfig(
        text_config=LlamaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32),
        vision_config=CLIPVisionConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2),
        **(names | fields),
    )
    config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_card_says_what_the_folder_records(tmp_path):
    folder = checkpoint(tmp_path, text_model_revision=REVISION, visual_token_counts=[16, 4], drop_ratio=0.25)
    metrics = {"Scenes (test)": {"Count accuracy": 0.4321987, "CIDEr": 1.5, "SPICE": None}, "Names": {"accuracy": 1}}
    training = {
        "data": ["Scenes, CC BY-SA 4.0"],
        "license": "cc-by-sa-4.0",
        "prompt": 'say "what"',
        "learning_rate": 0.00900123,
        "train_loss": 0.5,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "training.json").write_text(json.dumps(training))
    card = ModelCard.load(write_model_card(folder, repo_id="acme/adem"))
    assert card_errors(card.content) == []
    assert card.data.base_model == ["acme/llama", "acme/clip"]
    assert (card.data.pipeline_tag, card.data.library_name) == ("image-text-to-text", "transformers")
    assert card.data.license == "cc-by-sa-4.0"
    assert "adem-vl" in card.data.tags
    found = {(x.dataset_name, x.metric_name): x.metric_value for x in card.data.eval_results}
    assert found == {
        ("Scenes (test)", "Count accuracy"): 0.4321987,
        ("Scenes (test)", "CIDEr"): 1.5,
        ("Names", "accuracy"): 1,
    }
    for line in (
        "An [ADEM-VL](https://arxiv.org/abs/2410.17779) adapter: 2,021 trainable parameters that let a",
        f"| language model | [acme/llama](https://huggingface.co/acme/llama) | `{REVISION}` |",
        "| vision tower | [acme/clip](https://huggingface.co/acme/clip) | not pinned |",
        "| `visual_token_counts` | 16, 4 |",
        "| `drop_ratio` | 0.25 |",
        "- Scenes, CC BY-SA 4.0",
        "| learning_rate | 0.009 |",
        "| last training loss | 0.5 |",
        "| Scenes (test) | Count accuracy | 0.4322 |  |",
        "- The adapter's weights: cc-by-sa-4.0.",
        'model = AutoModel.from_pretrained("acme/adem", trust_remote_code=True)',
        'captioner = pipeline("image-to-text", model="acme/adem", trust_remote_code=True)',
        'prompt = "say \\"what\\""',
    ):
        assert line in card.text.splitlines()
    assert "SPICE" not in card.content


def test_what_nobody_records_is_left_out(tmp_path):
    card = ModelCard.load(write_model_card(checkpoint(tmp_path)))
    assert set(card.data.to_dict()) == {"base_model", "base_model_relation", "library_name", "pipeline_tag", "tags"}
    assert [line for line in card.text.splitlines() if line.startswith("## ")] == [
        "## Use",
        "## Settings of the adapter",
        "## Limits",
        "## Licences",
        "## Reference",
    ]
    assert "None" not in card.text


def test_arguments_come_before_the_records(tmp_path):
    folder = checkpoint(tmp_path)
    (folder / "metrics.json").write_text('{"Old": {"accuracy": 0.1}}')
    (folder / "training.json").write_text('{"data": "old data", "epochs": 11}')
    text = write_model_card(
        folder, metrics={"New": {"BLEU": 0.5}}, data="new data", settings={"epochs": 22}
    ).read_text()
    assert "| New | BLEU | 0.5 |  |" in text
    assert "- new data" in text
    assert "| epochs | 22 |" in text
    assert not any(old in text for old in ("Old", "old data", "11 |"))


def test_scores_of_the_evaluation_are_taken_as_they_are(tmp_path):
    scores = {
        "task": "openmoji-scenes",
        "n": 30,
        "caption": {"bleu4": 0.25, "cider": 1.75, "n": 10},
        "questions": {"count": {"accuracy": 0.5, "chance": None, "n": 20}},
        "missing": [],
        "total": 3,
    }
    (checkpoint(tmp_path) / "metrics.json").write_text(json.dumps(scores))
    card = ModelCard.load(write_model_card(tmp_path))
    rows = [line for line in card.text.splitlines() if line.startswith("| openmoji-scenes")]
    assert rows == [
        "| openmoji-scenes | caption bleu4 | 0.25 | 10 |",
        "| openmoji-scenes | caption cider | 1.75 | 10 |",
        "| openmoji-scenes | questions count accuracy | 0.5 | 20 |",
        "| openmoji-scenes | total | 3 | 30 |",
    ]
    assert [x.metric_type for x in card.data.eval_results] == ["bleu4", "cider", "accuracy", "total"]
    with pytest.raises(ValueError, match=r"metrics\['A'\]\['b'\]\['c'\] is \['d'\]"):
        write_model_card(tmp_path, metrics={"A": {"b": {"c": ["d"]}}})


def test_controls_stand_in_the_table_and_not_in_the_index(tmp_path):
    seen, other = ({"questions": {"count": {"accuracy": value, "chance": 0.25, "n": 4}}} for value in (0.75, 0.5))
    checkpoint(tmp_path)
    metrics = {"Scenes": {"true": seen, "shuffled": other, "none": other}}
    card = ModelCard.load(write_model_card(tmp_path, metrics=metrics))
    assert [line for line in card.text.splitlines() if line.startswith("| Scenes")] == [
        "| Scenes | own image questions count accuracy | 0.75 | 4 |",
        "| Scenes | another image questions count accuracy | 0.5 | 4 |",
        "| Scenes | no image questions count accuracy | 0.5 | 4 |",
    ]
    assert [(x.metric_name, x.metric_value) for x in card.data.eval_results] == [
        ("own image questions count accuracy", 0.75)
    ]


def test_tables_are_whole(tmp_path):
    folder = checkpoint(tmp_path)
    metrics = {"a|b\nc": {"x": 0.5, "y": 0.25}}
    text = write_model_card(folder, metrics=metrics, data=["one", "two"], settings={"seed": 1, "steps": 2}).read_text()
    lines = text.splitlines()
    heads = [i for i, line in enumerate(lines) if line.startswith("|---")]
    assert len(heads) == 4
    for i in heads:
        rows = lines[i - 1 : lines.index("", i)]
        assert len(rows) >= 4
        assert {row.replace("\\|", "").count("|") for row in rows} == {rows[0].count("|")}
        assert lines[i - 2] == ""
    assert "- one\n- two\n" in text
    assert "\n\n\n" not in text


def test_local_paths_stay_at_home(tmp_path):
    base = tmp_path / "private" / "my-llama"
    base.mkdir(parents=True)
    folder = checkpoint(tmp_path / "run", text_model_name_or_path=str(base))
    card = ModelCard.load(
        write_model_card(
            folder,
            data=[f"captions in {tmp_path}/captions.jsonl", "from https://example.org/some/data.tar"],
            settings={"output_dir": "~/runs/first", "device": "C:\\Users\\me", "ratio": "1/2/3", "both": "and/or"},
        )
    )
    assert str(tmp_path) not in card.content
    assert "| language model | `my-llama` (a local folder) | not pinned |" in card.text
    assert "pass `text_model_name_or_path=`" in card.text
    assert card.data.base_model == ["acme/clip"]
    for line in (
        "- captions in captions.jsonl",
        "- from https://example.org/some/data.tar",
        "| output_dir | first |",
        "| device | me |",
        "| ratio | 1/2/3 |",
        "| both | and/or |",
    ):
        assert line in card.text.splitlines()


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("license: llama3.2", "llama3.2"),
        ("license: [mit, apache-2.0]", "mit, apache-2.0"),
        ("license: other\nlicense_name: acme-1\nlicense_link: https://acme.org/1", "acme-1 https://acme.org/1"),
        ("license: other", "other"),
        ('license: "<script>a|b</script>\\n# [x](y)"', "&lt;script>a\\|b&lt;/script> # \\[x\\](y)"),
        ("tags: [x]", "unknown: look where `my-llama` comes from"),
        ("license: [", "unknown: look where `my-llama` comes from"),
    ],
)
def test_licences_of_the_bases_are_those_of_their_own_cards(tmp_path, metadata, said):
    base = tmp_path / "my-llama"
    base.mkdir()
    (base / "README.md").write_text(f"---\n{metadata}\n---\nA model.\n")
    named = {"text_model_name_or_path": str(base), "vision_model_name_or_path": "acme/clip"}
    card = ModelCard.load(write_model_card(checkpoint(tmp_path / "run", **named)))
    assert card_errors(card.content) == []
    assert card.data.license is None  # theirs is not the adapter's
    assert f"- The language model: {said}." in card.text.splitlines()
    # the tests know no Hub, and nothing of it was downloaded
    assert "- The vision tower: unknown: look at https://huggingface.co/acme/clip." in card.text.splitlines()


def test_licences_of_what_the_package_brings_are_known(tmp_path):
    named = {"text_model_name_or_path": SMOLLM2, "vision_model_name_or_path": CLIP}
    lines = write_model_card(checkpoint(tmp_path, **named)).read_text().splitlines()
    assert "- The language model: apache-2.0." in lines
    assert "- The vision tower: cc-by-sa-4.0." in lines


@pytest.mark.parametrize(
    ("name", "row", "hub_ids"),
    [
        ("hf-hub:acme/vit", "| vision tower | [acme/vit](https://huggingface.co/acme/vit) |", ["acme/vit"]),
        ("ViT-B-32/laion2b", "| vision tower | `ViT-B-32/laion2b` (of open_clip) |", []),
        ("local-dir:/some/where/vit", "| vision tower | `vit` (a local folder) |", []),
    ],
)
def test_open_clip_towers_are_named_as_open_clip_does(tmp_path, name, row, hub_ids):
    folder = checkpoint(tmp_path, vision_backend="open_clip", vision_model_name_or_path=name)
    card = ModelCard.load(write_model_card(folder))
    assert row in card.text
    assert card.data.base_model == ["acme/llama", *hub_ids]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "0.5"])
def test_a_metric_is_a_finite_number(tmp_path, value):
    with pytest.raises(ValueError, match=r"metrics\['Scenes'\]\['accuracy'\] is .*: give a finite number"):
        write_model_card(checkpoint(tmp_path), metrics={"Scenes": {"accuracy": value}})
    assert not (tmp_path / "README.md").exists()


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nest metrics as \{data set: \{metric: value\}\}"):
        write_model_card(checkpoint(tmp_path), metrics={"accuracy": 0.5})
    (tmp_path / "metrics.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"metrics\.json: list instead of an object"):
        write_model_card(tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"metrics\.json: not valid JSON"):
        write_model_card(tmp_path)
    (tmp_path / "metrics.json").unlink()
    checkpoint(tmp_path, tensors=TENSORS | {"language_model.lm_head.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"has 1 tensors that are not the adapter's, language_model\.lm_head\.weight"):
        write_model_card(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        write_model_card(tmp_path)
