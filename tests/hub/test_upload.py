"""Pushing to and fetching from a hub that fails in every way, by the real client."""

import logging
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors.numpy import save

from helpers.folders import contents
from helpers.hub_server import Hub
from nlptransfer.errors import HubError, RunFolderError, SettingError
from nlptransfer.hub import client
from nlptransfer.hub.client import is_hub_id
from nlptransfer.hub.download import fetch
from nlptransfer.hub.upload import Pushed, push

REPO = "me/films"
CARD = "---\nlicense: apache-2.0\npipeline_tag: text-classification\n---\n\n# Films\n"
WEIGHTS = save({"a": np.arange(2**16, dtype=np.float32)}, {"format": "pt"})
OTHER_WEIGHTS = save({"a": np.ones(2**16, dtype=np.float32)}, {"format": "pt"})
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "nlptransfer.json": b'{"route": "full"}',
    "model.safetensors": WEIGHTS,
    "sub/vocab.txt": "film\ncinéma\n".encode(),
}
WHOLE = {**FILES, "README.md": CARD.encode()}


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """The seconds that were to be waited, which are not; the hub's cache is this test's own."""
    seconds: list[float] = []
    monkeypatch.setattr(client, "sleep", seconds.append)
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return seconds


@pytest.fixture
def logged_in(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, on which this machine is logged in as "me"."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    return hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "model", FILES)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def asked(hub: Hub, method: str, part: str) -> list[int]:
    """The bytes of the body of every such request."""
    return [one.received_bytes for one in hub.requests if one.method == method and part in one.path]


def refused(*parts: str, call: Callable[..., object] = push, **options: object) -> HubError:
    """The error of a push (or a fetch), which says all these parts in one line."""
    given = {"repo_id": REPO, **({"card": CARD} if call is push else {}), **options}
    with pytest.raises(HubError) as caught:
        call(**given)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    return caught.value


# What a push does.


def test_a_new_repo_is_private_and_holds_exactly_the_files_in_one_commit(logged_in, folder, caplog):
    caplog.set_level(logging.INFO, "nlptransfer")
    write(folder, {"README.md": b"The card takes the place of this, base: /home/somebody/model"})
    pushed = push(folder, REPO, CARD)
    assert logged_in.files(REPO) == WHOLE
    assert logged_in.is_private(REPO)
    commit, _ = logged_in.commits(REPO)
    sizes = {name: len(content) for name, content in WHOLE.items()}
    assert pushed == Pushed(f"{logged_in.url}/{REPO}", commit, None, True, sizes, CARD)
    assert "me/films is private" in caplog.text
    assert asked(logged_in, "PUT", "") == [len(WEIGHTS)]


@pytest.mark.parametrize(("private", "kind", "other"), [(True, "private", "public"), (False, "public", "private")])
def test_an_existing_repo_stays_private_or_public(logged_in, folder, caplog, private, kind, other):
    caplog.set_level(logging.INFO, "nlptransfer")
    logged_in.add_repo(REPO, {"old.json": b"{}"}, private=private)
    parts = f"expected a {other} repo, found a {kind} one", f"{logged_in.url}/{REPO}/settings"
    refused(*parts, folder=folder, private=not private)
    assert logged_in.files(REPO) == {"old.json": b"{}"}
    assert push(folder, REPO, CARD).private is private
    assert logged_in.is_private(REPO) is private
    assert f"me/films is {kind}" in caplog.text
    assert push(folder, REPO, CARD, private=private).private is private


def test_a_branch_is_made_of_main_and_pushed_to(logged_in, folder):
    logged_in.add_repo(REPO, {"old.json": b"{}"})
    first = push(folder, REPO, CARD, revision="v2/test")
    assert logged_in.files(REPO) == {"old.json": b"{}"}
    assert logged_in.files(REPO, "v2/test") == WHOLE
    assert logged_in.commits(REPO, "v2/test")[1:] == logged_in.commits(REPO)
    write(folder, {"config.json": b"{}"})
    second = push(folder, REPO, CARD, revision="v2/test")
    assert logged_in.commits(REPO, "v2/test")[:2] == [second.commit, first.commit]


@pytest.mark.parametrize("repo_id", [REPO, "other/films"])
def test_a_pull_request(logged_in, folder, repo_id):
    logged_in.add_repo(repo_id, {"old.json": b"{}"})
    pushed = push(folder, repo_id, CARD, create_pr=True)
    assert pushed.pull_request == f"{logged_in.url}/{repo_id}/discussions/1"
    assert logged_in.files(repo_id) == {"old.json": b"{}"}
    assert logged_in.files(repo_id, "refs/pr/1") == WHOLE
    assert logged_in.commits(repo_id, "refs/pr/1")[0] == pushed.commit
    write(folder, {"config.json": b"{}"})
    again = push(folder, repo_id, CARD, revision="refs/pr/1") if repo_id == REPO else None
    assert again is None or logged_in.commits(repo_id, "refs/pr/1")[:2] == [again.commit, pushed.commit]


def test_files_that_are_gone_are_deleted_in_the_same_commit(logged_in, folder, caplog):
    push(folder, REPO, CARD)
    logged_in.commit(REPO, {".gitattributes": b"*.bin filter=lfs\n", "from/elsewhere.txt": b"x"})
    before = logged_in.commits(REPO)
    (folder / "sub" / "vocab.txt").unlink()
    pushed = push(folder, REPO, CARD)
    assert logged_in.commits(REPO) == [pushed.commit, *before]
    kept = {name: WHOLE[name] for name in WHOLE if name != "sub/vocab.txt"}
    assert logged_in.files(REPO) == {**kept, ".gitattributes": b"*.bin filter=lfs\n"}
    assert "me/films has files that this classifier has not" in caplog.text
    assert caplog.text.rstrip().endswith(": from/elsewhere.txt, sub/vocab.txt")


def test_nothing_new_makes_no_commit(logged_in, folder, caplog):
    push(folder, REPO, CARD)
    before, already = logged_in.commits(REPO), len(logged_in.requests)
    caplog.set_level(logging.INFO, "nlptransfer")
    pushed = push(folder, REPO, CARD)
    assert (pushed.commit, pushed.private) == (None, True)
    assert logged_in.commits(REPO) == before
    assert not [one for one in logged_in.requests[already:] if one.method == "PUT" or "/commit/" in one.path]
    assert "me/films has these files already, so nothing is sent" in caplog.text


def test_only_what_differs_is_sent(logged_in, folder):
    push(folder, REPO, CARD)
    already = len(logged_in.requests)
    push(folder, REPO, CARD + "More.\n")
    assert logged_in.files(REPO) == {**WHOLE, "README.md": CARD.encode() + b"More.\n"}
    assert sum(one.received_bytes for one in logged_in.requests[already:]) < 5000
    write(folder, {"model.safetensors": OTHER_WEIGHTS})
    push(folder, REPO, CARD + "More.\n")
    assert asked(logged_in, "PUT", "") == [len(WEIGHTS), len(OTHER_WEIGHTS)]


def test_a_given_token_goes_before_that_of_the_machine(logged_in, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", logged_in.read_token)
    push(folder, REPO, CARD, token=logged_in.token + "\n")
    assert logged_in.files(REPO) == WHOLE


def test_dry_run_needs_neither_network_nor_token(folder):
    pushed = push(folder, REPO, CARD, dry_run=True)
    assert (pushed.commit, pushed.pull_request, pushed.private) == (None, None, None)
    assert pushed.files == {name: len(content) for name, content in WHOLE.items()}
    assert pushed.card == CARD
    write(folder, {"weights.pt": b""})
    with pytest.raises(RunFolderError, match=r"weights\.pt: pickle"):
        push(folder, REPO, CARD, dry_run=True)


# What is refused before anything is sent.


def test_leaks_are_refused_with_file_and_line(logged_in, folder):
    secret = "hf_" + "a1" * 17
    write(folder, {"config.json": b'{\n"path": "/home/somebody/x"}', "old.pkl": b""})
    with pytest.raises(RunFolderError) as caught:
        push(folder, REPO, f"{CARD}\n{secret}\n{logged_in.token}\n")
    for part in ("config.json, line 2: home path", "old.pkl: pickle", "README.md, line 8: access token"):
        assert part in str(caught.value)
    assert secret not in str(caught.value) and logged_in.token not in str(caught.value)
    assert logged_in.requests == []


def test_nothing_to_push(logged_in, tmp_path):
    with pytest.raises(RunFolderError, match="expected the files of a saved classifier, found none"):
        push(write(tmp_path / "empty", {"README.md": b"x"}), REPO, CARD)
    assert logged_in.requests == []


@pytest.mark.parametrize("name", ["films", "a/b/c", "me/", "me/my films", "me/a--b", "-me/films", "me/" + "a" * 97, ""])
def test_malformed_names(logged_in, folder, name):
    with pytest.raises(SettingError, match=r"repo_id: expected the name of a repo on the hub \(owner/name\), found"):
        push(folder, name, CARD)
    assert logged_in.requests == []


def test_a_commit_is_no_branch(folder):
    with pytest.raises(SettingError, match="revision: expected a branch to push to, found a commit"):
        push(folder, REPO, CARD, revision="0" * 40)


# Errors of the hub: one line each, and no token.


def test_no_token(hub, folder):
    refused("expected an access token to push with, found none", "hf auth login", "HF_TOKEN", folder=folder)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"token": "hf_" + "z" * 34}, ("the hub does not know this token", "hf auth login")),
        (
            {"repo_id": "other/films"},
            ("the hub refuses (403: ", "rights to write to other/films): check the owner's name"),
        ),
        ({"card": CARD.replace("apache-2.0", "[1]")}, ("the hub refuses (ValueError: Invalid metadata", "license")),
    ],
    ids=["wrong token", "no right to the name", "a card that the hub does not take"],
)
def test_what_the_hub_refuses(logged_in, folder, options, parts):
    refused(*parts, folder=folder, **options)
    assert all(logged_in.files(name) == {} for name in logged_in.repos)


