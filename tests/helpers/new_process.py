"""Python code in a process that has PyTorch, but nothing of Transformers, the Hub's client or this package.

A new Python imports PyTorch for some seconds before it does anything of its own. One process does so once, and each
piece of code gets a copy of it (a fork). Code that is about imports, or about the start of a program, needs a process
of its own.
"""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# `-c` gives this code the module search path and the warnings of a user's script; a copy of the process leaves the loop
SERVER = """
import gc, importlib, json, os, sys, types
os.environ.pop("TRITON_INTERPRET", None)  # of tests/conftest.py; PyTorch imports Triton
import torch, torchvision, torch._dynamo
gc.collect()
gc.freeze()  # a copy need not look through all of PyTorch when it collects garbage or ends
assert not {"transformers", "huggingface_hub", "adem_vl_hf"} & set(sys.modules)
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
else:
    raise SystemExit
for number, path in enumerate((os.devnull, request["stdout"], request["stderr"])):
    os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
os.chdir(request["folder"])
os.environ.clear()
os.environ.update(request["env"])
added = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
sys.path[1:1] = added
if any(os.path.isfile(f"{path}/sitecustomize.py") for path in added):
    sys.modules.pop("sitecustomize", None)
    importlib.import_module("sitecustomize")
sys.argv = ["-c", *request["arguments"]]
sys.modules["__main__"] = types.ModuleType("__main__")
exec(compile(request["code"], "<string>", "exec"), vars(sys.modules["__main__"]))
"""


@functools.cache
def server() -> subprocess.Popen:
    """The process that is copied; it ends with the tests."""
    started = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(started.wait)
    atexit.register(started.kill)  # this comes first
    return started


def run_python(
    code: str, *arguments: object, env: dict[str, str] | None = None, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python source as ``python -c`` does.

    Args:
        code: the source. arguments: ``sys.argv[1:]``. env: the whole environment; this process's by default.
        folder: where it runs; where this process runs by default.
    """
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place, "stdout"), Path(place, "stderr")
        request = {
            "code": code, "arguments": list(map(str, arguments)), "env": dict(os.environ if env is None else env),
            "folder": str(folder or os.getcwd()), "stdout": str(out), "stderr": str(err),
        }  # fmt: skip
        process = server()
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        status = process.stdout.readline()
        assert status, "the process that is copied has ended"
        return subprocess.CompletedProcess(["-c", *request["arguments"]], int(status), out.read_text(), err.read_text())
