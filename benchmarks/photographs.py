"""Photographs of things that the OpenMoji data sets draw: cut-out stamps of Tux Paint (GPL-2), fetched and not shipped.

They are in the Debian package ``tuxpaint-stamps-default``, 161 MB. ``apt-get`` downloads it where there is one; another
machine needs the file. Nothing of it is installed or run.
"""

import hashlib
import io
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from torch.utils.data import Subset

from adem_vl_hf.data import OpenMojiNames
from adem_vl_hf.data.openmoji.sprites import SPRITE_SIZE
from adem_vl_hf.data.openmoji.styles import OPENMOJI

PACKAGE, VERSION = "tuxpaint-stamps-default", "2022.06.04-1"
SHA256 = "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
STAMPS = PurePosixPath("usr/share/tuxpaint/stamps")
NOT_PHOTOGRAPHS = ("cartoon", "symbols", "seasonal")  # folders of drawings
COLOURS = 0.6  # of a photograph's opaque pixels, so many have a colour of their own; a drawing has few colours
OTHER_THINGS = ("butterfly", "sea_lion", "adeenia", "beetle", "balloon360", "chineseJunk", "albino_peahen")


def fetch(folder: Path) -> Path:
    """Download the package with ``apt-get``, or find it in the folder.

    Args:
        folder (Path): where the package is kept.

    Returns:
        The path of the package.

    Raises:
        SystemExit: it cannot be downloaded, or is not the expected file. The message says what to do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = f"{PACKAGE} {VERSION} of Debian; put its .deb file into {folder}"
    if not (found := sorted(folder.glob(f"{PACKAGE}_*.deb"))):
        try:
            subprocess.run(["apt-get", "download", f"{PACKAGE}={VERSION}"], cwd=folder, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"apt-get cannot download the photographs ({error}). They are in {wanted}") from None
        found = sorted(folder.glob(f"{PACKAGE}_*.deb"))
    if hashlib.sha256(found[0].read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{found[0]} has another SHA-256 than {wanted}")
    return found[0]


def stamps(package: Path) -> dict[str, tuple[bytes, str]]:
    """Read the pictures of a package that are not in a folder of drawings, with their first sentence in English.

    Args:
        package (Path): the Debian package.

    Returns:
        The PNG file and the sentence of each, by its path without a suffix.
    """
    with tempfile.TemporaryFile() as tar:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", package], stdout=tar, check=True)
        tar.seek(0)
        with tarfile.open(fileobj=tar) as archive:
            files = {
                PurePosixPath(member.name).relative_to(STAMPS): _content(archive, member)
                for member in archive
                if STAMPS in PurePosixPath(member.name).parents and member.name.endswith((".png", ".txt"))
            }
    found = {}
    for path, content in files.items():
        text = files.get(path.with_suffix(".txt"), b"").decode("utf-8", "replace")
        if path.suffix == ".png" and text and not set(path.parts) & set(NOT_PHOTOGRAPHS):
            found[str(path.with_suffix(""))] = (content, text.splitlines()[0])
    return found


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def name_in(sentence: str, names: list[str]) -> str | None:
    """Find the name of a thing at the end of a sentence: "A big eared rabbit." is about a rabbit.

    Args:
        sentence (str): an English sentence.
        names (list[str]): the names of things, in lower case.

    Returns:
        The longest name that the sentence ends with, or None.
    """
    words = re.sub(r"[^a-z ]", "", sentence.lower()).split()
    ends = [name for name in names if words[-len(name.split()) :] == name.split()]
    return max(ends, key=len, default=None)


def is_photograph(picture: Image.Image) -> bool:
    """Tell a photograph from a drawing by its number of colours.

    Args:
        picture (Image.Image): a picture in mode RGBA.

    Returns:
        Whether most of 5,000 of its opaque pixels, or of all if there are fewer, have a colour of their own.
    """
    pixels = np.asarray(picture)
    opaque = pixels[pixels[..., 3] > 200][:, :3]  # [P, 3]
    some = opaque[np.random.RandomState(0).permutation(len(opaque))[:5000]]
    return len(some) >= 400 and len(np.unique(some, axis=0)) >= COLOURS * len(some)


def sprite(picture: Image.Image) -> np.ndarray:
    """Fit a picture into the square of a sprite.

    Args:
        picture (Image.Image): a picture in mode RGBA.

    Returns:
        The pixels [SPRITE_SIZE, SPRITE_SIZE, 4], uint8.
    """
    small = picture.copy()
    small.thumbnail((SPRITE_SIZE, SPRITE_SIZE))
    square = Image.new("RGBA", (SPRITE_SIZE, SPRITE_SIZE))
    square.paste(small, ((SPRITE_SIZE - small.width) // 2, (SPRITE_SIZE - small.height) // 2))
    return np.asarray(square)


def photographs_of_names(package: Path) -> Subset:
    """Ask for the names of photographed things, one of four, as the names data set asks for drawn ones.

    Args:
        package (Path): the Debian package.

    Returns:
        The samples: two for each thing of which there is a photograph, placed on the canvas as a drawing is.
    """
    data = OpenMojiNames("test", kinds=("choice",))
    data.size = 2 * len(data.things)
    names = [thing.name for thing in data.things]
    sprites, photographed = np.zeros_like(data.sprites), set()
    for path, (content, sentence) in sorted(stamps(package).items()):
        name = name_in(sentence, names)
        if name is None or PurePosixPath(path).name in OTHER_THINGS or names.index(name) in photographed:
            continue
        with Image.open(io.BytesIO(content)) as file:
            picture = file.convert("RGBA")
        if is_photograph(picture):
            photographed.add(names.index(name))
            sprites[names.index(name)] = sprite(picture)
    data.sprites_by_style = {OPENMOJI: sprites}
    return Subset(data, [index for index in range(data.size) if data.thing_index(index) in photographed])
