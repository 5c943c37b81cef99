"""Fetch a saved classifier from the hub into the hub's cache. Does not open it."""

import logging
from pathlib import Path

from huggingface_hub import constants

from nlptransfer.errors import HubError, SettingError
from nlptransfer.hub.client import (
    ATTEMPTS,
    COMMIT,
    SENTENCEPIECE,
    Files,
    HubClient,
    HubUnreachable,
    cached_folder,
    is_hub_id,
)

logger = logging.getLogger("nlptransfer")

RECORD = "nlptransfer.json"
_FILES: Files = {
    "allow_patterns": [
        "*.json",
        "*.safetensors",
        "*.txt",
        "*.onnx",
        "*.onnx.data",
        "*.npy",
        "*.jinja",
        "README.md",
        *SENTENCEPIECE,
    ],
    "ignore_patterns": ["checkpoint*/*", "runs/*"],
}


def fetch(repo_id: str, revision: str | None = None, token: str | None = None) -> Path:
    """Return the folder in the hub's cache with a saved classifier; a pickle is never fetched.

    A commit that the cache holds is taken from there. Otherwise the hub is asked for the newest commit of the branch;
    where it cannot be reached, the newest in the cache is taken, with a warning.

    Raises:
        SettingError: the name cannot be one of the hub.
        HubError: no such repo or revision, no consent to its terms, no classifier of nlptransfer, or no network.
    """
    if not is_hub_id(repo_id):
        raise SettingError(f"repo_id: expected a name on the hub (owner/name), found {repo_id!r}")
    cached = cached_folder(repo_id, revision, _FILES)
    if cached and not (cached / RECORD).is_file():
        cached = None  # another program may have cached a part of it
    if cached and (constants.is_offline_mode() or (revision and COMMIT.fullmatch(revision))):
        return cached
    client = HubClient(repo_id, token, 1 if cached else ATTEMPTS)
    try:
        info = client.existing(revision)
        if RECORD not in {file.rfilename for file in info.siblings or []}:
            raise HubError(
                f"{repo_id}: expected a classifier that nlptransfer saved, found no {RECORD} on the hub: name "
                "another, or take this one as a base"
            )
        return client.download(revision, _FILES)
    except HubUnreachable as error:
        if cached is None:
            raise
        logger.warning("%s; taken from the cache: commit %s", error, cached.name)
        return cached
