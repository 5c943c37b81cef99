"""Push a folder to the hub with its card, whole or not at all, in one commit. Does not know what is in the folder."""

import logging
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, ModelInfo, constants, get_token
from huggingface_hub.errors import HfHubHTTPError

from nlptransfer.errors import HubError, RunFolderError, SettingError
from nlptransfer.hub.client import COMMIT, HubClient, how_to_log_in, is_hub_id, status_of
from nlptransfer.hub.secrets import find_leaks

logger = logging.getLogger("nlptransfer")

CARD = "README.md"


@dataclass(frozen=True)
class Pushed:
    """What a push did, or would do."""

    url: str
    commit: str | None
    """None: nothing was sent, as it was a dry run or the repo has these files already"""
    pull_request: str | None
    """address of the pull request, where one was asked for"""
    private: bool | None
    """None: not asked, in a dry run"""
    files: dict[str, int]
    """path -> bytes of all files that the repo is to have, the card included"""
    card: str


def push(
    folder: Path,
    repo_id: str,
    card: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Make a repo on the hub hold exactly the files of a folder, and a card, in one commit.

    Files that the repo has are not sent again, and others of its files are deleted. The options are those of
    ``push_saved``; ``card`` is the text of README.md, in place of one in the folder.

    Raises:
        SettingError: the name or the revision cannot be one to push to.
        RunFolderError: there are no files, or one holds what must not be pushed: tokens, home paths, pickles, ...
        HubError: the hub cannot be reached or refuses, or somebody else pushed at the same time.
    """
    token = push_token(repo_id, revision, token, dry_run)
    files = _checked_files(folder, card, token)
    sizes = {name: len(source) if isinstance(source, bytes) else source.stat().st_size for name, source in files}
    pushed = Pushed(f"{constants.ENDPOINT}/{repo_id}", None, None, None, sizes, card)
    if dry_run:
        return pushed
    client = HubClient(repo_id, token)
    info = client.info()
    if client.ask(client.api.whoami).get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise HubError(
            f"{repo_id}: expected a token that may write, found one that may only read: make another on "
            f"{constants.ENDPOINT}/settings/tokens"
        )
    pushed = replace(pushed, private=_with_visibility(client, info, private))
    head = _branch_head(client, revision)
    done = _commit(client, files, head, revision, create_pr)
    if done.oid == head.sha:
        logger.info("%s has these files already, so nothing is sent", repo_id)
        return pushed
    logger.info("%s: commit %s", repo_id, done.oid)
    return replace(pushed, commit=done.oid, pull_request=done.pr_url)


def push_token(repo_id: str, revision: str | None, token: str | None, dry_run: bool) -> str:
    """Return the access token to push with, which a dry run may lack; errors as those of ``push`` without network."""
    if not is_hub_id(repo_id) or "/" not in repo_id:
        raise SettingError(f"repo_id: expected the name of a repo on the hub (owner/name), found {repo_id!r}")
    if revision and COMMIT.fullmatch(revision):
        raise SettingError(f"revision: expected a branch to push to, found a commit, {revision!r}")
    token = (token or get_token() or "").strip()
    if not dry_run and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise HubError(f"{repo_id}: expected an access token to push with, found none: {how_to_log_in()}")
    return token


def _checked_files(folder: Path, card: str, token: str) -> list[tuple[str, Path | bytes]]:
    """Return path in the repo and content of each file, or raise a RunFolderError that names what must stay here."""
    if leaks := find_leaks(folder, {CARD: card}, [token]):
        listed = "; ".join(map(str, leaks[:10])) + (f"; and {len(leaks) - 10} more" if len(leaks) > 10 else "")
        raise RunFolderError(f"{folder}: expected nothing that must stay here, found {listed}: take it out, then push")
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    if not names.keys() - {CARD}:
        raise RunFolderError(f"{folder}: expected the files of a saved classifier, found none: check the path")
    files: dict[str, Path | bytes] = {**names, CARD: card.encode()}
    return sorted(files.items())


def _with_visibility(client: HubClient, info: ModelInfo | None, private: bool | None) -> bool:
    """Make the repo where there is none, and return whether it is private; a HubError where it is not as asked for."""
    if info is None:
        private = private is not False
        # An answer may have been lost, or somebody else may have been quicker: what counts is what is there then.
        client.ask(partial(client.api.create_repo, client.repo_id, private=private, exist_ok=True))
        info = client.info()
    if info is None:
        raise HubError(
            f"{client.repo_id}: expected a name for a model, found that it is taken by another type of repo (a dataset "
            "or a space): take another name"
        )
    visibility = _visibility(info.private)
    logger.info("%s is %s", client.repo_id, visibility)
    if private not in (None, info.private):
        raise HubError(
            f"{client.repo_id}: expected a {_visibility(private)} repo, found a {visibility} one: take another "
            f"name, change it on {constants.ENDPOINT}/{client.repo_id}/settings, or, if it is to be {visibility}, say "
            f"private={info.private} (--{visibility})"
        )
    return bool(info.private)


def _visibility(private: bool | None) -> str:
    return "private" if private else "public"


def _branch_head(client: HubClient, revision: str | None) -> ModelInfo:
    """Return the newest commit of a branch, which is made of main where it is not there."""
    head = client.info(revision)
    if head is None and revision is not None:
        client.ask(partial(client.api.create_branch, client.repo_id, branch=revision, exist_ok=True))
        head = client.info(revision)
    if head is None:
        raise HubError(f"{client.repo_id}: expected the branch {revision or 'main'}, found none: run this again")
    return head


def _commit(
    client: HubClient, files: list[tuple[str, Path | bytes]], head: ModelInfo, revision: str | None, create_pr: bool
) -> CommitInfo:
    """Commit the files on top of a branch's head, unless it holds just these; a HubError says that it has moved."""

    def call() -> CommitInfo | None:
        # If an earlier attempt went through and its answer was lost, this finds nothing to do and makes no commit.
        there = {file.rfilename for file in _branch_head(client, revision).siblings or []}
        gone = there - {name for name, _ in files} - {".gitattributes"}
        operations: list[Any] = [CommitOperationDelete(name, is_folder=False) for name in sorted(gone)]
        if gone:
            listed = ", ".join(sorted(gone)[:10]) + (f" and {len(gone) - 10} more" if len(gone) > 10 else "")
            logger.warning(
                "%s has files that this classifier has not, which stay in its earlier commits alone: %s",
                client.repo_id,
                listed,
            )
        operations += [CommitOperationAdd(name, source) for name, source in files]
        try:
            return client.api.create_commit(
                client.repo_id,
                operations,
                commit_message="A classifier by nlptransfer",
                revision=revision,
                create_pr=create_pr,
                parent_commit=head.sha,
            )
        except HfHubHTTPError as error:
            if status_of(error) in (409, 412):
                return None
            raise

    advice = f"see {constants.ENDPOINT}/{client.repo_id}/discussions: if the pull request is not there, run this again"
    done = client.ask(call, if_lost=advice if create_pr else None)
    if done is None:
        raise HubError(
            f"{client.repo_id}: expected the repo as it was when this push began, found that somebody else pushed "
            "meanwhile: run this again, and it will replace what they pushed"
        )
    return done
