"""Find what must not leave this machine: tokens, paths of its user, pickles, leftovers. Does not know the hub."""

import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from mmap import ACCESS_READ, mmap
from pathlib import Path

from huggingface_hub import get_token

from nlptransfer.errors import RunFolderError

_TOKEN, _KEY, _HOME, _TEMPORARY = "access token", "private key", "home path", "path of temporary files"
_NETWORK = "path of the network"
_PICKLE, _LEFTOVER = "pickle", "leftover of training"
# Every pattern starts with a literal, for which re searches fast; so what must not stand before is looked for after
# it. Every pattern has a longest match, so that the search is linear.
_SECRETS = (
    (_TOKEN, re.compile(rb"hf_(?<![A-Za-z0-9]hf_)(?:(?:oauth|jwt)_[\w.-]{20}|[A-Za-z0-9]{20})")),
    (_TOKEN, re.compile(rb"gh[pousr]_(?<![A-Za-z0-9]gh[pousr]_)[A-Za-z0-9]{30}")),
    (_TOKEN, re.compile(rb"github_pat_[A-Za-z0-9_]{40}")),
    (_TOKEN, re.compile(rb"A[KS]IA(?<![A-Za-z0-9]A[KS]IA)[A-Z0-9]{16}(?![A-Za-z0-9])")),
    (_TOKEN, re.compile(rb"sk-(?<![\w-]sk-)(?:(?:proj|svcacct|admin|ant|or)-[\w-]{20}|[A-Za-z0-9]{20})")),
    (_TOKEN, re.compile(rb"xox[a-z](?<![A-Za-z0-9]xox[a-z])-[A-Za-z0-9-]{10}")),
    (_TOKEN, re.compile(rb"xapp-(?<![A-Za-z0-9]xapp-)\d-[A-Za-z0-9-]{10}")),
    (_TOKEN, re.compile(rb"hooks\.slack\.com/services/[A-Z0-9]{8}")),
    (_TOKEN, re.compile(rb"AIza(?<![A-Za-z0-9]AIza)[\w-]{35}(?![\w-])")),
    (_TOKEN, re.compile(rb"GOCSPX-[\w-]{20}")),
    (_TOKEN, re.compile(rb"ya29\.(?<![A-Za-z0-9]ya29\.)[\w-]{20}")),
    # A JSON Web Token: {" in base64, twice.
    (_TOKEN, re.compile(rb"eyJ(?<![A-Za-z0-9]eyJ)[\w-]{10,120}\.eyJ[\w-]{10}")),
    (_KEY, re.compile(rb"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY")),
)
_NAME = rb"""[^/\s"'\\<>]{1,64}"""
# A vocabulary may have a folder's name as a token, with a quote after its last slash.
_BELOW = rb"""(?=[^/\s"'\\<>])"""
_SERVER, _SHARE = rb"[A-Za-z0-9][\w.-]{2,62}", rb"[\w$-][\w$ .-]{0,80}"
_PATHS = (
    (_HOME, re.compile(rb"/home/(?<![\w.-]/home/)" + _NAME + b"/")),
    (_HOME, re.compile(rb"/Users/(?<![\w.-]/Users/)" + _NAME + b"/")),
    (_HOME, re.compile(rb"/mnt/[a-z]/Users/" + _NAME + b"/")),
    (_HOME, re.compile(rb"/root/(?<![\w.-]/root/)" + _BELOW)),
    # JSON doubles a backslash, and JSON in JSON doubles it twice.
    (_HOME, re.compile(rb""":(?<=[A-Za-z]:)(?:\\{1,4}|/)(?i:users)(?:\\{1,4}|/)[^\\/"'\r\n:*?<>|]{1,64}[\\/]""")),
    # \\server\share\folder, and the same in JSON.
    (_NETWORK, re.compile(rb"\\\\(?<!\\{3})" + _SERVER + rb"\\" + _SHARE + rb"\\(?=[\w$])")),
    (_NETWORK, re.compile(rb"\\{4}(?<!\\{5})" + _SERVER + rb"\\\\" + _SHARE + rb"\\\\(?=[\w$])")),
)
_Patterns = tuple[tuple[str, re.Pattern[bytes]], ...]
# N-grams are of words in lower case.
_IN_LOWER_CASE: _Patterns = tuple((what, re.compile(one.pattern, re.IGNORECASE)) for what, one in _SECRETS)
_PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_RUN_FILES = re.compile(r"(optimizer|scheduler|random_states|rng_state).*|training_args\.bin|.*\.(distcp|tfevents.*)")


@dataclass(frozen=True)
class Leak:
    """Something that must not be pushed."""

    file: str
    line: int | None
    """from 1; None: the whole file, or no text"""
    what: str
    """in a few words, never the secret itself"""

    def __str__(self) -> str:
        return f"{self.file}: {self.what}" if self.line is None else f"{self.file}, line {self.line}: {self.what}"


