"""The local Hub of the tests, with huggingface_hub as its client: uploads, downloads and refusals."""

import hashlib
import json

import pytest
from hub_server import hub_env, run_client, serve_hub

LARGE = b"seven bytes" * 2**20  # 11 MiB: goes through LFS whatever its name


@pytest.fixture
def hub():
    with serve_hub() as server:
        yield server


def ask(hub, home, code, *args, token=None):
    """Run a client whose source prints one JSON value, and return that value."""
    done = run_client("import json, sys\nimport huggingface_hub as hf\n" + code, hub_env(hub.url, home, token), *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "source"
    (source / "sub" / "deep").mkdir(parents=True)
    (source / "config.json").write_text('{"hidden_size": 8}')
    (source / "model.safetensors").write_bytes(b"not many bytes, yet an LFS file by its name")
    (source / "sub" / "deep" / "large.dat").write_bytes(LARGE)
    return source


def test_create_upload_and_download(hub, folder, tmp_path):
    code = """
api = hf.HfApi()
url = api.create_repo("acme/model", private=True, exist_ok=True)
api.create_repo("acme/model", exist_ok=True)
commit = api.upload_folder(repo_id=url.repo_id, folder_path=sys.argv[1], commit_message="first")
print(json.dumps([url.repo_id, commit.oid, hf.snapshot_download("acme/model"), api.whoami()["name"]]))
"""
    repo_id, sha, snapshot, name = ask(hub, tmp_path / "home", code, folder, token="secret")
    assert (repo_id, name) == ("acme/model", "tester")
    repo = hub.repos["acme/model"]
    assert repo.private
    assert repo.branches == {"main": sha}
    sent = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert repo.files() == sent
    assert {path for path, file in repo.commits[sha].items() if file.lfs} == {
        "model.safetensors",
        "sub/deep/large.dat",
    }
    assert set(hub.lfs_objects) == {hashlib.sha256(sent[path]).hexdigest() for path in sent if path != "config.json"}
    assert snapshot.endswith(sha)
    assert {path: (tmp_path / snapshot / path).read_bytes() for path in sent} == sent


def test_revisions_keep_their_content(hub, folder, tmp_path):
    first = hub.publish("acme/model", folder)
    (folder / "config.json").write_text('{"hidden_size": 16}')
    second = hub.publish("acme/model", folder)
    old = hub.publish("acme/model", folder, revision="release/1")
    code = """
def size(revision):
    return json.load(open(hf.hf_hub_download("acme/model", "config.json", revision=revision)))["hidden_size"]

api = hf.HfApi()
sizes = [size(revision) for revision in [sys.argv[1], "main", "release/1"]]
refs = {ref.name: ref.target_commit for ref in api.list_repo_refs("acme/model").branches}
trees = [sorted(x.path for x in api.list_repo_tree("acme/model", *path, recursive=deep, revision=sys.argv[1]))
         for path, deep in [((), False), ((), True), (("sub",), False)]]
snapshot = hf.snapshot_download("acme/model", revision=sys.argv[1], allow_patterns="*.json")
print(json.dumps([sizes, refs, trees, snapshot, api.model_info("acme/model").sha]))
"""
    sizes, refs, trees, snapshot, sha = ask(hub, tmp_path / "home", code, first)
    assert sizes == [8, 16, 16]
    assert refs == {"main": second, "release/1": old}
    assert sha == second
    assert trees == [
        ["config.json", "model.safetensors", "sub"],
        ["config.json", "model.safetensors", "sub", "sub/deep", "sub/deep/large.dat"],
        ["sub/deep"],
    ]
    assert json.loads((tmp_path / snapshot / "config.json").read_text()) == {"hidden_size": 8}
    assert not any(request.path.endswith("large.dat") for request in hub.requests)


def test_branches_deletions_and_ranges(hub, folder, tmp_path):
    first = hub.publish("acme/model", folder)
    code = """
api = hf.HfApi()
api.create_branch("acme/model", branch="draft")
api.create_branch("acme/model", branch="draft", exist_ok=True)
operations = [hf.CommitOperationDelete("sub/"), hf.CommitOperationAdd("note.txt", b"abcdefgh")]
api.create_commit("acme/model", operations, commit_message="second", revision="draft")
session, url = hf.get_session(), hf.hf_hub_url("acme/model", "note.txt", revision="draft")
parts = [session.get(url, headers={"Range": f"bytes={span}"}) for span in ["2-4", "5-", "8-"]]
print(json.dumps([[part.status_code, part.text, part.headers.get("Content-Range")] for part in parts]))
"""
    parts = ask(hub, tmp_path / "home", code, token="secret")
    assert parts == [[206, "cde", "bytes 2-4/8"], [206, "fgh", "bytes 5-7/8"], [416, "", "bytes */8"]]
    repo = hub.repos["acme/model"]
    assert set(repo.files("draft")) == {"config.json", "model.safetensors", "note.txt"}
    assert repo.branches["main"] == first


def test_refusals(hub, folder, tmp_path):
    sha = hub.publish("acme/model", folder)
    hub.publish("acme/secret", folder)
    hub.repos["acme/secret"].private = True
    code = """
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

def refused(expected, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except expected:
        return True

def push_card(token, base):
    card = hf.CommitOperationAdd("README.md", f"---\\nbase_model: {base}\\n---\\n".encode())
    hf.HfApi(token=token).create_commit("acme/model", [card], commit_message="card")

api = hf.HfApi()
print(json.dumps([
    refused(RepositoryNotFoundError, hf.hf_hub_download, "acme/nothing", "config.json"),
    refused(RepositoryNotFoundError, hf.hf_hub_download, "acme/secret", "config.json"),
    refused(EntryNotFoundError, hf.hf_hub_download, "acme/model", "nothing.json"),
    refused(RevisionNotFoundError, hf.hf_hub_download, "acme/model", "config.json", revision="nothing"),
    refused(RevisionNotFoundError, hf.snapshot_download, "acme/model", revision="0" * 40),
    refused(RepositoryNotFoundError, api.model_info, "acme/nothing"),
    refused(EntryNotFoundError, lambda: list(api.list_repo_tree("acme/model", "nothing"))),
    refused(HfHubHTTPError, api.create_repo, "acme/other"),
    refused(HfHubHTTPError, push_card, None, "acme/llama"),
    refused(ValueError, push_card, "secret", "/models/llama"),
]))
"""
    assert ask(hub, tmp_path / "home", code) == [True] * 10
    assert set(hub.repos) == {"acme/model", "acme/secret"}
    assert hub.repos["acme/model"].branches == {"main": sha}


def test_requests_are_recorded(hub, folder, tmp_path):
    sha = hub.publish("acme/model", folder)
    ask(hub, tmp_path / "home", 'print(json.dumps(hf.hf_hub_download("acme/model", "config.json")))')
    assert hub.requests == [
        ("HEAD", "/acme/model/resolve/main/config.json", 200),
        ("GET", "/acme/model/resolve/main/config.json", 200),
    ]
    ask(
        hub,
        tmp_path / "home",
        'print(json.dumps(hf.hf_hub_download("acme/model", "config.json", revision=sys.argv[1])))',
        sha,
    )
    assert len(hub.requests) == 2  # the commit is in the client's cache
