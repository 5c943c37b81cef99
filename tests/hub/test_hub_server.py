"""The tests' own model hub, as the real client sees it."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    EvalResult,
    HfApi,
    ModelCard,
    ModelCardData,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import _http

from helpers.hub_server import FILES, WEIGHTS, Hub, digest, log


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


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the client would have slept for."""
    seconds: list[float] = []
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=seconds.append))
    return seconds


# The client's own ways.


def test_whoami(hub, api):
    me = api.whoami()
    assert (me["name"], [org["name"] for org in me["orgs"]]) == ("me", ["team"])
    assert me["auth"]["accessToken"]["role"] == "write"
    assert api.whoami(token=hub.read_token)["auth"]["accessToken"]["role"] == "read"
    assert api.whoami(token=hub.other_token)["orgs"] == []


def test_push_and_load_back(hub, api, folder, tmp_path):
    assert api.create_repo("me/films", private=True).repo_id == "me/films"
    assert hub.is_private("me/films") and hub.files("me/films") == {}
    pushed = api.upload_folder(repo_id="me/films", folder_path=folder, commit_message="Films")
    assert hub.files("me/films") == FILES
    assert hub.commits("me/films")[0] == pushed.oid
    info = api.model_info("me/films", files_metadata=True)
    assert (info.private, info.sha, info.card_data.license) == (True, pushed.oid, "mit")
    by_name = {file.rfilename: file for file in info.siblings}
    assert by_name.keys() == FILES.keys()
    assert by_name["model.safetensors"].lfs.sha256 == digest(WEIGHTS)
    assert by_name["config.json"].lfs is None
    assert all(by_name[path].size == len(content) for path, content in FILES.items())
    loaded = Path(snapshot_download("me/films", token=hub.token, cache_dir=tmp_path / "cache"))
    assert {str(file.relative_to(loaded)): file.read_bytes() for file in loaded.rglob("*") if file.is_file()} == FILES
    assert loaded.name == pushed.oid
    # The weights came without a token, from the storage; the other files from the hub.
    assert log(hub, "GET", "/storage/") == [200] and log(hub, "GET", "/resolve/") == [200] * 3
    one = hf_hub_download("me/films", "sub/deep/words.txt", token=hub.token, cache_dir=tmp_path / "other")
    assert Path(one).read_bytes() == b"a\nb\n"


def test_a_second_push_sends_what_is_new(hub, api, folder):
    api.create_repo("me/films")
    first = api.upload_folder(repo_id="me/films", folder_path=folder)
    asked = len(hub.requests)
    assert api.upload_folder(repo_id="me/films", folder_path=folder).oid == first.oid
    (folder / "config.json").write_text("[]")
    second = api.upload_folder(repo_id="me/films", folder_path=folder, delete_patterns="*")
    assert hub.files("me/films") == FILES | {"config.json": b"[]"}
    assert hub.commits("me/films")[:2] == [second.oid, first.oid]
    assert not [request for request in hub.requests[asked:] if request.method == "PUT"]


