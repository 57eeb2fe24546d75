"""Hub arguments reach every file that is loaded, and none of them is ever saved.

The repositories are private, each with a token of its own, and keep their models in a subfolder of another branch.
"""

import json

import pytest
import tiny
import transformers
from hub_server import hub_env, run_client, serve_hub
from open_clip_folder import open_clip_folder

pytestmark = [
    pytest.mark.core,
    pytest.mark.skipif(
        transformers.__version__.startswith("5.0."),
        reason="this version's PreTrainedConfig.from_pretrained has no token",
    ),
]
TEXT, VISION, ADAPTER = "hf_TextTokenOfTests", "hf_VisionTokenOfTests", "hf_AdapterTokenOfTests"

COMMON = """
import json, sys
import transformers
from adem_vl_hf.loading import build_model, load_checkpoint, load_config
from adem_vl_hf.modeling.modeling_evlm import EvlmForConditionalGeneration
from adem_vl_hf.modeling.processing_adem_vl import AdemVLProcessor

folder, cache, text_token, vision_token, adapter_token = sys.argv[1:]
bases = {
    "text_model_token": text_token, "text_model_revision": "v2", "text_model_subfolder": "models/llm",
    "vision_model_token": vision_token, "vision_model_revision": "v2", "vision_model_subfolder": "models/clip",
    "cache_dir": cache,
}
found = {}
def fails(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except (OSError, ValueError) as error:
        return str(error)
"""

BUILD = """
fields = {"projector_dim": 8, "vision_adapter_dim": 4}
model, processor = build_model("acme/llm", "acme/clip", **bases, **fields)
found["kind"] = type(processor.image_processor).__name__, processor.image_processor.resample
model.save_pretrained(folder + "/main")
processor.save_pretrained(folder + "/main")
processor.chat_template = "the second"
model.save_pretrained(folder + "/v2")
processor.save_pretrained(folder + "/v2")
both = {name: value for name, value in bases.items() if not name.endswith("token")}
found["without a token"] = fails(build_model, "acme/llm", "acme/clip", **both, **fields)
no_vision = {**bases, "vision_model_token": None, "vision_model_cache_dir": folder + "/empty"}
found["tower out of reach"] = fails(
    AdemVLProcessor.from_base_pretrained, "acme/llm", "acme/clip", model.config, **no_vision
)
tower = {
    **bases, "vision_model_token": adapter_token, "vision_model_subfolder": "open", "vision_backend": "open_clip"
}
other = EvlmForConditionalGeneration.from_base_pretrained("acme/llm", "hf-hub:acme/open", media_tokens=2, **tower)
found["open_clip"] = other.config.vision_model_revision, other.config.vision_model_subfolder
print(json.dumps(found))
"""

LOAD = """
given = {"token": adapter_token, "text_model_token": text_token, "vision_model_token": vision_token}
model, processor = load_checkpoint("acme/adem", revision="v2", subfolder="sub", cache_dir=cache, **given)
found["v2"] = processor.chat_template, model.config.drop_ratio
own = {"cache_dir": cache, "subfolder": "sub"}
model, processor = load_checkpoint("acme/adem", **own, **given)
found["main"] = processor.chat_template, model.config.drop_ratio
# version 4 asks the Hub whether a base is an adapter of PEFT, whatever local_files_only says
asked = given if transformers.__version__.startswith("4.") else {}
model, processor = load_checkpoint("acme/adem", revision="v2", local_files_only=True, **own, **asked)
found["local"] = processor.chat_template, model.config.drop_ratio
model, processor = load_checkpoint("acme/adem", revision="v2", force_download=True, **own, **given)
found["no token"] = fails(load_checkpoint, "acme/adem", revision="v2", subfolder="sub")
found["config"] = load_config("acme/adem", revision="v2", token=adapter_token, **own).drop_ratio
model.save_pretrained(folder + "/again")
processor.save_pretrained(folder + "/again")
print(json.dumps(found))
"""


