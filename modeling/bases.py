"""The two frozen bases: how each is loaded and named; ``fingerprints`` tells whether it is the right one."""

import contextlib
import threading
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.utils import cached_file, extract_commit_hash, logging

from .arguments import HUB_ARGUMENTS, refuse_unknown, take
from .base_sizes import no_larger_than_its_files, read_base_config
from .open_clip_tower import HF_HUB, OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, OpenClipVisionTower
from .quantization import gguf_arguments, split_gguf
from .reading import errors_naming
from .towers import Tower, find_tower

EMBEDDED, ENTRY_POINTS = "embedded:", "adem_vl.embedded_bases"
UNTRUSTED: dict[str, Any] = {"trust_remote_code": False}  # where nobody says it, Transformers asks on a terminal
_QUIET = threading.Lock()
# where a dict of attention implementations says which is meant; "" is the model that holds both
PARTS = ("", "text_config", "vision_config")


def attention_by_part(attention: str | dict | None, config: Any = None) -> dict[str, dict[str, str]]:
    """The argument ``attn_implementation`` for each part (``PARTS``), as the library's composite models read it.

    Args:
        attention (str | dict | None): one for all parts, or a dict by part.
        config (Any): the configuration, which says what is not given (the Auto classes note in it what they were
            given).

    Returns:
        The argument by part, empty where nothing says it.

    Raises:
        ValueError: for a dict that names another part.
    """
    if isinstance(attention, dict):
        if unknown := sorted(set(attention) - set(PARTS)):
            raise ValueError(f"attn_implementation: no part is called {unknown[0]!r}; take text_config, vision_config")
        by_part = dict(attention)
    elif attention is None and config is not None:
        by_part = {part: (getattr(config, part) if part else config)._attn_implementation for part in PARTS}
    else:
        by_part = dict.fromkeys(PARTS, attention)
    return {part: {"attn_implementation": by_part[part]} if by_part.get(part) else {} for part in PARTS}


def _load(cls, kind: str, name: str, where: str | None = None, **arguments):
    """Load through the base's own ``from_pretrained``; a base with a weight missing is an error, not a warning."""
    gguf_file = arguments.get("gguf_file")
    try:
        saved = read_base_config(where or name, arguments, gguf_file)
        packed = gguf_file is not None or "quantization_config" in {*saved, *arguments}
        with errors_naming(name), no_larger_than_its_files(where or name, arguments, gguf_file, packed):
            model, info = cls.from_pretrained(
                where or name, output_loading_info=True, use_safetensors=True, **arguments
            )
    except (OSError, ValueError) as error:
        raise _unreachable(kind, name, error) from error
    except ImportError as error:  # a package that its quantisation needs
        raise ImportError(f"the {kind} {name!r}: {error}") from error
    missing = sorted(key for key in info["missing_keys"] if not key.endswith("position_ids"))
    if missing or info["mismatched_keys"]:
        raise ValueError(
            f"the {kind} {name!r} lacks {len(missing)} weights of {type(model).__name__}, such as {missing[:3]}; "
            "was it saved by a newer version of Transformers?"
        )
    return model


def _unreachable(kind: str, name: str, error: Exception) -> ValueError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ValueError(
        f"the {kind} {name!r} could not be loaded ({reason}); check the id, the revision and the network, "
        "or name a local folder that holds it as safetensors, or a GGUF file"
    )


def load_language_model(name: str, **arguments: Any) -> nn.Module:
    """Load any decoder LM by ``AutoModelForCausalLM.from_pretrained``.

    Args:
        name (str): a folder, a Hub id, or a GGUF file in either (see ``split_gguf``).
        **arguments (Any): of ``from_pretrained``.

    Returns:
        The language model.

    Raises:
        ValueError: it cannot be reached, or lacks weights.
    """
    where, file = split_gguf(name)
    file = arguments.pop("gguf_file", None) or file
    if file is None:
        return _load(AutoModelForCausalLM, "language model", name, **UNTRUSTED | arguments)
    name = f"{where}/{file}"
    model = _load(AutoModelForCausalLM, "language model", name, where, **UNTRUSTED | gguf_arguments(file, arguments))
    model.name_or_path = model.config.name_or_path = name  # the library notes the folder alone
    return model