def test_token_that_may_only_read(hub, folder):
    refused("expected a token that may write, found one that may only read", folder=folder, token=hub.read_token)
    assert hub.repos == {}


@pytest.mark.parametrize("call", [push, fetch])
def test_network_gone(logged_in, folder, waits, call):
    logged_in.stop()
    options = {"folder": folder} if call is push else {}
    refused("me/films: the hub cannot be reached (ConnectError: ", ", 5 times)", "check the net", call=call, **options)
    assert waits == [1, 2, 4, 8]


def test_offline(logged_in, folder, monkeypatch, waits):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("the hub cannot be reached (OfflineModeIsEnabled: ", "HF_HUB_OFFLINE", folder=folder)
    assert waits == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"status": 422, "message": "no\nsuch thing"}, "me/films: the hub refuses (422: no such thing"),
        ({"status": 403, "error_code": "GatedRepo"}, "asks for consent to its terms first: give it on {url}/me/films"),
    ],
)
def test_other_refusals_are_not_tried_again(logged_in, folder, waits, fault, message):
    logged_in.fail("POST", "/repos/create", **fault)
    refused(message.format(url=logged_in.url), folder=folder)
    assert waits == [] and len(asked(logged_in, "POST", "/repos/create")) == 1


def test_name_taken_by_another_type(logged_in, folder):
    logged_in.fail("GET", MODEL_INFO, status=404, error_code="RepoNotFound", times=2)
    refused("expected a name for a model, found that it is taken by another type of repo", folder=folder)


