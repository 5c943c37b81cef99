"""Fetch a saved classifier from the hub into the hub's cache. Does not open it."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from nlptransfer.errors import HubError, SettingError
from nlptransfer.hub.client import (
    ATTEMPTS,
    COMMIT,
    CONNECT_SECONDS,
    SENTENCEPIECE,
    HubClient,
    HubUnreachable,
    how_to_log_in,
    is_hub_id,
)

logger = logging.getLogger("nlptransfer")

RECORD = "nlptransfer.json"
_FILES: dict[str, Any] = {
    "allow_patterns": ["*.json", "*.safetensors", "*.txt", "*.onnx", "*.onnx.data", "README.md", *SENTENCEPIECE],
    "ignore_patterns": ["checkpoint*/*", "runs/*"],
}


def fetch(repo_id: str, revision: str | None = None, token: str | None = None) -> Path:
    """Return the folder in the hub's cache with a saved classifier; a pickle is never fetched.

    A commit that the cache holds is taken from there. Otherwise the hub is asked for the newest commit of the branch;
    where it cannot be reached, the newest in the cache is taken, with a warning.

    Args:
        revision: branch, tag or commit; None: main.
        token: an access token; None: the one that this machine is logged in with.

    Raises:
        SettingError: the name cannot be one of the hub.
        HubError: no such repo or revision, no consent to its terms, no classifier of nlptransfer, or no network.
    """
    if not is_hub_id(repo_id):
        raise SettingError(f"repo_id: expected a name on the hub (owner/name), found {repo_id!r}")
    cached = _cached(repo_id, revision)
    if cached and (constants.is_offline_mode() or (revision and COMMIT.fullmatch(revision))):
        return cached
    try:
        return _download(HubClient(repo_id, token), revision, 1 if cached else ATTEMPTS)
    except HubUnreachable as error:
        if cached is None:
            raise
        logger.warning("%s; taken from the cache: commit %s", error, cached.name)
        return cached


def _download(client: HubClient, revision: str | None, attempts: int) -> Path:
    info = client.info(revision, attempts=attempts)
    if info is None and revision and client.info(attempts=attempts) is not None:
        raise HubError(
            f"{client.repo_id}: expected a branch, tag or commit of it, found no {revision!r} on the hub: check it"
        )
    if info is None:
        raise HubError(
            f"{client.repo_id}: expected a model on the hub, or a folder here, found none: check the name; if it is "
            f"private, {how_to_log_in()}"
        )
    if RECORD not in {file.rfilename for file in info.siblings or []}:
        raise HubError(
            f"{client.repo_id}: expected a classifier that nlptransfer saved, found no {RECORD} on the hub: name "
            "another, or take this one as a base"
        )
    # By the branch's name, as only then the cache notes which commit it is at.
    options = {"revision": revision, "token": client.token, "etag_timeout": CONNECT_SECONDS, **_FILES}
    return Path(client.ask(partial(snapshot_download, client.repo_id, **options), attempts=attempts))


def _cached(repo_id: str, revision: str | None) -> Path | None:
    try:
        folder = Path(snapshot_download(repo_id, revision=revision, local_files_only=True, **_FILES))
    except LocalEntryNotFoundError:
        return None
    # Another program may have cached a part of it.
    return folder if (folder / RECORD).is_file() else None
