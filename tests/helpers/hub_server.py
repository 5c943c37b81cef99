"""A small model hub on the loopback interface: the real client of huggingface_hub talks to it.

It has what this package asks a hub for, and refuses what the public one refuses: strangers, tokens without the right,
uploads that do not hash to their name, commits without their large files or on a stale parent, invalid cards. What it
holds outlives a stop; requests fail as a test asks for. A large file comes and goes at an address of its own.
"""

import base64
import hashlib
import json
import re
import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import yaml

LARGE = (".safetensors", ".bin", ".onnx", ".pt", ".model")
MEMBERS = {"me": ("me", "team"), "other": ("other",)}
"""Owners that a user may write for."""


@dataclass(frozen=True)
class Commit:
    id: str
    parent: str | None
    files: Mapping[str, bytes]


@dataclass
class Repo:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files that were uploaded, committed or not, by SHA-256."""

    def find(self, revision: str) -> Commit:
        if (commit := self.commits.get(self.branches.get(revision, revision))) is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def add(self, branch: str, parent: Commit | None, files: Mapping[str, bytes]) -> str:
        oid = hashlib.sha1(f"{branch} {len(self.commits)} {sorted(files.items())}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent.id if parent else None, dict(files))
        self.branches[branch] = oid
        return oid


@dataclass(frozen=True)
class Request:
    """One line of the log."""

    method: str
    path: str
    """As sent, with its query."""
    status: int
    """0: the connection was cut, and nothing answered."""
    received_bytes: int
    """Of the body."""


@dataclass
class Fault:
    """What becomes of the next ``left`` requests of a kind, see ``Hub.fail``."""

    method: str
    pattern: str
    left: int
    answer: "Answer | None"
    cut_after: int | None
    before: Callable[[], object] | None
    lose_answer: bool


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A request that is not granted; ``code`` is what the client tells one 404 from another by."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        headers = {"X-Error-Message": message.replace("\n", " "), **(headers or {})}
        self.answer = Answer(
            status, json.dumps({"error": message}).encode(), headers | ({"X-Error-Code": code} if code else {})
        )


class Hub:
    """The hub, as a test sees it.

    Users: "me", who is also a member of the organization "team", and "other". A new repo has one commit without
    files; ``add_repo`` and ``commit`` write behind everybody's back, with no right asked for.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # Like real ones in form, and put together here so that no scanner takes them for such.
        rights = {
            "WriteTokenOfMe": ("me", "write"),
            "ReadTokenOfMe": ("me", "read"),
            "WriteTokenOfOther": ("other", "write"),
        }
        self.tokens = {"hf_" + name.ljust(34, "x"): right for name, right in rights.items()}
        self.token, self.read_token, self.other_token = self.tokens
        self.requests: list[Request] = []
        self.repos: dict[str, Repo] = {}
        self.server: ThreadingHTTPServer | None = None
        self.lock = threading.RLock()
        self.bugs: list[str] = []
        self._faults: list[Fault] = []

    def start(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), type("Handler", (_Handler,), {"hub": self}))
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Answer no more; what is held stays. A request must not have run into an error of this server's own."""
        server, self.server = self.server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        assert not self.bugs, "\n".join(self.bugs)

    def fail(
        self,
        method: str,
        pattern: str,
        *,
        status: int | None = 500,
        headers: Mapping[str, str] | None = None,
        error_code: str | None = None,
        message: str = "",
        times: int = 1,
        cut_after: int | None = None,
        before: Callable[[], object] | None = None,
        lose_answer: bool = False,
    ) -> None:
        """Let the next ``times`` requests fail whose path as sent has the regular expression ``pattern`` in it.

        They get the answer of ``status``, and nothing is done; with None what they ask for is done. First ``before`` is
        called, in the server's thread. The connection is cut without an answer after ``cut_after`` bytes of the body,
        and nothing is done, or with ``lose_answer`` where the answer would be sent.
        """
        answer = None if status is None else Refused(status, message, error_code, headers).answer
        self._faults.append(Fault(method, pattern, times, answer, cut_after, before, lose_answer))

    def unused_faults(self) -> list[Fault]:
        return [fault for fault in self._faults if fault.left]

    def repair(self) -> None:
        """Let nothing fail any more."""
        self._faults.clear()

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.unused_faults():
                if fault.method == method and re.search(fault.pattern, path):
                    fault.left -= 1
                    return fault
        return None

    def files(self, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        """Path -> bytes of every file."""
        return dict(self.repos[repo_id].find(branch).files)

    def commits(self, repo_id: str, branch: str = "main") -> list[str]:
        """Commit ids, newest first; the last is the one without files that every repo begins with."""
        repo, found = self.repos[repo_id], [self.repos[repo_id].find(branch)]
        while found[-1].parent is not None:
            found.append(repo.commits[found[-1].parent])
        return [commit.id for commit in found]

    def is_private(self, repo_id: str) -> bool:
        return self.repos[repo_id].private

    def add_repo(self, repo_id: str, files: Mapping[str, bytes] | None = None, *, private: bool = False) -> str:
        """Make a repo, in a second commit with these files. Returns the id of its newest commit."""
        self.repos[repo_id] = repo = Repo(private)
        first = repo.add("main", None, {})
        return self.commit(repo_id, files) if files else first

    def commit(self, repo_id: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add or replace files on a branch. Returns the commit id."""
        repo = self.repos[repo_id]
        repo.objects |= {digest(content): content for path, content in files.items() if path.endswith(LARGE)}
        return repo.add(branch, repo.find(branch), {**repo.find(branch).files, **files})


@dataclass(frozen=True)
class Call:
    """One request, and what is asked of who sends it."""

    hub: Hub
    token: str | None
    body: bytes
    query: str

    @property
    def who(self) -> str | None:
        if self.token is not None and self.token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[self.token][0] if self.token else None

    def is_member(self, repo_id: str) -> bool:
        return repo_id.partition("/")[0] in MEMBERS.get(self.who or "", ())

    def readable(self, repo_id: str) -> Repo:
        is_member, repo = self.is_member(repo_id), self.hub.repos.get(repo_id)
        if repo is None or (repo.private and not is_member):
            raise Refused(404 if self.who else 401, "Repository not found", "RepoNotFound")
        return repo

    def may_write(self, repo_id: str) -> None:
        if self.who is None or self.hub.tokens[self.token or ""][1] != "write":
            raise Refused(403, "Forbidden: you must use a write token")
        # Whoever may write anywhere may open a pull request, and uploads its files first.
        if not self.is_member(repo_id) and "create_pr" not in self.query:
            raise Refused(403, f"You don't have the rights to write to {repo_id}")

    def json(self) -> Any:
        return json.loads(self.body)


ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Answer]]] = []
REPO = "(?P<repo_id>[^/]+/[^/]+)"
MODEL = f"/api/models/{REPO}"


def route(method: str, pattern: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Register what answers at addresses like this."""

    def register(function: Callable[..., Answer]) -> Callable[..., Answer]:
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


@route("GET", "/api/whoami-v2")
def whoami(call: Call) -> Answer:
    if call.who is None:
        raise Refused(401, "Invalid username or password.")
    token = {"accessToken": {"role": call.hub.tokens[call.token or ""][1]}}
    return as_json({"name": call.who, "orgs": [{"name": name} for name in MEMBERS[call.who][1:]], "auth": token})


@route("POST", "/api/validate-yaml")
def validate_card(call: Call) -> Answer:
    found = re.match(r"---\n(.*?)\n---\n", call.json()["content"], re.DOTALL)
    try:
        metadata = yaml.safe_load(found[1]) if found else {}
        names = ("license", "library_name", "pipeline_tag", "base_model")
        errors = [f'"{name}" must be a string' for name in names if not isinstance(metadata.get(name, ""), str)]
    except (yaml.YAMLError, AttributeError) as error:
        errors = [f"Invalid YAML: {error}"]
    return as_json({"errors": [{"message": line} for line in errors], "warnings": []}, 400 if errors else 200)


@route("POST", "/api/repos/create")
def create_repo(call: Call) -> Answer:
    asked = call.json()
    repo_id = f"{asked.get('organization') or call.who}/{asked['name']}"
    call.may_write(repo_id)
    is_new = repo_id not in call.hub.repos
    if is_new:
        call.hub.add_repo(repo_id, private=asked.get("visibility") == "private")
    return as_json({"url": f"{call.hub.url}/{repo_id}"}, 200 if is_new else 409)


@route("GET", f"{MODEL}(?:/revision/(?P<revision>[^/]+))?")
def model_info(call: Call, repo_id: str, revision: str | None) -> Answer:
    repo = call.readable(repo_id)
    commit = repo.find(revision or "main")
    siblings = [{"rfilename": path} for path in sorted(commit.files)]
    return as_json({"id": repo_id, "sha": commit.id, "private": repo.private, "siblings": siblings})


@route("GET", f"{MODEL}/tree/(?P<revision>[^/]+)")
def tree(call: Call, repo_id: str, revision: str) -> Answer:
    files = call.readable(repo_id).find(revision).files
    return as_json(
        [{"type": "file", "path": path, "oid": oid_of(path, files[path]), "size": len(files[path])} for path in files]
    )


@route("POST", f"{MODEL}/branch/(?P<name>[^/]+)")
def create_branch(call: Call, repo_id: str, name: str) -> Answer:
    call.may_write(repo_id)
    repo = call.readable(repo_id)
    repo.branches.setdefault(name, repo.branches["main"])
    return as_json({})


@route("GET", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(call: Call, repo_id: str, revision: str, path: str) -> Answer:
    commit = call.readable(repo_id).find(revision)
    if path not in commit.files:
        raise Refused(404, f"Entry not found: {path}", "EntryNotFound", {"X-Repo-Commit": commit.id})
    content = commit.files[path]
    return Answer(200, content, {"X-Repo-Commit": commit.id, "ETag": f'"{oid_of(path, content)}"'})


@route("POST", f"{MODEL}/preupload/(?P<revision>[^/]+)")
def preupload(call: Call, repo_id: str, revision: str) -> Answer:
    call.may_write(repo_id)
    commit, files = call.readable(repo_id).find(revision), []
    for path, size in ((file["path"], file["size"]) for file in call.json()["files"]):
        known = {"oid": oid_of(path, commit.files[path])} if path in commit.files else {}
        mode = "lfs" if path.endswith(LARGE) and size else "regular"
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
    return as_json({"files": files})


@route("POST", f"/{REPO}\\.git/info/lfs/objects/batch")
def lfs_batch(call: Call, repo_id: str) -> Answer:
    repo, answers = call.readable(repo_id), []
    for one in call.json()["objects"]:
        upload = {"href": f"{call.hub.url}/storage/{repo_id}/{one['oid']}"}
        verify = {"href": f"{call.hub.url}/{repo_id}.git/info/lfs/objects/verify"}
        answers.append(one if one["oid"] in repo.objects else one | {"actions": {"upload": upload, "verify": verify}})
    return as_json({"transfer": "basic", "objects": answers})


@route("PUT", f"/storage/{REPO}/(?P<oid>[^/]+)")
def put_object(call: Call, repo_id: str, oid: str) -> Answer:
    if digest(call.body) != oid:
        raise Refused(400, "BadDigest: the content does not hash to its oid")
    call.hub.repos[repo_id].objects[oid] = call.body
    return as_json({})


@route("POST", f"/{REPO}\\.git/info/lfs/objects/verify")
def lfs_verify(call: Call, repo_id: str) -> Answer:
    if call.json()["oid"] not in call.readable(repo_id).objects:
        raise Refused(404, "no such object")
    return as_json({})


@route("POST", f"{MODEL}/commit/(?P<revision>[^/]+)")
def commit(call: Call, repo_id: str, revision: str) -> Answer:
    call.may_write(repo_id)
    repo = call.readable(repo_id)
    base, operations = repo.find(revision), [json.loads(line) for line in call.body.splitlines()]
    parent = operations[0]["value"].get("parentCommit")
    branch, pull_request = revision, {}
    if "create_pr" in call.query:
        base, number = repo.find(parent or base.id), 1 + sum(name.startswith("refs/pr/") for name in repo.branches)
        branch, pull_request = f"refs/pr/{number}", {"pullRequestUrl": f"{call.hub.url}/{repo_id}/discussions/{number}"}
    elif parent not in (None, base.id):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = dict(base.files)
    for operation in operations[1:]:
        key, value = operation["key"], operation["value"]
        if key == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise Refused(404, f"A file with this name doesn't exist: {value['path']}", "EntryNotFound")
        elif key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif value["oid"] not in repo.objects:
            raise Refused(400, f"an LFS pointer pointed to a file that does not exist: {value['path']}")
        else:
            files[value["path"]] = repo.objects[value["oid"]]
    if both := [path for path in files if any(other.startswith(f"{path}/") for other in files)]:
        raise Refused(400, f"both a file and a folder: {both}")
    oid = repo.add(branch, base, files)
    return as_json({"commitOid": oid, "commitUrl": f"{call.hub.url}/{repo_id}/commit/{oid}", **pull_request})


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Into the hub's own log only."""

    def _serve(self) -> None:
        hub, fault = self.hub, self.hub.next_fault(self.command, self.path)
        if fault is not None and fault.before is not None:
            fault.before()
        length = int(self.headers.get("Content-Length") or 0)
        is_cut = fault is not None and fault.cut_after is not None
        body = self.rfile.read(min(length, fault.cut_after) if is_cut else length)
        if is_cut or hub.server is not self.server:
            return self._cut(len(body))
        answer = (fault and fault.answer) or self._answer(body)
        if fault is not None and fault.lose_answer:
            return self._cut(len(body))
        hub.requests.append(Request(self.command, self.path, answer.status, len(body)))
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _cut(self, received: int) -> None:
        self.hub.requests.append(Request(self.command, self.path, 0, received))

    def _answer(self, body: bytes) -> Answer:
        """Do what is asked for, one request at a time."""
        path, _, query = self.path.partition("?")
        call = Call(self.hub, self.headers.get("Authorization", "").removeprefix("Bearer ") or None, body, query)
        with self.hub.lock:
            try:
                for method, pattern, function in ROUTES:
                    if method == self.command.replace("HEAD", "GET") and (match := pattern.fullmatch(path)):
                        found = {name: value and unquote(value) for name, value in match.groupdict().items()}
                        _ = call.who  # a wrong token is refused everywhere
                        return function(call, **found)
                raise Refused(404, f"no such address: {self.command} {path}")
            except Refused as refusal:
                return refusal.answer
            except Exception:
                self.hub.bugs.append(traceback.format_exc())
                return Refused(500, "a bug of the test's hub").answer


def as_json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def oid_of(path: str, content: bytes) -> str:
    """Name a file as the hub does: a large one by its content, another as git does."""
    if path.endswith(LARGE) and content:
        return digest(content)
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
