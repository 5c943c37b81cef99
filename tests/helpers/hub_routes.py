"""What the model hub of the tests answers, one function an address."""

import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from helpers.hub_store import Answer, Refused, Repo, as_json, card_metadata, card_problems

if TYPE_CHECKING:
    from helpers.hub_server import Hub

NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]{0,95}(?<![.-])")
MEMBERS = {"team": ("me",)}
ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Answer]]] = []


@dataclass(frozen=True)
class Access:
    """Whom a token belongs to, and what for: ``read`` or ``write``."""

    user: str
    role: str


def route(method: str, template: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Register what answers ``method`` at addresses like ``template``; what is in braces becomes arguments."""
    special = {"repo": "[^/]+/[^/]+", "path": ".+"}
    pattern = re.sub(r"{(\w+)}", lambda name: f"(?P<{name[1]}>{special.get(name[1], '[^/]+')})", template)

    def register(function: Callable[..., Answer]) -> Callable[..., Answer]:
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


def checked(value: Any, schema: Mapping[str, Any], what: str = "body") -> dict[str, Any]:
    """``value``, if it is an object of these fields and no others; one whose name ends in "?" may be absent."""
    kinds = {name.rstrip("?"): kind for name, kind in schema.items()}
    if not isinstance(value, dict):
        raise Refused(400, f"{what}: expected an object, found {value!r}")
    for name, found in value.items():
        if name not in kinds:
            raise Refused(400, f"{what}: unknown field {name!r}")
        if not isinstance(found, kinds[name]):
            raise Refused(400, f"{what}: {name!r} cannot be {found!r}")
    if missing := [name for name in schema if not name.endswith("?") and name not in value]:
        raise Refused(400, f"{what}: {', '.join(missing)} missing")
    return value


def parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise Refused(400, f"no JSON: {error}") from None


def checked_path(path: str) -> str:
    if "\0" in path or any(part in ("", ".", "..", ".git") for part in path.split("/")):
        raise Refused(400, f"invalid path: {path!r}")
    return path


@dataclass
class Call:
    """One request, as its route sees it."""

    hub: "Hub"
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    repo_id: str = ""

    def answer(self) -> Answer:
        """Find the route and follow it."""
        path = self.target.partition("?")[0]
        for method, pattern, function in ROUTES:
            if method == self.method.replace("HEAD", "GET") and (match := pattern.fullmatch(path)):
                found = {name: unquote(value) for name, value in match.groupdict().items()}
                self.repo_id = found.pop("repo", "")
                # A wrong token is refused everywhere.
                _ = self.who
                return function(self, **found)
        raise Refused(404, f"no such address: {self.method} {path}")

    @cached_property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.target.partition("?")[2]))

    @cached_property
    def who(self) -> Access | None:
        header = self.headers.get("Authorization")
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        access = self.hub.tokens.get(token)
        if access is None or scheme != "Bearer":
            raise Refused(401, "Invalid credentials in Authorization header")
        return access

    def json(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        return checked(parsed(self.body), schema)

    def writer(self) -> Access:
        """Who asks, if he has a token, and that one to write with."""
        if self.who is None:
            # The client takes a 401 for a missing repo by itself, but at https addresses only.
            code = "RepoNotFound" if self.repo_id and self.target.startswith("/api/") else None
            raise Refused(401, "Invalid username or password.", code)
        if self.who.role != "write":
            raise Refused(403, "Forbidden: you must use a write token to upload to a repository.")
        return self.who

    def is_member(self, namespace: str) -> bool:
        return self.who is not None and self.who.user in (namespace, *MEMBERS.get(namespace, ()))

    def readable(self) -> Repo:
        """The repo that is asked for, if who asks may see it."""
        repo, is_member = self.hub.repos.get(self.repo_id), self.is_member(self.repo_id.partition("/")[0])
        if repo is None or repo.kind != "model" or (repo.private and not is_member):
            if self.who is None:
                raise Refused(401, "Invalid username or password.", "RepoNotFound")
            raise Refused(404, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, *, by_pull_request: bool = False) -> Repo:
        """The repo, if who asks may write there; a pull request may come from anybody with a token to write."""
        repo = self.readable()
        self.writer()
        if not by_pull_request and not self.is_member(repo.id.partition("/")[0]):
            raise Refused(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return repo

    def signed(self) -> Repo:
        """The repo that a signed address belongs to."""
        target, _, signature = self.target.rpartition("&signature=")
        if not hmac.compare_digest(signature, self.hub.signature(self.method.replace("HEAD", "GET"), target)):
            raise Refused(403, "SignatureDoesNotMatch")
        if self.repo_id not in self.hub.repos:
            raise Refused(404, "NoSuchBucket")
        return self.hub.repos[self.repo_id]


def without_token(call: Call) -> None:
    # The storage has another owner: a token that is sent there has leaked.
    if "Authorization" in call.headers:
        raise Refused(400, "Only one auth mechanism allowed")


@route("GET", "/api/whoami-v2")
def whoami(call: Call) -> Answer:
    if call.who is None:
        raise Refused(401, "Invalid username or password.")
    name, role = call.who.user, call.who.role
    organizations = [{"type": "org", "name": org, "roleInOrg": role} for org in MEMBERS if call.is_member(org)]
    token = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
    return as_json({"type": "user", "id": name, "name": name, "fullname": name, "orgs": organizations, "auth": token})


@route("POST", "/api/validate-yaml")
def validate_card(call: Call) -> Answer:
    errors, warnings = card_problems(call.json({"content": str, "repoType": str})["content"])
    found = {"errors": [{"message": line} for line in errors], "warnings": [{"message": line} for line in warnings]}
    return as_json(found, 400 if errors else 200)


@route("POST", "/api/repos/create")
def create_repo(call: Call) -> Answer:
    who = call.writer()
    asked = call.json({"name": str, "organization": str | None, "visibility?": str})
    namespace, visibility = asked["organization"] or who.user, asked.get("visibility", "public")
    repo_id = f"{namespace}/{asked['name']}"
    if not NAME.fullmatch(asked["name"]) or visibility not in ("public", "private"):
        raise Refused(400, f"Invalid repo name or visibility: {repo_id}, {visibility}")
    if not call.is_member(namespace):
        raise Refused(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
    url = f"{call.hub.url}/{repo_id}"
    if repo_id in call.hub.repos:
        raise Refused(409, f"You already created this {call.hub.repos[repo_id].kind} repo: {repo_id}", url=url)
    call.hub.add_repo(repo_id, private=visibility == "private")
    return as_json({"url": url, "name": repo_id})


@route("GET", "/api/models/{repo}")
@route("GET", "/api/models/{repo}/revision/{revision}")
def repo_info(call: Call, revision: str = "main") -> Answer:
    repo = call.readable()
    commit = repo.find(revision)
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.files)]
    if call.query.get("blobs") == "true":
        for sibling in siblings:
            blob = commit.files[sibling["rfilename"]]
            sibling |= {"blobId": blob.oid} | blob.describe("sha256")
    card = commit.files.get("README.md")
    about: dict[str, Any] = {"id": repo.id, "sha": commit.id, "private": repo.private, "siblings": siblings}
    return as_json(about | {"cardData": card_metadata(card.content.decode()) if card else None})


@route("GET", "/api/models/{repo}/tree/{revision}")
def tree(call: Call, revision: str) -> Answer:
    files = call.readable().find(revision).files
    return as_json(
        [{"type": "file", "path": path, "oid": blob.oid, **blob.describe("oid")} for path, blob in files.items()]
    )


@route("POST", "/api/models/{repo}/branch/{name}")
def create_branch(call: Call, name: str) -> Answer:
    repo = call.writable()
    commit = repo.find(call.json({"startingPoint?": str}).get("startingPoint", "main"))
    if name in repo.refs:
        raise Refused(409, f"Reference already exists: {name}")
    repo.refs[name] = commit.id
    return as_json({})


@route("GET", "/storage/{repo}/{oid}")
def get_object(call: Call, oid: str) -> Answer:
    repo = call.signed()
    without_token(call)
    if oid not in repo.objects:
        raise Refused(404, "NoSuchKey")
    return Answer(200, repo.objects[oid], {"ETag": f'"{oid}"'})


@route("GET", "/{repo}/resolve/{revision}/{path}")
def resolve(call: Call, revision: str, path: str) -> Answer:
    repo = call.readable()
    commit = repo.find(revision)
    headers = {"X-Repo-Commit": commit.id}
    if path not in commit.files:
        raise Refused(404, f"Entry not found: {path}", "EntryNotFound", headers)
    blob = commit.files[path]
    if not blob.is_lfs:
        return Answer(200, blob.content, headers | {"ETag": f'"{blob.oid}"'})
    size = len(blob.content)
    place = call.hub.storage_url + call.hub.signed("GET", f"/storage/{repo.id}/{blob.sha256}?size={size}")
    linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(size), "Location": place}
    return Answer(302, headers=headers | linked)