@pytest.mark.parametrize("part_size", [100, 4096, len(WEIGHTS) - 1, len(WEIGHTS)])
def test_multipart(hub, api, folder, part_size):
    hub.part_size = part_size
    api.create_repo("me/films")
    api.upload_folder(repo_id="me/films", folder_path=folder)
    assert hub.files("me/films") == FILES
    parts = -(-len(WEIGHTS) // part_size)
    assert log(hub, "PUT", "/storage/") == [200] * parts
    assert log(hub, "POST", "/complete_multipart/") == [200] * (parts > 1)


def test_operations(hub, api):
    hub.add_repo("me/films", FILES | {"a/b.txt": b"b", "a/c.txt": b"c"})
    api.create_commit(
        "me/films",
        [
            CommitOperationDelete("a/"),
            CommitOperationDelete("config.json"),
            CommitOperationCopy("model.safetensors", "copy.safetensors"),
            CommitOperationAdd("empty.safetensors", b""),
        ],
        commit_message="many",
        commit_description="at once",
    )
    left = {path: FILES[path] for path in ("README.md", "model.safetensors", "sub/deep/words.txt")}
    assert hub.files("me/films") == left | {"copy.safetensors": WEIGHTS, "empty.safetensors": b""}
    told = api.list_repo_commits("me/films")
    assert [one.title for one in told] == ["many", "from elsewhere", "initial commit"]
    assert (told[0].message, told[0].authors) == ("at once", ["me"])
    with pytest.raises(EntryNotFoundError, match="doesn't exist"):
        api.create_commit("me/films", [CommitOperationDelete("gone.txt")], commit_message="no")


def test_trees(hub, api, tmp_path):
    hub.add_repo("me/films", FILES)
    top = {entry.path for entry in api.list_repo_tree("me/films")}
    assert top == {"README.md", "config.json", "model.safetensors", "sub"}
    every = {entry.path for entry in api.list_repo_tree("me/films", recursive=True)}
    assert every == FILES.keys() | {"sub", "sub/deep"}
    assert [entry.path for entry in api.list_repo_tree("me/films", "sub/deep")] == ["sub/deep/words.txt"]
    assert [entry.path for entry in api.get_paths_info("me/films", ["config.json", "gone"])] == ["config.json"]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("me/films", "gone"))
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("me/films", "gone.json", token=hub.token, cache_dir=tmp_path)
    assert not api.file_exists("me/films", "gone.json") and api.file_exists("me/films", "config.json")


def test_revisions(hub, api, tmp_path):
    first = hub.add_repo("me/films", {"a.txt": b"1"})
    api.create_branch("me/films", branch="v/2")
    api.create_tag("me/films", tag="v1")
    second = hub.commit("me/films", {"a.txt": b"2"})
    named = {"main": second, None: second, "v/2": first, "v1": first, first: first, first[:7]: first}
    for revision, commit_id in named.items():
        assert api.model_info("me/films", revision=revision).sha == commit_id
        path = Path(hf_hub_download("me/films", "a.txt", revision=revision, cache_dir=tmp_path))
        assert path.read_bytes() == (b"1" if commit_id == first else b"2")
    third = api.upload_file(path_or_fileobj=b"3", path_in_repo="a.txt", repo_id="me/films", revision="v/2").oid
    assert hub.commits("me/films", "v/2")[:2] == [third, first]
    assert hub.files("me/films") == {"a.txt": b"2"}
    refs = api.list_repo_refs("me/films")
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": second, "v/2": third}
    assert [(ref.name, ref.ref) for ref in refs.tags] == [("v1", "refs/tags/v1")]
    for create in (lambda: api.create_branch("me/films", branch="v/2"), lambda: api.create_tag("me/films", tag="v1")):
        with pytest.raises(HfHubHTTPError, match="409"):
            create()
    api.create_branch("me/films", branch="v/2", exist_ok=True)
    api.delete_branch("me/films", branch="v/2")
    api.delete_tag("me/films", tag="v1")
    for revision in ("v/2", "v1", "0" * 40, first[:6]):
        with pytest.raises(RevisionNotFoundError):
            api.model_info("me/films", revision=revision)
        with pytest.raises(KeyError):
            hub.files("me/films", revision)
    with pytest.raises(RevisionNotFoundError):
        api.upload_file(path_or_fileobj=b"3", path_in_repo="a.txt", repo_id="me/films", revision="v/2")


def test_a_tag_takes_no_commits(hub, api):
    hub.add_repo("me/films", {"a.txt": b"1"})
    api.create_tag("me/films", tag="v1")
    with pytest.raises(BadRequestError, match="v1 is not a branch"):
        api.upload_file(path_or_fileobj=b"3", path_in_repo="a.txt", repo_id="me/films", revision="v1")


