"""What the configurations of this bundle's models have in common: two frozen bases, and where they come from.

Transformers 4.57 fetches what a configuration imports, and no further step, so that each configuration names all files
that this one imports.
"""

import copy
import importlib
import warnings
from pathlib import Path
from typing import Any, ClassVar

from transformers import AutoConfig

from .arguments import (
    FETCHING,
    HUB_ARGUMENTS,
    REMEDIES,
    PreTrainedConfig,
    generation_fields,
    hint,
    library_fields,
    loading_arguments,
    named_parameters,
    one_dtype,
    refuse_unknown,
)
from .field_values import (
    WIDTH,
    Range,
    check_fingerprint,
    check_kernels,
    check_needed,
    check_range,
    check_sizes,
    check_types,
    constructor_hints,
)
from .one_save import finish_save
from .reading import errors_naming
from .towers import TOWERS, side, tower_config

BACKENDS = ("transformers", "open_clip")

OF_A_SAVE = ("adapter_digest",)  # what a saved configuration notes about the files beside it

# the paper's tower: OpenAI CLIP ViT-L/14 at 224 px
CLIP_VIT_L14 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}


def _sub_config(part, given, model_type, **defaults):
    if given is None:
        given = {"model_type": model_type, **defaults}
    if not isinstance(given, dict):
        # a copy: the constructor below resets the attention implementation of whatever config objects it holds
        return copy.deepcopy(given)
    check_sizes(f"{part}.", given)
    fields = {"model_type": model_type, **given}
    with errors_naming(part, "correct it, or take the configuration of the model that was trained on"):
        return AutoConfig.for_model(fields.pop("model_type"), **fields)


