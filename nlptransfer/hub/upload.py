"""The model hub: fetch a saved classifier; push one, whole or not at all, in one commit of one folder."""

import hashlib
import io
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, ModelCard, ModelInfo, constants, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoSibling

from nlptransfer.errors import HubError, RunFolderError, SettingError
from nlptransfer.hub.client import (
    ATTRIBUTES,
    CARD,
    COMMIT,
    WANTED,
    HubClient,
    how_to_log_in,
    is_hub_id,
    quiet_unless_on_a_terminal,
    status_of,
)
from nlptransfer.hub.secrets import find_leaks

logger = logging.getLogger("nlptransfer")

WANTED += ["*spiece.model", "sentencepiece*.model", "tokenizer.model", "spm.model"]


@dataclass(frozen=True)
class Pushed:
    """What a push did, or would do."""

    repo_id: str
    url: str
    """the repo's page"""
    commit: str | None
    """None: nothing was sent, as it was a dry run or the repo has these files already"""
    pull_request: str | None
    """address of the pull request, where one was asked for"""
    private: bool | None
    """None: not asked, in a dry run"""
    files: dict[str, int]
    """path -> bytes of all files that the repo is to have, the card included"""
    sent: tuple[str, ...]
    """the paths that differed from what the repo had"""
    card: str
    """the text of README.md"""


def push(
    folder: Path,
    repo_id: str,
    card: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    message: str = "A classifier by nlptransfer",
    dry_run: bool = False,
) -> Pushed:
    """Make a repo on the hub hold exactly the files of a folder, and a card, in one commit.

    Files that the repo has are not sent again, those of an earlier push that are no longer in the folder are deleted.
    A push that broke is run again, and sends what is missing.

    Args:
        card: the text of README.md, in place of one in the folder.
        private: whether the repo is to be private; None: a new one is private, an existing one stays as it is.
        revision: a branch, made of main where it is not there; None: main.
        create_pr: open a pull request instead of committing to the branch.
        token: an access token; None: the one that this machine is logged in with.
        message: the commit's title.
        dry_run: do only what needs no network.

    Raises:
        SettingError: the name or the revision cannot be one to push to.
        RunFolderError: there are no files, or one holds what must not be pushed: tokens, home paths, pickles, ...
        HubError: the hub cannot be reached or refuses, the card is not valid, the visibility is another one, or
            somebody else pushed at the same time.
    """
    if not is_hub_id(repo_id) or "/" not in repo_id:
        raise SettingError(f"repo_id: expected the name of a repo on the hub (owner/name), found {repo_id!r}")
    if revision and COMMIT.fullmatch(revision):
        raise SettingError(f"revision: expected a branch to push to, found a commit, {revision!r}")
    token = (token or get_token() or "").strip()
    _refuse_leaks(folder, card, token)
    sources = _sources(folder, card)
    parsed = _parsed_card(repo_id, card)
    url = f"{constants.ENDPOINT}/{repo_id}"
    sizes = {name: len(source) if isinstance(source, bytes) else source.stat().st_size for name, source in sources}
    if dry_run:
        return Pushed(repo_id, url, None, None, None, sizes, (), card)
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise HubError(f"{repo_id}: expected an access token to push with, found none: {how_to_log_in()}")
    client = HubClient(repo_id, token)
    with quiet_unless_on_a_terminal():
        info = client.info()
        client.identify()
        _check_card(client, parsed)
        is_private = _with_visibility(client, info, private)
        head = client.branch_head(revision)
        files = {name: _Content.of(source) for name, source in sources}
        sent, gone = _differences(files, head)
        if not sent and not gone:
            logger.info("%s: has these files already, no commit was made", repo_id)
            return Pushed(repo_id, url, None, None, is_private, sizes, (), card)
        commit, pull_request = _commit(client, files, head, revision, create_pr, message)
    logger.info("%s (%s): commit %s, %d files sent", url, _visibility(is_private), commit, len(sent))
    return Pushed(repo_id, url, commit, pull_request, is_private, sizes, tuple(sent), card)


@dataclass(frozen=True)
class _Content:
    """A file's bytes, and the two names that the hub may know them by."""

    source: Path | bytes
    sha256: str
    git_oid: str

    @classmethod
    def of(cls, source: Path | bytes) -> "_Content":
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
            while part := stream.read(2**20):
                sha256.update(part)
                git.update(part)
        return cls(source, sha256.hexdigest(), git.hexdigest())

    def equals(self, file: RepoSibling) -> bool:
        """Whether a file on the hub has the same bytes; git holds a pointer in place of a large one."""
        return file.lfs.sha256 == self.sha256 if file.lfs else file.blob_id == self.git_oid


def _refuse_leaks(folder: Path, card: str, token: str) -> None:
    leaks = find_leaks(folder, {CARD: card}, [token])
    if leaks:
        listed = "; ".join(map(str, leaks[:10])) + (f"; and {len(leaks) - 10} more" if len(leaks) > 10 else "")
        raise RunFolderError(f"{folder}: expected nothing that must stay here, found {listed}: take it out, then push")