def test_pull_requests(hub, api, folder):
    old = hub.add_repo("me/films", {"a.txt": b"1"})
    main = hub.commit("me/films", {"a.txt": b"2"})
    mine = api.upload_folder(repo_id="me/films", folder_path=folder, create_pr=True)
    assert (mine.pr_num, mine.pr_revision) == (1, "refs/pr/1")
    assert hub.commits("me/films") == [main, old, hub.commits("me/films")[-1]]
    assert hub.files("me/films", "refs/pr/1") == {"a.txt": b"2", **FILES}
    assert api.model_info("me/films", revision="refs/pr/1").sha == mine.oid
    # Anybody with a token to write may ask; one with an older parent builds on that.
    add = [CommitOperationAdd("b.safetensors", b"b")]
    theirs = HfApi(token=hub.other_token).create_commit(
        "me/films", add, commit_message="please", create_pr=True, parent_commit=old
    )
    assert (theirs.pr_revision, hub.commits("me/films", "refs/pr/2")[1]) == ("refs/pr/2", old)
    api.create_commit("me/films", [CommitOperationAdd("c.txt", b"c")], commit_message="more", revision="refs/pr/2")
    assert hub.files("me/films", "refs/pr/2").keys() == {"a.txt", "b.safetensors", "c.txt"}
    assert [ref.name for ref in api.list_repo_refs("me/films", include_pull_requests=True).pull_requests] == ["1", "2"]
    assert hub.files("me/films") == {"a.txt": b"2"}


def test_repos_come_and_go(hub, api):
    url = api.create_repo("me/films")
    assert (url, hub.is_private("me/films")) == (f"{hub.url}/me/films", False)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("me/films", private=True)
    assert api.create_repo("me/films", private=True, exist_ok=True) == url
    assert not hub.is_private("me/films")
    api.update_repo_settings("me/films", private=True)
    assert api.model_info("me/films").private
    api.delete_repo("me/films")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("me/films")
    with pytest.raises(KeyError):
        hub.files("me/films")
    assert api.create_repo("team/films", visibility="private").repo_id == "team/films"
    assert hub.is_private("team/films")


def test_a_name_that_another_type_has(hub, api):
    hub.add_repo("me/films", {"data.csv": b"a,b"}, repo_type="dataset")
    with pytest.raises(HfHubHTTPError, match=r"409.*\n*.*dataset repo"):
        api.create_repo("me/films")
    assert api.create_repo("me/films", exist_ok=True).repo_type == "dataset"
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("me/films")
    assert api.list_repo_files("me/films", repo_type="dataset") == ["data.csv"]


def test_cards_that_the_client_made(hub):
    accuracy = EvalResult("text-classification", "glue", "sst2", "accuracy", 0.9)
    about = {"license": "mit", "datasets": ["glue"], "base_model": "me/bert", "model_name": "films"}
    card = ModelCard.from_template(ModelCardData(**about, eval_results=[accuracy]))
    card.validate()
    card.data.tags = [1]
    with pytest.raises(ValueError, match="must be a string or a list of strings"):
        card.validate()


def test_names_are_those_of_git(hub, tmp_path):
    # Git sorts a folder's name as if it ended in a slash.
    files = {"in/a.b": b"1", "in/a/x": b"hello world\n", "in/a0": b"", "weights.safetensors": b"w"}
    hub.add_repo("me/films", files)
    entries = HfApi().list_repo_tree("me/films", recursive=True)
    oids = {entry.path: getattr(entry, "blob_id", None) or entry.tree_id for entry in entries}
    assert oids["in/a0"] == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert oids["in/a/x"] == "3b18e512dba79e4c8300dd08aeb37f8e728b8dad"
    if shutil.which("git") is None:
        pytest.skip("git is not here to compare with")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest(b'w')}\nsize 1\n".encode()
    for path, content in (files | {"weights.safetensors": pointer}).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    git = ["git", "-C", str(tmp_path), "-c", "core.autocrlf=false"]
    for step in (["init", "-q"], ["add", "."]):
        subprocess.run([*git, *step], check=True)
    root = subprocess.check_output([*git, "write-tree"], text=True).strip()
    listed = subprocess.check_output([*git, "ls-tree", "-r", "-t", root], text=True).splitlines()
    assert {line.split("\t")[1]: line.split()[2] for line in listed} == oids


# Faults.