# Failures that pass.

MODEL_INFO = "/api/models/me/films$"
REQUESTS = {
    "whoami": ("GET", "/whoami"),
    "model_info": ("GET", MODEL_INFO),
    "validate": ("POST", "/validate-yaml"),
    "create": ("POST", "/repos/create"),
    "preupload": ("POST", "/preupload/"),
    "batch": ("POST", "/objects/batch"),
    "put": ("PUT", "/storage/"),
    "verify": ("POST", "/objects/verify"),
    "commit": ("POST", "/commit/"),
}
FAULTS = {
    "429": {"status": 429, "headers": {"Retry-After": "3"}},
    "500": {"status": 500},
    "503": {"status": 503},
    "cut": {"status": None, "cut_after": 0},
    "lost": {"status": None, "lose_answer": True},
}
RETRIED_BY_THE_CLIENT = ("preupload", "batch", "put", "verify")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_failure_that_passes_is_overcome(logged_in, folder, waits, request_name, fault):
    method, pattern = REQUESTS[request_name]
    logged_in.fail(method, pattern, times=2 if fault != "lost" else 1, **FAULTS[fault])
    pushed = push(folder, REPO, CARD)
    assert logged_in.unused_faults() == []
    assert logged_in.files(REPO) == WHOLE
    assert logged_in.is_private(REPO)
    assert len(logged_in.commits(REPO)) == 2 and logged_in.commits(REPO)[0] == pushed.commit
    ours = request_name not in RETRIED_BY_THE_CLIENT
    assert waits == ({"429": [3, 3], "lost": [1]}.get(fault, [1, 2]) if ours else [])


