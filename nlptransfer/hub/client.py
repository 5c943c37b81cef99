"""The hub's client as we use it: what passes is tried again, what does not is told in one line, with no token."""

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import sleep
from typing import NoReturn, TypeVar

from huggingface_hub import HfApi, ModelInfo, constants, get_session, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from nlptransfer.errors import HubError

logger = logging.getLogger("nlptransfer")

ATTEMPTS = 5
FIRST_WAIT = 1.0
"""seconds before a request is tried again; doubled each time"""
LONGEST_WAIT = 60.0
"""seconds, where the hub asks for more"""
CONNECT_SECONDS = 10
STALLED_SECONDS = 120.0
"""of silence in the middle of a request, after which it counts as lost"""
_PASSING_STATUSES = (429, 500, 502, 503, 504)
_T = TypeVar("_T")


class HubUnreachable(HubError):
    """The hub gave no answer, or said that it cannot answer now."""


@dataclass
class HubClient:
    """The hub's client for one repo: what passes is tried again, what does not is told in one line, with no token."""

    repo_id: str
    token: str | None = field(repr=False)
    owners: tuple[str, ...] = ()
    """whom the token may write for; known once it is identified"""
    api: HfApi = field(init=False)

    def __post_init__(self) -> None:
        self.api = HfApi(token=self.token)

    def ask(self, call: Callable[[], _T], *, attempts: int | None = None, if_lost: str | None = None) -> _T:
        """What a call returns.

        Args:
            attempts: how often it is tried while the hub does not answer.
            if_lost: what to do where a request may have been granted and its answer got lost, in place of trying again.

        Raises:
            HubError: it failed. The error has no cause, as the client's errors hold the token.
        """
        attempts = attempts or ATTEMPTS
        for attempt in range(1, attempts + 1):
            try:
                with _time_limits():
                    return call()
            except (HTTPError, OSError, ValueError, RuntimeError) as error:
                problem = _root(error)
            is_lost = if_lost is not None and _is_passing(problem) and status_of(problem) in (None, 502, 504)
            if attempt == attempts or is_lost or not _is_passing(problem):
                break
            wait = min(LONGEST_WAIT, _asked_wait(problem) or FIRST_WAIT * 2 ** (attempt - 1))
            logger.warning("%s: %s; trying again in %.3g s", self.repo_id, self.told(problem), wait)
            sleep(wait)
        self.fail(problem, attempt, if_lost if is_lost else None)

    def fail(self, error: Exception, attempts: int, advice: str | None) -> NoReturn:
        """Raise a HubError that says what happened and what to do."""
        status, told = status_of(error), self.told(error)
        owner = self.repo_id.partition("/")[0]
        if _is_passing(error) or isinstance(error, OfflineModeIsEnabled):
            times = f", {attempts} times" if attempts > 1 else ""
            advice = advice or "check the network (and HF_HUB_OFFLINE, HF_ENDPOINT), then run this again"
            what = "cannot be reached" if status is None else "cannot answer now"
            raise HubUnreachable(f"{self.repo_id}: the hub {what} ({told}{times}): {advice}")
        if isinstance(error, GatedRepoError):
            raise HubError(
                f"{self.repo_id}: the hub asks for consent to its terms first: give it on "
                f"{constants.ENDPOINT}/{self.repo_id}, then {how_to_log_in()}"
            )
        if status == 401:
            raise HubError(f"{self.repo_id}: the hub does not know this token ({told}): {how_to_log_in()}")
        if status == 403 and self.owners and owner not in self.owners:
            raise HubError(
                f"{self.repo_id}: expected a repo of {' or '.join(self.owners)}, for whom this token may write, found "
                f"one of {owner} ({told}): take another name or token"
            )
        raise HubError(f"{self.repo_id}: the hub refuses ({told})")

    def told(self, error: Exception) -> str:
        """An error in one line, without tokens."""
        if isinstance(error, HfHubHTTPError):
            text = f"{status_of(error)}: {error.server_message or error.response.reason_phrase}"
        else:
            text = f"{type(error).__name__}: {error}"
        return self.scrubbed(text)

    def scrubbed(self, text: str) -> str:
        """A text in one line, without tokens and not too long."""
        for secret in (self.token, get_token()):
            if secret:
                text = text.replace(secret, "***")
        text = " ".join(re.sub(r"hf_\w+", "hf_***", text).split())
        return text if len(text) <= 300 else text[:300] + "..."

    def info(self, revision: str | None = None, *, attempts: int | None = None) -> ModelInfo | None:
        """Commit, visibility and files of the repo; None where there is no such repo or revision to be seen."""

        def call() -> ModelInfo | None:
            try:
                return self.api.model_info(
                    self.repo_id, revision=revision, files_metadata=True, timeout=CONNECT_SECONDS
                )
            except GatedRepoError:
                raise
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return None

        return self.ask(call, attempts=attempts)

    def identify(self) -> None:
        """Find out whom the token belongs to; refuse one that may only read."""
        me = self.ask(self.api.whoami)
        self.owners = (me["name"], *(organization["name"] for organization in me.get("orgs", [])))
        if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise HubError(
                f"{self.repo_id}: expected a token that may write, found one that may only read: make another on "
                f"{constants.ENDPOINT}/settings/tokens"
            )

    def branch_head(self, revision: str | None) -> ModelInfo:
        """The newest commit of a branch, which is made of main where it is not there."""
        head = self.info(revision)
        if head is None and revision is not None:
            self.ask(partial(self.api.create_branch, self.repo_id, branch=revision, exist_ok=True))
            head = self.info(revision)
        if head is None:
            raise HubError(f"{self.repo_id}: expected the branch {revision or 'main'}, found none: run this again")
        return head


