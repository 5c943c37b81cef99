"""recipes/serve.py in a process of its own, and clients that ask it all at once."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import local
from typing import Any

import requests

from helpers.folders import ROOT

SECONDS = 120
"""The longest that anything here is waited for."""


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    address: str

    def ask(self, texts: Any, session: Any = requests) -> Any:
        return session.post(f"{self.address}/predict", json={"texts": texts}, timeout=SECONDS)


@contextmanager
def serving(model: Path, *options: object) -> Iterator[Server]:
    """Start the recipe at a free port; it is killed in the end if it has not ended."""
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, str(ROOT / "recipes/serve.py"), str(model), "--port", "0", *map(str, options)]
        process = subprocess.Popen(command, stderr=log, stdout=log, env={**os.environ, "PYTHONPATH": str(ROOT)})
        try:
            yield Server(process, _address(process, log))
        finally:
            process.kill()
            process.wait(timeout=SECONDS)


def _address(process: subprocess.Popen[bytes], log: Any) -> str:
    for _ in range(10 * SECONDS):
        written = os.pread(log.fileno(), 10**6, 0).decode()
        if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", written):
            return found[1]
        assert process.poll() is None, written
        time.sleep(0.1)
    raise AssertionError(f"no server after {SECONDS} s: {written}")


def timed(server: Server, texts: Sequence[str], clients: int) -> list[tuple[Any, float]]:
    """Ask for one text after the other by so many clients at once: each answer, and its seconds."""
    sessions = local()

    def ask(text: str) -> tuple[Any, float]:
        if not hasattr(sessions, "mine"):
            sessions.mine = requests.Session()
        start = time.perf_counter()
        answer = server.ask(text, sessions.mine)
        return answer, time.perf_counter() - start

    with ThreadPoolExecutor(clients) as pool:
        return [*pool.map(ask, texts)]
