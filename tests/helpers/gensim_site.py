"""A folder in place of the site from which gensim's downloader fetches its models."""

import hashlib
import json
from pathlib import Path

import pytest


def serve(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """The folder, empty, where models are looked for."""
    folder.mkdir()
    patch.setenv("NLPTRANSFER_GENSIM_LIST_URL", (folder / "list.json").as_uri())
    patch.setenv("NLPTRANSFER_GENSIM_DATA_URL", folder.as_uri())
    return folder


def publish(folder: Path, name: str, content: bytes, parts: int = 1, **changed: str) -> None:
    """List a model, whose file lies there in parts; ``changed`` are other entries of the list."""
    (folder / name).mkdir()
    size = -(-len(content) // parts)
    sums = {}
    for part in range(parts):
        piece = content[part * size : (part + 1) * size]
        (folder / name / (f"{name}.gz_0{part}" if parts > 1 else f"{name}.gz")).write_bytes(piece)
        sums[f"checksum-{part}" if parts > 1 else "checksum"] = hashlib.md5(piece).hexdigest()
    listed = {"models": {name: {"parts": parts, **sums, **changed}}, "corpora": {"text8": {}}}
    (folder / "list.json").write_text(json.dumps(listed))
