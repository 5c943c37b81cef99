"""Python packages that stand in for those of encoders: tiny, and not to be imported."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.corpora import FILM_WORDS
from helpers.encoders import make_film_base
from nlptransfer.hub import packaged, unknown_pieces
from nlptransfer.hub.packaged import Packaged, file_hash

CHINESE_WORDS = ["这", "部", "电影", "很", "好", "差", "一般"]
"""What the stand-in of the multilingual encoder knows besides the words of films."""


def stand_in(entry: Packaged, words: Sequence[str], site: Path, monkeypatch: pytest.MonkeyPatch) -> Packaged:
    """Install a package with a tiny encoder that knows these words, in place of one of the table."""
    folder = site / f"of_{entry.package}" / "model"
    make_film_base(folder, words=words)
    (folder.parent / "__init__.py").write_text("raise SystemExit('its own code is not needed')")
    monkeypatch.syspath_prepend(site)
    digest = file_hash(folder / "model.safetensors")
    tiny = replace(entry, package=folder.parent.name, file="model", sha256=digest, packed_sha256=None)
    monkeypatch.setitem(packaged.ENCODERS, entry.id, tiny)
    return tiny


def stand_in_for_both(site: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Packaged, Packaged]:
    """Install packages in place of those of the default encoder and the multilingual one."""
    default, known = packaged.find_packaged(None), unknown_pieces.MULTILINGUAL
    assert default is not None
    default = stand_in(default, FILM_WORDS, site, monkeypatch)
    known = stand_in(known, [*FILM_WORDS, *CHINESE_WORDS], site, monkeypatch)
    monkeypatch.setattr(unknown_pieces, "MULTILINGUAL", known)
    monkeypatch.setattr(unknown_pieces, "find_packaged", lambda _: default)
    monkeypatch.setattr(packaged, "MINILM", default)
    return default, known
