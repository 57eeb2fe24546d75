"""Publishing and loading over HTTP: a tiny model, two bases with two revisions each, and the tests' local Hub.

Every client is a process of its own, because huggingface_hub reads its address while it is imported.
"""

import io
import json
import shutil

import architectures
import numpy as np
import pytest
import scripts
import tiny
import torch
import transformers
from closeness import assert_close
from hub_server import hub_env, run_client, serve_hub
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load, load_file

from adem_vl_hf.hub.upload import push

pytestmark = pytest.mark.core
BUNDLE = architectures.ADEM_VL.files
CHECKPOINT = {"config.json", "generation_config.json", "model.safetensors", "README.md"}
PROCESSOR = {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
OLD = int(transformers.__version__.split(".")[0]) < 5
if OLD:
    PROCESSOR |= {"preprocessor_config.json", "special_tokens_map.json"}
LEFTOVERS = (
    "README.md",
    "adapter_config.json",
    "checkpoint-2/config.json",
    "checkpoint-2/model.safetensors",
    "log.jsonl",
    "optimizer.pt",
    "scheduler.pt",
    "trainer_state.json",
    "training_args.bin",
)

COMMON = """
import json, sys, warnings
from pathlib import Path
import torch
from PIL import Image
from safetensors.torch import save_file

def save_logits(model, processor, picture, path):
    images = [Image.open(picture), None]
    inputs = processor(images=images, text=["a photo of a cat", "hello"], return_tensors="pt")
    with torch.no_grad():
        save_file({"logits": model.eval()(**inputs).logits.contiguous()}, path)
"""

PUSH = """
import runpy
from transformers import Trainer, TrainerCallback, TrainingArguments
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.hub.upload import push
from adem_vl_hf.modeling.modeling_adem_vl import AdemVLForConditionalGeneration
from adem_vl_hf.modeling.modeling_evlm import EvlmForConditionalGeneration
from adem_vl_hf.modeling.processing_adem_vl import AdemVLProcessor
from adem_vl_hf.modeling.processing_evlm import EvlmProcessor

folder, example, text_sha, vision_sha, leftovers = Path(sys.argv[1]), *sys.argv[2:5], sys.argv[5:]
model = AdemVLForConditionalGeneration.from_base_pretrained(
    "acme/llama", "acme/clip", text_model_revision=text_sha, vision_model_revision=vision_sha,
    visual_token_counts=[4, 1], projector_dim=8, vision_adapter_dim=4, fusion_scale=1.0, visual_scale=1.0,
)
torch.manual_seed(1)
with torch.no_grad():  # an adapter that changes the answers, as a new one hardly does
    for parameter in model.adapter.parameters():
        parameter.normal_(std=0.3)
processor = AdemVLProcessor.from_base_pretrained("acme/llama", "acme/clip", model.config)
save_logits(model, processor, folder / "cat.png", folder / "own.safetensors")
commit = push(model, "acme/adem", processor=processor, token="secret", metrics={"Scenes": {"CIDEr": 0.5}})

other = EvlmForConditionalGeneration.from_base_pretrained(
    "acme/llama", "acme/clip", text_model_revision=text_sha, vision_model_revision=vision_sha, media_tokens=2,
)
with torch.no_grad():
    for parameter in other.adapter.parameters():
        parameter.normal_(std=0.3)
its_processor = EvlmProcessor.from_base_pretrained("acme/llama", "acme/clip", other.config)
save_logits(other, its_processor, folder / "cat.png", folder / "its.safetensors")
push(other, "acme/evlm", processor=its_processor, token="secret")

run = folder / "run"
model.save_pretrained(run)
processor.save_pretrained(run)
for name in leftovers:
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text('{"step": 1, "loss": 2.5}' if name == "log.jsonl" else "leftover")
(run / "samples").mkdir()
Image.open(folder / "cat.png").save(run / "samples/0.png")
sample = {"image": "0.png", "prompt": "a picture of", "answer": "a | cat", "references": ["a cat"]}
(run / "samples/samples.json").write_text(json.dumps([sample]))
(run / "metrics.json").write_text('{"Scenes": {"recall": 0.75}}')
(run / "training.json").write_text('{"epochs": 77}')
push(run, "acme/run", private=True, revision="draft", token="secret", samples=True)

sys.argv = ["push.py", str(run), "acme/example"]
runpy.run_path(example, run_name="__main__")
model.save_pretrained(folder / "named", push_to_hub=True)
model.push_to_hub("acme/pushed")

class Dies(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            raise KeyboardInterrupt

arguments = TrainingArguments(
    str(folder / "interrupted"), push_to_hub=True, hub_model_id="acme/interrupted", hub_strategy="every_save",
    hub_always_push=True, save_strategy="steps", save_steps=1, max_steps=4, use_cpu=True, report_to="none",
    remove_unused_columns=False, per_device_train_batch_size=2, disable_tqdm=True,
)
rows = [{"image": str(folder / "cat.png"), "text": "a cat"}] * 8
trainer = Trainer(
    model, arguments, AdemVLCollator(processor), rows, processing_class=processor, callbacks=[Dies()]
)
try:
    trainer.train()
except KeyboardInterrupt:
    trainer.push_in_progress.wait_until_done()

model.config.vision_model_name_or_path = str(folder / "clip")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    push(model, "acme/local", processor=processor, token="secret")
told = [str(warning.message) for warning in caught if warning.filename == "<string>"]
print(json.dumps([commit.oid, told]))
"""

LOAD = """
from transformers import AutoModel, AutoProcessor, pipeline

try:
    import adem_vl_hf
except ImportError:
    pass
else:
    raise SystemExit("adem_vl_hf can be imported")
folder, *out_of_reach = sys.argv[1:]
for repo_id in ("acme/adem", "acme/evlm", "acme/moved", "acme/pushed", "acme/interrupted"):
    model = AutoModel.from_pretrained(repo_id, trust_remote_code=True)
    if repo_id == "acme/pushed":  # a model alone
        continue
    processor = AutoProcessor.from_pretrained(repo_id, trust_remote_code=True)
    save_logits(model, processor, f"{folder}/cat.png", f"{folder}/{repo_id.split('/')[1]}.safetensors")
captioner = pipeline("image-to-text", model="acme/adem", trust_remote_code=True)
captions = captioner(f"{folder}/cat.png", max_new_tokens=4)
captioner = pipeline("image-to-text", model="acme/evlm", trust_remote_code=True)
captions += captioner(f"{folder}/cat.png", max_new_tokens=4)
errors = []
for repo_id in out_of_reach:
    try:
        AutoModel.from_pretrained(repo_id, trust_remote_code=True)
    except ValueError as error:
        errors.append(str(error))
print(json.dumps([captions, errors]))
"""


def publish_bases(hub, folder):
    """Two bases of two revisions each, of other weights; returns the pairs of shas, oldest first."""
    shas = []
    for seed in (1, 2):
        tiny.save_llama(folder / "llama", seed)
        tiny.save_clip(folder / "clip", seed)
        (folder / "llama" / "README.md").write_text(f"---\nlicense: llama{seed}\n---\n")
        shas.append((hub.publish("acme/llama", folder / "llama"), hub.publish("acme/clip", folder / "clip")))
    return shas


def client(hub, code, *args, **environment):
    """Run one client; returns the JSON value it printed last."""
    env = hub_env(hub.url, hub.folder / "home") | environment
    done = run_client(COMMON + code, env, *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def publish_with(hub, repo_id, **config):
    """The pushed repository once more under another id, with some fields of its config replaced."""
    folder = hub.folder / repo_id
    folder.mkdir(parents=True)
    for name, content in hub.repos["acme/adem"].files().items():
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | config))
    hub.publish(repo_id, folder)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The Hub after three pushes by a process that has the package. `told` has the warnings of that process."""
    folder = tmp_path_factory.mktemp("hub")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(folder / "cat.png")
    with serve_hub() as server:
        server.folder = folder
        server.pinned, server.newest = publish_bases(server, folder)
        example = scripts.ROOT / "examples" / "push.py"
        server.head, server.told = client(server, PUSH, folder, example, *server.pinned, *LEFTOVERS, HF_TOKEN="secret")
        yield server


@pytest.fixture(scope="module")
def loaded(hub):
    """The captions, the errors and the requests of a process without the package and with an empty cache."""
    shutil.rmtree(hub.folder / "home")
    publish_with(hub, "acme/moved", text_model_revision=hub.newest[0])
    publish_with(hub, "acme/no-text", text_model_name_or_path="acme/gone")
    publish_with(hub, "acme/no-vision", vision_model_name_or_path="acme/gone")
    before = len(hub.requests)
    environment = {"PYTHONPATH": tiny.package_blocker(hub.folder / "blocked")}
    captions, errors = client(hub, LOAD, hub.folder, "acme/no-text", "acme/no-vision", **environment)
    return captions, errors, hub.requests[before:]


def test_a_push_sends_these_files_alone(hub):
    repo = hub.repos["acme/adem"]
    files = repo.files()
    assert set(files) == CHECKPOINT | BUNDLE | PROCESSOR
    assert repo.branches == {"main": hub.head}
    assert not repo.private
    tensors = load(files["model.safetensors"])
    assert tensors
    assert all(name.startswith("adapter.") for name in tensors)
    assert str(hub.folder).encode() not in b"".join(files.values())
    others = set(hub.repos["acme/evlm"].files())
    assert others == CHECKPOINT | architectures.EVLM.files | PROCESSOR
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model == ["acme/llama", "acme/clip"]
    assert [(x.dataset_name, x.metric_value) for x in card.data.eval_results] == [("Scenes", 0.5)]
    assert all(f"`{sha}`" in card.text for sha in hub.pinned)
    for text in (card.text, hub.repos["acme/pushed"].files()["README.md"].decode()):
        assert "- The language model: llama1." in text  # of the pinned revision
        assert "- The vision tower: unknown: look at https://huggingface.co/acme/clip." in text


def test_a_push_is_one_commit_and_nothing_else(hub):
    writes = [request.path for request in hub.requests if request.method in ("POST", "PUT") and "adem" in request.path]
    assert writes == [
        "/api/models/acme/adem/preupload/main",
        "/acme/adem.git/info/lfs/objects/batch",
        "/api/models/acme/adem/commit/main",
    ]
    same = [hub.repos[f"acme/{name}"].files()["model.safetensors"] for name in ("adem", "example", "pushed")]
    assert len({*same}) == 1
    assert set(hub.repos) >= {"acme/llama", "acme/clip", "acme/adem", "acme/evlm", "acme/run", "acme/local"}


def test_it_loads_from_the_hub_without_the_package(hub, loaded):
    names = ("own", "adem", "moved", "its", "evlm")
    own, adem, moved, its, evlm = (load_file(hub.folder / f"{name}.safetensors")["logits"] for name in names)
    assert_close(adem, own)
    assert_close(evlm, its)
    assert (moved - own).abs().max() > 1e-2  # the newest language model is another one, so the pinned revision matters


def test_bases_are_asked_for_by_id_at_their_pinned_revision(hub, loaded):
    _, _, requests = loaded
    assert all(request.method in ("GET", "HEAD") for request in requests)
    other = next(number for number, request in enumerate(requests) if "acme/moved" in request.path)
    for base, sha in zip(("acme/llama", "acme/clip"), hub.pinned, strict=True):
        paths = {request.path for request in requests[:other] if f"/{base}/" in request.path}
        assert f"/{base}/resolve/{sha}/model.safetensors" in paths
        unpinned = {path for path in paths if f"/{sha}" not in path}
        # 4.57 and 5.0 ask for a PEFT adapter beside the language model at main, whatever the revision
        early = OLD or transformers.__version__ == "5.0.0"
        assert unpinned <= ({f"/{base}/resolve/main/adapter_config.json"} if early else set())


def test_pipeline_by_repository_id(loaded):
    captions, _, _ = loaded
    assert [list(caption) for caption in captions] == [["generated_text"]] * 2


def test_a_base_out_of_reach_is_named(loaded):
    _, (language_model, vision_tower), _ = loaded
    assert language_model.startswith("the language model 'acme/gone' could not be loaded")
    assert vision_tower.startswith("the vision tower 'acme/gone' could not be loaded")


def test_a_training_folder_is_pushed_without_its_leftovers(hub):
    repo = hub.repos["acme/run"]
    assert repo.private
    assert repo.files("main") == {}
    files, adem = repo.files("draft"), hub.repos["acme/adem"].files()
    assert set(files) == {*adem, "training_curve.png", "samples/0.png", "samples/samples.json"}
    assert b"| ![](samples/0.png) | a picture of | a \\| cat | a cat |" in files["README.md"]
    assert b"](training_curve.png)" in files["README.md"]
    assert Image.open(io.BytesIO(files["training_curve.png"])).width > 300
    # Transformers writes into tokenizer_config.json whether the tokenizer came from a folder
    same = set(adem) - {"README.md", "tokenizer_config.json"}
    assert {name: files[name] for name in same} == {name: adem[name] for name in same}
    assert str(hub.folder).encode() not in b"".join(files.values())
    assert b"| Scenes | recall | 0.75 |" in files["README.md"]
    assert b"| epochs | 77 |" in files["README.md"]


def test_the_example_pushes_a_folder(hub):
    files, run = hub.repos["acme/example"].files(), hub.repos["acme/run"].files("draft")
    assert {name for name in files if files[name] != run[name]} <= {"README.md", "tokenizer_config.json"}
    assert files.keys() == {name for name in run if not name.startswith("samples/")}
    assert not hub.repos["acme/example"].private


def test_saving_with_a_push_names_the_repository_after_the_folder(hub):
    (repo,) = [repo for name, repo in hub.repos.items() if name.split("/")[-1] == "named"]
    assert repo.files()["model.safetensors"] == hub.repos["acme/adem"].files()["model.safetensors"]


@pytest.mark.parametrize("name", ["pushed", pytest.param("interrupted", marks=pytest.mark.skipif(
    OLD, reason="before Transformers 5, Trainer says nothing when it pushes a checkpoint"
))])  # fmt: skip
def test_the_librarys_own_ways_to_push_write_our_card(hub, name):
    card = ModelCard(hub.repos[f"acme/{name}"].files()["README.md"].decode())
    assert "An [ADEM-VL](https://arxiv.org/abs/2410.17779) adapter" in card.text
    assert f'AutoModel.from_pretrained("acme/{name}", trust_remote_code=True)' in card.text
    assert card.data.base_model == ["acme/llama", "acme/clip"]
    assert ("| steps | 2 |" in card.text) == (name == "interrupted")


def test_a_local_base_is_warned_of_and_kept_out_of_the_card(hub):
    assert len(hub.told) == 1
    assert hub.told[0].startswith(f"config.vision_model_name_or_path is a local folder ({hub.folder / 'clip'})")
    assert str(hub.folder).encode() not in hub.repos["acme/local"].files()["README.md"]


def test_what_cannot_be_pushed_is_refused_before_the_hub_is_asked(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json: give a folder that save_pretrained wrote"):
        push(tmp_path, "acme/adem")
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"push one of its checkpoints, .*checkpoint-2"):
        push(tmp_path, "acme/adem")
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="has no processor: save one there by processor.save_pretrained"):
        push(tmp_path, "acme/adem")
    with pytest.raises(ValueError, match=r"give its processor too \(processor="):
        push(torch.nn.Linear(1, 1), "acme/adem")
