"""What the local Hub of the tests keeps: repositories, their commits, and the rules the Hub applies to their files."""

import hashlib
import re
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml

LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt")  # what a new repo's .gitattributes sends through LFS
LFS_BYTES = 10 * 2**20  # larger files go through LFS whatever their name
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")  # a model of the Hub: owner/name, or one of the old names alone


class File(NamedTuple):
    """One file of a snapshot. `oid` is what its ETag carries: SHA-256 through LFS, else the git blob's SHA-1."""

    content: bytes
    lfs: bool

    @property
    def blob_id(self) -> str:
        sha256 = hashlib.sha256(self.content).hexdigest()
        blob = POINTER.format(sha256, len(self.content)).encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def oid(self) -> str:
        return hashlib.sha256(self.content).hexdigest() if self.lfs else self.blob_id


@dataclass
class Repo:
    """A model repository: commits (sha -> path -> file) and branches (name -> sha).

    A private one opens to any token, or to `token` alone where that is set.
    """

    private: bool = False
    token: str | None = None
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, File]] = field(default_factory=dict)

    def opens_to(self, token: str) -> bool:
        return not self.private or token == self.token or bool(token and self.token is None)

    def commit(self, branch: str, files: dict[str, File], message: str) -> str:
        """Make `files` the whole content of `branch`; returns the new commit's sha."""
        listing = sorted((path, file.blob_id) for path, file in files.items())
        parent = self.branches.get(branch)
        sha = hashlib.sha1(repr((parent, len(self.commits), message, listing)).encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """path -> content at a branch or commit; KeyError where there is no such revision."""
        return {path: file.content for path, file in self.commits[self.branches.get(revision, revision)].items()}


def goes_through_lfs(path: str, size: int) -> bool:
    return path.endswith(LFS_SUFFIXES) or size > LFS_BYTES


def card_errors(content: str) -> list[str]:
    """What the Hub's validator says about a README.md's YAML block, for the keys that a model card here uses."""
    block = re.match(r"\s*---\r?\n(.*?)\r?\n---", content, re.DOTALL)
    try:
        data = yaml.safe_load(block.group(1)) if block else {}
    except yaml.YAMLError as error:
        return [f"YAML: {error}"]
    bases = data.get("base_model", [])
    bases = bases if isinstance(bases, list) else [bases]
    errors = [f'"base_model" with value "{base}" is not valid' for base in bases if not REPO_ID.fullmatch(str(base))]
    for entry in data.get("model-index", []):
        errors += [] if entry.get("name") else ['"model-index.name" is required']
        for result in entry["results"]:
            parts = [(result["task"], "type"), (result["dataset"], "type"), (result["dataset"], "name")]
            parts += [(metric, key) for metric in result["metrics"] for key in ("type", "value")]
            errors += [f'"model-index.results" lacks {key}' for part, key in parts if part.get(key) in (None, "")]
    return errors