def load_vision_tower(name: str, backend: str = "transformers", **arguments: Any) -> nn.Module:
    """Load a tower of Transformers of one of the kinds in ``TOWERS``, or a tower of open_clip.

    Args:
        name (str): a folder or a Hub id of a tower or of a model that holds one; for open_clip a name in its spelling
            (see ``OpenClipVisionTower``).
        backend (str): ``"transformers"`` or ``"open_clip"``.
        **arguments (Any): of ``from_pretrained``; open_clip takes ``dtype`` and Hub arguments.

    Returns:
        The vision tower.

    Raises:
        ValueError: it cannot be reached, is of a kind that is not supported, or lacks weights.
    """
    if backend == "transformers":
        row = kind_of_tower(name, **take(HUB_ARGUMENTS, dict(arguments)))
        tower_class = getattr(transformers, row.model_class)
        with _without_report():
            return _load(tower_class, "vision tower", name, **dict(row.arguments), **arguments)
    dtype = arguments.get("dtype")
    dtype = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    hub = take(HUB_ARGUMENTS, arguments)
    # one attention for both bases is the language model's: a tower of open_clip has its own
    refuse_unknown("a vision tower of open_clip", arguments, ("dtype", "attn_implementation", "trust_remote_code"))
    with errors_naming(f"the vision tower {name}", f"name one that is saved as {OPEN_CLIP_WEIGHTS}, or fetch it again"):
        return OpenClipVisionTower.from_pretrained(name, dtype=dtype, **hub)


@contextlib.contextmanager
def _without_report():
    """Do not list the weights of a whole model that are not the tower's; that one is missing is an error anyway."""
    with _QUIET:  # of two threads, the second would take the first one's silence for what was before
        before = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(before)


def kind_of_tower(name: str, **hub: Any) -> Tower:
    """Read what kind of tower a folder or a repository holds, before any weights are read.

    Args:
        name (str): the folder or the Hub id.
        **hub (Any): Hub arguments.

    Returns:
        The row of ``TOWERS``.

    Raises:
        ValueError: its configuration cannot be reached, or the kind is not supported.
    """
    try:
        model_type = read_base_config(name, hub).get("model_type")
        if not isinstance(model_type, str | None):
            raise ValueError(f"{name}/config.json: model_type is {model_type!r}; it must be a text")
    except (OSError, ValueError) as error:
        raise _unreachable("vision tower", name, error) from error
    return find_tower(model_type, f"the vision tower {name!r}")


def pinned_revision(name: str | None, hub: dict[str, Any]) -> str | None:
    """The commit that a base was loaded at.

    Args:
        name (str | None): where it was loaded from: a folder, a Hub id, or a GGUF file in either.
        hub (dict[str, Any]): the Hub arguments that it was loaded with.

    Returns:
        The commit of a Hub repository; for everything else, the revision that was asked for.
    """
    asked = hub.get("revision")
    if name is None or Path(name).exists():
        return asked
    where, file = split_gguf(name.removeprefix(HF_HUB))
    file = file or (OPEN_CLIP_CONFIG if name.startswith(HF_HUB) else "config.json")
    from_cache = {**hub, "force_download": False, "local_files_only": True}  # the base was loaded a moment ago
    try:
        return extract_commit_hash(cached_file(where, file, **from_cache), None) or asked
    except (OSError, ValueError):  # a name of open_clip's own list
        return asked


def base_name(base: Any) -> str | None:
    """Ask a loaded model where it came from.

    Args:
        base (Any): the model.

    Returns:
        Its name, with the GGUF file where it says which; None where it says nothing.
    """
    name = getattr(base, "name_or_path", None) or None
    file = getattr(getattr(base.config, "quantization_config", None), "gguf_file", None)
    return str(Path(name) / file) if name and file and not name.endswith(".gguf") else name


def locate_base(base: str, checkpoint: str) -> str:
    """Find a base by the name that a checkpoint has for it.

    Folders that begin with a dot are meant relative to the checkpoint, so that both can move together. What a package
    brings is named ``embedded:...``, so that a checkpoint loads wherever that package is installed: its entry points
    say what it brings.

    Args:
        base (str): the name.
        checkpoint (str): the checkpoint, a folder or a Hub id.

    Returns:
        A folder, or the name as it is.

    Raises:
        ValueError: no installed package brings the base, or a checkpoint on the Hub names a folder beside it.
    """
    if base.startswith(EMBEDDED):
        for entry in entry_points(group=ENTRY_POINTS, name=base):
            return entry.load()(base)
        raise ValueError(
            f"{checkpoint} was trained on {base}, which the package adem-vl-hf brings: install it, or pass "
            "text_model_name_or_path= and vision_model_name_or_path= with the same models"
        )
    if base.startswith("."):
        if Path(checkpoint).is_dir():
            return str((Path(checkpoint) / base).resolve())
        raise ValueError(
            f"{checkpoint} names its base {base!r}, a folder beside it, and is no folder itself: what lies under that "
            "name here is another thing. Pass text_model_name_or_path= and vision_model_name_or_path= with the models"
        )
    return base
