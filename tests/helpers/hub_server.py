"""A small model hub on the loopback interface, for tests: the real huggingface_hub client talks to it.

It is strict. An upload that does not hash to its name, a commit whose large files are missing, that builds on a
stale parent or has a field that nobody knows, a stranger, a token without the right: each is refused as the public
hub refuses it. What it keeps outlives the server, which can be stopped and started again on its port.

Large files go to and come from signed addresses of another origin (``http://localhost``, ``/storage/...``) than the
hub's (``http://127.0.0.1``), without a token, as they do in public; behind both is the same server.
"""

import contextlib
import hashlib
import hmac
import re
import secrets
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from helpers.hub_routes import Access, Call
from helpers.hub_store import Answer, Blob, Refused, Repo
from helpers.hub_uploads import LFS_SUFFIXES


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
    answer: Answer | None
    cut_after: int | None
    before: Callable[[], object] | None
    lose_answer: bool


class Hub:
    """The hub, as a test sees it.

    Users: "me", who is also a member of the organization "team", and "other". A new repo has one commit without
    files; ``add_repo`` and ``commit`` write behind everybody's back, with no right or quota asked for.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.storage_url = f"http://localhost:{self.port}"
        # Like real ones in form, and put together here so that no scanner takes them for such.
        self.token, self.read_token, self.other_token = (
            "hf_" + name.ljust(34, "x") for name in ("WriteTokenOfMe", "ReadTokenOfMe", "WriteTokenOfOther")
        )
        self.tokens = {
            self.token: Access("me", "write"),
            self.read_token: Access("me", "read"),
            self.other_token: Access("other", "write"),
        }
        self.quota_bytes: int | None = None
        """What one repo may take, over its whole history."""
        self.part_size: int | None = None
        """Larger uploads are sent in parts of so many bytes; None: never."""
        self.regular_limit = 10 * 2**20
        """Bytes; larger files must be uploaded as large files."""
        self.requests: list[Request] = []
        self.repos: dict[str, Repo] = {}
        self.lock = threading.RLock()
        self._faults: list[Fault] = []
        self._bugs: list[str] = []
        self._secret = secrets.token_bytes(16)
        self._server: _Server | None = None

    def start(self) -> None:
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more, and cut every connection; what is kept stays.

        Raises:
            AssertionError: a request ran into an error of this server, which is no fault that a test asked for.
        """
        server, self._server = self._server, None
        if server is not None:
            server.close()
        bugs, self._bugs = self._bugs, []
        assert not bugs, "\n".join(bugs)

    def restart(self) -> None:
        self.stop()
        self.start()

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
        """Let the next requests of a kind fail.

        Args:
            method: of the requests that are meant.
            pattern: regular expression, searched for in their paths as sent (a slash in a name is ``%2F``), such as
                "/preupload/", "/objects/batch", "/storage/", "/commit/".
            status: they get this answer, and nothing is done. None: what they ask for is done.
            headers: of that answer.
            error_code: of that answer, ``X-Error-Code``.
            message: of that answer.
            times: so many requests.
            cut_after: read so many bytes of the body, then cut the connection without an answer; nothing is done.
            before: called first, in the server's thread.
            lose_answer: cut the connection where the answer would be sent; with ``status=None``, after it was done.
        """
        answer = None if status is None else Refused(status, message, error_code, headers).answer
        self._faults.append(Fault(method, pattern, times, answer, cut_after, before, lose_answer))

    def unused_faults(self) -> list[Fault]:
        """Those that would still strike."""
        return [fault for fault in self._faults if fault.left]

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Path -> bytes of every file."""
        return {path: blob.content for path, blob in self.repos[repo_id].find(revision).files.items()}

    def is_private(self, repo_id: str) -> bool:
        return self.repos[repo_id].private

    def commits(self, repo_id: str, revision: str = "main") -> list[str]:
        """Commit ids, newest first; the last is the one without files that every repo begins with."""
        with self.lock:
            return [commit.id for commit in self.repos[repo_id].history(revision)]

    def add_repo(
        self, repo_id: str, files: Mapping[str, bytes] | None = None, *, private: bool = False, repo_type: str = "model"
    ) -> str:
        """Make a repo, in a second commit with these files. Returns the id of its newest commit."""
        with self.lock:
            self.repos[repo_id] = repo = Repo(repo_id, private, repo_type)
            first = repo.add("main", None, {})
            return self.commit(repo_id, files) if files else first

    def commit(self, repo_id: str, files: Mapping[str, bytes], revision: str = "main") -> str:
        """Add or replace files on a branch. Returns the commit id."""
        with self.lock:
            repo = self.repos[repo_id]
            blobs = {path: Blob(content, self.is_lfs(path, len(content))) for path, content in files.items()}
            repo.objects |= {blob.sha256: blob.content for blob in blobs.values() if blob.is_lfs}
            parent = repo.find(revision)
            return repo.add(revision, parent, {**parent.files, **blobs})

    # For the routes.

    def is_lfs(self, path: str, size: int) -> bool:
        return size > 0 and (path.endswith(LFS_SUFFIXES) or size > self.regular_limit)

    def signature(self, method: str, target: str) -> str:
        return hmac.new(self._secret, f"{method} {target}".encode(), hashlib.sha256).hexdigest()

    def signed(self, method: str, target: str) -> str:
        """``target``, which has a query, with leave to use it without a token."""
        return f"{target}&signature={self.signature(method, target)}"

    # For the server.

    def is_run_by(self, server: object) -> bool:
        return self._server is server

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.unused_faults():
                if fault.method == method and re.search(fault.pattern, path):
                    fault.left -= 1
                    return fault
        return None

    def answer(self, call: Call) -> Answer:
        """Do what is asked for, one request at a time."""
        with self.lock:
            try:
                return call.answer()
            except Refused as refusal:
                return refusal.answer
            except Exception:
                self.note_bug()
                return Refused(500, "a bug of the test's hub").answer

    def note_bug(self) -> None:
        """Keep the exception that is being handled, for ``stop``."""
        self._bugs.append(traceback.format_exc())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        # Open connections, and the threads that serve them.
        self._open: dict[socket.socket, int | None] = {}
        self._changed = threading.Condition()
        super().__init__(("127.0.0.1", hub.port), _Handler)

    def close(self) -> None:
        """Stop; a thread that serves may call it, whose own connection is cut when it is done."""
        self.shutdown()
        self.server_close()
        me = threading.get_ident()
        with self._changed:
            for connection, thread in self._open.items():
                if thread != me:
                    # Whoever waits for a further request sees the end of it; the client may have left already.
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
            closed = self._changed.wait_for(lambda: set(self._open.values()) <= {me}, timeout=10)
        assert closed, "a request is still being served"

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._open[request] = None
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._open[request] = threading.get_ident()
        super().process_request_thread(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._changed:
            del self._open[request]
            super().shutdown_request(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away, or whose connection was cut, is no bug.
        if not isinstance(sys.exception(), ConnectionError):
            self.hub.note_bug()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Into the hub's own log only."""

    def _serve(self) -> None:
        hub = self.server.hub
        fault = hub.next_fault(self.command, self.path)
        if fault is not None and fault.before is not None:
            fault.before()
        limit = fault.cut_after if fault else None
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length if limit is None else min(limit, length))
        if limit is not None or len(body) < length or not hub.is_run_by(self.server):
            return self._cut(len(body))
        if fault is not None and fault.answer is not None:
            answer = fault.answer
        else:
            answer = hub.answer(Call(hub, self.command, self.path, self.headers, body))
        if fault is not None and fault.lose_answer:
            return self._cut(len(body))
        hub.requests.append(Request(self.command, self.path, answer.status, len(body)))
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _cut(self, received: int) -> None:
        self.server.hub.requests.append(Request(self.command, self.path, 0, received))
        self.close_connection = True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