def find_leaks(folder: Path, extra: Mapping[str, str] | None = None, secrets: Iterable[str] = ()) -> list[Leak]:
    """Return everything in a folder that must not be pushed: each file once for each line and kind.

    Texts, the headers of safetensors files and ONNX files are searched for access tokens, private keys, paths of
    anybody's home, of the network and of this user's temporary files; n-grams for tokens; other binary files for
    tokens, keys and this user's own paths. Pickles, leftovers of training, hidden files and links that lead out are
    leaks as a whole.

    ``extra`` are texts by name (the card), in place of files of that name; ``secrets`` are tokens to look for, beside
    all that look like one and the one that this machine is logged in with.
    """
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: expected the folder of a saved classifier, found none: check the path")
    tokens = {token.strip() for token in (*secrets, get_token() or "")} - {""}
    known = tuple((_TOKEN, re.compile(re.escape(token.encode()))) for token in sorted(tokens))
    extra, anywhere = extra or {}, _SECRETS + known + _own_paths()
    leaks: list[Leak] = []
    for path, name, what in _walk(folder, folder.resolve()):
        if name in extra:
            continue
        if what:
            leaks.append(Leak(name, None, what))
        elif path.is_file() and path.stat().st_size:
            with path.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as content:
                leaks += _in_file(path, name, content, anywhere)
    for name, text in extra.items():
        leaks += _found(name, text.encode(), anywhere + _PATHS)
    return leaks


def check_links(folder: Path) -> None:
    """Raise a RunFolderError for a link in a folder that leads out of it: what it names is none of the folder's."""
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise RunFolderError(f"{path}: expected a file of the folder, found a link out of it: put the file there")


def _walk(folder: Path, root: Path, above: str = "") -> Iterator[tuple[Path, str, str | None]]:
    """Yield path, name and why it must not be pushed of everything in a folder, but nothing below what must not."""
    for path in sorted(folder.iterdir()):
        name, what = above + path.name, _forbidden(path, root)
        yield path, name, what
        if what is None and path.is_dir():
            yield from _walk(path, root, name + "/")


def _forbidden(path: Path, root: Path) -> str | None:
    if path.is_symlink() and not path.exists():
        return "link to nothing"
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        return "link that leads out of the folder"
    if path.is_symlink() and path.is_dir():
        return "link to a folder"
    if path.name.startswith("."):
        return "hidden file"
    if path.is_dir():
        return _LEFTOVER if path.name.startswith("checkpoint") else None
    if not path.is_file():
        return "neither a file nor a folder"
    if _RUN_FILES.fullmatch(path.name):
        return _LEFTOVER
    return _PICKLE if path.name.lower().endswith(_PICKLE_ENDINGS) else None


def _in_file(path: Path, name: str, content: mmap, anywhere: _Patterns) -> list[Leak]:
    suffix, length = path.suffix.lower(), int.from_bytes(content[:8], "little")
    if suffix == ".safetensors" and 0 < length <= len(content) - 8 and content[8:9] == b"{":
        header = _found(name, content[8 : 8 + length], anywhere + _PATHS, is_text=False)
        return list(dict.fromkeys([*header, *_found(name, _words_in(path), _IN_LOWER_CASE, is_text=False)]))
    if re.match(rb"\x80[\x02-\x05][^\0]", content, re.DOTALL) or _is_archive_of_pickles(path, content):
        return [Leak(name, None, _PICKLE)]
    is_text = b"\0" not in content[:8192]
    # In other binary files a published vocabulary may hold paths of its makers.
    return _found(name, content, anywhere + _PATHS if is_text or suffix == ".onnx" else anywhere, is_text=is_text)


def _words_in(path: Path) -> bytes:
    """Return the words of training texts that n-grams hold as bytes, one a line; none where there are no n-grams."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            if not {"terms", "ends"} <= {*file.keys()}:
                return b""
            text, ends = file.get_tensor("terms").tobytes(), [0, *map(int, file.get_tensor("ends"))]
    except (SafetensorError, TypeError, ValueError):  # not written by this package
        return b""
    return b"\n".join(text[start:end] for start, end in pairwise(ends))


def _is_archive_of_pickles(path: Path, content: mmap) -> bool:
    # What torch.save writes.
    if content[:2] != b"PK" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".pkl") for name in archive.namelist())


def _found(name: str, content: bytes | mmap, patterns: _Patterns, *, is_text: bool = True) -> list[Leak]:
    hits = sorted((match.start(), what) for what, pattern in patterns for match in pattern.finditer(content))
    leaks: dict[Leak, None] = {}
    line, at = 1, 0
    for start, what in hits:
        if is_text:
            line, at = line + content[at:start].count(b"\n"), start
        leaks[Leak(name, line if is_text else None, what)] = None
    return list(leaks)


def _own_paths() -> _Patterns:
    """Return patterns of this user's home and temporary folder, as they are named and where they really lie."""
    patterns = []
    for what, place in ((_HOME, os.path.expanduser("~")), (_TEMPORARY, tempfile.gettempdir())):
        for path in sorted({place, os.path.realpath(place)}):
            # JSON has letters as escapes and backslashes doubled.
            for text in sorted({path, json.dumps(path)[1:-1]}):
                if os.path.isabs(path) and len(Path(path).parts) > 1:
                    literal = re.escape(os.fsencode(text))
                    before, after = rb"(?<![\w.-]" + literal + rb")", rb"(?:\\{1,2}|/)" + _BELOW
                    patterns.append((what, re.compile(literal + before + after)))
    return tuple(patterns)
