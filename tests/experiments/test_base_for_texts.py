"""Runs without a named base on texts that the default encoder does not know: all that belongs together has one base."""

import logging
import re
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from helpers.corpora import write_splits
from helpers.encoders import make_film_base
from helpers.packages import stand_in_for_both
from helpers.runs import compare, finetune, gain_curve, record_of
from nlptransfer import Classifier, RunResult, close_the_gap
from nlptransfer.cli import main
from nlptransfer.errors import BaseModelError, RunFolderError
from nlptransfer.hub import packaged, unknown_pieces
from nlptransfer.hub.packaged import Packaged
from nlptransfer.vectors.store import open_vectors

ORDERS = [" ".join(words) for words in permutations(["这", "部", "电影", "很"])]
ENGLISH_ORDERS = [" ".join(words) for words in permutations(["a", "film", "the", "plot"])]


def rows(orders: list[str], good: str, bad: str) -> tuple[list[str], list[str]]:
    return [f"{order} {word}" for order in orders for word in (good, bad)], ["good", "bad"] * len(orders)


CHINESE, ENGLISH = rows(ORDERS, "好", "差"), rows(ENGLISH_ORDERS, "great", "dull")
QUICK = {"num_train_epochs": 1, "test_size": 0.25, "calibration_size": 0}
ROUTES = {
    "probe": {"route": "probe"},
    "probe with words": {"route": "probe", "features": ("encoder", "word2vec"), "dimensions": 4},
    "lora": {"route": "lora", "rank": 2},
    "full": {"route": "full"},
    "word2vec": {"route": "word2vec", "head_type": "linear", "dimensions": 4},
}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> tuple[Packaged, Packaged]:
    """Packages of a default encoder that knows films, and of one that knows Chinese too."""
    # How well it learns is not looked at here.
    for place in ("training.linear_head", "experiments.comparison_run"):
        monkeypatch.setattr(f"nlptransfer.{place}.FOLDS", 2)
    monkeypatch.setattr("nlptransfer.experiments.comparison.report_once", lambda *_: None)
    return stand_in_for_both(tmp_path / "site", monkeypatch)


@pytest.mark.parametrize("name", ROUTES)
def test_every_route_takes_the_multilingual_encoder_and_is_found_again(name, packages, tmp_path, caplog):
    default, known = packages
    call = {**ROUTES[name], **QUICK, "output_dir": tmp_path / "run"}
    with caplog.at_level(logging.INFO, logger="nlptransfer"):
        run = finetune(CHINESE, **call)
    assert run.base["name"] == known.id and f"--base {known.id}" in run.command
    if name == "probe with words":
        assert run.base["vectors"]["name"] == known.id
    said = [line for line in caplog.messages if "does not know" in line]
    assert said == [
        f"{default.id} does not know 100% of the pieces of the texts: {known.id} is taken; name another by "
        "base= or --base"
    ]
    written = (run.folder / "metrics.json").stat().st_mtime_ns
    again = finetune(CHINESE, **call)
    assert (again.folder / "metrics.json").stat().st_mtime_ns == written
    assert again.question["base"] == known.id
    loaded = Classifier.load(run.folder).predict(CHINESE[0][:2])
    assert [one.label for one in loaded] == [one.label for one in run.classifier.predict(CHINESE[0][:2])]
    # Texts that it knows leave the default what it is.
    assert finetune(ENGLISH, **{**call, "output_dir": tmp_path / "english"}).base["name"] == default.id


