"""The package as it is published: builds without warnings, is complete, and works where only the wheel is installed."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import adem_vl_hf
from adem_vl_hf.papers import PAPERS

ROOT = Path(__file__).parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
# what building, testing and working leave in a checkout
LEFT_OVER = (".git", ".venv", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
NOT_PUBLISHED = {".gitignore"}
IN_THE_WHEEL = """
from pathlib import Path
import adem_vl_hf
from adem_vl_hf.loading import CHECKPOINT, TOWER, describe
package = Path(adem_vl_hf.__file__).parent
assert "site-packages" in package.parts and package.parts[-2] == "site-packages", package
for path in (package / "py.typed", CHECKPOINT / "model.safetensors", TOWER / "model.safetensors"):
    assert path.is_file(), path
print(describe()["checkpoint"])
"""


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def distribution(tmp_path_factory):
    """A copy of the checkout, what building it printed, its source distribution and its wheel.

    Without isolation: no package index is asked.
    """
    copy = tmp_path_factory.mktemp("distribution") / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OVER))
    printed = run(sys.executable, "-m", "build", "--no-isolation", copy)
    (source,), (wheel,) = (list((copy / "dist").glob(pattern)) for pattern in ("*.tar.gz", "*.whl"))
    return copy, printed, source, wheel


@pytest.mark.slow
def test_it_builds_without_warnings(distribution):
    _, printed, source, wheel = distribution
    warnings = [line for line in printed.splitlines() if line.lower().startswith(("warning", "!!"))]
    assert [line for line in warnings if "byte-compiling is disabled" not in line] == []  # PYTHONDONTWRITEBYTECODE
    assert "PASSED" in run(sys.executable, "-m", "twine", "check", "--strict", source, wheel)


@pytest.mark.slow
def test_the_source_distribution_is_the_checkout(distribution):
    copy, _, source, _ = distribution
    with tarfile.open(source) as archive:
        given = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    there = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    there = {name for name in there if not name.startswith(("dist/", "build/", "adem_vl_hf.egg-info/"))}
    assert there - given == NOT_PUBLISHED


@pytest.mark.slow
def test_the_wheel_is_the_package(distribution):
    copy, _, _, wheel = distribution
    with zipfile.ZipFile(wheel) as archive:
        given = {name for name in archive.namelist() if name.startswith("adem_vl_hf/")}
    source, bundle = copy / "src" / "adem_vl_hf", copy / "modeling"
    there = {f"adem_vl_hf/{path.relative_to(source).as_posix()}" for path in source.rglob("*") if path.is_file()}
    there |= {f"adem_vl_hf/modeling/{path.name}" for path in bundle.iterdir() if path.is_file()}
    assert given == there


@pytest.mark.slow
def test_an_installed_wheel_works(distribution, tmp_path):
    """In a new environment that has the wheel and, behind it, this environment's other packages."""
    wheel = distribution[-1]
    venv.create(tmp_path / "new", with_pip=False)
    python = tmp_path / "new" / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    run(sys.executable, "-m", "pip", f"--python={python}", "install", "--no-deps", "--no-index", wheel)
    others = [path for path in sys.path if Path(path).is_dir() and ROOT not in (Path(path), *Path(path).parents)]
    others += [sysconfig.get_path("purelib")]
    (packages / "others.pth").write_text("\n".join(others))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    shown = run(tmp_path / "new" / "bin" / "adem-vl", "info", cwd=tmp_path, env=environment)
    assert "shipped" in shown
    assert "shipped" in run(python, "-c", IN_THE_WHEEL, cwd=tmp_path, env=environment)


def test_versions_and_citations_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert adem_vl_hf.__version__ == VERSION == citation["version"]
    assert f"## [{VERSION}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    cited = [reference["url"].rsplit("/", 1)[1] for reference in citation["references"]]
    assert cited == [paper.number for paper in PAPERS.values()]
