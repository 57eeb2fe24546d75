"""A local HTTP server that speaks the part of the Hugging Face Hub's protocol that pushing and loading a model needs.

Protocol: the requests that huggingface_hub 0.34 to 2.4 sends, plus the git-lfs batch API with basic transfers
(https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md). Xet is not spoken: `hub_env` turns it off in clients.
Everything lives in memory. Each commit keeps its own files, so a pinned revision stays what it was.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from hub_store import POINTER, File, Repo, card_errors, goes_through_lfs
from new_process import run_python

Answer = tuple[int, dict[str, str], bytes]  # status, headers, body


class Request(NamedTuple):
    """One request as it arrived (path without its query) and the status of the answer."""

    method: str
    path: str
    status: int


class HubError(Exception):
    """An answer with an error status; `code` is the Hub's X-Error-Code."""

    def __init__(self, status: int, message: str, code: str = "", commit: str = ""):
        super().__init__(message)
        self.status, self.code, self.commit = status, code, commit


class Hub(ThreadingHTTPServer):
    """The running server: `url`, `repos` by id, `requests` in order of arrival, `lfs_objects` by SHA-256."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.lfs_objects: dict[str, bytes] = {}
        self.lock = threading.RLock()

    def publish(self, repo_id: str, folder: str | os.PathLike[str], revision: str = "main") -> str:
        """Commit every file under `folder` as the whole content of a branch, without HTTP; returns the sha."""
        paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
        names = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        files = {name: File(content, goes_through_lfs(name, len(content))) for name, content in names.items()}
        with self.lock:
            return self.repos.setdefault(repo_id, Repo()).commit(revision, files, "publish")

    def find(self, repo_id: str, revision: str | None = None, reader: str | None = None) -> tuple[Repo, str]:
        """The repository and the commit sha a revision (a branch or a sha) names; the Hub's 401 and 404s.

        `reader` is the token of somebody who wants to read; None = somebody who writes.
        """
        repo = self.repos.get(repo_id)
        if repo is None or (reader is not None and not repo.opens_to(reader)):
            raise HubError(401 if reader == "" else 404, "Repository not found", "RepoNotFound")
        sha = repo.branches.get(revision or "main", revision or "main")
        if sha not in repo.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repo, sha


class Handler(BaseHTTPRequestHandler):
    """Finds the route of each request, answers it, records it."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def do(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.signed_in = bool(self.token)
        self.body = self.read_body()
        try:
            with self.server.lock:
                status, headers, body = self.answer(url.path)
        except HubError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": str(error), "X-Repo-Commit": error.commit}
            status, body = error.status, json.dumps({"error": str(error)}).encode()
        self.server.requests.append(Request(self.command, url.path, status))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do

    def log_message(self, format: str, *args: object) -> None:
        """The request log is `Hub.requests`; nothing goes to stderr."""

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, path: str) -> Answer:
        for method, pattern, route in ROUTES:
            if self.command in method.split() and (match := re.fullmatch(pattern, path)):
                if method == "POST" and not self.signed_in and route is not Handler.validate_yaml:
                    raise HubError(401, "Invalid username or password.")
                return route(self, *(unquote(group or "") for group in match.groups()))
        raise HubError(404, f"no such endpoint: {self.command} {path}")

    def json(self, value: object, status: int = 200) -> Answer:
        return status, {"Content-Type": "application/json"}, json.dumps(value).encode()

    def whoami(self) -> Answer:
        if not self.signed_in:
            raise HubError(401, "Invalid username or password.")
        return self.json({"type": "user", "name": "tester", "orgs": []})

    def validate_yaml(self) -> Answer:
        errors = card_errors(json.loads(self.body)["content"])
        messages = [{"message": message} for message in errors]
        return self.json({"errors": messages, "warnings": []}, 400 if errors else 200)

    def create_repo(self) -> Answer:
        request = json.loads(self.body)
        repo_id = f"{request.get('organization') or 'tester'}/{request['name']}"
        status = 409 if repo_id in self.server.repos else 200
        if status == 200:
            private = request.get("visibility") == "private" or bool(request.get("private"))
            repo = self.server.repos[repo_id] = Repo(private)
            repo.commit("main", {}, "initial commit")
        return self.json({"url": f"{self.server.url}/{repo_id}", "name": repo_id}, status)

    def create_branch(self, repo_id: str, branch: str) -> Answer:
        repo, sha = self.server.find(repo_id, json.loads(self.body or b"{}").get("startingPoint"))
        if branch in repo.branches:
            raise HubError(409, f"Reference already exists: {branch}")
        repo.branches[branch] = sha
        return self.json({})

    def refs(self, repo_id: str) -> Answer:
        repo, _ = self.server.find(repo_id, reader=self.token)
        heads = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in repo.branches.items()
        ]
        return self.json({"branches": heads, "converts": [], "tags": []})

    def info(self, repo_id: str, revision: str = "main") -> Answer:
        repo, sha = self.server.find(repo_id, revision, self.token)
        siblings = [{"rfilename": path} for path in repo.commits[sha]]
        return self.json({"id": repo_id, "sha": sha, "private": repo.private, "siblings": siblings, "tags": []})

    def tree(self, repo_id: str, revision: str, folder: str) -> Answer:
        repo, sha = self.server.find(repo_id, revision, self.token)
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, object]] = {}
        for path, file in repo.commits[sha].items():
            inner, size = path.removeprefix(prefix), len(file.content)
            if not path.startswith(prefix):
                continue
            for slash in [match.start() for match in re.finditer("/", inner)][: None if recursive else 1]:
                name = prefix + inner[:slash]
                entries[name] = {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest()}
            if recursive or "/" not in inner:
                lfs = {"oid": file.oid, "size": size, "pointerSize": len(POINTER.format(file.oid, size))}
                entries[path] = {"type": "file", "path": path, "size": size, "oid": file.blob_id}
                entries[path] |= {"lfs": lfs} if file.lfs else {}
        if folder and not entries:
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound", sha)
        return self.json(list(entries.values()))

    def resolve(self, repo_id: str, revision: str, path: str) -> Answer:
        repo, sha = self.server.find(repo_id, revision, self.token)
        file = repo.commits[sha].get(path)
        if file is None:
            raise HubError(404, f"Entry not found: {path}", "EntryNotFound", sha)
        headers = {"ETag": f'"{file.oid}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        size = len(file.content)
        if file.lfs:  # the Hub redirects to its store; the same headers on a plain answer mean the same to a client
            headers |= {"X-Linked-ETag": f'"{file.oid}"', "X-Linked-Size": str(size)}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return 200, headers, file.content
        first, last = int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)
        if first > last:
            return 416, {"Content-Range": f"bytes */{size}"}, b""
        return 206, {**headers, "Content-Range": f"bytes {first}-{last}/{size}"}, file.content[first : last + 1]

    def preupload(self, repo_id: str, revision: str) -> Answer:
        repo, sha = self.server.find(repo_id, revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if goes_through_lfs(file["path"], file["size"]) else "regular"
            known = repo.commits[sha].get(file["path"])
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
            answers[-1] |= {"oid": known.oid} if known else {}
        return self.json({"files": answers})

    def lfs_batch(self, repo_id: str) -> Answer:
        self.server.find(repo_id)
        objects = json.loads(self.body)["objects"]
        for entry in objects:
            if entry["oid"] not in self.server.lfs_objects:
                entry["actions"] = {"upload": {"href": f"{self.server.url}/lfs-store/{entry['oid']}"}}
        return self.json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> Answer:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, f"the content of {oid} has another SHA-256")
        self.server.lfs_objects[oid] = self.body
        return 200, {}, b""

    def commit(self, repo_id: str, branch: str) -> Answer:
        repo, parent = self.server.find(repo_id, branch)
        if branch not in repo.branches:
            raise HubError(400, f"{branch} is no branch")
        files, message = dict(repo.commits[parent]), ""
        for line in self.body.splitlines():
            key, value = (json.loads(line)[name] for name in ("key", "value"))
            path = value.get("path", "")
            if key == "header":
                message = value["summary"]
                if value.get("parentCommit", parent) != parent:
                    raise HubError(412, f"{branch} has moved on from {value['parentCommit']}")
            elif key == "file":
                files[path] = File(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile" and value["oid"] in self.server.lfs_objects:
                files[path] = File(self.server.lfs_objects[value["oid"]], lfs=True)
            elif key in ("deletedFile", "deletedFolder"):
                gone = path.rstrip("/") + "/"
                files = {name: file for name, file in files.items() if not f"{name}/".startswith(gone)}
            else:
                raise HubError(400, f"cannot commit {key} {path}")
        sha = repo.commit(branch, files, message)
        return self.json({"success": True, "commitOid": sha, "commitUrl": f"{self.server.url}/{repo_id}/commit/{sha}"})


MODEL = r"/api/models/([^/]+/[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/validate-yaml", Handler.validate_yaml),
    ("POST", r"/api/repos/create", Handler.create_repo),
    ("POST", MODEL + r"/branch/([^/]+)", Handler.create_branch),
    ("POST", MODEL + r"/preupload/([^/]+)", Handler.preupload),
    ("POST", MODEL + r"/commit/([^/]+)", Handler.commit),
    ("GET", MODEL + r"/refs", Handler.refs),
    ("GET", MODEL + r"/tree/([^/]+)(?:/(.+))?", Handler.tree),
    ("GET", MODEL + r"(?:/revision/([^/]+))?", Handler.info),
    ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/lfs-store/([0-9a-f]{64})", Handler.lfs_upload),
    ("GET HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", Handler.resolve),
]


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A running server on a free local port; it stops when the block ends."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


def hub_env(url: str, home: str | os.PathLike[str], token: str | None = None) -> dict[str, str]:
    """The environment of a client process that knows this server alone: huggingface_hub reads it while importing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    switches = ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_PROGRESS_BARS")
    env = kept | {"HF_ENDPOINT": url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"} | dict.fromkeys(switches, "1")
    return env | ({"HF_TOKEN": token} if token else {})


def run_client(code: str, env: dict[str, str], *args: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    """Run Python source where huggingface_hub was not imported yet; its arguments are in sys.argv[1:]."""
    return run_python(code, *args, env=env)