def test_a_run_that_was_cut_off_is_resumed_on_the_same_base(packages, tmp_path, monkeypatch):
    call = {**ROUTES["full"], **QUICK, "output_dir": tmp_path / "run"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("nlptransfer.experiments.run.score_splits", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        finetune(CHINESE, **call)
    asked = record_of(tmp_path / "run")["asked"]
    assert asked["base"] == packages[1].id
    run = finetune(CHINESE, **call)
    assert run.base["name"] == packages[1].id and run.question == asked


def test_without_the_package_a_run_on_it_is_no_run_of_the_default(packages, tmp_path, monkeypatch):
    _, known = packages
    call = {**ROUTES["probe"], **QUICK, "output_dir": tmp_path / "run"}
    finetune(CHINESE, **call)
    gone = replace(known, package="not_there")
    monkeypatch.setattr(unknown_pieces, "MULTILINGUAL", gone)
    monkeypatch.setitem(packaged.ENCODERS, known.id, gone)
    with pytest.raises(RunFolderError, match=rf"holds a run with base='{known.id}', asked for base=None"):
        finetune(CHINESE, **call)
    with pytest.raises(BaseModelError, match=r"pip install 'nlptransfer\[multilingual\]'"):
        Classifier.load(tmp_path / "run")
    assert RunResult.load(tmp_path / "run").base["name"] == known.id


@pytest.mark.parametrize("name", ROUTES)
def test_without_another_encoder_one_warning_says_so(name, packages, tmp_path, monkeypatch, caplog):
    default, known = packages
    gone = replace(known, package="not_there")
    monkeypatch.setattr(unknown_pieces, "MULTILINGUAL", gone)
    mixed = [chinese + english for chinese, english in zip(CHINESE, ENGLISH, strict=True)]
    finetune(tuple(mixed), **ROUTES[name], **QUICK, output_dir=tmp_path / "run")
    said = [line for line in caplog.messages if "does not know" in line]
    assert [re.sub(r"\d+%", "50%", line) for line in said] == [
        f"{default.id} does not know 50% of the pieces of the texts: name a base for their language, as {known.id} "
        "(pip install 'nlptransfer[multilingual]') or the hub's intfloat/multilingual-e5-small"
    ]


def test_a_named_base_stays_and_is_warned_of(packages, tmp_path, caplog):
    base = make_film_base(tmp_path / "mine")
    run = finetune(CHINESE, **ROUTES["probe"], **QUICK, base=base, output_dir=tmp_path / "run")
    assert run.base["name"] == "mine"
    assert [line.partition(":")[0] for line in caplog.messages if "does not know" in line] == [
        "mine does not know 100% of the pieces of the texts"
    ]


def bases_of(folder: Path) -> list[str]:
    return [record_of(path.parent)["base"]["name"] for path in folder.rglob("experiment.json")]


def test_source_and_target_stand_on_one_base_and_so_does_the_run_without_the_source(packages, tmp_path):
    call = {**ROUTES["probe"], **QUICK, "source": CHINESE}
    finetune(ENGLISH, **call, output_dir=tmp_path / "run", verdict=True, seeds=1)
    assert {*bases_of(tmp_path / "run")} == {packages[1].id}
    gain_curve(ENGLISH, **call, sizes=(12,), seeds=1, output_dir=tmp_path / "curve")
    assert bases_of(tmp_path / "curve") == [packages[1].id] * 2


def test_a_gap_between_languages_stands_on_one_base(packages, tmp_path):
    folders = [
        write_splits(
            tmp_path / name,
            {"train": tuple(column[:32] for column in rows), "test": tuple(column[32:] for column in rows)},
        )
        for name, rows in (("chinese", CHINESE), ("english", ENGLISH))
    ]
    close_the_gap(folders, transfers={"coral": {"transfer": "coral"}}, output_dir=tmp_path / "gap", progress=False)
    bases = bases_of(tmp_path / "gap")
    assert len(bases) == 6 and {*bases} == {packages[1].id}


def test_a_comparison_names_the_base_that_it_takes(packages, tmp_path):
    options = {"routes": ("majority", "probe"), "seeds": 1, **QUICK}
    result = compare(CHINESE, **options, output_dir=tmp_path / "one")
    assert [(row["name"], row["base"]) for row in result.table] == [("majority", None), ("probe", packages[1].id)]
    # Named beside it, it is one candidate.
    result = compare(CHINESE, **options, bases=(None, packages[1].id), output_dir=tmp_path / "two")
    assert [row["name"] for row in result.table] == ["majority", "probe"]


def test_vectors_are_distilled_out_of_it(packages, command_line, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(CHINESE[0]), encoding="utf-8")
    ended = command_line(main, "vectors", "distill", tmp_path / "texts.txt", tmp_path / "v", "--dimensions", 4)
    assert ended.code == 0 and f"{packages[1].id} is taken" in ended.err
    assert "电影" in open_vectors(tmp_path / "v")
