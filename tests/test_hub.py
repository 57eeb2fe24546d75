"""Publishing and loading over HTTP: a tiny model, two bases with two revisions each, and the tests' local Hub.

Every client is a process of its own, because huggingface_hub reads its address while it is imported.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import hub_env, run_client, serve_hub
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load, load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import adem_vl_hf.modeling
from adem_vl_hf.hub import push

BUNDLE = {path.name for path in Path(adem_vl_hf.modeling.__file__).parent.glob("*_adem_vl.py")}
LEFTOVERS = (
    "optimizer.pt",
    "scheduler.pt",
    "training_args.bin",
    "trainer_state.json",
    "adapter_config.json",
    "notes.txt",
)

COMMON = """
import json, sys, warnings
from pathlib import Path
import torch
from PIL import Image
from safetensors.torch import save_file

def logits(model, processor, picture):
    images = [Image.open(picture), None]
    inputs = processor(images=images, text=["a photo of a cat", "hello"], return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**inputs).logits.contiguous()
"""

TRAIN = """
from adem_vl_hf.hub import push
from adem_vl_hf.modeling.modeling_adem_vl import AdemVLForConditionalGeneration
from adem_vl_hf.modeling.processing_adem_vl import AdemVLProcessor

folder, text_sha, vision_sha = Path(sys.argv[1]), *sys.argv[2:]
model = AdemVLForConditionalGeneration.from_base_pretrained(
    "acme/llama", "acme/clip", text_model_revision=text_sha, vision_model_revision=vision_sha,
    visual_token_counts=[4, 1], projector_dim=8, vision_adapter_dim=4, fusion_scale=1.0, visual_scale=1.0,
)
torch.manual_seed(1)
with torch.no_grad():
    for parameter in model.adapter.parameters():
        parameter.normal_(std=0.3)
processor = AdemVLProcessor.from_base_pretrained("acme/llama", "acme/clip", model.config)
commit = push(model, "acme/adem", processor=processor, token="secret", metrics={"Scenes": {"CIDEr": 0.5}})
save_file({"logits": logits(model, processor, folder / "cat.png")}, folder / "own.safetensors")
processor.save_pretrained(folder / "processor")
print(json.dumps(commit.oid))
"""

LOAD = """
from transformers import AutoModel, AutoProcessor, pipeline

try:
    import adem_vl_hf
except ImportError:
    pass
else:
    raise SystemExit("adem_vl_hf can be imported")
picture, out, *overrides = sys.argv[1:]
overrides = dict(override.split("=") for override in overrides)
model = AutoModel.from_pretrained("acme/adem", trust_remote_code=True, **overrides)
processor = AutoProcessor.from_pretrained("acme/adem", trust_remote_code=True)
save_file({"logits": logits(model, processor, picture)}, out)
if not overrides:
    captioner = pipeline("image-to-text", model="acme/adem", trust_remote_code=True)
    print(json.dumps(captioner(picture, max_new_tokens=4)))
"""

PUSH_FOLDERS = """
from adem_vl_hf.hub import push

run, local = sys.argv[1:]
push(run, "acme/run", private=True, revision="draft")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    push(local, "acme/local", data="nothing")
print(json.dumps([str(w.message) for w in caught if "local folder" in str(w.message)]))
"""

REFUSED = """
from transformers import AutoModel

messages = []
for repo_id in sys.argv[1:]:
    try:
        AutoModel.from_pretrained(repo_id, trust_remote_code=True)
    except ValueError as error:
        messages.append(str(error))
print(json.dumps(messages))
"""

BLOCK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "adem_vl_hf":
            raise ImportError("adem_vl_hf is not installed here")

sys.meta_path.insert(0, Blocker())
"""


