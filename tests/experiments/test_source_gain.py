"""Did the source help? Runs with and without it, on the same rows, and what is said of them."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.corpora import topic_rows, write_splits
from helpers.folders import RECORD_FILES, RUN_FILES, files_of
from helpers.runs import finetune, gain_curve, record_of, report_of, same_weights
from nlptransfer import Classifier, RunResult
from nlptransfer.cli.app import main
from nlptransfer.cli.terminal import VERDICTS
from nlptransfer.errors import DataError, NlpTransferError, RunFolderError, SettingError
from nlptransfer.experiments.run import run as run_once
from nlptransfer.files import read_json
from nlptransfer.results import RunConfig, to_record
from nlptransfer.transfer.direct import Copy
from nlptransfer.transfer.joint import Joint
from nlptransfer.transfer.sequential import Sequential

MLP = {"route": "word2vec", "head_type": "mlp", "mlp_sizes": (8,), "learning_rate": 0.02, "num_train_epochs": 3}
LINEAR = {"route": "word2vec", "head_type": "linear"}


def remarks_of(rows: int, seed: int, *, turned: bool = False) -> tuple[list[str], list[str]]:
    texts, topics = topic_rows(rows, random.Random(seed))
    return texts, topics[::-1] if turned else topics


SOURCE = {"train": remarks_of(80, 0), "validation": remarks_of(20, 1), "test": remarks_of(20, 2)}
TURNED = {"train": remarks_of(80, 0, turned=True), "validation": remarks_of(20, 1, turned=True)}
TARGET = {"train": remarks_of(60, 3), "test": remarks_of(80, 4)}


def noisy(rows: tuple[list[str], list[str]], share: float = 0.35) -> tuple[list[str], list[str]]:
    """With so many labels wrong that they alone teach little."""
    draw, turned = random.Random(9), {"good": "bad", "bad": "good"}
    return rows[0], [turned[label] if draw.random() < share else label for label in rows[1]]


NOISY = {"train": noisy(TARGET["train"]), "test": TARGET["test"]}


@pytest.fixture
def tune(vectors_file: Path, tmp_path: Path) -> Callable[..., RunResult]:
    def call(name: str = "run", **settings: Any) -> RunResult:
        given = {**LINEAR, "base": vectors_file, "source": SOURCE, "max_train_rows": 10, **settings}
        return finetune(given.pop("data", TARGET), output_dir=tmp_path / name, **given)

    return call


def test_a_verdict_rests_on_runs_of_both_sides_on_the_same_rows(tune):
    run = tune()
    sides = {f"{side}-{seed}" for side in ("sequential", "direct") for seed in range(3)}
    of_runs = {f"verdict/{side}/{name}" for side in sides for name in RECORD_FILES}
    # The models of the first seed were saved, one of which is the run's.
    of_runs |= {f"verdict/{side}-0/learned.npy" for side in ("sequential", "direct")}
    assert set(files_of(run.folder)) == RUN_FILES | of_runs
    verdict = run.verdict
    assert to_record(verdict) == report_of(run.folder)["transfer"]["gain"]
    means = {}
    for side in ("sequential", "direct"):
        folders = [run.folder / "verdict" / f"{side}-{seed}" for seed in range(3)]
        means[side] = np.mean([report_of(folder)["test"]["accuracy"] for folder in folders])
        rows = [record_of(folder)["data"]["fingerprints"] for folder in folders]
        # Each seed has its own ten rows; test is the same for all.
        assert len({one["train"]["hash"] for one in rows}) == 3 and len({one["test"]["hash"] for one in rows}) == 1
        means[f"{side} rows"] = rows
    assert means["sequential rows"] == means["direct rows"]
    assert (verdict.with_source, verdict.direct) == pytest.approx((means["sequential"], means["direct"]))
    assert verdict.gain == pytest.approx(means["sequential"] - means["direct"], abs=1e-9)
    assert verdict.interval[0] <= verdict.gain <= verdict.interval[1]
    assert (verdict.seeds, verdict.rows, verdict.metric, verdict.fallback) == (3, 80, "accuracy", False)
    # The run itself is the first side.
    assert run.metrics == report_of(run.folder / "verdict" / "sequential-0")["test"]
    assert run.transfer.name == "sequential" and verdict.taken == "sequential"


def test_models_are_saved_where_one_may_be_taken_or_all_are_kept(tune, curve, tmp_path, monkeypatch):
    saved, save = [], Classifier.save_pretrained

    def noting(self: Classifier, folder: Path, *given: Any) -> None:
        saved.append(folder.parent.name)
        save(self, folder, *given)

    monkeypatch.setattr(Classifier, "save_pretrained", noting)
    tune()
    assert saved == ["sequential-0", "direct-0"]
    saved.clear()
    curve(sizes=(8,), seeds=2, keep_checkpoints=True)
    sides = {f"{side}-{seed}" for side in ("sequential", "direct") for seed in range(2)}
    assert {*saved} == {path.parent.name for path in (tmp_path / "curve").rglob("model")} == sides


def test_words_follow_from_the_interval(tune):
    helps = tune("helps", transfer=Copy(), data=NOISY)
    hurts = tune("hurts", transfer=Copy(), source=TURNED, max_train_rows=60)
    for run, word in ((helps, "helps"), (hurts, "hurts")):
        low, high = run.verdict.interval
        expected = "helps" if low > 0 else "hurts" if high < 0 else "no evidence"
        assert run.verdict.verdict == expected == word


def test_the_fallback_goes_by_validation(tune):
    run = tune("fallen back", transfer="copy", source=TURNED, max_train_rows=60, fallback=True, seeds=1)
    assert run.verdict.taken == "direct" and run.verdict.fallback and run.transfer is None
    # Of the run that was asked for, and not of the side that was taken.
    command = read_json(run.folder / "model" / "nlptransfer.json")["results"]["command"]
    assert "--source data --transfer copy " in command and command.endswith(" --verdict --seeds 1 --fallback")
    alone = tune("alone", source=None, max_train_rows=60)
    assert run.metrics == alone.metrics and same_weights(run, alone)
    kept = tune("kept", transfer="copy", data=NOISY, fallback=True, seeds=1)
    assert kept.verdict.taken == "copy" and kept.transfer.name == "copy"
    validation = kept.verdict.validation
    assert validation["copy"] > validation["direct"]


def test_where_all_rows_are_used_a_fitted_head_needs_one_seed(tune):
    call = {"data": {"train": remarks_of(1100, 3), "test": remarks_of(20, 4)}, "max_train_rows": None}
    run = tune(**call)
    assert run.verdict.seeds == 1
    assert {path.name for path in (run.folder / "verdict").iterdir()} == {"sequential-0", "direct-0"}
    # It may have been killed just before this was removed.
    (model := run.folder / "verdict" / "direct-0" / "model").mkdir()
    tune(**call)
    assert not model.exists()


@pytest.mark.parametrize("transfer", [Sequential(), Joint()], ids=["sequential", "joint"])
def test_both_sides_have_the_same_steps_on_the_target(transfer, tune):
    run = tune(**MLP, transfer=transfer, verdict=True, max_train_rows=40, seeds=2)
    name = transfer.name
    stage = "target" if name == "sequential" else "joint"
    for seed in range(2):
        with_source = record_of(run.folder / "verdict" / f"{name}-{seed}")
        beside = "direct" if name == "sequential" else "direct-as-joint"
        direct = record_of(run.folder / "verdict" / f"{beside}-{seed}")
        assert abs(direct["training"]["step"] - with_source["transfer"]["stages"][stage]["step"]) <= 1
        for setting in ("learning_rate", "per_device_train_batch_size", "weight_decay", "seed"):
            assert direct["settings"]["training"][setting] == with_source["settings"]["training"][setting]


def test_a_verdict_is_made_by_itself_where_it_is_cheap(tune, caplog):
    caplog.set_level("INFO", logger="nlptransfer")
    assert tune("linear").verdict
    assert "is not measured" not in caplog.text
    caplog.clear()
    assert tune("untested", data=remarks_of(60, 3), test_size=0.0).verdict is None
    assert "is not measured" in caplog.text
    caplog.clear()
    quick = {"head_type": "cnn", "num_filters": 4, "num_train_epochs": 1}
    assert tune("cnn", **quick).verdict is None
    assert "Whether the source helped is not measured" in caplog.text
    assert tune("with fallback", fallback=True, seeds=1, **quick).verdict.fallback
    assert tune("no", verdict=False).verdict is None


def test_an_interrupted_verdict_resumes(tune, monkeypatch):
    whole = tune("whole")
    made = []

    def stopping(config: RunConfig, folder: Path, **options: Any) -> RunResult:
        made.append(folder.name)
        if len(made) == 4:
            raise KeyboardInterrupt
        return run_once(config, folder, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("nlptransfer.experiments.source_gain.run", stopping)
        tune("cut")
    run = tune("cut")
    assert run.verdict == whole.verdict and same_weights(run, whole)
    before = files_of(run.folder)
    assert files_of(tune("cut").folder) == before
    for changed in ({"seeds": 2}, {"fallback": True}, {"transfer": "copy"}, {"source": TURNED}, {"verdict": False}):
        with pytest.raises(RunFolderError, match="holds a run with"):
            tune("cut", **changed)
    assert tune("cut", seeds=1, overwrite=True).verdict.seeds == 1


WRONG = [
    ({"source": None, "verdict": True}, SettingError, "expected a source and labels of the target"),
    ({"fallback": True, "verdict": False}, SettingError, "expected verdict=True, which it rests on"),
    ({"seeds": 0}, SettingError, "seeds=0: expected a whole number from 1"),
    ({"data": remarks_of(60, 3), "test_size": 0.0, "verdict": True}, DataError, "expected test rows, by which a gain"),
    ({"metric_for_best_model": "loss"}, SettingError, "loss"),
]


@pytest.mark.parametrize(("settings", "kind", "message"), WRONG)
def test_what_makes_no_sense_is_refused_before_anything_is_written(settings, kind, message, tune, tmp_path):
    with pytest.raises(kind, match=message):
        tune(**settings)
    assert not [*tmp_path.rglob("experiment.json")]


@pytest.fixture
def curve(vectors_file: Path, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    def call(**settings: Any) -> list[dict[str, Any]]:
        given = {**LINEAR, "base": vectors_file, "source": SOURCE, "sizes": (8, 30), **settings}
        return gain_curve(TARGET, output_dir=tmp_path / "curve", **given)

    return call


def test_gains_against_the_rows_of_the_target(curve, tmp_path):
    found = curve(transfers=("copy", "sequential"), seeds=2)
    assert [(row["size"], row["transfer"]) for row in found] == [
        (size, name) for size in (8, 30) for name in ("copy", "sequential")
    ]
    assert read_json(tmp_path / "curve" / "gains.json") == found
    # All strategies are measured beside the same runs without the source.
    assert {path.name for path in (tmp_path / "curve" / "8").iterdir()} == {
        f"{side}-{seed}" for side in ("copy", "sequential", "direct") for seed in range(2)
    }
    assert not [*tmp_path.rglob("model")]
    assert found[0]["direct"] == found[1]["direct"]
    assert found[0]["gain"] > found[2]["gain"] or found[0]["with_source"] == 1
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("experiment.json")}
    assert curve(transfers=("copy", "sequential"), seeds=2) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("experiment.json")} == stamps


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"sizes": ()}, "sizes"), ({"sizes": (0,)}, "sizes"), ({"max_train_rows": 9}, "max_train_rows=9: expected sizes")],
)
def test_sizes_that_make_no_sense(settings, message, curve):
    with pytest.raises(NlpTransferError, match=message):
        curve(**settings)


# On the command line


@pytest.fixture
def corpora(tmp_path: Path) -> tuple[Path, Path]:
    return write_splits(tmp_path / "source", SOURCE), write_splits(tmp_path / "target", TARGET)


def test_source_and_transfer_on_the_command_line(command_line, corpora, vectors_file, tmp_path):
    source, target = corpora
    ended = command_line(
        main, "finetune", target, "--source", source, "--transfer", "copy", "--transfer", "sequential",
        "--base", vectors_file, "--set", "head_type=linear", "--max-train-rows", 10, "--seeds", 2,
        "--output-dir", tmp_path / "out", "--quiet", "--no-report",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    for name in ("copy", "sequential"):
        verdict = RunResult.load(tmp_path / "out" / f"target-{name}").verdict
        (line,) = [line for line in ended.out.splitlines() if line.startswith(f"word2vec {name}: ")]
        assert VERDICTS[verdict.verdict] in line and f"{verdict.gain:+.3f} [" in line and "by 2 seeds" in line


def test_a_transfer_may_be_a_setting_like_any_other(command_line, corpora, vectors_file, tmp_path):
    source, target = corpora
    out = tmp_path / "out"
    call = ("finetune", target, "--source", source, "--base", vectors_file, "--set", "head_type=linear", "--no-verdict")
    ended = command_line(
        main, *call, "--set", "transfer=joint", "--set", "alpha=0.5", "--no-report", "--output-dir", out
    )
    assert ended.code == 0, ended.err
    assert RunResult.load(out).transfer.settings["alpha"] == 0.5
    assert "\nword2vec joint " in ended.out and "the source" not in ended.out


def test_sizes_on_the_command_line(command_line, corpora, vectors_file, tmp_path):
    source, target = corpora
    call = ("finetune", target, "--source", source, "--base", vectors_file, "--set", "head_type=linear")
    ended = command_line(main, *call, "--sizes", "8,20", "--seeds", 1, "--output-dir", tmp_path / "out")
    assert ended.code == 0, ended.err
    for row in read_json(tmp_path / "out" / "gains.json"):
        (line,) = [line for line in ended.out.splitlines() if line.split()[:1] == [str(row["size"])]]
        assert f"{row['gain']:+.3f} [" in line and row["verdict"] in line and " sequential " in line
    assert f"written: {tmp_path / 'out' / 'gains.json'}" in ended.out.replace("\n", "")
    for *wrong, message in (
        (*call, "--sizes", "8,20", "--fallback", "fallback: expected no --sizes with it"),
        (*call, "--sizes", "8,20", "--overwrite", "--overwrite: expected no --sizes with it"),
        (*call, "--sizes", "8,x", "sizes"),
        ("finetune", target, "--sizes", "8", "expected a source"),
    ):
        ended = command_line(main, *wrong)
        assert ended.code == 2 and message in ended.err