def client(hub, folder, code):
    env = hub_env(hub.url, folder / "home")
    done = run_client(COMMON + code, env, folder, folder / "cache", TEXT, VISION, ADAPTER)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def publish(hub, name, folder, token, revision):
    sha = hub.publish(name, folder, revision)
    hub.repos[name].private, hub.repos[name].token = True, token
    return sha


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What two processes found: one that built and saved a model, and one that loaded it where it was published."""
    folder = tmp_path_factory.mktemp("hub")
    with serve_hub() as hub:
        for name in ("llm", "clip", "open"):  # nothing of use in the main branches
            (folder / name / "models").mkdir(parents=True)
            (folder / name / "README.md").write_text("nothing here")
        shas = {}
        for name, token in (("llm", TEXT), ("clip", VISION), ("open", ADAPTER)):
            publish(hub, f"acme/{name}", folder / name, token, "main")
        tiny.save_llama(folder / "llm" / "models" / "llm")
        tiny.save_clip(folder / "clip" / "models" / "clip")
        settings = folder / "clip" / "models" / "clip" / "preprocessor_config.json"
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"resample": 1}))  # not the default's
        open_clip_folder(folder / "open" / "open")
        for name, token in (("llm", TEXT), ("clip", VISION), ("open", ADAPTER)):
            shas[name] = publish(hub, f"acme/{name}", folder / name, token, "v2")
        built = client(hub, folder, BUILD)
        config = folder / "v2" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"drop_ratio": 0.25}))
        for revision in ("main", "v2"):
            (folder / "as" / revision).mkdir(parents=True)
            (folder / revision).rename(folder / "as" / revision / "sub")
            publish(hub, "acme/adem", folder / "as" / revision, ADAPTER, revision)
        before = len(hub.requests)
        loaded = client(hub, folder, LOAD)
        yield folder, shas, built, loaded, hub.requests[before:]


def test_a_model_is_built_from_private_subfolders_of_a_branch(run):
    folder, shas, built, _, _ = run
    config = json.loads((folder / "as" / "main" / "sub" / "config.json").read_text())
    names = ("revision", "subfolder")
    assert [config[f"text_model_{name}"] for name in names] == [shas["llm"], "models/llm"]
    assert [config[f"vision_model_{name}"] for name in names] == [shas["clip"], "models/clip"]
    assert built["kind"][1] == 1  # the tower's own image processor, not the default
    assert built["open_clip"] == [shas["open"], "open"]


def test_without_its_token_a_base_is_an_error(run):
    _, _, built, loaded, _ = run
    assert "acme/llm" in built["without a token"]
    assert "acme/clip" in built["tower out of reach"]  # and not a processor with the default settings
    assert "acme/adem" in loaded["no token"]


def test_a_checkpoint_of_a_branch_brings_the_processor_of_that_branch(run):
    loaded = run[3]
    assert loaded["v2"] == loaded["local"] == ["the second", 0.25]
    assert loaded["main"][0] != "the second"
    assert loaded["main"][1] != 0.25
    assert loaded["config"] == 0.25


def test_force_download_downloads_every_file_again(run):
    gets = [request.path for request in run[4] if request.method == "GET" and request.status == 200]
    times = {path: gets.count(path) for path in gets if "/v2/" in path or path.startswith(("/acme/llm", "/acme/clip"))}
    weights = {path.split("/resolve/")[0]: times[path] for path in times if path.endswith("model.safetensors")}
    assert weights == {"/acme/llm": 1, "/acme/clip": 1, "/acme/adem": 2}  # the bases were in the cache before
    assert sum("/acme/adem/" in path and path.endswith("tokenizer.json") for path in gets) == 2


def test_everything_lies_in_the_cache_that_was_named(run):
    folder = run[0]
    assert {path.name for path in (folder / "cache").glob("models--*")} >= {
        "models--acme--llm",
        "models--acme--clip",
        "models--acme--open",
        "models--acme--adem",
    }
    elsewhere = [path for path in (folder / "home").rglob("*") if path.is_file() and path.suffix != ".py"]
    assert not [path for path in elsewhere if "snapshots" in path.parts or "blobs" in path.parts], elsewhere


def test_nothing_of_it_is_saved(run):
    folder = run[0]
    for saved in (folder / "as" / "main" / "sub", folder / "as" / "v2" / "sub", folder / "again"):
        for path in saved.iterdir():
            content = path.read_bytes()
            for secret in (TEXT, VISION, ADAPTER, str(folder / "cache"), "local_files_only", "is_local", "cache_dir"):
                found = secret.encode() in content
                assert not found or path.suffix == ".py", (path.name, secret)
