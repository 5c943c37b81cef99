"""Between domains: the runs that are made, what is counted of them, and the verb that shows it."""

import random
import shutil
import time
from collections import Counter

import numpy as np
import pytest

from helpers.corpora import text_of, topic_splits, write_splits
from helpers.runs import finetune
from nlptransfer import RunResult, close_the_gap
from nlptransfer.cli.app import app
from nlptransfer.errors import DataError, SettingError
from nlptransfer.experiments.domain_gap import _interval, side_by_side
from nlptransfer.files import read_json
from nlptransfer.training.loop import train
from nlptransfer.training.losses import Objective
from nlptransfer.transfer.alignment import Aligned

TRANSFERS = {
    "coral": {"transfer": "coral", "allow_label_shift": True},
    "selftrain": {"transfer": "selftrain", "rounds": 1},
}


@pytest.fixture
def domains(tmp_path):
    folders = []
    for seed, name in enumerate(("films", "books")):
        folder = write_splits(tmp_path / name, topic_splits({"train": 40, "validation": 16, "test": 20}, seed))
        more = [text_of(random.Random(row), ["good"]) for row in range(15)]
        (folder / "more.txt").write_text("\n".join(more), encoding="utf-8")
        folders.append(folder)
    return folders


def test_each_domain_to_each_other(domains, vectors_file, tmp_path):
    found = close_the_gap(
        domains, transfers=TRANSFERS, route="word2vec", base=str(vectors_file), head_type="linear",
        output_dir=tmp_path / "gap", seeds=2,
    )  # fmt: skip
    assert [one.transfer for one in found] == ["source only", "coral", "selftrain", "oracle"]
    runs = {path.name for path in (tmp_path / "gap").iterdir()}
    ways = ("coral", "selftrain", "source-only")
    # What is fitted has no seed.
    expected = {f"{a}-{b}-{way}-0" for a, b in (("films", "books"), ("books", "films")) for way in ways}
    assert runs == expected | {"films-oracle-0", "books-oracle-0", "gap.json"}
    for one in found:
        for pair, place in {"films > books": "films-books", "books > films": "books-films"}.items():
            way = one.transfer.replace(" ", "-")
            folder = f"{place.split('-')[1]}-oracle-0" if way == "oracle" else f"{place}-{way}-0"
            run = RunResult.load(tmp_path / "gap" / folder)
            assert one.pairs[pair] == pytest.approx(run.metrics["accuracy"])
            assert not (run.folder / "model").exists()
        assert one.accuracy == pytest.approx(np.mean([*one.pairs.values()]))
        assert one.gain == pytest.approx(one.accuracy - found[0].accuracy)
        assert one.interval[0] <= one.gain <= one.interval[1]
    assert [one["transfer"] for one in read_json(tmp_path / "gap" / "gap.json")] == [one.transfer for one in found]


def test_texts_of_a_file_in_place_of_the_training_rows(domains, vectors_file, tmp_path):
    close_the_gap(
        domains, transfers={"coral": {"transfer": "coral"}}, route="word2vec", base=str(vectors_file),
        head_type="linear", output_dir=tmp_path / "gap", unlabeled="more.txt", pairs=[("films", "books")],
    )  # fmt: skip
    run = RunResult.load(tmp_path / "gap" / "films-books-coral-0")
    assert run.data.rows["unlabeled"] <= 15 and run.data.rows["test"] == 20


@pytest.mark.usefixtures("told_apart")
def test_seeds_count_where_something_is_trained_and_what_is_common_is_learned_once(
    domains, vectors_file, tmp_path, monkeypatch
):
    trained = []

    def noted(objective, examples, validation, **how):
        if not len(validation.rows):
            trained.append(type(objective))
        return train(objective, examples, validation, **how)

    monkeypatch.setattr("nlptransfer.experiments.fitting.train", noted)
    call = {"route": "word2vec", "base": str(vectors_file), "head_type": "mlp", "mlp_sizes": (4,)}
    call |= {"num_train_epochs": 1}
    transfers = {name: {"transfer": name, "trade_offs": (1.0,)} for name in ("mmd", "dann")}
    found = close_the_gap(
        domains, transfers=transfers, output_dir=tmp_path / "gap", seeds=2, pairs=[("films", "books")], **call
    )
    assert {f"films-books-mmd-{seed}" for seed in (0, 1)} <= {path.name for path in (tmp_path / "gap").iterdir()}
    assert found[1].adapted in (0, 1)
    # For each seed trade_off 0 of both strategies, and their own.
    assert Counter(trained) == {Objective: 2 * 1, Aligned: 2 * 2}
    alone = finetune(domains[1], source=domains[0], seed=1, output_dir=tmp_path / "alone", **transfers["dann"], **call)
    same = RunResult.load(tmp_path / "gap" / "films-books-dann-1")
    assert np.array_equal(alone.predictions["test"].probabilities, same.predictions["test"].probabilities)