# A large file that is there is not verified once more.
LASTING = [name for name in REQUESTS if name != "verify"]


@pytest.mark.parametrize("fault", ["503", "cut"])
@pytest.mark.parametrize("request_name", LASTING)
def test_after_a_failure_that_lasts_a_second_push_sends_what_is_missing(logged_in, folder, request_name, fault):
    method, pattern = REQUESTS[request_name]
    logged_in.fail(method, pattern, times=50, **FAULTS[fault])
    refused("the hub can", "then run this again", folder=folder)
    if REPO in logged_in.repos:
        assert logged_in.files(REPO) == {}, "something is half visible"
    had = any(repo.objects for repo in logged_in.repos.values())
    logged_in.repair()
    already = len(logged_in.requests)
    push(folder, REPO, CARD)
    assert logged_in.files(REPO) == WHOLE
    assert len(logged_in.commits(REPO)) == 2
    sent = sum(one.received_bytes for one in logged_in.requests[already:] if one.method == "PUT")
    assert sent == (0 if had else len(WEIGHTS))


@pytest.mark.parametrize("when", ["for a moment", "for long"])
def test_a_server_that_goes_between_upload_and_commit(logged_in, folder, when):
    def go() -> None:
        logged_in.stop()
        if when == "for a moment":
            logged_in.start()

    logged_in.fail("POST", "/commit/", status=None, before=go)
    if when == "for long":
        refused("the hub cannot be reached", folder=folder)
        assert logged_in.files(REPO) == {}
        logged_in.start()
    push(folder, REPO, CARD)
    assert logged_in.files(REPO) == WHOLE
    assert asked(logged_in, "PUT", "") == [len(WEIGHTS)]
    assert len(logged_in.commits(REPO)) == 2


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "3600"}, 60),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1),
        ({"Retry-After": ""}, 1),
    ],
)
def test_how_long_is_waited(logged_in, folder, waits, headers, expected):
    logged_in.fail("GET", "whoami", status=503, headers=headers)
    push(folder, REPO, CARD)
    assert waits == [expected]


# Two at once.