class FrozenBasesConfig(PreTrainedConfig):
    """Base class of the configurations.

    A name that is neither a field of the class nor one of Transformers' is an error. In a configuration that was saved,
    where a newer version may have written it, the name is kept with a warning.

    Args:
        text_config (dict | PreTrainedConfig | None): configuration of the language model; default Llama 7B.
        vision_config (dict | PreTrainedConfig | None): configuration of the vision tower, of one of the kinds in
            ``TOWERS``, and a ``CLIPVisionConfig`` for open_clip; default CLIP ViT-L/14.
        text_model_name_or_path (str | None): where the language model is loaded from: a Hub id, a folder, or a folder
            relative to the checkpoint (``./llm``, ``../llm``). None for both bases: the checkpoint holds every weight
            itself.
        text_model_revision (str | None): the language model's pinned revision (commit, tag or branch).
        text_model_subfolder (str | None): the folder inside its folder or repository that holds the language model.
        text_model_fingerprint (dict | None): what the language model looked like in training; written when the model
            is built.
        vision_model_name_or_path (str | None): where the vision tower is loaded from.
        vision_model_revision (str | None): the vision tower's pinned revision.
        vision_model_subfolder (str | None): the folder inside its folder or repository that holds the vision tower.
        vision_model_fingerprint (dict | None): what the vision tower looked like in training.
        vision_backend (str): ``"transformers"`` or ``"open_clip"`` (any of its ViT towers).
        image_token_id (int | None): the token, inside the language model's vocabulary, that marks where image
            embeddings go.
        image_size (int | None): the side in pixels of the square images that the tower gets; default what its
            configuration says, or for a tower that takes any size (DINOv2, DINOv3) what its image processor makes.
        frame_embeddings (int): how many pictures of a row have a learned embedding of their own that says which of them
            they are (zero at the start); 0 = none, and their order shows in the text alone.
        **kwargs (Any): fields that Transformers itself has in every configuration.

    Raises:
        TypeError: a name that is no field, with the nearest field.
        ValueError: a field with an impossible value, with the possible ones.
    """

    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}
    # fields that do not change what an adapter computes; a subclass adds its own
    outside_adapter: ClassVar[tuple[str, ...]] = (
        "text_config", "vision_config", "text_model_name_or_path", "text_model_revision", "text_model_subfolder",
        "text_model_fingerprint", "vision_model_name_or_path", "vision_model_revision", "vision_model_subfolder",
        "vision_model_fingerprint", "image_token_id",
    )  # fmt: skip
    # the values of the fields that take one of a few; a subclass adds its own
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"vision_backend": BACKENDS}
    # the least and the greatest value of numbers; a subclass adds its own
    ranges: ClassVar[dict[str, Range]] = {
        "image_size": WIDTH,
        "frame_embeddings": (0, 2**16),
    }
    field_names: ClassVar[tuple[str, ...]] = ()  # all of the class, from the constructors' signatures
    adapter_fields: ClassVar[tuple[str, ...]] = ()  # those without which the adapter's weights mean nothing

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        constructors = [one.__init__ for one in cls.__mro__ if issubclass(one, FrozenBasesConfig)]
        names = (name for constructor in constructors for name in named_parameters(constructor) if name != "self")
        cls.field_names = tuple(dict.fromkeys(names))
        cls.adapter_fields = tuple(name for name in cls.field_names if name not in cls.outside_adapter)

    def __init__(
        self,
        text_config: dict | PreTrainedConfig | None = None,
        vision_config: dict | PreTrainedConfig | None = None,
        text_model_name_or_path: str | None = None,
        text_model_revision: str | None = None,
        text_model_subfolder: str | None = None,
        text_model_fingerprint: dict | None = None,
        vision_model_name_or_path: str | None = None,
        vision_model_revision: str | None = None,
        vision_model_subfolder: str | None = None,
        vision_model_fingerprint: dict | None = None,
        vision_backend: str = "transformers",
        image_token_id: int | None = None,
        image_size: int | None = None,
        frame_embeddings: int = 0,
        **kwargs: Any,
    ) -> None:
        self._check_values(locals())
        kwargs = self._known(kwargs)
        check_sizes(f"{type(self).__name__}: ", kwargs)
        self.text_config = _sub_config("text_config", text_config, "llama")
        self.vision_config = tower_config(
            _sub_config("vision_config", vision_config, "clip_vision_model", **CLIP_VIT_L14)
        )
        check_needed("text_config", self.text_config)
        check_needed("vision_config", self.vision_config)
        self.text_model_name_or_path = text_model_name_or_path
        self.text_model_revision = text_model_revision
        self.text_model_subfolder = text_model_subfolder
        self.text_model_fingerprint = text_model_fingerprint
        self.vision_model_name_or_path = vision_model_name_or_path
        self.vision_model_revision = vision_model_revision
        self.vision_model_subfolder = vision_model_subfolder
        self.vision_model_fingerprint = vision_model_fingerprint
        self.vision_backend = vision_backend
        self.image_token_id = image_token_id
        self.image_size = side(self.vision_config.image_size) if image_size is None else image_size
        self.frame_embeddings = frame_embeddings
        kwargs.setdefault("tie_word_embeddings", getattr(self.text_config, "tie_word_embeddings", False))
        with errors_naming(f"{type(self).__name__}, field {' or '.join(kwargs)}", "correct or remove it"):
            super().__init__(**kwargs)
        self._check_bases()

    def _check_values(self, given: dict[str, Any]) -> None:
        """Check the types and ranges of fields that are given.

        Raises:
            ValueError: naming the field, its value and what is allowed.
        """
        name = type(self).__name__
        check_types(constructor_hints(type(self), FrozenBasesConfig), given)
        for field, allowed in self.ranges.items():
            if field in given:
                check_range(field, given[field], allowed, f"{name}.ranges[{field!r}]")
        for base in ("text_model", "vision_model"):
            check_fingerprint(f"{base}_fingerprint", given.get(f"{base}_fingerprint"))

    def _known(self, given: dict[str, Any]) -> dict[str, Any]:
        """The fields that Transformers keeps, of those that are not the class's own.

        A dictionary that was saved says whose it is (``model_type``), and a user's call does not.

        Raises:
            TypeError: a user's call has a name that is no field, or two different dtypes.
        """
        unknown = [name for name in given if name not in library_fields() and not name.startswith("_")]
        if "model_type" not in given:
            if unknown:
                refuse_unknown(type(self).__name__, unknown, {*self.field_names, *library_fields()}, self.remedies())
            one_dtype(given)
            return given
        if never := [name for name in unknown if name in HUB_ARGUMENTS]:
            warnings.warn(
                f"this saved configuration holds {', '.join(never)}, which a configuration should not hold; left out. "
                "A token that was published has to be revoked",
                stacklevel=3,
            )
        if newer := [name for name in unknown if name not in (*HUB_ARGUMENTS, *generation_fields(), *OF_A_SAVE)]:
            warnings.warn(
                f"this saved configuration has fields that {type(self).__name__} does not know: {', '.join(newer)}; "
                "they are kept and have no effect (did a newer version write it?)",
                stacklevel=3,
            )
        return {name: value for name, value in given.items() if name not in HUB_ARGUMENTS}

    @classmethod
    def remedies(cls) -> dict[str, str]:
        """What to do about names that are known, but not as fields of this configuration."""
        generation = "it is an option of generate: give it there, or set it in model.generation_config"
        loading = "it is an argument of the loaders (from_pretrained, from_base_pretrained), never a field"
        for path in Path(__file__).parent.glob("configuration_*.py"):  # which may not have been imported yet
            importlib.import_module(f".{path.stem}", __package__)
        others = [one for one in FrozenBasesConfig.__subclasses__() if not issubclass(cls, one)]
        return {
            **dict.fromkeys(generation_fields(), generation),
            **dict.fromkeys(loading_arguments() - library_fields(), loading),
            **{name: f"it is a field of {one.__name__}" for one in others for name in one.field_names},
        }

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        """Read a saved configuration as Transformers does, after a save that was interrupted there is completed.

        Args:
            pretrained_model_name_or_path (Any): the folder, the file or the Hub id.
            **kwargs (Any): the library's arguments, such as ``revision``.

        Returns:
            The fields, and the arguments that were not used.
        """
        finish_save(Path(str(pretrained_model_name_or_path), kwargs.get("subfolder") or ""))
        return super().get_config_dict(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """A configuration from a dictionary that was saved, as Transformers makes it.

        Args:
            config_dict (dict[str, Any]): what was saved.
            **kwargs (Any): fields to override, which are then checked with the others, and ``return_unused_kwargs``.

        Returns:
            The configuration, or with ``return_unused_kwargs=True`` a tuple of it and of what was no field.

        Raises:
            TypeError: an override that is no field, where nobody asks for what is left over.
            ValueError: it is the configuration of another model, or it names code of a repository.
        """
        name = kwargs.get("name_or_path")  # which AutoConfig gives; it has read the file without asking this class
        if name is not None and finish_save(name):
            config_dict = super().get_config_dict(name)[0]
        if (kind := config_dict.get("model_type", cls.model_type)) != cls.model_type:
            raise ValueError(f"it describes a {kind!r} model, and {cls.__name__} a {cls.model_type!r}; use AutoModel")
        check_kernels(config_dict, "config.json" if name is None else f"{name}/config.json")
        own = {name: kwargs.pop(name) for name in cls.field_names if name in kwargs and name not in cls.sub_configs}
        for base in ("text_model_name_or_path", "vision_model_name_or_path"):
            # what a user gives is meant from here, and what a checkpoint says from the checkpoint
            if str(own.get(base)).startswith(".") and Path(own[base]).exists():
                own[base] = str(Path(own[base]).resolve())
        dtype = one_dtype(kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name not in ("dtype", "torch_dtype")}
        if not kwargs.get("return_unused_kwargs"):
            cls._check_overrides([name for name in kwargs if name not in config_dict])
        saved = {"model_type": cls.model_type, **config_dict, **own}
        if dtype is not None and dtype != "auto":
            saved = {name: value for name, value in saved.items() if name != "torch_dtype"} | {"dtype": dtype}
        found = super().from_dict(saved, **kwargs)
        if isinstance(found, tuple) and dtype is not None:  # the model that is loaded next is of this dtype
            found[1]["dtype"] = dtype
        return found

    @classmethod
    def _check_overrides(cls, names: list[str]) -> None:
        """Refuse what ``from_pretrained`` of a configuration was given in vain.

        The Auto classes of tokenizers and image processors read the configuration with all of their own arguments.
        From them (they also give ``name_or_path``), only what looks like a field is refused.
        """
        where = f"{cls.__name__}.from_pretrained"
        known = {*cls.field_names, *library_fields(), *loading_arguments(), "return_unused_kwargs", "code_revision"}
        if "name_or_path" in names:
            names = [name for name in names if hint(name, cls.field_names, REMEDIES, cutoff=0.8)]
        if unknown := [name for name in names if name not in known]:
            refuse_unknown(where, unknown, known, cls.remedies())

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON holds them; never a token, nor where files were fetched from."""
        fields = {name: value for name, value in super().to_dict().items() if name not in HUB_ARGUMENTS}
        for part in self.sub_configs:
            if isinstance(fields.get(part), dict):
                fields[part] = {name: value for name, value in fields[part].items() if name not in FETCHING}
        return fields

    @property
    def grid(self) -> int:
        """Side G of the tower's patch grid."""
        return self.image_size // side(self.vision_config.patch_size)

    @property
    def image_tokens(self) -> int:
        """How many tokens of the text stand for one image."""
        raise NotImplementedError

    @property
    def has_external_bases(self) -> bool:
        """Whether a checkpoint is the adapter alone (the bases come from their own folders or repositories)."""
        return self.text_model_name_or_path is not None and self.vision_model_name_or_path is not None

    def tower_depth(self, layer: int) -> int:
        """How many of the tower's blocks lie behind one of its hidden states.

        Args:
            layer (int): index of the hidden states; a negative one counts from the end.
        """
        return layer if layer >= 0 else self.vision_config.num_hidden_layers + 1 + layer

    def _check_bases(self):
        for name, allowed in self.choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
        vocab_size = self.text_config.vocab_size
        if self.image_token_id is not None and not 0 <= self.image_token_id < vocab_size:
            raise ValueError(
                f"image_token_id={self.image_token_id} is outside the language model's vocabulary of {vocab_size}; "
                "choose one of its reserved or unused tokens"
            )
        own, patch = side(self.vision_config.image_size), side(self.vision_config.patch_size)
        if self.image_size < patch:
            raise ValueError(f"image_size is {self.image_size!r}; give at least the {patch} pixels of a patch")
        if self.image_size != own and not TOWERS[self.vision_config.model_type].any_size:
            raise ValueError(
                f"image_size is {self.image_size}, and this {self.vision_config.model_type} takes images of {own} "
                "pixels alone; leave image_size out, or take a tower of another size, or a DINOv2 or DINOv3"
            )


__all__ = ["FrozenBasesConfig"]