def test_side_by_side_as_one_after_the_other(domains, vectors_file, tmp_path, monkeypatch):
    call = {"route": "word2vec", "base": str(vectors_file), "head_type": "mlp", "mlp_sizes": (4,), "seeds": 2}
    call |= {"num_train_epochs": 2, "transfers": {"mmd": {"transfer": "mmd", "trade_offs": (1.0,)}}, "oracle": False}
    alone = close_the_gap(domains, output_dir=tmp_path / "alone", **call)
    with pytest.raises(KeyboardInterrupt), side_by_side(2) as workers:
        beside = close_the_gap(domains, output_dir=tmp_path / "beside", workers=workers, **call)
        for path in (tmp_path / "alone").glob("*/predictions.parquet"):
            assert (tmp_path / "beside" / path.relative_to(tmp_path / "alone")).read_bytes() == path.read_bytes()
        assert beside == alone and [one.transfer for one in beside] == ["source only", "mmd"]
        assert {one.share for one in beside} == {None}
        # What is finished is not made anew.
        shutil.rmtree(tmp_path / "beside" / "films-books-mmd-1")
        monkeypatch.setattr("nlptransfer.experiments.run._build", None)
        with pytest.raises(TypeError):
            close_the_gap(domains, output_dir=tmp_path / "beside", **call)
        monkeypatch.undo()
        assert close_the_gap(domains, output_dir=tmp_path / "beside", workers=workers, **call) == alone
        # An error of a run comes through.
        with pytest.raises(SettingError, match="dropout=2"):
            close_the_gap(domains, output_dir=tmp_path / "wrong", workers=workers, **{**call, "dropout": 2})
        # What is stopped does not wait for what its workers do.
        workers.submit(time.sleep, 3600)
        raise KeyboardInterrupt


def test_intervals_are_of_a_plain_bootstrap_where_there_is_one_pair():
    draw = np.random.default_rng(0)
    plain, own, best = (draw.random((1, 4000)) < share for share in (0.7, 0.75, 0.9))
    gain, share, interval, shares = _interval([own], [plain], [best], ["books"])
    apart = own[0].astype(float) - plain[0]
    assert gain == pytest.approx(apart.mean())
    half = 1.96 * apart.std() / 4000**0.5
    np.testing.assert_allclose(interval, (gain - half, gain + half), atol=0.002)
    assert share == pytest.approx(gain / (best.mean() - plain.mean()))
    assert shares[0] < share < shares[1]


def test_pairs_with_the_same_target_share_its_rows():
    draw = np.random.default_rng(0)
    plain, own = (draw.random((1, 500)) < share for share in (0.6, 0.7))
    best = np.ones((1, 500), dtype=bool)
    alone, twice = (_interval([own] * n, [plain] * n, [best] * n, ["books"] * n) for n in (1, 2))
    # The same pair told twice is no more evidence than once.
    np.testing.assert_allclose(alone[2], twice[2], atol=1e-12)


def test_the_verb_shows_the_table(domains, vectors_file, tmp_path, command_line):
    call = ["gap", *domains, "--route", "word2vec", "--vectors", vectors_file, "--jobs", 1]
    call += ["--output-dir", tmp_path / "out"]
    ended = command_line(app, *call)
    assert ended.code == 0, ended.err
    lines = [line for line in ended.out.splitlines() if "word2vec linear" in line]
    named = [line.removeprefix("word2vec linear").split("  ")[1] for line in lines]
    assert named == ["source only", "coral", "selftrain", "oracle"]
    assert lines[1].rstrip().endswith(" of 2") and (tmp_path / "out" / "word2vec-linear" / "gap.json").exists()


def test_what_is_refused(domains, tmp_path):
    with pytest.raises(DataError, match="expected two domains or more, found films"):
        close_the_gap(domains[:1], transfers=TRANSFERS, output_dir=tmp_path / "gap")
    with pytest.raises(SettingError, match="seeds=0"):
        close_the_gap(domains, transfers=TRANSFERS, output_dir=tmp_path / "gap", seeds=0)
    with pytest.raises(DataError, match="expected names out of films, books, found toys"):
        close_the_gap(domains, transfers=TRANSFERS, output_dir=tmp_path / "gap", pairs=[("films", "toys")])
    with pytest.raises(SettingError, match="jobs=0"), side_by_side(0):
        pass


def test_the_number_of_rows_is_of_both_sides(domains, vectors_file, tmp_path):
    close_the_gap(
        domains, pairs=[("films", "books")], transfers={"coral": TRANSFERS["coral"]}, route="word2vec",
        base=str(vectors_file), head_type="linear", output_dir=tmp_path, seeds=1, max_train_rows=24, oracle=False,
    )  # fmt: skip
    run = RunResult.load(tmp_path / "films-books-coral-0")
    source = run.transfer.source.rows
    assert source["train"] + source["validation"] + source["calibration"] == 24 == run.data.rows["unlabeled"]
