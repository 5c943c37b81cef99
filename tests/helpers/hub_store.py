"""What the model hub of the tests keeps: repos of commits and blobs, the latter named as git names them."""

import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import yaml

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A request that is not granted; ``code`` is what the client tells one 404 from another by."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message.replace("\n", " ").encode("ascii", "replace").decode(), **(headers or {})}
        if code is not None:
            headers["X-Error-Code"] = code
        self.answer = as_json({"error": message, **more}, status, headers)


@dataclass(frozen=True)
class Blob:
    """A file's bytes; a large file stands in git as a pointer to them."""

    content: bytes
    is_lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def in_git(self) -> bytes:
        if not self.is_lfs:
            return self.content
        size = len(self.content)
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n".encode()

    @cached_property
    def oid(self) -> str:
        return hashlib.sha1(f"blob {len(self.in_git)}\0".encode() + self.in_git).hexdigest()

    def describe(self, digest: str) -> dict[str, Any]:
        """Its size and, of a large file, the hash under the name ``digest``."""
        size = {"size": len(self.content)}
        return size | ({"lfs": {digest: self.sha256, **size, "pointerSize": len(self.in_git)}} if self.is_lfs else {})


@dataclass(frozen=True)
class Commit:
    id: str
    parent: str | None
    files: Mapping[str, Blob]


@dataclass
class Repo:
    """A repo; ``objects`` are the large files that were uploaded, committed or not, by SHA-256."""

    id: str
    private: bool
    kind: str = "model"
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)

    def find(self, revision: str) -> Commit:
        """The commit of a branch, a pull request's ref, or a commit id."""
        oid = self.refs.get(revision, revision)
        if oid not in self.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, revision: str) -> Iterator[Commit]:
        """A commit and its ancestors, newest first."""
        yield (commit := self.find(revision))
        while commit.parent is not None:
            yield (commit := self.commits[commit.parent])

    def add(self, ref: str, parent: Commit | None, files: Mapping[str, Blob]) -> str:
        """Write a commit and let ``ref`` point to it: from here on, and not before, it is seen. Returns its id."""
        oid = secrets.token_hex(20)
        self.commits[oid] = Commit(oid, parent.id if parent else None, dict(files))
        self.refs[ref] = oid
        return oid

    def stored_bytes(self, files: Mapping[str, Blob] | None = None) -> int:
        """What its whole history takes, with ``files`` besides."""
        trees = [commit.files for commit in self.commits.values()] + [files or {}]
        return sum({blob.oid: len(blob.content) for tree in trees for blob in tree.values()}.values())


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


def card_metadata(card: str) -> Any:
    """What stands between the dashes at the head of a README.md; None where nothing does.

    Raises:
        yaml.YAMLError: it is no YAML, or names objects of a language.
    """
    block = re.match(r"\s*---[\r\n]+(.*?)[\r\n]+---(?:\r?\n|$)", card, re.DOTALL)
    return yaml.safe_load(block[1]) if block else None


def card_problems(card: str) -> tuple[list[str], list[str]]:
    """The errors and the warnings in a README.md's metadata."""
    try:
        metadata = card_metadata(card)
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"], []
    if metadata is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(metadata, dict):
        return [f"the metadata must be an object, found {type(metadata).__name__}"], []
    errors = []
    for name in ("license", "language", "tags", "datasets", "metrics", "base_model", "library_name", "pipeline_tag"):
        found = metadata.get(name) or []
        values = found if isinstance(found, list) else [found]
        errors += [f'"{name}" must be a string or a list of strings' for value in values if not isinstance(value, str)]
        if name in ("datasets", "base_model"):
            wrong = [value for value in values if not HUB_ID.fullmatch(str(value))]
            errors += [f'"{name}" with value "{value}" is not valid, use an id on the hub' for value in wrong]
    return errors + _score_problems(metadata.get("model-index") or []), []


def _score_problems(models: Any) -> list[str]:
    # model-index: [{name, results: [{task: {type}, dataset: {name, type}, metrics: [{type, value}]}]}]
    try:
        for model in models:
            fields = [model["name"]]
            for result in model["results"]:
                fields += [result["task"]["type"], result["dataset"]["name"], result["dataset"]["type"]]
                fields += [metric["type"] for metric in result["metrics"]]
                if not all(isinstance(metric["value"], int | float | str) for metric in result["metrics"]):
                    return ['"model-index": a value must be a number or a string']
            if not all(isinstance(value, str) for value in fields):
                return ['"model-index": names and types must be strings']
    except (KeyError, TypeError) as error:
        return [f'"model-index" is incomplete: {error!r}']
    return []