@contextmanager
def _time_limits() -> Iterator[None]:
    """Let requests that have no limit of their own, as the client's uploads, be given up where the hub falls silent."""
    session = get_session()
    before = session.timeout
    if before.read is None:
        session.timeout = (CONNECT_SECONDS, STALLED_SECONDS, STALLED_SECONDS, STALLED_SECONDS)
    try:
        yield
    finally:
        session.timeout = before


def _root(error: Exception) -> Exception:
    """The hub's own error, where the client has wrapped it."""
    wraps = isinstance(error, (RuntimeError, LocalEntryNotFoundError))
    return error.__cause__ if wraps and isinstance(error.__cause__, Exception) else error


def status_of(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _is_passing(error: Exception) -> bool:
    """Whether the same request may be granted in a while."""
    if isinstance(error, HfHubHTTPError):
        return status_of(error) in _PASSING_STATUSES
    if isinstance(error, OfflineModeIsEnabled):
        return False
    # A gateway's page of HTML is no JSON.
    kinds = (HTTPError, ConnectionError, TimeoutError, LocalEntryNotFoundError, json.JSONDecodeError)
    return isinstance(error, kinds)


def _asked_wait(error: Exception) -> float | None:
    """Seconds that the hub asks to wait."""
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return float(asked) if asked.isdecimal() else None


def how_to_log_in() -> str:
    """What to do where there is no token, or a wrong one."""
    return f"log in with `hf auth login`, or set HF_TOKEN, to a token of {constants.ENDPOINT}/settings/tokens"


CARD, RECORD, ATTRIBUTES = "README.md", "nlptransfer.json", ".gitattributes"
# What a saved classifier consists of. Sentencepiece's models by name, as gensim's .model files are pickles.
WANTED = ["*.json", "*.safetensors", "*.txt", "*.onnx", "*.onnx.data", CARD]
UNWANTED = ["checkpoint*/*", "runs/*"]
COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_id(name: str) -> bool:
    """Whether this may be the name of a repo on the hub, by its look alone."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


@contextmanager
def quiet_unless_on_a_terminal() -> Iterator[None]:
    """Without the client's progress bars where nobody would see them move; the user's own setting goes first."""
    is_quiet = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled()
    if is_quiet or sys.stderr.isatty():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
