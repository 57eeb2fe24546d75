"""Kinds of values and groups of flags that several commands have, and checks of paths that load nothing."""

import argparse
import errno
import json
import math
import os
import re
import socket
from difflib import get_close_matches
from pathlib import Path
from typing import Any

URL = re.compile(r"(?i)([a-z][a-z0-9+.-]+:/|data:)/?")  # of two letters or more: one is a disk
MOST_SHOWN = 200  # characters of a URL


class Several(argparse.Action):
    """Takes several values, and those of a flag that is repeated as well; the first ones replace the default."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        """Keep the values of a flag.

        Args:
            parser (argparse.ArgumentParser): The parser.
            namespace (argparse.Namespace): What was parsed so far.
            values (Any): The values.
            option_string (Any): The flag.
        """
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if before is self.default else before), *values])


def key_value(text: str) -> tuple[str, Any]:
    """Read ``KEY=VALUE``.

    Args:
        text (str): The argument. The value is read as JSON, and as a text where it is no JSON.

    Returns:
        The key and the value.

    Raises:
        ArgumentTypeError: There is no equals sign.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names columns.

    Args:
        parser (argparse.ArgumentParser): The parser of a command.
    """
    parser.add_argument("--columns", nargs="+", action=Several, type=key_value, default=[], metavar="ROLE=COLUMN",
                        help="columns with other names than the usual, e.g. image=photo text=description")  # fmt: skip


def add_image_folder(parser: argparse.ArgumentParser) -> None:
    """Add the flag that says where images are.

    Args:
        parser (argparse.ArgumentParser): The parser of a command.
    """
    parser.add_argument("--image-folder", metavar="DIR", help="folder that the names of images in conversations and "
                        "tables are relative to (default: that of the file)")  # fmt: skip


def positive(text: str) -> int:
    """Read a whole number of at least 1.

    Args:
        text (str): The argument.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: It is something else.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def port(text: str) -> int:
    """Read the number of a port.

    Args:
        text (str): The argument.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: It is no whole number from 0 to 65535.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, which is a whole number from 0 to 65535")
    return int(text)


def positive_number(text: str) -> float:
    """Read a number above 0.

    Args:
        text (str): The argument.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: It is something else, such as infinity.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def true_or_false(text: str) -> bool:
    """Read ``true`` or ``false``.

    Args:
        text (str): The argument.

    Returns:
        The truth value.

    Raises:
        ArgumentTypeError: It is something else.
    """
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def add_bases(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add the flags of the language model and the vision tower.

    Args:
        parser (argparse.ArgumentParser): The parser of the command.
        required (bool): Whether both have to be given. Otherwise they are None where they are not given.
    """
    for flag, default in (
        ("--language-model", "embedded, SmolLM2-135M-Instruct"),
        ("--vision-tower", "embedded, a small CLIP, for OpenMoji; for other data embedded-dinov2, a DINOv2-small of "
                           "90 MB that is downloaded once"),
    ):  # fmt: skip
        note = "" if required else f" (default: {default})"
        parser.add_argument(flag, required=required, help="Hub id or folder" + note)
    parser.add_argument("--language-model-revision", help="commit, tag or branch of the language model")
    parser.add_argument("--language-model-subfolder", help="subfolder of the repository that holds the language model")
    parser.add_argument("--vision-tower-revision", help="commit, tag or branch of the tower")
    parser.add_argument("--vision-tower-subfolder", help="subfolder of the repository that holds the vision tower")


def add_bits(parser: argparse.ArgumentParser) -> None:
    """Add the flags that quantise the language model.

    Args:
        parser (argparse.ArgumentParser): The parser of the command.
    """
    group = parser.add_mutually_exclusive_group()
    for bits in (4, 8):
        group.add_argument(f"--load-in-{bits}bit", dest="bits", action="store_const", const=bits,
                           help=f"load the language model in {bits} bits (bitsandbytes)")  # fmt: skip


def add_scienceqa(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ScienceQA's prompt.

    Args:
        parser (argparse.ArgumentParser): The parser of the command.
    """
    parser.add_argument("--prompt-format", default="CQM-A",
                        help="ScienceQA only: CQM or QCM, a dash, A, AL, AE, ALE, AEL, LA, EA, LEA or ELA; the authors "
                             "train with CQM-A and evaluate with QCM-A and --use-captions")  # fmt: skip
    parser.add_argument("--use-captions", action="store_true", help="ScienceQA only: add captions.json to the context")


def check_there(what: str, name: str | Path | None) -> None:
    """Refuse a path to nothing. A name that may be a Hub id is left to the Hub, unless others like it are here.

    Args:
        what (str): What the path is to, for the error.
        name (str | Path | None): The path, the Hub id, or None where none was given.

    Raises:
        ValueError: The name is empty or a URL, or the path leads to no file and no folder.
    """
    if name is None:
        return
    if not str(name).strip():
        raise ValueError(f"{what} has an empty name; give one")
    if found := URL.match(str(name)):  # a path has one of its slashes left
        url = f"{found[1]}{'/' * found[1].endswith('/')}{str(name)[found.end() :]}"[:MOST_SHOWN]
        remedy = "" if isinstance(name, Path) else "; or, of a repository of the Hub, give its id, you/name"
        raise ValueError(f"{what} {url}: a URL; download it first and give the path of the file{remedy}")
    path = Path(name)
    if path.exists():
        return
    if isinstance(name, Path) or path.is_absolute() or name.startswith(".") or len(path.parts) > 2:
        raise ValueError(f"{what} {name}: there is no such file or folder; correct the path")
    # runs/typo looks like the id of an account "runs", but checkpoints are in a folder of that name
    beside = sorted(entry.parent.name for entry in path.parent.glob("*/config.json")) if len(path.parts) == 2 else []
    if beside:
        (nearest,) = get_close_matches(path.name, beside, n=1, cutoff=0) or beside[:1]
        raise ValueError(f"{what} {name}: there is no such folder; did you mean {path.parent / nearest}?")


def check_adapter(what: str, name: str | None) -> None:
    """Refuse a path to no checkpoint. A name that may be a Hub id, ``you/name``, is left to the Hub.

    Args:
        what (str): What the path is to, for the error.
        name (str | None): The path, the Hub id, or None where none was given.

    Raises:
        ValueError: As ``check_there``, or the name is neither a path nor an id.
    """
    check_there(what, name)
    if name is not None and len(Path(name).parts) == 1 and not Path(name).exists():
        raise ValueError(f"{what} {name}: there is no such folder, and an id of the Hub is you/name")


def check_output(flag: str, path: Path | None) -> None:
    """Refuse a file that cannot be written, before hours of computing for it. Folders that it lacks can be made.

    Args:
        flag (str): The flag that names it, for the error.
        path (Path | None): The file, or None where none was given.

    Raises:
        ValueError: It is a folder, a pipe or a device, or in a file, or nobody may write there.
    """
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{flag} {path} is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise ValueError(f"{flag} {path} is a pipe or a device; name a file")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"{flag} {path}: {folder} is a file, not a folder; name another place")
    closed = [place for place in (path, folder) if place.exists() and not os.access(place, os.W_OK)]
    if closed:
        raise ValueError(
            f"{flag} {path}: {closed[0]} may not be written to; name another place or change its permissions"
        )


def check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on, by the flag that is wrong.

    Args:
        host (str): The value of ``--host``.
        port (int): The value of ``--port``.

    Raises:
        ValueError: There is no such address, or it is taken.
    """
    remedy = "name an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them"
    if not host:
        raise ValueError(f"--host is empty; {remedy}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:  # names that are too long or have an empty part are no Unicode
        reason = getattr(error, "strerror", None) or "no name of a host"
        raise ValueError(f"--host {host} cannot be found ({reason}); {remedy}") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            reason = error.strerror or error
            of_port = error.errno in (errno.EADDRINUSE, errno.EACCES)
            wrong = "name another --port" if of_port else f"--host is wrong: {remedy}"
            raise ValueError(f"cannot listen on {host}, port {port} ({reason}); {wrong}") from error
