"""Lays the package out for the API reference: its two source folders as one, as they are when it is installed."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent


def on_startup(**kwargs) -> None:
    """Links ``src/adem_vl_hf`` and ``modeling`` into ``runs/api/adem_vl_hf``, where mkdocstrings reads them."""
    package = ROOT / "runs" / "api" / "adem_vl_hf"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for path in (ROOT / "src" / "adem_vl_hf").iterdir():
        (package / path.name).symlink_to(path)
    (package / "modeling").symlink_to(ROOT / "modeling")
