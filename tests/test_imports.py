"""``import adem_vl_hf`` is light, exports what is asked for, and registers its classes with the Auto classes."""

import ast
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import architectures
import pytest
import tiny
import transformers
from new_process import run_python

import adem_vl_hf
import adem_vl_hf.data
import adem_vl_hf.hub
from adem_vl_hf.cli.parser import COMMANDS

LAZY_PACKAGES = (adem_vl_hf, adem_vl_hf.data, adem_vl_hf.hub)
# each takes long to import, or writes to the terminal when it is imported
OPTIONAL = {
    "av", "bitsandbytes", "datasets", "deepspeed", "emoji", "evaluate", "gguf", "matplotlib", "nltk",
    "open_clip", "peft", "pycocoevalcap", "resvg_py", "trl",
}  # fmt: skip
HEAVY = OPTIONAL | {
    "PIL",
    "accelerate",
    "huggingface_hub",
    "numpy",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
}
IMPORTED = "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
AUTO = "from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor\n"
# no table has been read before the first model is made
DIRECTLY = """
import sys
from adem_vl_hf.modeling.configuration_adem_vl import AdemVLConfig
from transformers import AutoModel
AutoModel.from_config(AdemVLConfig.from_pretrained(sys.argv[2]))
"""
ORDERS = {
    "the package first": "import adem_vl_hf\n" + AUTO,
    "the package last": AUTO + "import adem_vl_hf\n",
    # modules that our own models need import the Auto classes, and are half imported at that time
    "after other models": "import adem_vl_hf\nfrom transformers import LlamaForCausalLM, Trainer\n" + AUTO,
    "a configuration of the bundle": DIRECTLY + AUTO,
}
LOAD = """
import json, sys, transformers
found = {}
for folder in sys.argv[2:]:
    config = AutoConfig.from_pretrained(folder)
    models = [getattr(transformers, name).from_pretrained(folder) for name in sys.argv[1].split()]
    classes = [type(one) for one in (config, *models, AutoProcessor.from_pretrained(folder))]
    found[config.model_type] = [f"{kind.__module__}.{kind.__name__}" for kind in classes]
print(json.dumps(found))
"""
EACH_COMMAND = """
import json, sys
from adem_vl_hf.cli import main
for argv in json.loads(sys.argv[1]):
    try:
        code = main(argv)
    except SystemExit as done:
        code = done.code
    print("exit code", code)
"""
AUTO_MODELS = [
    name
    for name in ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForVision2Seq")
    if hasattr(transformers, name)  # the third since Transformers 5, and the fourth before
]


def run(code: str, *arguments: object) -> str:
    """What a new process prints that has imported nothing."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_beside_torch(code: str, *arguments: object) -> str:
    """What a new process prints that has PyTorch already, as all of what these tests import needs it."""
    done = run_python(code, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def processor_seconds(*command: str) -> float:
    """The processor time of a Python command, the median of three. What else the machine does matters little to it."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(times)


@pytest.fixture(scope="module")
def checkpoints(bases, tmp_path_factory):
    """A checkpoint of each model with its processor."""
    folders = {arch.model_type: tmp_path_factory.mktemp(arch.model_type) for arch in architectures.BOTH}
    for arch in architectures.BOTH:
        model = arch.build(bases)
        model.save_pretrained(folders[arch.model_type])
        arch.processor(bases, model).save_pretrained(folders[arch.model_type])
    return folders


def test_a_caption_needs_no_trainer(checkpoints, tmp_path):
    """Whose import brings PEFT, datasets and bitsandbytes, and takes a third of the time of a first caption."""
    tiny.picture().save(tmp_path / "picture.png")
    caption = "import sys; from adem_vl_hf.cli import main; assert main(sys.argv[1:]) == 0; print(*sys.modules)"
    flags = ["--checkpoint", checkpoints["adem_vl"], "--max-new-tokens", 2]
    modules = set(run_beside_torch(caption, "caption", tmp_path / "picture.png", *flags).split())
    assert "transformers.models.llama.modeling_llama" in modules
    assert not modules & {"transformers.trainer", "peft", "datasets", "bitsandbytes", "pandas"}


def test_importing_the_package_imports_nothing_heavy():
    assert not HEAVY & set(run("import adem_vl_hf" + IMPORTED).split())


def test_optional_packages_are_imported_when_they_are_used():
    folder = Path(adem_vl_hf.__file__).parent
    own = [path.relative_to(folder).with_suffix("").as_posix().replace("/", ".") for path in folder.rglob("*.py")]
    # the page needs Gradio; lmms-eval and evaluate import the others
    skipped = ("__", "app.page", "evaluation.lmms_eval.model", "evaluation.hf_metrics.")
    ours = [f"adem_vl_hf.{name}" for name in own if not name.startswith(skipped) and "__" not in name]
    ours += [f"adem_vl_hf.modeling.{name.removesuffix('.py')}" for name in architectures.FILES]
    assert len(ours) > 60
    code = "import sys, transformers.trainer; theirs = set(sys.modules)"  # it imports some of them itself
    added = run_beside_torch(f"{code}\nimport {', '.join(ours)}\nprint(*(set(sys.modules) - theirs))").split()
    assert {"adem_vl_hf", *ours} <= set(added)
    assert not OPTIONAL & set(added)


