"""Damaged checkpoints: every file of one is taken, or refused by its name or that of a field."""

import json
import shutil

import architectures
import pytest
import tiny
import torch

pytest.importorskip("hypothesis")
from fuzzing import JSON, damaged_bytes, damaged_json, fuzz, write
from hypothesis import strategies as st
from safetensors.torch import load as read_tensors
from safetensors.torch import save

from adem_vl_hf.hub.model_card import count_saved_parameters
from adem_vl_hf.loading import describe

pytest.importorskip("peft")
FIELDS_ADDED = {"adem_vl": {"lora": {"r": 2, "target_modules": ["q_proj"], "rank_pattern": {"q_proj": 3}}}, "evlm": {}}
# of Transformers', which it reads by itself
LIBRARY_FIELDS = {
    "quantization_config": {"quant_method": "gptq", "bits": 4}, "num_labels": 2, "id2label": {"0": "x"},
    "dtype": "float32", "custom_pipelines": {"x": {"impl": "a.B"}}, "tokenizer_class": None, "is_decoder": True,
    "generation_config": None,
}  # fmt: skip
PROCESSOR_FILES = (
    "tokenizer.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json",
    "generation_config.json",
)  # fmt: skip
pytestmark = [pytest.mark.slow, architectures.each()]


@pytest.fixture(scope="module")
def saved(bases, arch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / arch.model_type
    model = arch.build(bases, **FIELDS_ADDED[arch.model_type])
    model.save_pretrained(folder)
    arch.processor(bases, model).save_pretrained(folder)
    return folder


def use(arch, folder, inputs):
    describe(str(folder))
    with torch.inference_mode():
        arch.model_class.from_pretrained(folder)(**inputs)


def test_config(arch, saved, tmp_path, bases):
    folder = shutil.copytree(saved, tmp_path / "checkpoint")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    inputs = tiny.batch([12], [True])
    fields = [*arch.model_class.config_class.field_names, *config]
    more = {name: None for name in fields if name not in config} | LIBRARY_FIELDS
    damaged = st.one_of(
        damaged_json(config | more).map(lambda one: (json.dumps(one[0]).encode(), str(one[1]))),
        damaged_bytes([path.read_bytes()]).map(lambda data: (data, "bytes")),
        st.just((b"[" * 100_000, "nested")),
    )

    def check(outcomes, drawn):
        data, about = drawn
        write(path, data)
        outcomes.run(lambda: use(arch, folder, inputs), [folder, *fields, *LIBRARY_FIELDS], about)

    fuzz("config.json", 150, damaged, check)


@st.composite
def odd_headers(draw, original):
    """A safetensors file whose header is no damage of bytes: places that overlap, names twice, sizes beyond all."""
    size = int.from_bytes(original[:8], "little")
    header, data = json.loads(original[8 : 8 + size]), original[8 + size :]
    name = draw(st.sampled_from(sorted(header)))
    kind = draw(st.sampled_from(["field", "twice", "size", "metadata", "overlap"]))
    if kind == "field":
        header, _ = draw(damaged_json(header))
    elif kind == "overlap":
        header[name] = header[draw(st.sampled_from(sorted(header)))]
    elif kind == "metadata":
        header["__metadata__"] = draw(JSON)
    text = json.dumps(header)
    if kind == "twice":
        text = text[:-1] + f", {json.dumps(name)}: {json.dumps(draw(st.sampled_from(list(header.values()))))}" + "}"
    encoded = text.encode()
    length = draw(st.sampled_from([2**64 - 1, 2**63, 2**31, 10**8, 0, 1])) if kind == "size" else len(encoded)
    return length.to_bytes(8, "little") + encoded + data


def test_weights(arch, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "checkpoint")
    path = folder / "model.safetensors"
    original = path.read_bytes()
    tensors = read_tensors(original)
    dtypes = [one for one in vars(torch).values() if isinstance(one, torch.dtype) and one.itemsize]

    def cast(key_and_dtype):
        key, dtype = key_and_dtype
        return save({**tensors, key: torch.zeros(tensors[key].shape, dtype=dtype)}, {"format": "pt"})

    savable = []
    for dtype in dtypes:
        try:
            save({"x": torch.zeros(2, 2, dtype=dtype)})
            savable.append(dtype)
        except Exception:
            continue
    header = int.from_bytes(original[:8], "little")
    damaged = st.one_of(
        damaged_bytes([original]),
        damaged_bytes([original[: 8 + header]]),
        odd_headers(original),
        st.tuples(st.sampled_from(sorted(tensors)), st.sampled_from(savable)).map(cast),
        st.just(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    )

    def check(outcomes, data):
        write(path, data)
        outcomes.run(lambda: arch.model_class.from_pretrained(folder), [folder], "load")
        outcomes.run(lambda: count_saved_parameters(folder), [folder], "push")

    fuzz("model.safetensors", 80, damaged, check)


def test_weights_of_a_base(arch, bases, saved, tmp_path):
    copies = {base: shutil.copytree(bases / base, tmp_path / base) for base in ("llama", "clip")}
    files = {base: (copies[base] / "model.safetensors").read_bytes() for base in copies}
    damaged = st.sampled_from(sorted(files)).flatmap(
        lambda base: st.tuples(
            st.just(base), damaged_bytes([files[base][:4000], files[base]]) | odd_headers(files[base])
        )
    )

    def check(outcomes, drawn):
        base, data = drawn
        for name in files:
            write(copies[name] / "model.safetensors", data if name == base else files[name])
        places = {"text_model_name_or_path": str(copies["llama"]), "vision_model_name_or_path": str(copies["clip"])}
        outcomes.run(lambda: arch.model_class.from_pretrained(saved, **places), copies.values(), base)

    fuzz("model.safetensors of a base", 30, damaged, check)


def test_config_of_a_base(arch, bases, saved, tmp_path):
    copies = {base: shutil.copytree(bases / base, tmp_path / base) for base in ("llama", "clip")}
    names = ("config.json", "adapter_config.json", "preprocessor_config.json")
    files = {(base, name): copies[base] / name for base in copies for name in names}
    before = {key: path.read_bytes() if path.is_file() else b'{"r": 2}' for key, path in files.items()}

    def of(key):
        value = json.loads(before[key])
        if key[1] == "config.json":
            value = LIBRARY_FIELDS | value | {"quantization_config": None}
        return damaged_json(value).map(lambda one: (key, json.dumps(one[0]).encode(), str(one[1]))) | damaged_bytes(
            [before[key]]
        ).map(lambda data: (key, data, "bytes"))

    def read():
        model = arch.model_class.from_base_pretrained(copies["llama"], copies["clip"])
        arch.processor_class.from_base_pretrained(str(copies["llama"]), str(copies["clip"]), model.config)

    def check(outcomes, drawn):
        key, data, about = drawn
        for other, path in files.items():
            if other == key:
                write(path, data)
            elif other[1] == "adapter_config.json":
                path.unlink(missing_ok=True)
            else:
                write(path, before[other])
        outcomes.run(read, [*copies.values(), "text_config", "vision_config", "image_size"], f"{key} {about}")

    fuzz("config.json of a base", 60, st.sampled_from(sorted(files)).flatmap(of), check)


def test_processor(arch, saved, tmp_path, bases):
    folder = shutil.copytree(saved, tmp_path / "checkpoint")
    files = {name: (folder / name).read_bytes() for name in PROCESSOR_FILES if (folder / name).is_file()}
    image = tiny.picture()
    model = arch.model_class.from_pretrained(saved)

    def of(name):
        content = json.loads(files[name])
        if name == "tokenizer.json":  # its vocabulary would take most of the damage
            content = {key: value for key, value in content.items() if key != "model"} | {
                "model": {key: value for key, value in content["model"].items() if key not in ("vocab", "merges")}
            }
            whole = json.loads(files[name])["model"]
            return damaged_json(content).map(
                lambda one: (
                    name,
                    json.dumps(
                        one[0] | {"model": whole | one[0]["model"]} if isinstance(one[0].get("model"), dict) else one[0]
                    ).encode(),
                    str(one[1]),
                )
            )
        return damaged_json(content).map(lambda one: (name, json.dumps(one[0]).encode(), str(one[1])))

    damaged = st.sampled_from(sorted(files)).flatmap(
        lambda name: of(name) | damaged_bytes([files[name]]).map(lambda data: (name, data, "bytes"))
    )

    def use():
        processor = arch.processor_class.from_pretrained(folder)
        inputs = processor(images=image, text="a photo of", return_tensors="pt")
        read = arch.model_class.from_pretrained(folder)
        model.generation_config = read.generation_config
        model.generate(**inputs, max_new_tokens=1)

    def check(outcomes, drawn):
        name, data, about = drawn
        for other, original in files.items():
            write(folder / other, data if other == name else original)
        # a processor that fits itself and not the model beside it is refused by the model
        outcomes.run(use, [folder, "config.image_size", "config.image_token_id"], f"{name} {about}")

    fuzz("tokenizer, processor and generation files", 80, damaged, check)