@pytest.mark.parametrize("pattern", ["/preupload/", "/objects/batch", "/commit/"])
def test_a_commit_of_somebody_else_in_between_is_not_mixed_with_ours(logged_in, folder, pattern, waits):
    logged_in.add_repo(REPO)
    logged_in.fail("POST", pattern, status=None, before=lambda: logged_in.commit(REPO, {"theirs.txt": b"x"}))
    refused("found that somebody else pushed meanwhile: run this again", folder=folder)
    assert logged_in.files(REPO) == {"theirs.txt": b"x"}
    assert waits == [] and len(asked(logged_in, "POST", "/commit/")) == 1
    push(folder, REPO, CARD)
    assert logged_in.files(REPO) == WHOLE
    assert len(logged_in.commits(REPO)) == 3


def test_a_lost_answer_and_then_somebody_else(logged_in, folder):
    logged_in.add_repo(REPO)

    def cut() -> None:
        logged_in.fail("GET", MODEL_INFO, status=None, before=lambda: logged_in.commit(REPO, {"theirs.txt": b"x"}))

    logged_in.fail("POST", "/commit/", status=None, lose_answer=True, before=cut)
    refused("somebody else pushed meanwhile", folder=folder)
    assert logged_in.files(REPO) == {**WHOLE, "theirs.txt": b"x"}


def test_a_lost_pull_request_is_not_sent_twice(logged_in, folder, waits):
    logged_in.add_repo(REPO)
    logged_in.fail("POST", "/commit/", status=None, lose_answer=True)
    page = f"see {logged_in.url}/{REPO}/discussions: if the pull request is not there, run this again"
    refused("the hub cannot be reached", page, folder=folder, create_pr=True)
    assert waits == [] and len(asked(logged_in, "POST", "/commit/")) == 1


def test_a_pull_request_beside_a_commit_of_somebody_else(logged_in, folder):
    logged_in.add_repo(REPO)
    logged_in.fail("POST", "/commit/", status=None, before=lambda: logged_in.commit(REPO, {"theirs.txt": b"x"}))
    push(folder, REPO, CARD, create_pr=True)
    assert logged_in.files(REPO, "refs/pr/1") == WHOLE
    assert logged_in.files(REPO) == {"theirs.txt": b"x"}


def test_a_branch_that_cannot_be_made(logged_in, folder):
    logged_in.add_repo(REPO)
    logged_in.fail("GET", "/revision/dev", status=404, error_code="RevisionNotFound", times=2)
    refused("expected the branch dev, found none", folder=folder, revision="dev")


# The token, and progress.


@pytest.mark.parametrize("request_name", LASTING)
@pytest.mark.parametrize("status", [403, 500])
def test_the_token_is_in_no_error_and_no_log(logged_in, folder, caplog, request_name, status):
    caplog.set_level(logging.DEBUG)
    method, pattern = REQUESTS[request_name]
    # A hub that repeats what it was sent.
    said = f"token {logged_in.token} and hf_{'q' * 34}"
    logged_in.fail(method, pattern, status=status, message=said, times=50)
    error = refused(folder=folder)
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name == "nlptransfer")
    for text in (str(error), repr(error), *traceback.format_exception(error), ours):
        assert logged_in.token not in text and "q" * 34 not in text
    # The client's own log repeats what the hub says, but never what it sent.
    assert logged_in.token not in caplog.text.replace(said, "")


def test_no_bars_but_on_a_terminal(logged_in, folder, capsys, monkeypatch):
    push(folder, REPO, CARD)
    fetch(REPO)
    assert "%|" not in capsys.readouterr().err
    assert not are_progress_bars_disabled()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    write(folder, {"model.safetensors": OTHER_WEIGHTS})
    push(folder, REPO, CARD)
    assert "%|" in capsys.readouterr().err


# Fetching.


@pytest.fixture
def films(hub: Hub) -> Iterator[str]:
    """A private repo with what a classifier has, and with what is not to be fetched."""
    unwanted = {"pytorch_model.bin": b"\x80\x02}.", "v.model": b"\x80\x04", "a.pt": b"x", "checkpoint-1/a.json": b"{}"}
    yield hub.add_repo(REPO, {**WHOLE, "spiece.model": b"\x0a", **unwanted}, private=True)


