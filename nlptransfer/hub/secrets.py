"""What must not leave this machine with a saved classifier: tokens, paths of its user, pickles, leftovers."""

import codecs
import io
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

from huggingface_hub import get_token

from nlptransfer.errors import RunFolderError

_TOKEN, _KEY, _HOME, _TEMPORARY = "access token", "private key", "home path", "path of temporary files"
_PICKLE, _LEFTOVER = "pickle", "leftover of training"
# Every pattern starts with a literal, for which re searches fast; so what must not stand before is looked for after
# it. Every pattern has a longest match, so that the search is linear and the parts of a file need to overlap by a bit.
_SECRETS = (
    (_TOKEN, re.compile(rb"hf_(?<![A-Za-z0-9]hf_)(?:(?:oauth|jwt)_[\w.-]{20}|[A-Za-z0-9]{20})")),
    (_TOKEN, re.compile(rb"gh[pousr]_(?<![A-Za-z0-9]gh[pousr]_)[A-Za-z0-9]{30}")),
    (_TOKEN, re.compile(rb"github_pat_[A-Za-z0-9_]{40}")),
    (_TOKEN, re.compile(rb"AKIA(?<![A-Za-z0-9]AKIA)[A-Z0-9]{16}(?![A-Za-z0-9])")),
    (_TOKEN, re.compile(rb"sk-(?<![\w-]sk-)(?:(?:proj|svcacct|admin|ant|or)-[\w-]{20}|[A-Za-z0-9]{20})")),
    (_TOKEN, re.compile(rb"xox[a-z](?<![A-Za-z0-9]xox[a-z])-[A-Za-z0-9-]{10}")),
    (_KEY, re.compile(rb"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY")),
)
_NAME = rb"""[^/\s"'\\<>]{1,64}"""
# A vocabulary may have a folder's name as a token, with a quote after its last slash.
_BELOW = rb"""(?=[^/\s"'\\<>])"""
_PATHS = (
    (_HOME, re.compile(rb"/home/(?<![\w.-]/home/)" + _NAME + b"/")),
    (_HOME, re.compile(rb"/Users/(?<![\w.-]/Users/)" + _NAME + b"/")),
    (_HOME, re.compile(rb"/mnt/[a-z]/Users/" + _NAME + b"/")),
    (_HOME, re.compile(rb"/root/(?<![\w.-]/root/)" + _BELOW)),
    # JSON doubles a backslash, and JSON in JSON doubles it twice.
    (_HOME, re.compile(rb""":(?<=[A-Za-z]:)(?:\\{1,4}|/)(?i:users)(?:\\{1,4}|/)[^\\/"'\r\n:*?<>|]{1,64}[\\/]""")),
)
_Patterns = tuple[tuple[str, re.Pattern[bytes]], ...]
_PART, _OVERLAP, _LOOK_BEHIND = 2**20, 2**10, 16
_PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_LEFTOVER_FILES = (
    "optimizer*",
    "scheduler*",
    "random_states*",
    "rng_state*",
    "training_args.bin",
    "*.distcp",
    "events.out.tfevents*",
)
_LONGEST_HEADER = 10**8


@dataclass(frozen=True)
class Leak:
    """Something that must not be pushed."""

    file: str
    """its path in the folder, with slashes"""
    line: int | None
    """counted from 1; None: the whole file, or no text"""
    what: str
    """in a few words, never the secret itself"""

    def __str__(self) -> str:
        return f"{self.file}: {self.what}" if self.line is None else f"{self.file}, line {self.line}: {self.what}"


