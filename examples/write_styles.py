"""Write the drawings of this package's 710 things in three more styles, from the packages of Iconify on npm.

    python examples/write_styles.py

The result is src/adem_vl_hf/data/openmoji/styles.json.xz: for each style, the SVG of every thing by OpenMoji's code.
It needs npm, which downloads three pinned packages (6 MB). Their SHA-256 are compared before anything is read.
"""

import argparse
import hashlib
import json
import lzma
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from adem_vl_hf.data.openmoji.sprites import openmoji
from adem_vl_hf.data.openmoji.styles import FILE
from adem_vl_hf.files import replacing


class Package(NamedTuple):
    """A package of Iconify: its name after ``@iconify-json/``, its version, and the SHA-256 of its archive."""

    name: str
    version: str
    sha256: str


PACKAGES = {
    "twemoji": Package("twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    "noto": Package("noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "fluent": Package("fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"),
}
XMLNS = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def download(package: Package, folder: Path) -> Path:
    """Download the archive of a package with npm and check it."""
    subprocess.run(
        ["npm", "pack", "--silent", f"@iconify-json/{package.name}@{package.version}"], cwd=folder, check=True
    )
    archive = folder / f"iconify-json-{package.name}-{package.version}.tgz"
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise SystemExit(f"{archive.name} has SHA-256 {found}, not {package.sha256}: it was damaged or replaced")
    return archive


def svg(icon: dict[str, Any], icons: dict[str, Any]) -> str:
    """Put an icon into the middle of a square, because a few are wider than high or higher than wide."""
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
    side = max(width, height)
    corner = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g}"
    return f'<svg {XMLNS} viewBox="{corner} {side:g} {side:g}">{icon["body"]}</svg>'


def drawings(archive: Path) -> dict[str, str]:
    """Find the SVG of every thing in the archive of a package, by OpenMoji's code."""
    with tarfile.open(archive) as files:
        icons, names = (json.load(files.extractfile(f"package/{name}.json")) for name in ("icons", "chars"))
    found = {}
    for thing in openmoji()[0]:
        code = thing.code.lower()
        name = names.get(code) or names[code.replace("-fe0f", "")]  # some file names keep the variation selector
        found[thing.code] = svg(icons["icons"][name], icons)
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as work:
        styles = {style: drawings(download(package, Path(work))) for style, package in PACKAGES.items()}
    data = json.dumps(styles, separators=(",", ":")).encode()
    with replacing(FILE) as temporary:
        temporary.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    print(f"{FILE}: {', '.join(f'{len(found)} of {style}' for style, found in styles.items())}")


if __name__ == "__main__":
    main()