not_fetched = partial(refused, call=fetch)


def test_what_was_pushed_is_fetched(logged_in, folder):
    commit = push(folder, REPO, CARD).commit
    fetched = fetch(REPO)
    assert contents(fetched) == WHOLE
    assert fetched.name == commit


def test_a_private_repo_without_its_pickles(hub, films):
    assert contents(fetch(REPO, token=hub.token)) == {**WHOLE, "spiece.model": b"\x0a"}
    assert not [one.path for one in hub.requests if ".bin" in one.path or "v.model" in one.path or ".pt" in one.path]


def test_a_private_repo_is_not_seen_by_others(hub, films):
    words = ("expected a model on the hub, or a folder here, found none", "private", "hf auth login")
    for token in (None, hub.other_token):
        not_fetched(*words, token=token)


def test_no_such_repo_revision_or_classifier(logged_in, films):
    not_fetched("gone: expected a model on the hub", repo_id="me/gone")
    not_fetched("expected a branch, tag or commit of it, found no 'v9'", revision="v9")
    logged_in.add_repo("me/other", {"config.json": b"{}"})
    not_fetched("expected a classifier that nlptransfer saved, found no nlptransfer.json", repo_id="me/other")
    not_fetched("the hub does not know this token", token="hf_" + "z" * 34)


@pytest.mark.parametrize("name", ["a/b/c", "../model", "a b", ""])
def test_malformed_names_to_fetch(hub, name):
    with pytest.raises(SettingError, match=r"expected a name on the hub \(owner/name\)"):
        fetch(name)
    assert hub.requests == [] and not is_hub_id(name)


def test_a_gated_repo(logged_in, films):
    logged_in.fail("GET", "/resolve/", status=403, error_code="GatedRepo", times=50)
    logged_in.fail("HEAD", "/resolve/", status=403, error_code="GatedRepo", times=50)
    not_fetched("the hub asks for consent to its terms first")


def test_revisions_and_that_a_commit_in_the_cache_needs_no_network(logged_in, films):
    fetched = fetch(REPO)
    newer = logged_in.commit(REPO, {"config.json": b"{}"})
    assert contents(fetch(REPO))["config.json"] == b"{}"
    already = len(logged_in.requests)
    assert fetch(REPO, films) == fetched and contents(fetched)["config.json"] == WHOLE["config.json"]
    assert fetch(REPO, newer).name == newer
    assert len(logged_in.requests) == already


@pytest.mark.parametrize("revision", [None, "main"])
def test_without_a_network_the_cache_stands_in_and_says_so(logged_in, films, caplog, waits, revision):
    fetched = fetch(REPO)
    logged_in.stop()
    assert fetch(REPO, revision) == fetched
    assert "the hub cannot be reached (ConnectError: " in caplog.text
    assert f"taken from the cache: commit {films}" in caplog.text
    assert waits == []


def test_a_hub_in_trouble_and_a_download_cut_off(logged_in, films, caplog):
    fetched = fetch(REPO)
    logged_in.fail("GET", "/api/models/", status=503)
    assert fetch(REPO) == fetched
    logged_in.commit(REPO, {"config.json": b"{}"})
    logged_in.fail("HEAD", "/resolve/", status=503, times=50)
    logged_in.fail("GET", "/resolve/", status=503, times=50)
    assert fetch(REPO) == fetched
    assert caplog.text.count("taken from the cache") == 2


def test_offline_from_the_cache(logged_in, films, monkeypatch, caplog):
    fetched = fetch(REPO)
    logged_in.stop()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch(REPO) == fetch(REPO, films) == fetched
    assert caplog.text == ""
    not_fetched("the hub cannot be reached (OfflineModeIsEnabled", "HF_HUB_OFFLINE", repo_id="me/gone")
