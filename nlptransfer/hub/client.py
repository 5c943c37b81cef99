"""Ask the hub, with the retries that its client has not and errors of one line. Does not know classifiers."""

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from time import sleep
from typing import Any, TypeVar

from huggingface_hub import HfApi, ModelInfo, constants, errors, get_token, snapshot_download, utils

from nlptransfer.errors import HubError

logger = logging.getLogger("nlptransfer")

ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds before a request is sent again: doubled each time, and no more than the second where the hub asks for it."""
CONNECT_SECONDS = 10
COMMIT = re.compile(r"[0-9a-f]{40}")
SENTENCEPIECE = ("*spiece.model", "sentencepiece*.model", "tokenizer.model", "spm.model")
"""Tokenizers by their names, as gensim's .model files are pickles."""
Files = dict[str, Any]
"""The files of a repo to fetch: ``allow_patterns`` and ``ignore_patterns`` of ``snapshot_download``."""
_T = TypeVar("_T")


class HubUnreachable(HubError):
    """The hub gave no answer, or said that it cannot answer now."""


@dataclass
class HubClient:
    """The client for one repo; each request is tried ``attempts`` times while the hub does not answer."""

    repo_id: str
    token: str | None = field(repr=False)
    attempts: int = ATTEMPTS

    @cached_property
    def api(self) -> HfApi:
        return HfApi(token=self.token)

    def ask(self, call: Callable[[], _T], *, if_lost: str | None = None) -> _T:
        """Return the result of a call, or raise a HubError without a cause, as the client's own errors hold the token.

        ``if_lost`` is for requests that must not be sent twice: what to do after one whose answer was lost.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                with _no_bars_but_on_a_terminal():
                    return call()
            except (errors.HTTPError, OSError, ValueError, RuntimeError) as error:
                problem = _root(error)
            is_lost = if_lost is not None and status_of(problem) in (None, 502, 504)
            if attempt == self.attempts or is_lost or not _is_passing(problem):
                break
            wait = min(LONGEST_WAIT, _asked_wait(problem) or FIRST_WAIT * 2 ** (attempt - 1))
            logger.warning("%s: %s; trying again in %.3g s", self.repo_id, self._in_one_line(problem), wait)
            sleep(wait)
        raise self._hub_error(problem, attempt, if_lost)

    def info(self, revision: str | None = None) -> ModelInfo | None:
        """Return commit, visibility and files of the repo, or None where no such repo or revision can be seen."""

        def call() -> ModelInfo | None:
            try:
                return self.api.model_info(self.repo_id, revision=revision, timeout=CONNECT_SECONDS)
            except errors.GatedRepoError:
                raise
            except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
                return None

        return self.ask(call)

    def existing(self, revision: str | None) -> ModelInfo:
        """Return commit and files of the repo, or raise a HubError where no such repo or revision can be seen."""
        if (info := self.info(revision)) is not None:
            return info
        if revision and self.info() is not None:
            raise HubError(
                f"{self.repo_id}: expected a branch, tag or commit of it, found no {revision!r} on the hub: check it"
            )
        raise HubError(
            f"{self.repo_id}: expected a model on the hub, or a folder here, found none: check the name; if it is "
            f"private, {how_to_log_in()}"
        )

    def download(self, revision: str | None, files: Files) -> Path:
        """Return the folder in the hub's cache with these files; it notes which commit a branch is at."""
        options = {"revision": revision, "token": self.token, "etag_timeout": CONNECT_SECONDS}
        return Path(self.ask(partial(snapshot_download, self.repo_id, **options, **files)))

    def _hub_error(self, error: Exception, attempts: int, if_lost: str | None) -> HubError:
        status, reason = status_of(error), self._in_one_line(error)
        if _is_passing(error) or isinstance(error, errors.OfflineModeIsEnabled):
            times = f", {attempts} times" if attempts > 1 else ""
            advice = if_lost or "check the network (and HF_HUB_OFFLINE, HF_ENDPOINT), then run this again"
            what = "cannot be reached" if status is None else "cannot answer now"
            return HubUnreachable(f"{self.repo_id}: the hub {what} ({reason}{times}): {advice}")
        if isinstance(error, errors.GatedRepoError):
            return HubError(
                f"{self.repo_id}: the hub asks for consent to its terms first: give it on "
                f"{constants.ENDPOINT}/{self.repo_id}, then {how_to_log_in()}"
            )
        if status == 401:
            return HubError(f"{self.repo_id}: the hub does not know this token ({reason}): {how_to_log_in()}")
        right = ": check the owner's name, and what your token may do" if status == 403 else ""
        return HubError(f"{self.repo_id}: the hub refuses ({reason}){right}")

    def _in_one_line(self, error: Exception) -> str:
        """Say what an error says, without tokens and not too long."""
        if isinstance(error, errors.HfHubHTTPError):
            text = f"{status_of(error)}: {error.server_message or error.response.reason_phrase}"
        else:
            text = f"{type(error).__name__}: {error}"
        for secret in (self.token, get_token()):
            if secret:
                text = text.replace(secret, "***")
        text = " ".join(re.sub(r"hf_\w+", "hf_***", text).split())
        return text if len(text) <= 300 else text[:300] + "..."


@contextmanager
def _no_bars_but_on_a_terminal() -> Iterator[None]:
    """Switch the client's progress bars off where nobody would see them move; the user's own setting goes first."""
    if sys.stderr.isatty() or utils.are_progress_bars_disabled() or constants.HF_HUB_DISABLE_PROGRESS_BARS is not None:
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def _root(error: Exception) -> Exception:
    """Return the hub's own error, where the client has wrapped it."""
    wraps = isinstance(error, (RuntimeError, errors.LocalEntryNotFoundError))
    return error.__cause__ if wraps and isinstance(error.__cause__, Exception) else error


def status_of(error: Exception) -> int | None:
    """Return the HTTP status of an error; None: the hub has not answered."""
    return error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None


def _is_passing(error: Exception) -> bool:
    """Tell whether the same request may be granted in a while."""
    if isinstance(error, errors.HfHubHTTPError):
        return status_of(error) in (429, 500, 502, 503, 504)
    # A gateway's page of HTML is no JSON.
    kinds = (errors.HTTPError, ConnectionError, TimeoutError, errors.LocalEntryNotFoundError, json.JSONDecodeError)
    return isinstance(error, kinds) and not isinstance(error, errors.OfflineModeIsEnabled)


def _asked_wait(error: Exception) -> float | None:
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, errors.HfHubHTTPError) else ""
    return float(asked) if asked.isdecimal() else None


def how_to_log_in() -> str:
    """Say what to do where there is no token, or a wrong one."""
    return f"log in with `hf auth login`, or set HF_TOKEN, to a token of {constants.ENDPOINT}/settings/tokens"


def cached_folder(repo_id: str, revision: str | None, files: Files) -> Path | None:
    """Return the folder in the hub's cache with a revision, which may be a part of it; None if nothing is there."""
    try:
        return Path(snapshot_download(repo_id, revision=revision, local_files_only=True, **files))
    except errors.LocalEntryNotFoundError:
        return None


def is_hub_id(name: str) -> bool:
    """Tell whether this may be the name of a repo on the hub, by its form alone."""
    try:
        utils.validate_repo_id(name)
    except errors.HFValidationError:
        return False
    return True
