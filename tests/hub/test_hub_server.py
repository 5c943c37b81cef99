"""The tests' own model hub does what the public one does, and refuses what that would."""

import base64
import hashlib
import http.client
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from helpers.hub_store import Repo

CARD = b"---\nlicense: mit\ntags: [small]\n---\n# A model\n"
WEIGHTS = bytes(range(256)) * 40
FILES = {"README.md": CARD, "config.json": b"{}\n", "model.safetensors": WEIGHTS, "sub/deep/words.txt": b"a\nb\n"}


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi(token=hub.token)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path, content in FILES.items():
        place = tmp_path / "folder" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return tmp_path / "folder"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def log(hub, method: str, part: str) -> list[int]:
    """The statuses of the requests of one kind."""
    return [request.status for request in hub.requests if request.method == method and part in request.path]


def ask(hub, method: str, path: str, body: Any = b"", token: str | None = None, **headers: str) -> tuple[int, Any]:
    """What a client without manners is answered: status, and the JSON or the bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=10)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    connection.request(method, path.removeprefix(hub.url).removeprefix(hub.storage_url), body, headers)
    with connection.getresponse() as response:
        content = response.read()
        is_json = response.headers["Content-Type"] == "application/json"
    connection.close()
    return response.status, json.loads(content) if is_json else content


def batch(hub, *contents: bytes, token: str | None = None, **changes: Any) -> tuple[int, Any]:
    objects = [{"oid": digest(content), "size": len(content)} for content in contents]
    body = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": objects, "hash_algo": "sha256"}
    address = "/me/films.git/info/lfs/objects/batch"
    return ask(hub, "POST", address, body | {"ref": {"name": "main"}} | changes, token or hub.token)


def commit(hub, *operations: tuple[str, dict], token: str | None = None, **header: str) -> tuple[int, Any]:
    lines = [("header", {"summary": "by hand", "description": "", **header}), *operations]
    body = b"".join(json.dumps({"key": key, "value": value}).encode() + b"\n" for key, value in lines)
    address = "/api/models/me/films/commit/main"
    return ask(hub, "POST", address, body, token or hub.token, Content_Type="application/x-ndjson")


def small(path: str, content: bytes = b"x") -> tuple[str, dict]:
    return "file", {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"}


def large(path: str, content: bytes = WEIGHTS, **changes: Any) -> tuple[str, dict]:
    return "lfsFile", {"path": path, "algo": "sha256", "oid": digest(content), "size": len(content)} | changes


@pytest.mark.parametrize("part_size", [None, 4096, len(WEIGHTS) - 1])
def test_push_and_load_back(hub, api, folder, tmp_path, part_size):
    hub.part_size = part_size
    assert api.create_repo("me/films", private=True).repo_id == "me/films"
    assert hub.is_private("me/films") and hub.files("me/films") == {}
    pushed = api.upload_folder(repo_id="me/films", folder_path=folder, commit_message="Films")
    assert hub.files("me/films") == FILES
    assert hub.commits("me/films")[0] == pushed.oid
    assert log(hub, "PUT", "/storage/") == [200] * (-(-len(WEIGHTS) // part_size) if part_size else 1)
    info = api.model_info("me/films", files_metadata=True)
    assert (info.private, info.sha, info.card_data.license) == (True, pushed.oid, "mit")
    by_name = {file.rfilename: file for file in info.siblings}
    assert {path: file.size for path, file in by_name.items()} == {path: len(FILES[path]) for path in FILES}
    assert by_name["model.safetensors"].lfs.sha256 == digest(WEIGHTS) and by_name["config.json"].lfs is None
    # As git names it.
    assert by_name["config.json"].blob_id == "0967ef424bce6791893e9a57bb952f80fd536e93"
    loaded = Path(snapshot_download("me/films", token=hub.token, cache_dir=tmp_path / "cache"))
    assert {str(file.relative_to(loaded)): file.read_bytes() for file in loaded.rglob("*") if file.is_file()} == FILES
    # The weights came without a token, from the storage; the other files from the hub.
    assert log(hub, "GET", "/storage/") == [200] and log(hub, "GET", "/resolve/") == [200] * 3


def test_a_bug_of_the_hub_is_told(hub, api):
    hub.add_repo("me/films", {"README.md": b"---\na: [\n---\n"})
    with pytest.raises(HfHubHTTPError, match="a bug of the test's hub"):
        api.model_info("me/films")
    hub.fail("GET", "/whoami", before=lambda: 1 / 0)
    with pytest.raises(Exception, match="disconnected"):
        api.whoami()
    with pytest.raises(AssertionError, match=r"(?s)yaml.*ZeroDivisionError"):
        hub.stop()
    hub.stop()


# Who may do what.


def test_wrong_token(hub, api):
    wrong = "hf_" + "y" * 34
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token=wrong)
    hub.add_repo("me/films", FILES)
    for address in ("/api/models/me/films", "/me/films/resolve/main/config.json"):
        assert ask(hub, "GET", address, token=wrong)[0] == 401
    assert ask(hub, "GET", "/api/models/me/films", Authorization=f"Token {hub.token}")[0] == 401
    with pytest.raises(HfHubHTTPError, match=r"401.*\n*.*Invalid credentials"):
        api.create_repo("me/other", token=wrong)


def test_private_repos_are_hidden(hub, api, tmp_path):
    hub.add_repo("me/films", FILES, private=True)
    hub.add_repo("team/films", FILES, private=True)
    for token, status in ((False, 401), (hub.other_token, 404)):
        for repo_id in ("me/films", "team/films", "me/nothing"):
            with pytest.raises(RepositoryNotFoundError) as caught:
                api.model_info(repo_id, token=token)
            assert caught.value.response.status_code == status
            with pytest.raises(RepositoryNotFoundError):
                hf_hub_download(repo_id, "config.json", token=token, cache_dir=tmp_path)
        with pytest.raises(RepositoryNotFoundError):
            api.create_commit("me/films", [CommitOperationAdd("a", b"a")], commit_message="a", token=token)
    for token in (hub.token, hub.read_token):
        assert api.model_info("team/films", token=token).private


def test_signed_addresses_are_for_one_thing(hub):
    hub.add_repo("me/films", FILES, private=True)
    hub.add_repo("me/other", FILES, private=True)
    place = hub.signed("GET", f"/storage/me/films/{digest(WEIGHTS)}?size={len(WEIGHTS)}")
    assert ask(hub, "GET", place) == (200, WEIGHTS)
    assert ask(hub, "GET", place, token=hub.token)[0] == 400
    for forged in (place[:-1], place.replace("films", "other"), place.partition("&")[0]):
        assert ask(hub, "GET", forged)[0] == 403
    assert ask(hub, "PUT", place, WEIGHTS)[0] == 403


def test_others_may_only_ask_for_a_commit(hub):
    hub.add_repo("me/films", FILES)
    other = HfApi(token=hub.other_token)
    for repo_id in ("me/new", "me/films", "team/new", "nobody/new"):
        with pytest.raises(HfHubHTTPError, match=r"403.*rights to create a model under the namespace"):
            other.create_repo(repo_id)
    with pytest.raises(HfHubHTTPError, match=r"403.*\n*.*create_pr=1"):
        other.upload_file(path_or_fileobj=b"a", path_in_repo="a", repo_id="me/films")
    assert batch(hub, b"w", token=hub.other_token)[0] == 403
    assert commit(hub, small("a"), token=hub.other_token)[0] == 403
    asked = other.create_commit(
        "me/films", [CommitOperationAdd("b.safetensors", b"b")], commit_message="b", create_pr=True
    )
    assert asked.pr_revision == "refs/pr/1" and "b.safetensors" in hub.files("me/films", "refs/pr/1")
    assert hub.files("me/films") == FILES


def test_a_token_to_read_and_none_at_all_write_nothing(hub):
    hub.add_repo("me/films", FILES)
    for token, status in ((hub.read_token, 403), (False, 401)):
        api = HfApi(token=token)
        assert api.model_info("me/films").sha == hub.commits("me/films")[0]
        for refused in (
            lambda api=api: api.create_repo("me/new"),
            lambda api=api: api.upload_file(path_or_fileobj=b"a", path_in_repo="a", repo_id="me/films"),
            lambda api=api: api.upload_file(path_or_fileobj=b"a", path_in_repo="a", repo_id="me/films", create_pr=True),
        ):
            with pytest.raises(HfHubHTTPError, match=str(status)):
                refused()
    assert commit(hub, small("a"), token=hub.read_token)[0] == batch(hub, b"w", token=hub.read_token)[0] == 403


def test_bad_names_and_fields(hub):
    for name in ("a b", "a--b", "..", "a/b", "", "x" * 97, "a.", "-a"):
        asked = {"name": name, "organization": "me"}
        assert ask(hub, "POST", "/api/repos/create", asked, hub.token)[0] == 400, name
    good = {"name": "films", "organization": None}
    for wrong in ({"private": True}, {"visibility": "secret"}, {"name": 1}):
        assert ask(hub, "POST", "/api/repos/create", good | wrong, hub.token)[0] == 400, wrong
    assert ask(hub, "POST", "/api/repos/create", b"{", hub.token)[0] == 400
    assert ask(hub, "GET", "/api/nothing")[0] == 404
    assert hub.repos == {}
    assert ask(hub, "POST", "/api/repos/create", good, hub.token)[0] == 200


# Uploads.


def test_wrong_bytes_are_refused(hub):
    hub.add_repo("me/films")
    _, answer = batch(hub, WEIGHTS)
    actions = answer["objects"][0]["actions"]
    for wrong in (WEIGHTS[:-1], WEIGHTS + b"x", b"", b"x" + WEIGHTS[1:]):
        assert ask(hub, "PUT", actions["upload"]["href"], wrong)[0] == 400
    claim = {"oid": digest(WEIGHTS), "size": len(WEIGHTS)}
    assert ask(hub, "POST", actions["verify"]["href"], claim, hub.token)[0] == 404
    assert ask(hub, "PUT", actions["upload"]["href"], WEIGHTS, hub.token)[0] == 400
    assert ask(hub, "PUT", actions["upload"]["href"], WEIGHTS)[0] == 200
    assert ask(hub, "POST", actions["verify"]["href"], claim | {"size": 1}, hub.token)[0] == 422
    assert ask(hub, "POST", actions["verify"]["href"], claim)[0] == 401
    assert ask(hub, "POST", actions["verify"]["href"], claim, hub.token)[0] == 200
    assert "actions" not in batch(hub, WEIGHTS)[1]["objects"][0]


def test_what_is_asked_for_is_checked(hub):
    hub.add_repo("me/films", FILES)
    for changes in ({"operation": "download"}, {"hash_algo": "sha1"}, {"more": 1}, {"objects": [{"oid": "a"}]}):
        assert batch(hub, WEIGHTS, **changes)[0] == 400
    assert batch(hub, WEIGHTS, ref={"name": "gone"})[0] == 404
    hub.regular_limit = 10
    address = "/api/models/me/films/preupload/main"
    modes = {}
    for path, content in {"a.txt": b"x" * 10, "b.txt": b"x" * 11, **FILES}.items():
        file = {"path": path, "sample": base64.b64encode(content[:512]).decode(), "size": len(content)}
        status, answer = ask(hub, "POST", address, {"files": [file]}, hub.token)
        modes[path] = answer["files"][0]["uploadMode"], "oid" in answer["files"][0]
        assert status == 200
        for wrong in ({"sample": ""}, {"size": 1}, {"path": "../a"}, {"more": 1}):
            assert ask(hub, "POST", address, {"files": [file | wrong]}, hub.token)[0] == 400
    assert (modes["a.txt"], modes["b.txt"]) == (("regular", False), ("lfs", False))
    assert (modes["config.json"], modes["model.safetensors"]) == (("regular", True), ("lfs", True))


def test_parts_are_checked(hub):
    hub.part_size = 4000
    hub.add_repo("me/films")
    upload = batch(hub, WEIGHTS)[1]["objects"][0]["actions"]["upload"]
    pieces = [WEIGHTS[:4000], WEIGHTS[4000:8000], WEIGHTS[8000:]]
    places = [upload["header"][f"{number:05}"] for number in (1, 2, 3)]
    parts = [{"partNumber": n, "etag": f'"{hashlib.md5(piece).hexdigest()}"'} for n, piece in enumerate(pieces, 1)]
    done = {"oid": digest(WEIGHTS), "parts": parts}
    for place, piece in zip(places[:2], pieces, strict=False):
        assert ask(hub, "PUT", place, piece)[0] == 200
    assert ask(hub, "PUT", places[2], pieces[2] + b"x")[0] == 400
    # One part is not there; then it is there, but is another one than was meant.
    assert "InvalidPart" in ask(hub, "POST", upload["href"], done)[1]["error"]
    assert ask(hub, "PUT", places[2], b"x" * len(pieces[2]))[0] == 200
    assert "InvalidPart" in ask(hub, "POST", upload["href"], done)[1]["error"]
    assert hub.repos["me/films"].objects == {}
    assert ask(hub, "PUT", places[2], pieces[2])[0] == 200
    assert ask(hub, "POST", upload["href"], done)[0] == 200
    assert hub.repos["me/films"].objects == {digest(WEIGHTS): WEIGHTS}


# Commits.


@pytest.mark.parametrize(
    "card, message",
    [
        (b"---\nlicense: [\n---\n", "Invalid YAML"),
        (b"---\nvalue: !!python/object/apply:os.getcwd []\n---\n", "Invalid YAML"),
        (b"---\n- a\n- b\n---\n", "the metadata must be an object, found list"),
        (b"---\ntags: [1]\n---\n", '"tags" must be a string or a list of strings'),
        (b"---\nbase_model: /home/me/bert\n---\n", '"base_model" with value "/home/me/bert" is not valid'),
        (b"---\ndatasets: [./films.csv]\n---\n", '"datasets" with value "./films.csv" is not valid'),
        (b"---\nmodel-index:\n- name: films\n---\n", '"model-index" is incomplete: .*results'),
    ],
)
def test_cards_are_read(hub, api, card, message):
    hub.add_repo("me/films")
    with pytest.raises(ValueError, match=f"Invalid metadata in README.md.\n- {message}"):
        api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="me/films")
    # Nor is it taken from a client that did not ask first.
    status, answer = commit(hub, small("README.md", card))
    assert status == 400 and "invalid metadata" in answer["error"]
    assert hub.files("me/films") == {}


def test_a_commit_before_its_large_file_is_refused(hub):
    hub.add_repo("me/films")
    hub.add_repo("me/other", FILES)
    status, answer = commit(hub, small("a"), large("model.safetensors"))
    assert status == 400 and "LFS pointer pointed to a file that does not exist" in answer["error"]
    ask(hub, "PUT", batch(hub, WEIGHTS)[1]["objects"][0]["actions"]["upload"]["href"], WEIGHTS)
    assert commit(hub, large("model.safetensors", size=3))[0] == 400
    assert commit(hub, large("model.safetensors", algo="md5"))[0] == 400
    assert hub.files("me/films") == {}
    assert commit(hub, large("model.safetensors"))[0] == 200
    assert hub.files("me/films") == {"model.safetensors": WEIGHTS}


def test_a_stale_parent_is_refused(hub, api):
    old = hub.add_repo("me/films", {"a.txt": b"1"})
    new = hub.commit("me/films", {"a.txt": b"2"})
    add = [CommitOperationAdd("b.txt", b"b")]
    with pytest.raises(HfHubHTTPError, match=r"412(.|\n)*A commit has happened since"):
        api.create_commit("me/films", add, commit_message="late", parent_commit=old)
    with pytest.raises(RevisionNotFoundError):
        api.create_commit("me/films", add, commit_message="lost", parent_commit="0" * 40)
    assert hub.commits("me/films")[0] == new
    mine = api.create_commit("me/films", add, commit_message="in time", parent_commit=new)
    assert hub.commits("me/films")[:2] == [mine.oid, new]


@pytest.mark.parametrize(
    "operations, message",
    [
        ([], "expected one header, first, and then operations"),
        ([small("a"), ("header", {"summary": "again"})], "expected one header"),
        ([("renamedFile", {"path": "a"})], "unknown operation 'renamedFile'"),
        ([("file", {**small("a")[1], "mode": "755"})], "unknown field 'mode'"),
        ([("file", {"path": "a", "content": ""})], "encoding missing"),
        ([("file", {**small("a")[1], "path": 3})], "'path' cannot be 3"),
        ([("file", {**small("a")[1], "content": "~~~"})], "no base64"),
        ([("file", {**small("a")[1], "encoding": "utf-8"})], "encoded in another way than base64"),
        ([small("a", b"x" * 101)], "contains files larger than 100 bytes"),
        ([small("/a")], "invalid path"),
        ([small("a/../b")], "invalid path"),
        ([small(".git/config")], "invalid path"),
        ([small("a"), small("a")], "named twice"),
        ([small("a"), small("a/b")], "both a file and a folder"),
        ([("deletedFolder", {"path": "gone/"})], "doesn't exist"),
    ],
)
def test_commits_are_checked(hub, operations, message):
    hub.add_repo("me/films", {"kept.txt": b"kept"})
    hub.regular_limit = 100
    before = hub.commits("me/films")
    status, answer = commit(hub, small("good"), *operations) if operations else commit(hub)
    assert status in (400, 404) and message in answer["error"]
    assert hub.commits("me/films") == before and hub.files("me/films") == {"kept.txt": b"kept"}


def test_quota(hub, api):
    hub.quota_bytes = len(WEIGHTS)
    api.create_repo("me/films", private=True)
    for path in ("a.txt", "a.bin"):
        with pytest.raises(HfHubHTTPError, match=r"403 Forbidden.*\n*.*storage limit reached"):
            api.create_commit("me/films", [CommitOperationAdd(path, WEIGHTS + b"x")], commit_message="too much")
    assert log(hub, "PUT", "") == [] and hub.files("me/films") == {}
    api.create_commit("me/films", [CommitOperationAdd("a.bin", WEIGHTS)], commit_message="fits")
    # What a commit takes away is still in the history.
    with pytest.raises(HfHubHTTPError, match="storage limit reached"):
        swap = [CommitOperationDelete("a.bin"), CommitOperationAdd("b", b"b")]
        api.create_commit("me/films", swap, commit_message="b")


def test_commits_at_once_do_not_mix(hub, api, monkeypatch):
    base = hub.add_repo("me/films", {"a.txt": b"0"})
    add_commit = Repo.add

    def slow(*arguments: Any) -> str:
        time.sleep(0.05)
        return add_commit(*arguments)

    monkeypatch.setattr(Repo, "add", slow)
    outcomes: list[Any] = []

    def push(name: str) -> None:
        add = [CommitOperationAdd(f"{name}-{n}.txt", name.encode()) for n in range(3)]
        try:
            outcomes.append(api.create_commit("me/films", add, commit_message=name, parent_commit=base).oid)
        except HfHubHTTPError as error:
            outcomes.append(error.response.status_code)

    threads = [threading.Thread(target=push, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(412) == 3
    assert len(hub.commits("me/films")) == 3
    # The files of one of them.
    assert len(hub.files("me/films")) == 4 and len(set(hub.files("me/films").values())) == 2