def test_help_and_bad_usage_import_nothing_heavy(tmp_path):
    train = ["train", "--output-dir", "x"]
    cases = [
        ["--help"], ["--version"], *([command, "--help"] for command in COMMANDS), ["paint"], ["caption"],
        [*train, "--kernel", "foo"], [*train, "--model", "evlm", "--kernel", "silu"], [*train, "--data", "nowhere"],
        [*train, "--dtype", "int8"], [*train, "--set", "seed=3"], ["train", "--output-dir", __file__],
        [*train, "--language-model", str(tmp_path / "none")], ["caption", "none.png"], ["evaluate", "--task", "poetry"],
        ["evaluate", "--task", "mme"], ["evaluate", "--task", "caption", "--predictions", str(tmp_path / "none")],
        ["info", str(tmp_path / "none")],
        ["convert", "none.pth", "x", "--language-model", "x", "--vision-tower", "x"],
    ]  # fmt: skip
    *said, imported = run(EACH_COMMAND + IMPORTED, json.dumps(cases)).splitlines()
    assert [line for line in said if line.startswith("exit code")] == [
        f"exit code {0 if {'--help', '--version'} & set(argv) else 2}" for argv in cases
    ]
    assert f"adem-vl {adem_vl_hf.__version__}" in said
    assert not HEAVY & set(imported.split())


@pytest.mark.parametrize(
    ("command", "limit"),
    [
        (("-c", "import adem_vl_hf"), 0.5),
        (("-m", "adem_vl_hf.cli", "--help"), 0.7),
    ],
)
def test_starting_takes_little_time(command, limit):
    assert processor_seconds(*command) < limit


@pytest.mark.parametrize("package", LAZY_PACKAGES, ids=lambda package: package.__name__)
def test_what_type_checkers_read_is_what_a_package_exports(package):
    (block,) = (node for node in ast.parse(Path(package.__file__).read_text()).body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    read = {alias.name: node.module for node in block.body for alias in node.names}
    assert sorted(read) == sorted(package.__all__)
    assert set(read) <= set(dir(package))
    everything: dict[str, object] = {}
    exec(f"from {package.__name__} import *", everything)
    for name, module in read.items():
        full = f"{package.__name__}.{module}"
        assert everything[name] is getattr(package, name) is getattr(sys.modules[full], name)
        assert everything[name].__module__ == full
    with pytest.raises(AttributeError, match=rf"module '{package.__name__}' has no attribute 'Nothing'"):
        package.Nothing  # noqa: B018


@pytest.mark.core
@pytest.mark.parametrize(
    "order", [pytest.param(o, marks=[] if o == "the package first" else [pytest.mark.slow]) for o in ORDERS]
)
def test_checkpoints_load_by_the_auto_classes(checkpoints, order):
    found = json.loads(run_beside_torch(ORDERS[order] + LOAD, " ".join(AUTO_MODELS), *checkpoints.values()))
    for arch in architectures.BOTH:
        classes = [arch.config_class, *[arch.model_class] * len(AUTO_MODELS), arch.processor_class]
        assert found[arch.model_type] == [f"{kind.__module__}.{kind.__name__}" for kind in classes]


def registered(model):
    """The model class that is registered for a model's configuration; unpickling the model has imported the package."""
    return transformers.AutoModel._model_mapping[type(model.config)]


@pytest.mark.core
@pytest.mark.slow
def test_models_go_to_a_spawned_process(bases):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for arch in architectures.BOTH:
            assert pool.apply(registered, (arch.build(bases),)) is arch.model_class


@pytest.mark.core
def test_a_class_of_ones_own_takes_the_place_of_ours():
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    class Mine(adem_vl_hf.AdemVLForConditionalGeneration):
        pass

    registered = MODEL_MAPPING._extra_content
    assert adem_vl_hf.AdemVLConfig in list(registered) + list(dict(registered))
    transformers.AutoModel.register(adem_vl_hf.AdemVLConfig, Mine, exist_ok=True)
    try:
        assert MODEL_MAPPING[adem_vl_hf.AdemVLConfig] is Mine
    finally:
        del registered.data[adem_vl_hf.AdemVLConfig]
    assert MODEL_MAPPING[adem_vl_hf.AdemVLConfig] is adem_vl_hf.AdemVLForConditionalGeneration


def test_the_version_is_the_installed_ones():
    assert version("adem-vl-hf") == adem_vl_hf.__version__