def _sources(folder: Path, card: str) -> list[tuple[str, Path | bytes]]:
    """The files to push by their path in the repo."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in paths}
    if not files.keys() - {CARD}:
        raise RunFolderError(f"{folder}: expected the files of a saved classifier, found none: check the path")
    return sorted({**files, CARD: card.encode()}.items())


def _parsed_card(repo_id: str, card: str) -> ModelCard:
    try:
        return ModelCard(card)
    except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise HubError(f"{repo_id}: expected a card with valid YAML at its start, found none ({reason})") from None


def _check_card(client: HubClient, card: ModelCard) -> None:
    """Raise a HubError if the hub would not take the card."""

    def call() -> str | None:
        try:
            card.validate()
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            return str(error)
        return None

    if problem := client.ask(call):
        raise HubError(f"{client.repo_id}: the hub does not take the card: {client.scrubbed(_card_errors(problem))}")


def _card_errors(answer: str) -> str:
    """What the hub's answer says is wrong with a card."""
    try:
        return "; ".join(str(error["message"]) for error in json.loads(answer)["errors"])
    except (ValueError, KeyError, TypeError):
        return answer


def _with_visibility(client: HubClient, info: ModelInfo | None, private: bool | None) -> bool:
    """Make the repo where there is none, and return whether it is private.

    Raises:
        HubError: it is not as it was asked for.
    """
    if info is None:
        private = private is not False
        # An answer may have been lost, or somebody else may have been quicker: what counts is what is there then.
        client.ask(partial(client.api.create_repo, client.repo_id, private=private, exist_ok=True))
        if (info := client.info()) is None:
            raise HubError(
                f"{client.repo_id}: expected a name for a model, found that it is taken by another type of repo (a "
                "dataset or a space): take another name"
            )
        logger.info("%s: made, and %s", client.repo_id, _visibility(bool(info.private)))
    elif private is None:
        logger.info("%s: is there already, and %s", client.repo_id, _visibility(bool(info.private)))
    if private is not None and bool(info.private) != private:
        raise HubError(
            f"{client.repo_id}: expected a {_visibility(private)} repo, found a {_visibility(not private)} one: take "
            f"another name, change it on {constants.ENDPOINT}/{client.repo_id}/settings, or, if it is to be "
            f"{_visibility(not private)}, say private={not private} (--{_visibility(not private)})"
        )
    return bool(info.private)


def _visibility(private: bool) -> str:
    return "private" if private else "public"


def _differences(files: Mapping[str, _Content], info: ModelInfo) -> tuple[list[str], list[str]]:
    """The paths that must be sent, and those that must be deleted, for a commit to hold exactly these files."""
    theirs = {file.rfilename: file for file in info.siblings or []}
    sent = [name for name, content in files.items() if name not in theirs or not content.equals(theirs[name])]
    return sent, sorted(theirs.keys() - files.keys() - {ATTRIBUTES})


def _commit(
    client: HubClient,
    files: Mapping[str, _Content],
    head: ModelInfo,
    revision: str | None,
    create_pr: bool,
    message: str,
) -> tuple[str, str | None]:
    """Send what differs from a branch's head, then commit it on top of that head.

    Returns:
        the commit, and the address of the pull request.

    Raises:
        HubError: it failed, or the branch has moved.
    """
    sent, gone = _differences(files, head)
    additions = [CommitOperationAdd(name, files[name].source) for name in sent]
    for addition in additions:
        addition.upload_info.sha256 = bytes.fromhex(files[addition.path_in_repo].sha256)
    upload = partial(
        client.api.preupload_lfs_files,
        client.repo_id,
        additions,
        revision=revision,
        create_pr=create_pr,
        free_memory=False,
    )
    client.ask(upload, attempts=1)  # the client itself tries again
    commit = partial(
        client.api.create_commit,
        client.repo_id,
        [*(CommitOperationDelete(name, is_folder=False) for name in gone), *additions],
        commit_message=message,
        revision=revision,
        create_pr=create_pr,
        parent_commit=head.sha,
    )
    tries = 0

    def call() -> tuple[str, str | None]:
        nonlocal tries
        tries += 1
        if tries > 1 and (landed := _landed(client, files, head, revision)):
            return landed, None
        try:
            done = commit()
            return done.oid, done.pr_url
        except HfHubHTTPError as error:
            if status_of(error) not in (409, 412):
                raise
        return _landed(client, files, head, revision) or _overtaken(client), None

    advice = f"see {constants.ENDPOINT}/{client.repo_id}/discussions: if the pull request is not there, run this again"
    oid, pull_request = client.ask(call, if_lost=advice if create_pr else None)
    _verify(client, files, oid)
    return oid, pull_request


def _landed(client: HubClient, files: Mapping[str, _Content], head: ModelInfo, revision: str | None) -> str | None:
    """The branch's newest commit where it holds exactly our files, though no answer said so; None: nothing happened.

    Raises:
        HubError: somebody else has pushed.
    """
    now = client.branch_head(revision)
    if now.sha == head.sha:
        return None
    if any(_differences(files, now)):
        _overtaken(client)
    return now.sha


def _overtaken(client: HubClient) -> NoReturn:
    raise HubError(
        f"{client.repo_id}: expected the repo as it was when this push began, found that somebody else pushed "
        "meanwhile: run this again, and it will replace what they pushed"
    )


def _verify(client: HubClient, files: Mapping[str, _Content], commit: str) -> None:
    """Raise a HubError unless a commit holds exactly these files."""
    info = client.info(commit)
    wrong = ["the commit"] if info is None else [name for names in _differences(files, info) for name in names]
    if wrong:
        raise HubError(
            f"{client.repo_id}: expected exactly the folder's files in commit {commit}, found a difference in "
            f"{', '.join(wrong[:10])}: run this again"
        )
