"""Pushing to and fetching from a hub that fails in every way, by the real client."""

import hashlib
import json
import logging
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import get_session, hf_hub_download
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors.numpy import save

from helpers.hub_server import Hub
from nlptransfer.errors import HubError, RunFolderError, SettingError
from nlptransfer.hub import client
from nlptransfer.hub.client import is_hub_id, quiet_unless_on_a_terminal
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
    nothing = SimpleNamespace(sleep=lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.utils._http.time", nothing)
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


def refused(*parts: str, **options: object) -> HubError:
    """The error of a push, which says all these parts in one line."""
    with pytest.raises(HubError) as caught:
        push(**{"repo_id": REPO, "card": CARD, **options})  # type: ignore[arg-type]
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    return caught.value


# What a push does.


def test_a_new_repo_is_private_and_holds_exactly_the_files_in_one_commit(logged_in, folder, caplog):
    caplog.set_level(logging.INFO, "nlptransfer")
    pushed = push(folder, REPO, CARD)
    assert logged_in.files(REPO) == WHOLE
    assert logged_in.is_private(REPO)
    commit, _ = logged_in.commits(REPO)
    sizes = {name: len(content) for name, content in WHOLE.items()}
    assert pushed == Pushed(REPO, f"{logged_in.url}/{REPO}", commit, None, True, sizes, tuple(sorted(WHOLE)), CARD)
    assert "me/films: made, and private" in caplog.text
    assert asked(logged_in, "PUT", "") == [len(WEIGHTS)]


def test_public_on_request(logged_in, folder):
    assert push(folder, REPO, CARD, private=False).private is False
    assert not logged_in.is_private(REPO)


@pytest.mark.parametrize("private", [True, False])
def test_an_existing_repo_stays_as_it_is_and_its_visibility_is_said(logged_in, folder, caplog, private):
    caplog.set_level(logging.INFO, "nlptransfer")
    logged_in.add_repo(REPO, private=private)
    assert push(folder, REPO, CARD).private is private
    assert logged_in.is_private(REPO) is private
    assert f"me/films: is there already, and {'private' if private else 'public'}" in caplog.text
    assert push(folder, REPO, CARD, private=private).private is private


@pytest.mark.parametrize(("private", "words"), [(True, ("private", "public")), (False, ("public", "private"))])
def test_another_visibility_than_that_of_the_repo_is_refused(logged_in, folder, private, words):
    logged_in.add_repo(REPO, {"old.json": b"{}"}, private=not private)
    settings = f"{logged_in.url}/{REPO}/settings"
    refused(f"expected a {words[0]} repo, found a {words[1]} one", settings, folder=folder, private=private)
    assert logged_in.files(REPO) == {"old.json": b"{}"}
    assert logged_in.is_private(REPO) is not private


def test_a_public_repo_that_somebody_makes_just_before_gets_nothing_private(logged_in, folder):
    logged_in.fail("POST", "/repos/create", status=None, before=lambda: logged_in.add_repo(REPO))
    refused("expected a private repo, found a public one", folder=folder)
    assert logged_in.files(REPO) == {}


def test_a_repo_of_an_organization(logged_in, folder):
    push(folder, "team/films", CARD)
    assert logged_in.files("team/films") == WHOLE and logged_in.is_private("team/films")


def test_a_branch_is_made_of_main_and_pushed_to(logged_in, folder):
    logged_in.add_repo(REPO, {"old.json": b"{}"})
    first = push(folder, REPO, CARD, revision="v2/test")
    assert logged_in.files(REPO) == {"old.json": b"{}"}
    assert logged_in.files(REPO, "v2/test") == WHOLE
    assert logged_in.commits(REPO, "v2/test")[1:] == logged_in.commits(REPO)
    write(folder, {"config.json": b"{}"})
    second = push(folder, REPO, CARD, revision="v2/test")
    assert second.sent == ("config.json",)
    assert logged_in.commits(REPO, "v2/test")[:2] == [second.commit, first.commit]


def test_a_branch_of_a_new_repo(logged_in, folder):
    push(folder, REPO, CARD, revision="dev")
    assert (logged_in.files(REPO), logged_in.files(REPO, "dev")) == ({}, WHOLE)


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


def test_files_that_are_gone_are_deleted_in_the_same_commit(logged_in, folder):
    push(folder, REPO, CARD)
    logged_in.commit(REPO, {".gitattributes": b"*.bin filter=lfs\n", "from/elsewhere.txt": b"x"})
    before = logged_in.commits(REPO)
    (folder / "sub" / "vocab.txt").unlink()
    pushed = push(folder, REPO, CARD)
    assert pushed.sent == ()
    assert logged_in.commits(REPO) == [pushed.commit, *before]
    kept = {name: WHOLE[name] for name in WHOLE if name != "sub/vocab.txt"}
    assert logged_in.files(REPO) == {**kept, ".gitattributes": b"*.bin filter=lfs\n"}


def test_a_file_becomes_a_folder_and_a_folder_a_file(logged_in, tmp_path):
    push(write(tmp_path / "a", {"x": b"1", "y/z": b"2", "nlptransfer.json": b"{}"}), REPO, CARD)
    push(write(tmp_path / "b", {"x/z": b"1", "y": b"2", "nlptransfer.json": b"{}"}), REPO, CARD)
    files = {"x/z": b"1", "y": b"2", "nlptransfer.json": b"{}", "README.md": CARD.encode()}
    assert logged_in.files(REPO) == files


def test_nothing_new_makes_no_commit(logged_in, folder, caplog):
    push(folder, REPO, CARD)
    before, already = logged_in.commits(REPO), len(logged_in.requests)
    caplog.set_level(logging.INFO, "nlptransfer")
    pushed = push(folder, REPO, CARD)
    assert (pushed.commit, pushed.sent, pushed.private) == (None, (), True)
    assert logged_in.commits(REPO) == before
    assert {one.method for one in logged_in.requests[already:] if "validate" not in one.path} == {"GET"}
    assert "me/films: has these files already, no commit was made" in caplog.text


def test_only_what_differs_is_sent(logged_in, folder):
    push(folder, REPO, CARD)
    already = len(logged_in.requests)
    pushed = push(folder, REPO, CARD + "More.\n")
    assert pushed.sent == ("README.md",)
    assert logged_in.files(REPO) == {**WHOLE, "README.md": CARD.encode() + b"More.\n"}
    assert sum(one.received_bytes for one in logged_in.requests[already:]) < 5000
    write(folder, {"model.safetensors": OTHER_WEIGHTS})
    assert push(folder, REPO, CARD + "More.\n").sent == ("model.safetensors",)
    assert asked(logged_in, "PUT", "") == [len(WEIGHTS), len(OTHER_WEIGHTS)]


def test_the_card_takes_the_place_of_the_folders_own(logged_in, folder):
    write(folder, {"README.md": b"base: /home/somebody/model\n"})
    push(folder, REPO, CARD)
    assert logged_in.files(REPO) == WHOLE


def test_large_files_in_parts_and_an_empty_one(logged_in, folder):
    logged_in.part_size = 100_000
    write(folder, {"empty.txt": b""})
    push(folder, REPO, CARD)
    assert asked(logged_in, "PUT", "part=") == [100_000, 100_000, len(WEIGHTS) - 200_000]
    assert logged_in.files(REPO) == {**WHOLE, "empty.txt": b""}


def test_a_given_token_goes_before_that_of_the_machine(logged_in, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", logged_in.read_token)
    push(folder, REPO, CARD, token=logged_in.token + "\n")
    assert logged_in.files(REPO) == WHOLE


def test_dry_run_needs_neither_network_nor_token(folder):
    pushed = push(folder, REPO, CARD, dry_run=True)
    assert (pushed.commit, pushed.pull_request, pushed.private, pushed.sent) == (None, None, None, ())
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


def test_a_token_of_another_look_is_not_pushed(logged_in, folder):
    write(folder, {"config.json": b'{"a": "my-own.token"}'})
    with pytest.raises(RunFolderError, match=r"config\.json, line 1: access token"):
        push(folder, REPO, CARD, token="my-own.token")


def test_many_leaks_are_counted(folder):
    write(folder, {f"{number:02}.pkl": b"" for number in range(13)})
    with pytest.raises(RunFolderError, match=r"09\.pkl: pickle; and 3 more"):
        push(folder, REPO, CARD)


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


@pytest.mark.parametrize("card", ["---\na: [1\n---\n", "---\n- a\n---\n"])
def test_a_card_that_is_no_yaml(logged_in, folder, card):
    with pytest.raises(HubError, match="expected a card with valid YAML at its start, found none") as caught:
        push(folder, REPO, card)
    assert "\n" not in str(caught.value)
    assert logged_in.requests == []


def test_a_card_that_the_hub_does_not_take(logged_in, folder):
    refused(
        "the hub does not take the card: ", "license", folder=folder, card=CARD.replace("apache-2.0", "[1, {a: b}]")
    )
    assert logged_in.repos == {}


# Errors of the hub: one line each, and no token.


def test_no_token(hub, folder):
    refused("expected an access token to push with, found none", "hf auth login", "HF_TOKEN", folder=folder)
    refused("found none", folder=folder, token="two words")
    assert hub.requests == []


def test_wrong_token(hub, folder):
    refused("the hub does not know this token", "hf auth login", folder=folder, token="hf_" + "z" * 34)


def test_wrong_token_where_the_hub_takes_the_repo_for_missing(logged_in, folder):
    logged_in.fail("GET", "whoami", status=401)
    refused("the hub does not know this token", folder=folder)


def test_token_that_may_only_read(hub, folder):
    refused("expected a token that may write, found one that may only read", folder=folder, token=hub.read_token)
    assert hub.repos == {}


@pytest.mark.parametrize("exists", [True, False])
def test_no_right_to_the_name(logged_in, folder, exists):
    if exists:
        logged_in.add_repo("other/films")
    words = "other/films: expected a repo of me or team, for whom this token may write, found one of other (403: "
    refused(words, folder=folder, repo_id="other/films")


def test_name_taken_by_another_type(logged_in, folder):
    logged_in.add_repo(REPO, repo_type="dataset")
    refused("expected a name for a model, found that it is taken by another type of repo", folder=folder)


def test_quota(logged_in, folder):
    logged_in.quota_bytes = 1000
    refused("the hub refuses (403: ", "storage limit reached", folder=folder)
    assert logged_in.files(REPO) == {}
    logged_in.quota_bytes = None
    push(folder, REPO, CARD)
    assert logged_in.files(REPO) == WHOLE


def test_a_large_file_that_the_hub_does_not_take(logged_in, folder):
    logged_in.fail("PUT", "", status=400, message="BadDigest")
    refused("the hub refuses (400: BadDigest", folder=folder)


def test_network_gone(logged_in, folder, waits):
    logged_in.stop()
    refused("the hub cannot be reached (ConnectError: ", ", 5 times)", "check the network", folder=folder)
    assert waits == [1, 2, 4, 8]


def test_offline(logged_in, folder, monkeypatch, waits):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("the hub cannot be reached (OfflineModeIsEnabled: ", "HF_HUB_OFFLINE", folder=folder)
    assert waits == []


def test_consent_to_terms(logged_in, folder):
    logged_in.fail("GET", "/api/models/", status=403, error_code="GatedRepo")
    refused("the hub asks for consent to its terms first", f"{logged_in.url}/{REPO}", folder=folder)


def test_other_refusals_are_not_tried_again(logged_in, folder, waits):
    logged_in.fail("POST", "/repos/create", status=422, message="no\nsuch thing")
    refused("me/films: the hub refuses (422: no such thing", folder=folder)
    assert waits == [] and len(asked(logged_in, "POST", "/repos/create")) == 1


def test_a_long_answer_is_cut(logged_in, folder):
    logged_in.fail("GET", "whoami", status=418, message="t" * 3000)
    assert len(str(refused("t...)", folder=folder))) < 400


# Failures that pass.

REQUESTS = {
    "whoami": ("GET", "/whoami"),
    "model_info": ("GET", "/api/models/"),
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
BY_THE_CLIENT = ("preupload", "batch", "put", "verify")


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
    ours = request_name not in BY_THE_CLIENT
    assert waits == ({"429": [3, 3], "lost": [1]}.get(fault, [1, 2]) if ours else [])


@pytest.mark.parametrize("fault", ["503", "cut", "lost"])
@pytest.mark.parametrize("request_name", REQUESTS)
def test_after_a_failure_that_lasts_a_second_push_sends_what_is_missing(logged_in, folder, request_name, fault):
    method, pattern = REQUESTS[request_name]
    is_done = (request_name, fault) == ("commit", "lost")
    logged_in.fail(method, pattern, times=5 if is_done else 50, **FAULTS[fault])
    if is_done:
        push(folder, REPO, CARD)  # the commit went through, which is seen
    else:
        error = refused("the hub can", "then run this again", folder=folder)
        assert logged_in.token not in str(error)
    if REPO in logged_in.repos and not is_done:
        assert logged_in.files(REPO) == {}  # nothing is half visible
    had = {oid for repo in logged_in.repos.values() for oid in repo.objects}
    for one in logged_in.unused_faults():
        one.left = 0
    already = len(logged_in.requests)
    push(folder, REPO, CARD)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in logged_in.files(REPO).items()}
    assert hashes == {name: hashlib.sha256(content).hexdigest() for name, content in WHOLE.items()}
    assert len(logged_in.commits(REPO)) == 2
    sent = sum(one.received_bytes for one in logged_in.requests[already:] if one.method == "PUT")
    assert sent == (0 if had else len(WEIGHTS))


@pytest.mark.parametrize("part_size", [None, 100_000])
def test_connections_cut_in_the_middle_of_a_large_upload(logged_in, folder, part_size):
    write(folder, {"first.safetensors": OTHER_WEIGHTS})
    logged_in.part_size = part_size
    oid = hashlib.sha256(WEIGHTS).hexdigest()
    logged_in.fail("PUT", f"{oid}.*part=2" if part_size else oid, cut_after=50_000, times=50)
    refused("the hub cannot be reached", folder=folder)
    assert logged_in.files(REPO) == {}
    for one in logged_in.unused_faults():
        one.left = 0
    already = len(logged_in.requests)
    push(folder, REPO, CARD)
    assert logged_in.files(REPO) == {**WHOLE, "first.safetensors": OTHER_WEIGHTS}
    sent = [one for one in logged_in.requests[already:] if one.method == "PUT"]
    assert sum(one.received_bytes for one in sent) == len(WEIGHTS)
    assert all(oid in one.path for one in sent)


def test_a_commit_refused_once(logged_in, folder, waits):
    logged_in.fail("POST", "/commit/", status=400, message="Your push was rejected")
    refused("the hub refuses (400: Your push was rejected", folder=folder)
    assert logged_in.files(REPO) == {} and waits == []
    already = len(logged_in.requests)
    push(folder, REPO, CARD)
    assert logged_in.files(REPO) == WHOLE
    assert [one.method for one in logged_in.requests[already:]].count("PUT") == 0


def test_a_server_that_restarts_between_upload_and_commit(logged_in, folder):
    logged_in.fail("POST", "/commit/", status=None, before=logged_in.restart)
    push(folder, REPO, CARD)
    assert logged_in.files(REPO) == WHOLE
    assert asked(logged_in, "PUT", "") == [len(WEIGHTS)]
    assert len(logged_in.commits(REPO)) == 2


def test_a_server_that_goes_between_upload_and_commit_and_comes_back_later(logged_in, folder):
    logged_in.fail("POST", "/commit/", status=None, before=logged_in.stop)
    refused("the hub cannot be reached", folder=folder)
    assert logged_in.files(REPO) == {}
    logged_in.start()
    push(folder, REPO, CARD)
    assert logged_in.files(REPO) == WHOLE
    assert asked(logged_in, "PUT", "") == [len(WEIGHTS)]


@pytest.mark.parametrize(("method", "part"), [("PUT", "/storage/"), ("POST", "/commit/"), ("GET", "whoami")])
def test_a_hub_that_falls_silent_is_left(logged_in, folder, monkeypatch, method, part):
    monkeypatch.setattr(client, "STALLED_SECONDS", 0.1)
    spoken = threading.Event()
    logged_in.fail(method, part, before=lambda: spoken.wait(30), times=100)
    try:
        refused("the hub cannot be reached", folder=folder)
    finally:
        spoken.set()
    assert get_session().timeout.read is None, "the client is shared with others"


def test_a_time_limit_of_the_users_own_stays(logged_in, folder, monkeypatch):
    session, seen = get_session(), []
    monkeypatch.setattr(session, "timeout", 50)
    logged_in.fail("GET", "whoami", status=None, before=lambda: seen.append(session.timeout.read))
    push(folder, REPO, CARD)
    assert seen == [50]


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


def test_each_try_is_logged(logged_in, folder, caplog):
    logged_in.fail("GET", "whoami", status=503, message="at rest")
    push(folder, REPO, CARD)
    assert "me/films: 503: at rest; trying again in 1 s" in caplog.text


def test_a_page_in_place_of_json_is_tried_again(hub, waits):
    answers = iter(["<html>", "1"])
    assert client.HubClient(REPO, hub.token).ask(lambda: json.loads(next(answers))) == 1
    assert waits == [1]


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


@pytest.mark.parametrize("same", [True, False])
def test_another_push_in_between(logged_in, folder, tmp_path, same):
    files = FILES if same else {"nlptransfer.json": b"[]", "model.safetensors": OTHER_WEIGHTS}
    other = write(tmp_path / "other", files)
    logged_in.add_repo(REPO)
    logged_in.fail("POST", "/commit/", status=None, before=lambda: push(other, REPO, CARD))
    if same:
        assert push(folder, REPO, CARD).commit == logged_in.commits(REPO)[0]
    else:
        refused("somebody else pushed meanwhile", folder=folder)
    assert logged_in.files(REPO) == {**files, "README.md": CARD.encode()}
    assert len(logged_in.commits(REPO)) == 2


def test_two_processes_at_once(logged_in, tmp_path):
    trees = [{"nlptransfer.json": b"%d" % n, f"{n}.txt": b"x", "model.safetensors": WEIGHTS[:-n]} for n in (1, 2)]
    folders = [write(tmp_path / str(n), tree) for n, tree in enumerate(trees)]
    # Both have seen the same head when the first of them commits.
    together = threading.Barrier(2, timeout=10)
    logged_in.add_repo(REPO)
    logged_in.fail("POST", "/preupload/", status=None, before=together.wait, times=2)
    ends: list[Pushed | HubError] = []

    def run(folder: Path) -> None:
        try:
            ends.append(push(folder, REPO, CARD))
        except HubError as error:
            ends.append(error)

    threads = [threading.Thread(target=run, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(end).__name__ for end in ends) == ["HubError", "Pushed"]
    assert logged_in.files(REPO) in [{**tree, "README.md": CARD.encode()} for tree in trees]
    assert len(logged_in.commits(REPO)) == 2


def test_a_lost_answer_and_then_somebody_else(logged_in, folder):
    logged_in.add_repo(REPO)

    def cut() -> None:
        logged_in.fail("GET", "blobs", status=None, before=lambda: logged_in.commit(REPO, {"theirs.txt": b"x"}))

    logged_in.fail("POST", "/commit/", status=None, lose_answer=True, before=cut)
    refused("somebody else pushed meanwhile", folder=folder)
    assert logged_in.files(REPO) == {**WHOLE, "theirs.txt": b"x"}
    assert len(asked(logged_in, "POST", "/commit/")) == 1


def test_a_lost_pull_request_is_not_sent_twice(logged_in, folder, waits):
    logged_in.add_repo(REPO)
    logged_in.fail("POST", "/commit/", status=None, lose_answer=True)
    page = f"see {logged_in.url}/{REPO}/discussions: if the pull request is not there, run this again"
    refused("the hub cannot be reached", page, folder=folder, create_pr=True)
    assert waits == [] and len(asked(logged_in, "POST", "/commit/")) == 1


def test_a_refused_pull_request_is_tried_again(logged_in, folder, waits):
    logged_in.add_repo(REPO)
    logged_in.fail("POST", "/commit/", status=503, times=2)
    assert push(folder, REPO, CARD, create_pr=True).pull_request == f"{logged_in.url}/{REPO}/discussions/1"
    assert waits == [1, 2]


def test_a_pull_request_beside_a_commit_of_somebody_else(logged_in, folder):
    logged_in.add_repo(REPO)
    logged_in.fail("POST", "/commit/", status=None, before=lambda: logged_in.commit(REPO, {"theirs.txt": b"x"}))
    push(folder, REPO, CARD, create_pr=True)
    assert logged_in.files(REPO, "refs/pr/1") == WHOLE
    assert logged_in.files(REPO) == {"theirs.txt": b"x"}


def test_a_commit_that_cannot_be_found_again(logged_in, folder):
    logged_in.fail("GET", "/revision/", status=404, error_code="RevisionNotFound")
    refused("expected exactly the folder's files in commit", "found a difference in the commit", folder=folder)


def test_a_branch_that_cannot_be_made(logged_in, folder):
    logged_in.add_repo(REPO)
    logged_in.fail("GET", "/revision/dev", status=404, error_code="RevisionNotFound", times=2)
    refused("expected the branch dev, found none", folder=folder, revision="dev")


# The token.


@pytest.mark.parametrize("request_name", REQUESTS)
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


def test_a_token_of_another_look_is_in_no_error(hub, folder):
    hub.tokens["my-own.token"] = hub.tokens[hub.token]
    hub.fail("POST", "/commit/", status=400, message="so my-own.token")
    refused("the hub refuses (400: so ***", folder=folder, token="my-own.token")


def test_the_clients_description_has_no_token(hub):
    assert hub.token not in repr(client.HubClient(REPO, hub.token))


# Progress.


def test_no_bars_but_on_a_terminal(logged_in, folder, capsys, monkeypatch):
    push(folder, REPO, CARD)
    fetch(REPO)
    assert "%|" not in capsys.readouterr().err
    assert not are_progress_bars_disabled()
    with quiet_unless_on_a_terminal():
        assert are_progress_bars_disabled()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with quiet_unless_on_a_terminal():
        assert not are_progress_bars_disabled()


# Fetching.


@pytest.fixture
def films(hub: Hub) -> Iterator[str]:
    """A private repo with what a classifier has, and with what is not to be fetched."""
    unwanted = {"pytorch_model.bin": b"\x80\x02}.", "v.model": b"\x80\x04", "a.pt": b"", "checkpoint-1/a.json": b"{}"}
    yield hub.add_repo(REPO, {**WHOLE, "spiece.model": b"\x0a", **unwanted}, private=True)


def read(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def not_fetched(*parts: str, **options: object) -> None:
    with pytest.raises(HubError) as caught:
        fetch(**{"repo_id": REPO, **options})  # type: ignore[arg-type]
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_what_was_pushed_is_fetched(logged_in, folder):
    commit = push(folder, REPO, CARD).commit
    fetched = fetch(REPO)
    assert read(fetched) == WHOLE
    assert fetched.name == commit


def test_a_private_repo_without_its_pickles(hub, films):
    fetched = fetch(REPO, token=hub.token)
    assert read(fetched) == {**WHOLE, "spiece.model": b"\x0a"}
    assert not [one.path for one in hub.requests if ".bin" in one.path or "v.model" in one.path or ".pt" in one.path]


@pytest.mark.parametrize("token", [None, "other"])
def test_a_private_repo_is_not_seen_by_others(hub, films, token):
    words = ("expected a model on the hub, or a folder here, found none", "private", "hf auth login")
    not_fetched(*words, token=token and hub.other_token)


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


def test_revisions(logged_in, films):
    newer = logged_in.commit(REPO, {"config.json": b"{}"})
    assert read(fetch(REPO))["config.json"] == b"{}"
    assert read(fetch(REPO, films))["config.json"] == WHOLE["config.json"]
    assert fetch(REPO, newer).name == newer


def test_a_commit_in_the_cache_needs_no_network(logged_in, films):
    fetched = fetch(REPO)
    already = len(logged_in.requests)
    assert fetch(REPO, films) == fetched
    assert len(logged_in.requests) == already


def test_the_newest_commit_is_asked_for(logged_in, films):
    assert fetch(REPO).name == films
    newer = logged_in.commit(REPO, {"config.json": b"{}"})
    assert fetch(REPO).name == newer


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


def test_no_network_and_nothing_in_the_cache(logged_in, waits):
    logged_in.stop()
    not_fetched("me/films: the hub cannot be reached (ConnectError", ", 5 times)")
    assert waits == [1, 2, 4, 8]


def test_half_of_a_repo_in_the_cache_is_completed(logged_in, films):
    part = Path(hf_hub_download(REPO, "config.json")).parent
    assert read(part) == {"config.json": WHOLE["config.json"]}
    assert read(fetch(REPO, films)) == {**WHOLE, "spiece.model": b"\x0a"}


def test_fetching_overcomes_what_passes(logged_in, films, waits):
    logged_in.fail("GET", "/api/models/", status=502, times=2)
    assert fetch(REPO).name == films
    assert waits == [1, 2]