def test_answers_that_were_asked_for(hub, api, folder, naps):
    api.create_repo("me/films")
    hub.fail("POST", "/preupload/", status=429, headers={"Retry-After": "7"}, times=2)
    hub.fail("POST", "/objects/batch", status=503)
    hub.fail("PUT", "/storage/")
    hub.fail("DELETE", "/")
    assert len(hub.unused_faults()) == 4
    api.upload_folder(repo_id="me/films", folder_path=folder)
    assert naps == [8, 8, 1, 1]
    assert [fault.method for fault in hub.unused_faults()] == ["DELETE"]
    assert log(hub, "POST", "/preupload/") == [429, 429, 200]
    assert log(hub, "PUT", "/storage/") == [500, 200]
    assert hub.files("me/films") == FILES
    hub.fail("GET", "/api/models/me/films$", status=404, error_code="RevisionNotFound", message="lost")
    with pytest.raises(RevisionNotFoundError, match="lost"):
        api.model_info("me/films")
    api.model_info("me/films")


def test_a_connection_cut_in_the_middle(hub, api, folder, naps):
    api.create_repo("me/films")
    hub.fail("PUT", "/storage/", cut_after=1000, times=2)
    hub.fail("POST", "/commit/", cut_after=10)
    with pytest.raises(Exception, match=r"disconnected|reset|Broken pipe") as caught:
        api.upload_folder(repo_id="me/films", folder_path=folder)
    assert not isinstance(caught.value, HfHubHTTPError)
    assert hub.files("me/films") == {} and hub.unused_faults() == []
    sent = [(one.status, one.received_bytes) for one in hub.requests if one.method == "PUT" or "/commit/" in one.path]
    assert sent == [(0, 1000), (0, 1000), (200, len(WEIGHTS)), (0, 10)]
    api.upload_folder(repo_id="me/films", folder_path=folder)
    assert hub.files("me/films") == FILES
    assert log(hub, "PUT", "/storage/") == [0, 0, 200]


def test_a_commit_in_between(hub, api):
    base = hub.add_repo("me/films", {"a.txt": b"1"})
    hub.fail("POST", "/commit/", status=None, before=lambda: hub.commit("me/films", {"theirs.txt": b"t"}))
    add = [CommitOperationAdd("mine.txt", b"m")]
    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        api.create_commit("me/films", add, commit_message="mine", parent_commit=base)
    assert hub.files("me/films") == {"a.txt": b"1", "theirs.txt": b"t"} and hub.unused_faults() == []


def test_a_commit_whose_answer_is_lost(hub, api):
    hub.add_repo("me/films")
    hub.fail("POST", "/commit/", status=None, lose_answer=True)
    with pytest.raises(Exception, match="disconnected"):
        api.create_commit("me/films", [CommitOperationAdd("a.txt", b"a")], commit_message="a")
    assert hub.files("me/films") == {"a.txt": b"a"}


@pytest.mark.parametrize("is_cut", [False, True])
def test_restart_between_upload_and_commit(hub, api, folder, is_cut):
    api.create_repo("me/films")
    if is_cut:
        hub.fail("POST", "/commit/", before=hub.restart)
        with pytest.raises(Exception, match=r"disconnected|reset"):
            api.upload_folder(repo_id="me/films", folder_path=folder)
        assert hub.files("me/films") == {}
    else:
        add = CommitOperationAdd("model.safetensors", WEIGHTS)
        api.preupload_lfs_files("me/films", [add])
        hub.restart()
        assert hub.files("me/films") == {}
        api.create_commit("me/films", [add], commit_message="after")
    api.upload_folder(repo_id="me/films", folder_path=folder)
    assert hub.files("me/films") == FILES
    assert log(hub, "PUT", "/storage/") == [200]


def test_a_hub_that_is_away(hub, api):
    hub.add_repo("me/films", FILES)
    hub.stop()
    with pytest.raises(Exception, match="refused"):
        api.model_info("me/films")
    hub.start()
    assert api.model_info("me/films").sha == hub.commits("me/films")[0]


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


def test_two_hubs_side_by_side(hub):
    second = Hub()
    second.start()
    with pytest.raises(OSError, match="in use"):
        Hub(second.port).start()
    second.add_repo("me/there", FILES)
    assert HfApi(endpoint=second.url).model_info("me/there").id == "me/there"
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token=hub.token).model_info("me/there")
    second.stop()
