"""What a tokenizer does not know of texts: the base that is taken then, and what is said."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.encoders import make_film_base
from helpers.folders import ROOT
from helpers.packages import stand_in_for_both
from nlptransfer.data import JOINT, load_data
from nlptransfer.hub import unknown_pieces
from nlptransfer.hub.base_models import BaseModel, find_base
from nlptransfer.hub.packaged import E5, MINILM, Packaged
from nlptransfer.hub.pretrained import fast_tokenizer
from nlptransfer.hub.unknown_pieces import base_for, sampled_ids, unknown_share, warn_of_unknown
from nlptransfer.memo import shared_work

FILM, CHINESE = "a good film", "电影 很 好"
AT_LIMIT = [" ".join(["film"] * 19), "电影"]
"""One piece of 20 is unknown."""
ABOVE = [" ".join(["film"] * 18), "电影"]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> tuple[Packaged, Packaged]:
    """Packages of a default encoder that knows films, and of one that knows Chinese too."""
    return stand_in_for_both(tmp_path / "site", monkeypatch)


@pytest.mark.parametrize(
    ("collections", "is_taken"),
    [
        ([[FILM] * 3], False),
        ([[CHINESE] * 3], True),
        ([AT_LIMIT], False),
        ([ABOVE], True),
        ([], False),
        ([[]], False),
        ([["", "  ", "\n"]], False),
        ([["😀😀", "🎬"]], True),
        # A few rows in another language, alone or beside many of a source.
        ([[FILM] * 200 + [CHINESE]], False),
        ([[CHINESE] * 4, [FILM] * 5000], True),
        ([[FILM] * 4, [CHINESE] * 4], True),
        ([[f"good{JOINT}film"] * 9], False),
    ],
)
def test_the_multilingual_encoder_is_taken_for_texts_that_the_default_does_not_know(
    packages, collections, is_taken, caplog
):
    default, known = packages
    with caplog.at_level(logging.INFO, logger="nlptransfer"):
        assert base_for(None, None, collections) == (known.id if is_taken else None)
    said = [line for line in caplog.messages if "is taken; name another by base= or --base" in line]
    assert len(said) == len(caplog.messages) == int(is_taken)
    assert all(line.startswith(f"{default.id} does not know ") and known.id in line for line in said)


def test_what_is_named_stays(packages):
    default, _ = packages
    for name, revision in (("minilm", None), (default.id, None), ("me/mine", None), (None, default.revision)):
        assert base_for(name, revision, [[CHINESE]]) == name


def test_the_default_stays_where_there_is_no_other_one_or_none_at_all(packages, monkeypatch, hub):
    default, known = packages
    with monkeypatch.context() as patch:
        patch.setattr(unknown_pieces, "MULTILINGUAL", replace(known, package="not_there"))
        assert base_for(None, None, [[CHINESE]]) is None
    with monkeypatch.context() as patch:
        patch.setattr(unknown_pieces, "MULTILINGUAL", default)
        assert base_for(None, None, [[CHINESE]]) is None
    # A route of others may need none: one that does says what is missing.
    monkeypatch.setattr(unknown_pieces, "find_packaged", lambda _: replace(default, sha256="0" * 64))
    assert base_for(None, None, [[CHINESE]]) is None


def test_texts_are_drawn_evenly_and_read_from_their_beginning(tmp_path):
    tokenizer = fast_tokenizer(find_base(make_film_base(tmp_path / "tiny")))
    texts = [FILM] * 8000 + ["电影 电影 电影"] * 2000
    assert unknown_share(sampled_ids(texts, tokenizer), tokenizer) == pytest.approx(0.2, abs=1e-3)
    assert len(sampled_ids(texts, tokenizer)) == 3000
    assert unknown_share(sampled_ids(["film " * 200 + "电影 " * 200], tokenizer), tokenizer) == 0
    assert unknown_share(np.array([4, 1, 1, 0, 2, 3]), tokenizer) == 2 / 3
    assert unknown_share(np.zeros(0, dtype=np.int64), tokenizer) == 0


@pytest.mark.parametrize(
    ("name", "is_installed", "advice"),
    [
        ("mine", True, f", as {E5.id} or the hub's intfloat/multilingual-e5-small"),
        ("mine", False, f", as {E5.id} ({E5.install}) or the hub's intfloat/multilingual-e5-small"),
        (E5.id, True, ""),
    ],
)
def test_one_warning_says_the_share_and_what_to_name(packages, caplog, monkeypatch, name, is_installed, advice):
    if not is_installed:
        monkeypatch.setattr(unknown_pieces, "MULTILINGUAL", replace(packages[1], package="not_there"))
    base = BaseModel(find_base(packages[0].id).path, name, None)
    tokenizer = fast_tokenizer(base)
    with shared_work({unknown_pieces.UNKNOWN}):
        for _ in range(2):
            warn_of_unknown(base, tokenizer, ABOVE)
            warn_of_unknown(base, tokenizer, AT_LIMIT)
    line = f"{name} does not know 5% of the pieces of the texts: name a base for their language{advice}"
    assert caplog.messages == [line]


@pytest.mark.skipif(E5.place is None or MINILM.place is None, reason="needs the extras offline and multilingual")
def test_chinese_reviews_get_the_real_one_and_english_ones_do_not():
    texts = {name: load_data(ROOT / "data" / name).train.texts for name in ("films", "hotels_zh")}
    assert base_for(None, None, [texts["hotels_zh"]]) == E5.id
    assert base_for(None, None, [texts["films"]]) is None