def find_leaks(folder: Path, extra: Mapping[str, str] | None = None, secrets: Iterable[str] = ()) -> list[Leak]:
    """Everything in a folder that must not be pushed: each file once for each line and kind.

    Texts, the headers of safetensors files and ONNX files are searched for access tokens, private keys and paths of
    anybody's home and of this user's temporary files; other binary files for tokens, keys and this user's own paths.
    Pickles (by name and by their first bytes), leftovers of training, hidden files and links that lead out are leaks
    as a whole.

    Args:
        extra: further texts by name (the card); they take the place of files of that name.
        secrets: tokens to look for, besides all that look like one and the one that this machine is logged in with.

    Raises:
        RunFolderError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: expected the folder of a saved classifier, found none: check the path")
    extra, own = extra or {}, _secrets(secrets) + _own_paths()
    found: dict[Leak, None] = {}
    for path, name, what in _walk(folder, folder.resolve()):
        if name in extra:
            continue
        if what is not None:
            found[Leak(name, None, what)] = None
        elif path.is_file():
            found |= dict.fromkeys(_in_file(path, name, own))
    for name, text in extra.items():
        found |= dict.fromkeys(Leak(name, *hit) for hit in _search(io.BytesIO(text.encode()), own + _PATHS))
    return list(found)


def _walk(folder: Path, root: Path, above: str = "") -> Iterator[tuple[Path, str, str | None]]:
    """Path, name and why it must not be pushed of everything in a folder, save what is in folders that must not be."""
    for path in sorted(folder.iterdir()):
        name, what = above + path.name, _forbidden(path, root)
        yield path, name, what
        if what is None and path.is_dir():
            yield from _walk(path, root, name + "/")


def _forbidden(path: Path, root: Path) -> str | None:
    """Why a file or folder must not be pushed, whatever it says."""
    if path.is_symlink():
        if not path.exists():
            return "link to nothing"
        if not path.resolve().is_relative_to(root):
            return "link that leads out of the folder"
        if path.is_dir():
            return "link to a folder"
    if path.name.startswith("."):
        return "hidden file"
    if path.is_dir():
        return _LEFTOVER if fnmatch(path.name, "checkpoint*") else None
    if not path.is_file():
        return "neither a file nor a folder"
    if any(fnmatch(path.name, pattern) for pattern in _LEFTOVER_FILES):
        return _LEFTOVER
    return _PICKLE if path.name.lower().endswith(_PICKLE_ENDINGS) or _is_pickle(path) else None


def _is_pickle(path: Path) -> bool:
    """Whether a file starts as a pickle does, or is an archive that holds one, as torch.save writes it."""
    with path.open("rb") as stream:
        start = stream.read(3)
    if start.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith(".pkl") for name in archive.namelist())
        except zipfile.BadZipFile:
            return False
    # The length of a safetensors header may start with the same two bytes.
    return re.match(rb"\x80[\x02-\x05][^\0]", start, re.DOTALL) is not None and _header(path) is None


def _in_file(path: Path, name: str, own: _Patterns) -> list[Leak]:
    """The leaks in the content of a file.

    Args:
        own: what is looked for in any file. Paths of just anybody are not looked for in binary files of other
            formats: a published vocabulary may hold those of its makers.
    """
    if (header := _header(path)) is not None:
        return [Leak(name, None, what) for _, what in _search(io.BytesIO(header), own + _PATHS)]
    is_text = _is_text(path)
    with path.open("rb") as stream:
        hits = _search(stream, own + _PATHS if is_text or path.suffix.lower() == ".onnx" else own)
    return [Leak(name, line if is_text else None, what) for line, what in hits]


def _is_text(path: Path) -> bool:
    """Whether a file is UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as stream:
        try:
            while part := stream.read(_PART):
                decoder.decode(part)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _header(path: Path) -> bytes | None:
    """The JSON header of a safetensors file, None where this is none."""
    if path.suffix.lower() != ".safetensors":
        return None
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(size - 8, _LONGEST_HEADER):
            return None
        header = stream.read(length)
    return header if header.startswith(b"{") else None


def _search(stream: BinaryIO, patterns: _Patterns) -> list[tuple[int, str]]:
    """Line and kind of everything that is found in a stream, a part at a time."""
    found: set[tuple[int, str]] = set()
    window, start, line = b"", 0, 1
    while True:
        part = stream.read(_PART)
        window += part
        for what, pattern in patterns:
            at, at_line = 0, line
            for match in pattern.finditer(window):
                # What stands before or after is not seen at an edge of the window; the next window to it sees that.
                if (start and match.start() < _LOOK_BEHIND) or (part and match.end() == len(window)):
                    continue
                at_line += window.count(b"\n", at, match.start())
                at = match.start()
                found.add((at_line, what))
        if not part:
            return sorted(found)
        passed = max(0, len(window) - _OVERLAP)
        line += window.count(b"\n", 0, passed)
        window, start = window[passed:], start + passed


def _secrets(given: Iterable[str]) -> _Patterns:
    """The shapes of tokens, those that are given, and this machine's own."""
    known = {token.strip() for token in (*given, get_token() or "")}
    return _SECRETS + tuple((_TOKEN, re.compile(re.escape(token.encode()))) for token in sorted(known) if token)


def _own_paths() -> _Patterns:
    """This user's home and folder of temporary files, as they are named and where they really lie."""
    places = {_HOME: os.path.expanduser("~"), _TEMPORARY: tempfile.gettempdir()}
    return tuple(
        (what, _path_pattern(path))
        for what, place in places.items()
        for path in sorted({place, os.path.realpath(place)})
        if os.path.isabs(path) and len(Path(path).parts) > 1
    )


def _path_pattern(path: str) -> re.Pattern[bytes]:
    """A path with something below it, also as JSON has it: backslashes doubled, other letters as escapes."""
    first, *folders = re.split(r"[\\/]", path.rstrip("\\/"))
    # A drive's name, or nothing before the first slash.
    start = re.escape(os.fsencode(first)) if first else b"/"
    between = rb"(?:\\{1,4}|/)"
    inside = between.join(
        b"(?:" + b"|".join(re.escape(os.fsencode(text)) for text in sorted({name, json.dumps(name)[1:-1]})) + b")"
        for name in folders
    )
    return re.compile(start + rb"(?<![\w.-]" + start + b")" + (between if first else b"") + inside + between + _BELOW)
