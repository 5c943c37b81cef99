"""finetune(): whole runs on tiny vectors, what they write, and what they refuse."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from scipy.special import expit, softmax

from helpers.classifiers import plain_logits, plain_model
from helpers.folders import MODEL_FILES, RECORD_FILES, RUN_FILES, files_of, no_path_in
from helpers.runs import finetune, record_of, report_of, same_weights
from nlptransfer import RunResult, Word2Vec
from nlptransfer.errors import NlpTransferError, RunFolderError, SettingError, TrainingError
from nlptransfer.experiments.environment import machine
from nlptransfer.experiments.task import Task
from nlptransfer.files import read_json
from nlptransfer.results import to_record
from nlptransfer.training.loop import train

QUICK = {
    "num_filters": 24, "kernel_sizes": (1, 2), "mlp_sizes": (16,), "dropout": 0.1, "num_train_epochs": 12,
    "learning_rate": 0.02, "per_device_train_batch_size": 16, "calibration_size": 0.2,
}  # fmt: skip
CASES = ("linear on texts", "mlp on a file", "cnn on a folder", "linear with several labels", "cnn with several labels")


@pytest.fixture(scope="module")
def tune(vectors_file, tmp_path_factory) -> Callable[..., RunResult]:
    """finetune with small settings, into a folder of its own."""

    def call(data: Any, **settings: Any) -> RunResult:
        settings = QUICK | {"head_type": "linear", "base": vectors_file} | settings
        settings.setdefault("output_dir", tmp_path_factory.mktemp("run"))
        return finetune(data, **settings)

    return call


@pytest.fixture(scope="module", params=CASES)
def run(request, tune, remarks, remarks_folder, tickets, tickets_file, tmp_path_factory) -> RunResult:
    frame = tmp_path_factory.mktemp("rows") / "remarks.csv"
    frame.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in zip(*remarks, strict=True)))
    return {
        "linear on texts": lambda: tune(remarks),
        "mlp on a file": lambda: tune(frame, head_type="mlp"),
        "cnn on a folder": lambda: tune(remarks_folder, head_type="cnn"),
        "linear with several labels": lambda: tune(tickets_file),
        "cnn with several labels": lambda: tune(tickets, head_type="cnn"),
    }[request.param]()


def predictions_of(run: RunResult, split: str) -> dict[str, list]:
    rows = [row for row in pq.read_table(run.folder / "predictions.parquet").to_pylist() if row["split"] == split]
    return {name: [row[name] for row in rows] for name in ("id", "true", "predicted", "probabilities")}


# What a run leaves behind


def test_exactly_these_files(run):
    assert set(files_of(run.folder)) == RUN_FILES


def test_scores(run):
    report = report_of(run.folder)
    assert list(report) == ["train", "validation", "test", "cost"]
    names = {"rows", "accuracy", "accuracy_interval", "loss", "per_class", "labels_judged", "f1_macro_interval"}
    names |= {f"{score}_{mean}" for score in ("f1", "precision", "recall") for mean in ("macro", "micro", "weighted")}
    names |= {"subset_accuracy", "f1_micro_interval", "lrap"} if run.data.labels.multi_label else {"mcc"}
    for split in ("train", "validation", "test"):
        found = report[split]
        assert set(found) == names
        assert found["rows"] == run.data.rows[split]
        assert found["accuracy_interval"][0] <= found["accuracy"] <= found["accuracy_interval"][1]
        assert tuple(found["per_class"]) == run.data.labels.names
        assert all(set(each) == {"precision", "recall", "f1", "support"} for each in found["per_class"].values())
    assert run.metrics == report["test"] and to_record(run.cost) == report["cost"]
    assert run.metrics["f1_micro"] > 0.8, "topics that the vectors set apart were not learned"


def test_cost(run):
    cost = to_record(run.cost)
    assert set(cost) == {
        "train_seconds", "examples_per_second", "trainable_parameters", "total_parameters", "peak_memory_mb",
        "texts_per_second", "size_mb", "wall_seconds",
    }  # fmt: skip
    assert all(value > 0 for value in cost.values())
    weights = load_file(run.folder / "model" / "model.safetensors")
    frozen = weights["vectors.weight"].size
    learned = sum(value.size for name, value in weights.items() if "standardize" not in name) - frozen
    assert cost["total_parameters"] == learned + frozen and cost["trainable_parameters"] == learned
    size = sum((run.folder / "model" / name).stat().st_size for name in MODEL_FILES)
    assert cost["size_mb"] == pytest.approx(size / 2**20, abs=1e-3)


def test_record(run):
    record = record_of(run.folder)
    assert record["status"] == "finished"
    assert set(record["settings"]) == {"data", "route", "training", "augment"}
    assert record["settings"]["data"]["split_seed"] == 0
    assert record["settings"]["route"]["name"] == "word2vec"
    assert record["settings"]["route"]["num_filters"] == QUICK["num_filters"]
    assert record["settings"]["training"]["num_train_epochs"] == QUICK["num_train_epochs"]
    assert record["versions"]["torch"] == torch.__version__
    assert {"nlptransfer", "torch", "transformers", "accelerate", "datasets"} <= set(record["versions"])
    assert set(record["data"]["fingerprints"]) == {"train", "validation", "calibration", "test"}
    assert all(len(each["hash"]) == 64 for each in record["data"]["fingerprints"].values())
    assert record["base"] == {
        "kind": "vectors", "name": "small.txt", "words": 220, "dimensions": 8, "unknown_share": 0.0
    }  # fmt: skip
    assert record["training"]["seconds"] > 0
    assert record["machine"] == machine() and record["machine"]["cores"] >= 1 and record["machine"]["processor"]


def test_no_path_of_this_machine_in_any_file(run, tmp_path_factory):
    no_path_in(run.folder, tmp_path_factory.getbasetemp())


def test_predictions_give_the_scores(run):
    rows = pq.read_table(run.folder / "predictions.parquet")
    assert rows.column_names == ["split", "id", "true", "predicted", "probabilities"]
    for split in ("validation", "test"):
        found = predictions_of(run, split)
        assert found["id"] == list(range(run.scores[split]["rows"]))
        right = [true == given for true, given in zip(found["true"], found["predicted"], strict=True)]
        assert np.mean(right) == pytest.approx(run.scores[split]["accuracy"])
        sums = np.sum(found["probabilities"], axis=1)
        assert run.data.labels.multi_label or sums == pytest.approx(np.ones(len(sums)), abs=1e-5)


def test_plain_transformers_gives_the_calibrated_probabilities(run):
    record = read_json(run.folder / "model" / "nlptransfer.json")
    assert record["calibration"]["rows"] == run.data.rows["calibration"]
    assert record["calibration"]["temperature"] != 1.0
    texts = ["wordaa goodae goodaf", "badae wordab wordac", "deliveryae wordaa praiseae", ""]
    logits = plain_logits(plain_model(run.folder / "model"), run.folder / "model", texts)
    found = expit(logits) if run.data.labels.multi_label else softmax(logits, axis=1)
    np.testing.assert_allclose(found, run.classifier.probabilities(texts), atol=1e-6)


def test_thresholds_decide_which_of_several_labels_are_given(run):
    thresholds = run.classifier.thresholds
    if not run.data.labels.multi_label:
        assert thresholds is None
        return
    assert len(thresholds) == 3 and set(thresholds) != {0.5}
    found = predictions_of(run, "test")
    names = run.data.labels.names
    for given, row in zip(found["predicted"], found["probabilities"], strict=True):
        assert given == [name for name, p, cut in zip(names, row, thresholds, strict=True) if p >= cut]


def test_how_training_went(run):
    training, settings = run.training, run.settings
    rows = run.data.rows
    if settings["route"]["head_type"] == "linear":
        assert training.details["fitted_on"] == "train+validation"
        assert training.examples == rows["train"] + rows["validation"]
        assert training.best_score > 0.8 and training.history is None
    else:
        epochs = [entry["epoch"] for entry in training.history]
        assert epochs == list(range(1, len(epochs) + 1)) and training.examples == rows["train"] * len(epochs)
        assert training.collapsed == ()
        assert training.best_score == training.history[training.best_epoch - 1]["score"]


# FittedHead heads


def test_validation_scores_of_a_fitted_head_come_from_before_it_saw_these_rows(tune, remarks):
    texts, labels = remarks
    turned = ["negative" if label == "positive" else "positive" for label in labels]
    run = tune({"train": (texts[:20], labels[:20]), "validation": (texts[20:120], turned[20:120])}, test_size=0.2)
    assert run.scores["validation"]["accuracy"] < 0.2
    assert run.scores["validation"]["accuracy"] == run.training.best_score
    assert run.classifier.evaluate((texts[20:120], turned[20:120]))["accuracy"] > 0.8


def test_validation_scores_of_a_fitted_head_are_calibrated_too(tune, remarks):
    texts, labels = remarks
    few = texts[:8], labels[:8]
    run = tune({"train": (texts[8:], labels[8:]), "validation": few, "test": few})
    # A few rows more move the solution little.
    before, after = (np.array(predictions_of(run, split)["probabilities"]) for split in ("validation", "test"))
    assert np.abs(before - after).mean() < 0.04


# Trainings that give all rows one label


def test_a_training_that_learns_nothing_is_begun_anew_at_a_lower_and_a_higher_rate(tune, remarks, caplog):
    texts, _ = remarks
    # Nothing in the texts tells the labels.
    labels = ["rare" if row % 8 == 0 else "common" for row in range(len(texts))]
    settings = {"head_type": "mlp", "num_train_epochs": 2, "learning_rate": 1e-4, "report_to": ("tensorboard",)}
    run = tune((texts, labels), **settings)
    training, rows = run.training, run.data.rows["train"]
    assert [[entry["epoch"] for entry in one["history"]] for one in training.collapsed] == [[1, 2], [1, 2]]
    assert training.examples == 6 * rows
    assert "at learning_rate=0.0001" in caplog.text and caplog.text.count("come to nothing: ") == 2
    # All three give the validation rows one label: of equals the first is kept.
    assert [one["learning_rate"] for one in training.collapsed] == [2.5e-5, 4e-4]
    further = [Path(name) for name in set(files_of(run.folder)) - RUN_FILES]
    # Each training is a run of its own to TensorBoard.
    losses = {name.parent for name in further if "events.out" in name.name and name.parent.name == "nlptransfer"}
    assert losses == {Path("logs", part, "nlptransfer") for part in ("", "retried_1", "retried_2")}
    assert {name.parts[0] for name in further} == {"logs"}


@pytest.mark.parametrize(("rate", "tries"), [(1e-7, [1e-7, 2.5e-8]), (1e-2, [])])
def test_a_rate_that_is_too_low_is_seen_as_one_that_is_too_high(rate, tries, tune, remarks, monkeypatch):
    monkeypatch.setattr("nlptransfer.experiments.fitting.COLLAPSED_RATE", 1e-5 if len(tries) > 1 else 0.25)
    run = tune(remarks, head_type="mlp", num_train_epochs=8, learning_rate=rate)
    assert len(run.training.collapsed) == len(tries) and run.training.best_score > 0.8


def every_score(patch: pytest.MonkeyPatch, score: Callable[[], float] = lambda: 0.5) -> None:
    """Replace all scores of trainings and of one label for all rows, by equals if not others; let none have learned."""
    patch.setattr("nlptransfer.experiments.task._scorer", lambda labels, metric: lambda targets, logits: score())
    patch.setattr(Task, "beats_one_label", lambda task, targets, logits: False)


def test_few_validation_rows_do_not_begin_a_training_anew_that_has_learned(tune, remarks, monkeypatch):
    monkeypatch.setattr("nlptransfer.experiments.task._scorer", lambda labels, metric: lambda targets, logits: 0.5)
    run = tune(remarks, head_type="mlp", num_train_epochs=4)
    assert run.scores["train"]["accuracy"] > 0.8 and run.training.collapsed == ()


def test_what_is_begun_anew_learns_what_the_other_rate_does(tune, remarks, monkeypatch):
    settings = {"head_type": "mlp", "num_train_epochs": 1, "per_device_train_batch_size": 4}
    quarter = tune(remarks, learning_rate=0.02, **settings)
    assert quarter.training.collapsed == ()
    with monkeypatch.context() as patch:
        every_score(patch)
        # The first training has learned nothing, the second has.
        learned = iter([False, True])
        patch.setattr(Task, "beats_one_label", lambda task, targets, logits: next(learned))
        run = tune(remarks, learning_rate=0.08, **settings)
    assert [one["learning_rate"] for one in run.training.collapsed] == [0.08] and same_weights(run, quarter)


def test_of_trainings_that_learned_nothing_the_best_is_kept(tune, remarks, monkeypatch):
    settings = {"head_type": "mlp", "num_train_epochs": 1, "per_device_train_batch_size": 4, "learning_rate": 0.02}
    first = tune(remarks, **settings)
    # The trainings, each followed by one label for all rows.
    scores = iter([0.5, 0.5, 0.4, 0.5, 0.5, 0.5])
    every_score(monkeypatch, lambda: next(scores))
    run = tune(remarks, overwrite=True, output_dir=first.folder.with_name("anew"), **settings)
    training = run.training
    assert training.best_score == 0.5
    assert [(one["learning_rate"], one["history"][0]["score"]) for one in training.collapsed] == [
        (0.005, 0.4),
        (0.08, 0.5),
    ]
    assert training.examples == 3 * first.training.examples and same_weights(run, first)


def test_a_higher_rate_at_which_the_loss_is_no_number_leaves_what_there_is(tune, remarks, monkeypatch, caplog):
    settings = {"head_type": "mlp", "num_train_epochs": 1, "learning_rate": 0.02}
    first = tune(remarks, **settings)
    every_score(monkeypatch)

    def broken(objective, *examples, settings, **how):
        if settings.learning_rate > 0.02:
            raise TrainingError("the loss is nan")
        return train(objective, *examples, settings=settings, **how)

    monkeypatch.setattr("nlptransfer.experiments.fitting.train", broken)
    run = tune(remarks, output_dir=first.folder.with_name("with a broken one"), **settings)
    assert same_weights(run, first) and len(run.training.collapsed) == 1 and "the loss is nan" in caplog.text


def test_a_run_cut_off_when_begun_anew_ends_in_the_same_weights(tune, remarks, monkeypatch, tmp_path):
    trainings = []

    def cut_off_the_second(objective, *examples, **how):
        trainings.append(objective)
        passes = iter(range(9))

        def stop(*_):
            if next(passes, None) is None:
                raise KeyboardInterrupt

        if len(trainings) == 2:
            objective.model.register_forward_pre_hook(stop)
        return train(objective, *examples, **how)

    every_score(monkeypatch)
    settings = {"head_type": "mlp", "num_train_epochs": 3, "save_steps": 2}
    whole = tune(remarks, **settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("nlptransfer.experiments.fitting.train", cut_off_the_second)
        tune(remarks, output_dir=tmp_path / "cut", **settings)
    kept = {path.parent.name for path in (tmp_path / "cut").glob("*/step_*")}
    assert kept == {"checkpoints", "checkpoints_retried_1"}
    run = tune(remarks, output_dir=tmp_path / "cut", **settings)
    names = ("examples", "history", "collapsed")
    assert [getattr(run.training, name) for name in names] == [getattr(whole.training, name) for name in names]
    assert same_weights(run, whole) and set(files_of(run.folder)) == RUN_FILES


# Where runs go, and what is found there


def test_default_folder_is_named_after_data_route_and_settings(tune, remarks_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = tune(remarks_folder, output_dir=None)
    again = tune(remarks_folder, output_dir=None)
    other = tune(remarks_folder, output_dir=None, dropout=0.3)
    assert first.folder == again.folder != other.folder
    assert sorted(Path("runs").iterdir()) == sorted([first.folder, other.folder])
    assert all(run.folder.name.startswith("remarks-word2vec-") for run in (first, other))


def test_seeds_move_weights_and_never_a_split(tune, remarks):
    runs = {
        name: tune(remarks, head_type="cnn", num_train_epochs=2, **seeds)
        for name, seeds in {
            "one": {"seed": 1},
            "one again": {"seed": 1},
            "two": {"seed": 2},
            "two as one": {"seed": 2, "init_seed": 1, "data_seed": 1},
            "other splits": {"seed": 1, "split_seed": 1},
        }.items()
    }
    assert [same_weights(runs["one"], runs[name]) for name in ("one again", "two as one", "two")] == [True, True, False]
    prints = {name: run.data.fingerprints for name, run in runs.items()}
    assert prints["one"] == prints["one again"] == prints["two"] == prints["two as one"] != prints["other splits"]


@pytest.fixture(scope="module")
def finished(tune, remarks_folder) -> RunResult:
    return tune(remarks_folder)


def test_the_same_call_returns_a_finished_run_as_it_is(tune, finished, remarks_folder):
    before = files_of(finished.folder)
    # What changes nothing of what is learned may be another.
    same = tune(remarks_folder, output_dir=finished.folder, save_steps=7, keep_checkpoints=True)
    assert same.folder == finished.folder and same.scores == finished.scores
    assert files_of(finished.folder) == before
    # It may have been killed just before these were removed.
    (finished.folder / "checkpoints" / "step_00000001").mkdir(parents=True)
    tune(remarks_folder, output_dir=finished.folder)
    assert files_of(finished.folder) == before and not (finished.folder / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"dropout": 0.3}, r"dropout=0\.1.* dropout=0\.3"),
        ({"seed": 3, "max_length": 9}, r"seed=0.* seed=3 \(and 1 more: max_length\)"),
        ({"split_seed": 4, "label_smoothing": 0.1}, "split_seed"),
        ({"further_metrics": ["f1"]}, "further_metrics"),
    ],
)
def test_changed_settings_are_refused_and_named(changed, named, tune, finished, remarks_folder):
    before = files_of(finished.folder)
    with pytest.raises(RunFolderError, match=named):
        tune(remarks_folder, output_dir=finished.folder, **changed)
    assert files_of(finished.folder) == before


def test_changed_data_and_vectors_are_refused(tune, finished, remarks, remarks_folder, vectors_file, tmp_path):
    with pytest.raises(RunFolderError, match="fingerprints"):
        tune(remarks, output_dir=finished.folder)
    # As many bytes under the same name, but other numbers.
    words = vectors_file.read_text().splitlines()
    other = tmp_path / vectors_file.name
    other.write_text("\n".join([words[0], *(line[:-1] + "7" for line in words[1:]), ""]))
    assert other.stat().st_size == vectors_file.stat().st_size
    with pytest.raises(RunFolderError, match="base"):
        tune(remarks_folder, output_dir=finished.folder, base=other)


def test_the_same_files_elsewhere_are_the_same_run(tune, finished, remarks_folder, vectors_file, tmp_path):
    moved = tmp_path / vectors_file.name
    moved.write_bytes(vectors_file.read_bytes())
    assert tune(remarks_folder, output_dir=finished.folder, base=moved).folder == finished.folder


def test_overwrite_begins_anew(tune, remarks, tmp_path):
    tune(remarks, output_dir=tmp_path / "run")
    run = tune(remarks, output_dir=tmp_path / "run", overwrite=True, dropout=0.3)
    assert run.settings["route"]["dropout"] == 0.3
    assert set(files_of(run.folder)) == RUN_FILES


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_folder_is_refused_and_left_alone(overwrite, tune, remarks, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(RunFolderError, match=r"found (other files|a file): name another output_dir"):
            tune(remarks, output_dir=place, overwrite=overwrite)
    assert set(files_of(tmp_path)) == {"notes.txt"}


def test_a_mistake_that_is_put_right_can_use_the_same_folder(tune, remarks, tmp_path):
    mistakes = {
        "metric_for_best_model": ("acuracy", "did you mean 'accuracy'"),
        "class_weights": ({"positiv": 2.0}, "did you mean 'positive'"),
        "base": ("nowhere.txt", "nowhere.txt: no such file"),
    }
    for name, (value, message) in mistakes.items():
        with pytest.raises(NlpTransferError, match=message):
            tune(remarks, output_dir=tmp_path / "run", **{name: value})
        assert not (tmp_path / "run").exists()
    assert tune(remarks, output_dir=tmp_path / "run").metrics["accuracy"] > 0.8


# Settings


def test_without_test_rows(tune, remarks):
    run = tune(remarks, test_size=0)
    assert list(run.scores) == ["train", "validation"]
    assert set(run.predictions) == set(RunResult.load(run.folder).predictions) == {"validation"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rat": 1e-3}, "unknown setting 'learning_rat': did you mean 'learning_rate'"),
        ({"kernel_size": 3}, "did you mean 'kernel_sizes'"),
        ({"split_sed": 3}, "did you mean 'split_seed'"),
        ({"route": "word2vecs"}, "unknown route 'word2vecs': did you mean 'word2vec'"),
        ({"head_type": "lstm"}, "head_type='lstm': expected one of 'cnn', 'mlp', 'linear'"),
        ({"num_train_epochs": 0}, "num_train_epochs=0: expected a whole number from 1"),
        ({"learning_rate": "fast"}, "learning_rate='fast'"),
        ({"test_size": 1.5}, "test_size=1.5"),
    ],
)
def test_settings_that_make_no_sense(settings, message, tune, remarks, tmp_path):
    with pytest.raises(SettingError, match=message):
        tune(remarks, output_dir=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_route_with_its_settings(remarks, vectors_file, tmp_path):
    route = Word2Vec(head_type="linear", pooling=("mean", "max"))
    with pytest.raises(SettingError, match=r"max_length: give it to Word2Vec\(max_length=\.\.\.\)"):
        finetune(remarks, route=route, base=vectors_file, max_length=9, output_dir=tmp_path)
    for wrong in (Word2Vec(head_type="lstm"), Word2Vec(pooling=("median",)), Word2Vec(num_filters=0)):  # type: ignore
        with pytest.raises(SettingError):
            finetune(remarks, route=wrong, base=vectors_file, output_dir=tmp_path)
    run = finetune(remarks, route=route, base=vectors_file, output_dir=tmp_path, test_size=0.3)
    assert run.settings["route"]["pooling"] == ["mean", "max"]
    assert run.settings["data"]["test_size"] == 0.3
    assert run.classifier.route == route
    # As resolved: what the call leaves open is the route's.
    resolved = run.settings["training"]
    assert all(resolved[name] for name in ("num_train_epochs", "learning_rate", "per_device_train_batch_size"))


def test_further_metrics(tune, remarks):
    run = tune(remarks, further_metrics=("matthews_correlation",))
    assert run.metrics["matthews_correlation"] == pytest.approx(run.metrics["mcc"])
    assert run.question["further_metrics"] == ["matthews_correlation"]


def test_class_weights_move_what_is_predicted(tune, remarks):
    texts, _ = remarks
    # Labels that the texts say nothing about: the weights alone decide.
    labels = ["rare" if row % 8 < 2 else "common" for row in range(len(texts))]

    def rare(weights: Any) -> float:
        predicted = predictions_of(tune((texts, labels), class_weights=weights), "test")["predicted"]
        return predicted.count("rare") / len(predicted)

    assert rare(None) < 0.2 < rare("balanced")
    assert rare({"rare": 50.0}) > 0.8


def test_label_smoothing_keeps_probabilities_off_the_ends(tune, remarks):
    sure, less = (
        np.max(predictions_of(tune(remarks, calibration_size=0, **more), "test")["probabilities"], axis=1).mean()
        for more in ({}, {"label_smoothing": 0.4})
    )
    # Of two labels, 0.5 is no knowledge.
    assert less - 0.5 < 0.75 * (sure - 0.5)


def test_a_run_that_keeps_no_model(tune, remarks):
    kept, run = tune(remarks), tune(remarks, save_model=False)
    assert set(files_of(run.folder)) == RECORD_FILES
    assert run.metrics == kept.metrics
    assert {*to_record(kept.cost)} - {*to_record(run.cost)} == {"texts_per_second", "size_mb"}
    # In memory it still is.
    texts = ["goodaa wordab", "badaa"]
    assert np.allclose(run.classifier.probabilities(texts), kept.classifier.probabilities(texts))
    with pytest.raises(RunFolderError, match="expected a saved model, found none"):
        _ = RunResult.load(run.folder).classifier
    with pytest.raises(SettingError, match="save_model=False"):
        tune(remarks, source=remarks, save_model=False)


def test_trackers_and_kept_checkpoints_write_into_the_folder(tune, remarks):
    run = tune(remarks, head_type="mlp", report_to=("tensorboard",), keep_checkpoints=True)
    further = set(files_of(run.folder)) - RUN_FILES
    assert [name for name in further if "events.out.tfevents" in name]
    assert [name for name in further if name.startswith("checkpoints/step_")]
    assert not [
        name for name in further if not name.startswith(("logs/", "checkpoints/step_", "checkpoints/finished/"))
    ]


def test_a_model_that_no_memory_holds_is_one_line(tune, remarks, tmp_path):
    with pytest.raises(TrainingError, match=r"expected a model that memory holds, found .*: take a smaller base"):
        tune(remarks, head_type="cnn", num_filters=2**50, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