def tiny_tokenizer():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["a photo of a cat", "hello world"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def publish_bases(hub, folder):
    """Two bases of two revisions each; the first of each, whose sha is returned, is not what `main` points to."""
    tokenizer = tiny_tokenizer()
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    llama_config = LlamaConfig(
        vocab_size=len(tokenizer), num_attention_heads=4, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
        pad_token_id=3, **size,
    )  # fmt: skip
    clip_config = CLIPVisionConfig(num_attention_heads=4, image_size=16, patch_size=4, initializer_range=0.2, **size)
    image_processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    shas = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        LlamaForCausalLM(llama_config).save_pretrained(folder / "llama")
        tokenizer.save_pretrained(folder / "llama")
        CLIPVisionModel(clip_config).save_pretrained(folder / "clip")
        image_processor.save_pretrained(folder / "clip")
        shas.append((hub.publish("acme/llama", folder / "llama"), hub.publish("acme/clip", folder / "clip")))
    return shas[0]


def client(hub, code, *args, blocked=False, token=None):
    """Run one client; returns the JSON value it printed last."""
    env = hub_env(hub.url, hub.folder / "home", token) | {"OMP_NUM_THREADS": "1"}
    done = run_client(COMMON + code, env | ({"PYTHONPATH": str(hub.folder / "blocked")} if blocked else {}), *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else None


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The Hub after a push of `acme/adem` by a process that has the package; `log` is what that push asked for."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "blocked").mkdir()
    (folder / "blocked" / "sitecustomize.py").write_text(BLOCK)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(folder / "cat.png")
    with serve_hub() as server:
        server.folder = folder
        server.pinned = publish_bases(server, folder)
        server.head = client(server, TRAIN, folder, *server.pinned)
        server.log = list(server.requests)
        shutil.rmtree(folder / "home")  # whoever loads next has nothing in the cache
        yield server


def logits(path):
    return load_file(path)["logits"]


def test_a_push_sends_these_files_alone(hub):
    repo = hub.repos["acme/adem"]
    processor_files = {path.name for path in (hub.folder / "processor").iterdir()}
    expected = {"config.json", "generation_config.json", "model.safetensors", "README.md"}
    assert set(repo.files()) == expected | BUNDLE | processor_files
    assert repo.branches == {"main": hub.head}
    tensors = load(repo.files()["model.safetensors"])
    assert tensors
    assert all(name.startswith("adapter.") for name in tensors)
    assert str(hub.folder).encode() not in b"".join(repo.files().values())
    card = ModelCard(repo.files()["README.md"].decode())
    assert card.data.base_model == ["acme/llama", "acme/clip"]
    assert all(f"`{sha}`" in card.text for sha in hub.pinned)
    writes = [request.path for request in hub.log if request.method in ("POST", "PUT")]
    assert len(writes) == len(set(writes))
    assert {path for path in writes if not path.startswith("/lfs-store/")} == {
        "/api/repos/create",
        "/api/validate-yaml",
        "/api/models/acme/adem/preupload/main",
        "/acme/adem.git/info/lfs/objects/batch",
        "/api/models/acme/adem/commit/main",
    }
    assert len(hub.lfs_objects) == 1


def test_it_loads_from_the_hub_without_the_package(hub):
    before = len(hub.requests)
    captions = client(hub, LOAD, hub.folder / "cat.png", hub.folder / "loaded.safetensors", blocked=True)
    asked = hub.requests[before:]
    own = logits(hub.folder / "own.safetensors")
    assert torch.equal(logits(hub.folder / "loaded.safetensors"), own)
    assert isinstance(captions[0]["generated_text"], str)
    assert all(request.method in ("GET", "HEAD") for request in asked)
    for base, sha in zip(("acme/llama", "acme/clip"), hub.pinned, strict=True):
        paths = {request.path for request in asked if f"/{base}" in request.path}
        assert f"/{base}/resolve/{sha}/model.safetensors" in paths
        assert all(sha in path for path in paths)
    client(
        hub, LOAD, hub.folder / "cat.png", hub.folder / "moved.safetensors", "text_model_revision=main", blocked=True
    )
    assert not torch.allclose(logits(hub.folder / "moved.safetensors"), own)


def test_a_training_folder_is_cleaned_and_a_local_base_is_named(hub):
    run, local = hub.folder / "run", hub.folder / "local"
    for folder in (run, local):
        hub_files = hub.repos["acme/adem"].files()
        folder.mkdir()
        for name, content in hub_files.items():
            (folder / name).write_bytes(content)
    (run / "README.md").write_text("not this")
    (run / "metrics.json").write_text('{"Scenes": {"recall": 0.75}}')
    (run / "training.json").write_text('{"epochs": 77}')
    (run / "checkpoint-2").mkdir()
    for name in ("checkpoint-2/model.safetensors", "checkpoint-2/config.json", *LEFTOVERS):
        (run / name).write_text("leftover")
    config = json.loads((local / "config.json").read_text())
    (local / "config.json").write_text(json.dumps(config | {"vision_model_name_or_path": str(hub.folder / "clip")}))
    messages = client(hub, PUSH_FOLDERS, run, local, token="secret")
    pushed = hub.repos["acme/run"]
    assert pushed.private
    files = pushed.files("draft")
    assert set(files) == set(hub_files)
    assert pushed.files("main") == {}
    same = BUNDLE | {"config.json", "generation_config.json", "model.safetensors"}
    assert all(files[name] == hub_files[name] for name in same)
    assert b"| Scenes | recall | 0.75 |" in files["README.md"]
    assert b"| epochs | 77 |" in files["README.md"]
    assert len(messages) == 1
    assert messages[0].startswith(f"config.vision_model_name_or_path is a local folder ({hub.folder / 'clip'})")
    assert str(hub.folder).encode() not in hub.repos["acme/local"].files()["README.md"]


def test_a_base_out_of_reach_is_named(hub):
    fields = {"acme/one": "text_model_name_or_path", "acme/two": "vision_model_name_or_path"}
    for repo_id, field in fields.items():
        folder = hub.folder / repo_id
        folder.mkdir(parents=True)
        for name, content in hub.repos["acme/adem"].files().items():
            (folder / name).write_bytes(content)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {field: "acme/gone"}))
        hub.publish(repo_id, folder)
    language_model, vision_tower = client(hub, REFUSED, *fields, blocked=True)
    assert "acme/gone" in language_model
    assert "language model" in language_model.lower()
    assert "acme/gone" in vision_tower
    assert "vision tower" in vision_tower.lower()


def test_what_cannot_be_pushed_is_refused_before_the_hub_is_asked(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json: give a folder that save_pretrained wrote"):
        push(tmp_path, "acme/adem")
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"push one of its checkpoints, .*checkpoint-2"):
        push(tmp_path, "acme/adem")
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="has no processor: save one there, or give processor="):
        push(tmp_path, "acme/adem")
    with pytest.raises(ValueError, match=r"give its processor too \(processor="):
        push(torch.nn.Linear(1, 1), "acme/adem")
