"""Strategies without target labels, in whole runs: what they read, write, choose and refuse."""

import logging
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from transformers import AutoModelForMaskedLM

from helpers.corpora import HELD_OUT, WORDS, text_of
from helpers.corpora import topic_splits as words
from helpers.encoders import SHAPES, make_base
from helpers.folders import RUN_FILES, files_of
from helpers.runs import finetune, same_weights
from helpers.transfers import FITTED, QUICK, ROUTES, sides_of
from nlptransfer import Classifier, RunResult
from nlptransfer.data.labels import Labels
from nlptransfer.errors import SettingError
from nlptransfer.experiments import fitting
from nlptransfer.training.lbfgs import Features
from nlptransfer.training.linear_head import HeadTask
from nlptransfer.training.losses import SOURCE, UNLABELED, LabelLoss
from nlptransfer.transfer.adapt import Adapt
from nlptransfer.transfer.alignment import ALIGN, Coral, Dann, Mmd
from nlptransfer.transfer.base import LabelFree
from nlptransfer.transfer.direct import Reweight
from nlptransfer.transfer.pretraining import Pretrain
from nlptransfer.transfer.registry import TRANSFERS
from nlptransfer.transfer.self_training import SelfTrain

STEPPED_ONLY = ("mmd", "dann")
FREE = [name for name, kind in TRANSFERS.items() if issubclass(kind, LabelFree)]
ANY_SHIFT = {"allow_label_shift": True}
SIZES = {"train": 30, **HELD_OUT}


@pytest.fixture
def adapt(bases, vectors_file, tmp_path) -> Callable[..., RunResult]:
    """finetune from a source to a target whose labels are not to be seen."""
    count = iter(range(99))

    def call(route: str, transfer: Any, **settings: Any) -> RunResult:
        source, target, base = sides_of(route, vectors_file, bases, 30)
        given = {**QUICK, **ROUTES[route], "base": base, "output_dir": tmp_path / str(next(count)), **settings}
        return finetune(given.pop("data", target), source=given.pop("source", source), transfer=transfer, **given)

    return call


FITTING = [
    (route, name)
    for route in ("words linear", "words mlp", "probe linear", "probe ngrams", "full", "lora")
    for name in FREE
    if not (name in STEPPED_ONLY and route in FITTED)
    # It tries two of the others.
    if not (name != "adapt" and route == "probe ngrams")
]


@pytest.mark.usefixtures("told_apart")
@pytest.mark.parametrize(("route", "name"), FITTING)
def test_every_strategy_by_every_route_that_it_fits(route, name, adapt):
    own = ({} if name == "reweight" else ANY_SHIFT) | (
        {"trade_offs": (0.5,)} if name in ("mmd", "dann", "coral") else {}
    )
    own |= {"selftrain": {"rounds": 1}, "adapt": {"methods": ("coral", "selftrain")}}.get(name, {})
    # The adapter of a tiny random base has not learned much after three epochs.
    longer = {"num_train_epochs": 12} if route == "lora" else {}
    run = adapt(route, name, **own, **longer)
    told = run.transfer
    assert told.name == name and told.label_free is True
    assert list(told.stages) == [stage.name for stage in TRANSFERS[name](**own).stages]
    assert set(files_of(run.folder)) >= RUN_FILES - {"model/model.safetensors"}
    assert not [*run.folder.glob("checkpoints*")]
    unlabeled = 46 if route.startswith("words") else 45
    assert run.data.rows == {"train": 0, "validation": 0, "calibration": 0, "test": 20, "unlabeled": unlabeled}
    assert set(run.scores) == {"test"}
    assert run.metrics["accuracy"] >= 0.55
    assert Classifier.load(run.folder).predict(["good bad"])[0].label in ("good", "bad")
    if name == "reweight":
        return
    stage = [*told.stages.values()][-1]
    evidence = [one["evidence"] for one in stage.curve]
    assert len(evidence) == 2 and all(0 <= one["label_shift"] <= 1 for one in evidence)
    if name == "adapt":
        tried = told.stages["align"].curve
        assert [(one["method"], one["trade_off"]) for one in tried] == [("none", 0), ("coral", 0.5), ("coral", 1)]
    elif name != "selftrain" and route not in FITTED:
        # Where D is asked to count nothing it has no gradient, and one where it does.
        assert stage.curve[0]["trade_off"] == 0


def side(rows: int, seed: int, at: float = 0.0) -> Features:
    """Rows of two labels, which one of 8 n-grams tells each, and the 3 features do not."""
    draw = np.random.default_rng(seed)
    targets = np.arange(rows) % 2
    ngrams = 0.3 * draw.random((rows, 8)) * (draw.random((rows, 8)) < 0.3)
    ngrams[:, :2] = np.eye(2)[targets]
    values = draw.normal(at, 1 + at, (rows, 3)).astype(np.float32)
    return Features(values, targets, ngrams=sparse.csr_array(ngrams.astype(np.float32)))


@pytest.fixture
def sides() -> dict[str, HeadTask]:
    def task(part: Features) -> HeadTask:
        cut = len(part) * 3 // 4
        return HeadTask(LabelLoss(Labels(("a", "b"))), part[:cut], part[cut:], lambda y, z: (z.argmax(1) == y).mean())

    return {SOURCE: task(side(40, 0)), UNLABELED: replace(task(side(60, 1, at=2)), validation=side(0, 2))}


def test_texts_are_labeled_by_their_ngrams_too(sides, monkeypatch):
    learned = []
    choose = HeadTask.choose_l2
    monkeypatch.setattr(HeadTask, "choose_l2", lambda *task, **how: learned.append(how) or choose(*task, **how))
    train = SelfTrain(rounds=1, share=1.0)
    source = train.fit_head(train.stages[0], sides, None).head
    assert np.abs(source[0][:, 3:5]).min() > np.abs(source[0][:, :3]).max()
    found = train.fit_head(train.stages[1], sides, source).head
    unlabeled, extra = sides[UNLABELED].train, learned[-1]["extra"]
    # All of them, and under the labels that their n-grams have.
    assert extra.targets.tolist() == unlabeled.targets.tolist()
    np.testing.assert_array_equal(extra.ngrams.toarray(), unlabeled.ngrams.toarray())
    assert (unlabeled.logits(found).argmax(axis=1) == unlabeled.targets).all()


def test_coral_maps_features_and_leaves_ngrams(sides, monkeypatch):
    fitted = []
    choose = HeadTask.choose_l2
    monkeypatch.setattr(HeadTask, "choose_l2", lambda task, **how: fitted.append(task) or choose(task, **how))
    head = Coral(trade_offs=(1.0,)).fit_head(ALIGN, sides, None).head
    (mapped,), source, target = fitted, sides[SOURCE], sides[UNLABELED].train
    np.testing.assert_array_equal(mapped.train.ngrams.toarray(), source.train.ngrams.toarray())
    np.testing.assert_allclose(mapped.train.values.mean(axis=0), target.values.mean(axis=0), atol=1e-4)
    assert (target.logits(head).argmax(axis=1) == target.targets).all()


@pytest.mark.usefixtures("told_apart")
@pytest.mark.parametrize("route", ["words mlp", "full"])
@pytest.mark.parametrize("strategy", [Coral(trade_offs=(1.0,)), Mmd(trade_offs=(1.0,)), Dann(trade_offs=(1.0,))])
def test_distance_has_a_gradient_that_is_logged(route, strategy, adapt, monkeypatch):
    monkeypatch.setattr("nlptransfer.experiments.stages.choose", lambda found, *_, **__: 1)
    run = adapt(route, strategy, num_train_epochs=2)
    assert all(entry["discrepancy_gradient"] > 0 for entry in run.training.history)
    assert run.training.chosen["trade_off"] == 1.0


def swapped(rows: dict[str, int], seed: int, *, swap: bool) -> dict[str, Any]:
    """Rows of three words that tell the label and three that do not; swapped, words of "bad" tell nothing, and others
    stand for them."""
    draw = random.Random(seed)
    tells, other = {"bad": WORDS[:5], "good": WORDS[5:10]}, WORDS[10:15]
    stands_for = dict(zip(tells["bad"] + other, other + tells["bad"], strict=True)) if swap else {}
    found = {}
    for name, count in rows.items():
        labels = ["bad", "good"] * (count // 2)
        texts = [draw.sample(draw.choices(tells[label], k=3) + draw.choices(other, k=3), 6) for label in labels]
        found[name] = ([" ".join(stands_for.get(word, word) for word in text) for text in texts], labels)
    return found


@pytest.fixture(scope="module")
def wider(tmp_path_factory) -> Path:
    """A tiny encoder with room for what tells the domains beside what tells the labels."""
    shape = SHAPES["bert"] | {"num_hidden_layers": 2, "hidden_size": 32}
    return make_base(tmp_path_factory.mktemp("wider"), "bert", shape, AutoModelForMaskedLM).path


@pytest.mark.parametrize(
    "strategy",
    [
        "copy",
        Coral(trade_offs=(1.0,), warm_up=True, **ANY_SHIFT),
        Mmd(trade_offs=(0.3,), warm_up=True, **ANY_SHIFT),
        Dann(trade_offs=(1.0,), **ANY_SHIFT),
    ],
)
def test_an_encoder_undoes_a_swap_of_words(strategy, wider, adapt):
    source = swapped({"train": 200, "validation": 60}, 0, swap=False)
    target = swapped({"train": 200, "validation": 60, "test": 400}, 1, swap=True)
    longer = {"num_train_epochs": 15, "per_device_train_batch_size": 32, "learning_rate": 3e-3}
    run = adapt("full", strategy, source=source, data=target, base=str(wider), **longer)
    if strategy == "copy":
        assert run.metrics["accuracy"] < 0.7
        return
    assert run.metrics["accuracy"] > 0.85
    assert run.training.chosen["trade_off"] == strategy.trade_offs[0]
    assert all(entry["discrepancy_gradient"] > 0 for entry in run.training.history)


@pytest.mark.usefixtures("told_apart")
def test_any_method_is_taken_that_the_evidence_prefers(adapt, monkeypatch):
    kept = iter([5, 1, 0, 0])
    monkeypatch.setattr("nlptransfer.experiments.stages.choose", lambda found, *_, **__: next(kept))
    run = adapt("words mlp", Adapt(), report=True)
    stages = run.stages
    tried = [(one["method"], one["trade_off"]) for one in stages["align"].curve]
    assert tried == [("none", 0), ("coral", 0.5), ("coral", 1), ("mmd", 0.3), ("mmd", 1), ("dann", 0.05), ("dann", 0.1)]
    assert stages["align"].chosen == {"method": "dann", "trade_off": 0.05}
    assert [stages[f"round_{number}"].chosen["adapted"] for number in (1, 2, 3)] == [True, False, False]
    # What was kept is gone on from: it is the second round's way of not adapting.
    assert stages["round_2"].curve[0]["evidence"] == stages["round_1"].curve[1]["evidence"]
    assert run.transfer.settings["methods"] == ["coral", "mmd", "dann", "selftrain"]
    assert "method dann, trade off 0.05 <b>(kept)</b>" in (run.folder / "report.html").read_text()


@pytest.mark.usefixtures("told_apart")
def test_epochs_are_chosen_from_too(adapt, monkeypatch):
    monkeypatch.setattr("nlptransfer.experiments.stages.choose", lambda found, *_, **__: 3)
    run = adapt("words mlp", Coral(trade_offs=(0.5,), epochs=(2, 5)))
    tried = [(one["trade_off"], one["num_train_epochs"]) for one in run.training.curve]
    assert tried == [(0, 2), (0, 5), (0.5, 2), (0.5, 5)]
    assert len(run.training.history) == 5


@pytest.mark.usefixtures("told_apart")
@pytest.mark.parametrize("name", FREE)
def test_no_label_of_the_target_is_reached(name, adapt):
    rows = words(SIZES, 1)
    turned = {part: (texts, list(reversed(labels))) for part, (texts, labels) in rows.items()} | {"test": rows["test"]}
    route = "words mlp" if name in STEPPED_ONLY else "words linear"
    own = {} if name == "reweight" else ANY_SHIFT
    one, other = (adapt(route, name, data=data, **own) for data in (rows, turned))
    assert one.data == other.data
    assert one.metrics == other.metrics
    assert same_weights(one, other)


@pytest.mark.usefixtures("told_apart")
def test_no_test_row_is_reached_by_a_choice(adapt):
    rows = words(SIZES, 1)
    others = rows | {"test": words(SIZES, 7)["test"]}
    one, other = (adapt("words linear", "selftrain", data=data, **ANY_SHIFT) for data in (rows, others))
    assert same_weights(one, other)
    told, others_told = (run.stages for run in (one, other))
    assert [stage.chosen for stage in told.values()] == [stage.chosen for stage in others_told.values()]


@pytest.mark.usefixtures("told_apart")
def test_texts_alone_are_target_enough(adapt, tmp_path):
    texts = words({"train": 40}, 3)["train"][0]
    file = tmp_path / "unrated.txt"
    file.write_text("\n".join(texts), encoding="utf-8")
    run = adapt("words linear", "coral", data=str(file), **ANY_SHIFT)
    assert not run.scores
    assert run.data.labels.names == ("bad", "good")
    assert run.data.rows["unlabeled"] == len({*texts})
    assert run.classifier.predict(texts[:1])[0].label == "good"


@pytest.mark.usefixtures("told_apart")
def test_further_texts_count_and_test_texts_do_not(adapt, tmp_path, caplog):
    rows = words(SIZES, 1)
    further = [*words({"train": 12}, 9)["train"][0], rows["test"][0][0]]
    with caplog.at_level(logging.WARNING, "nlptransfer"):
        run = adapt("words linear", "coral", data=rows, unlabeled=further, **ANY_SHIFT)
    assert run.data.rows["unlabeled"] == 30 + 16 + 12
    assert "1 of the texts without labels are test texts" in caplog.text


@pytest.mark.usefixtures("told_apart")
def test_within_one_task_unlabelled_texts_are_learned_from(adapt):
    rows = words({"train": 12, "validation": 8, "test": 20}, 1)
    texts = words({"train": 60}, 4)["train"][0]
    run = adapt("words linear", "selftrain", data=rows, source=None, unlabeled=texts, rounds=2)
    told = run.transfer
    assert told.settings["within"] is True and told.label_free is False
    assert list(told.stages) == ["labeled", "round_1", "round_2"]
    assert run.scores["validation"]["rows"] == 8 and run.metrics["accuracy"] > 0.7


def test_nothing_is_adapted_where_source_and_target_are_not_told_apart(adapt):
    run = adapt("words linear", SelfTrain(allow_label_shift=True, rounds=1), report=True)
    stage = run.stages["round_1"]
    assert stage.domains_differ is False and stage.chosen == {"adapted": False}
    assert run.stages["labeled"].chosen is None
    # What could not be kept is not tried.
    assert [one["adapted"] for one in stage.curve] == [False]
    page = (run.folder / "report.html").read_text()
    assert "the domains do not differ" in page and "Candidates and what tells of them" in page
    assert "<td>not adapted <b>(kept)</b></td>" in page and "<td>adapted</td>" not in page
    # Nobody has labeled its training rows: a table of zeros would say otherwise.
    assert ">train</th><th" not in page.split("Label balance")[1].split("</tr>")[0]


def test_a_shift_of_labels_is_said_and_keeps_the_source_alone(adapt, caplog):
    draw = random.Random(2)
    texts = [text_of(draw, ["good"]) for _ in range(60)] + [text_of(draw, ["bad"]) for _ in range(3)]
    with caplog.at_level(logging.WARNING, "nlptransfer"):
        run = adapt("words linear", "coral", data=words({"test": 20}, 1) | {"train": (texts, ["good"] * 63)})
    assert "Labels seem to have other shares" in caplog.text
    assert run.training.chosen == {"trade_off": 0.0}
    assert run.training.curve[0]["evidence"]["label_shares"][1] > 0.85


@pytest.mark.usefixtures("told_apart")
def test_resumes_without_doing_a_candidate_twice(adapt, tmp_path, monkeypatch):
    strategy = Coral(trade_offs=(0.5, 1.0), allow_label_shift=True)
    whole = adapt("words mlp", strategy)
    done, fit = [], fitting.fit_variant

    def counted(learning, stage, variant, *rest):
        done.append({**variant.settings})
        return fit(learning, stage, variant, *rest)

    def interrupted(*given):
        if len(done) == 1:
            done.append({**given[2].settings})
            raise KeyboardInterrupt
        return counted(*given)

    folder = tmp_path / "cut off"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("nlptransfer.experiments.stages.fit_variant", interrupted)
        adapt("words mlp", strategy, output_dir=folder)
    with monkeypatch.context() as patch:
        patch.setattr("nlptransfer.experiments.stages.fit_variant", counted)
        again = adapt("words mlp", strategy, output_dir=folder)
    assert done == [{"trade_off": value} for value in (0.0, 0.5, 0.5, 1.0)]
    assert same_weights(whole, again) and whole.metrics == again.metrics


# What is refused


VALUES = [
    (Coral(trade_offs=()), r"expected a list \(or text with commas\) of 1 or more"),
    (Mmd(trade_offs=(0.0,)), "expected a number above 0"),
    (Coral(shrinkage=2.0), "a number from 0, up to 1"),
    (SelfTrain(rounds=0), "from 1"),
    (SelfTrain(share=0.0), "above 0"),
    (SelfTrain(pseudo_weight=0.0), "above 0"),
    (Dann(choose_by="luck"), "expected one of"),
    (Mmd(epochs=(3, 0)), "epochs=0: expected a whole number from 1"),
    (Adapt(methods=()), "expected some of coral, mmd, dann, selftrain"),
    (Adapt(methods=("coral", "luck")), "expected some of coral, mmd, dann, selftrain"),
    (Pretrain(mask_probability=0.0), "mask_probability=0.0: expected"),
    (Pretrain(mask_probability=1.0), "mask_probability=1.0: expected"),
    (Pretrain(pretrain_epochs=0), "pretrain_epochs=0: expected"),
    (Pretrain(pretrain_batch_size=0), "pretrain_batch_size=0: expected"),
    (Pretrain(pretrain_learning_rate=0.0), "pretrain_learning_rate=0.0: expected"),
]


@pytest.mark.parametrize(("strategy", "message"), VALUES)
def test_values_that_make_no_sense(strategy, message):
    with pytest.raises(SettingError, match=message):
        strategy.check()


FITTED = "expected {}, as the last layer is fitted, not trained"
NO_GRADIENT = "on whose frozen features D has no gradient: take lora or full, head_type=mlp, or transfer=coral"
WITHIN = {"source": None, "unlabeled": ["good"]}
SEVERAL = [f"text {row}" for row in range(27)], [["good"], ["bad"], ["good", "bad"]] * 9
REFUSED: list[tuple[str, Any, dict[str, Any], str]] = [
    ("words linear", "mmd", {}, NO_GRADIENT),
    ("words linear", "dann", {}, NO_GRADIENT),
    ("words linear", Coral(trade_offs=(1.5,)), {}, "at most 1 where the last layer is fitted"),
    ("words linear", Coral(warm_up=True), {}, f"warm_up=True: {FITTED.format(False)}"),
    ("probe linear", Coral(epochs=(1, 2)), {}, f"epochs=(1, 2): {FITTED.format(())}"),
    ("words mlp", Coral(shrinkage=0.1), {}, "shrinkage=0.1: expected 0.9, as the last layer is trained, not fitted"),
    ("probe linear", Adapt(methods=("mmd",)), {}, "expected coral or selftrain where the last layer is fitted"),
    ("words linear", SelfTrain(within=True), {}, "within=True: expected false where there is a source"),
    ("words linear", SelfTrain(max_source_rows=9), WITHIN, "max_source_rows=9: expected None, as there is no source"),
    ("words linear", "reweight", {"choose_by": "entropy"}, "choose_by"),
    ("words linear", "coral", {"source": None}, "expected a source, found source=None"),
    ("words linear", "selftrain", {"source": None}, "unlabeled=None: expected texts without labels"),
    ("words linear", "sequential", {"unlabeled": ["good"]}, "learns from labeled texts alone"),
    ("words linear", "coral", {"verdict": True}, "labels of the target"),
    ("words linear", "coral", {"augment_copies": 1}, "no label of the target is seen"),
    ("words linear", "selftrain", {"source": {"train": SEVERAL}}, "rows with one label"),
]


@pytest.mark.parametrize(("route", "strategy", "settings", "message"), REFUSED)
def test_what_does_not_fit_is_refused(route, strategy, settings, message, adapt):
    with pytest.raises(SettingError, match=re.escape(message)):
        adapt(route, strategy, **settings)


def test_a_saved_classifier_has_no_rows_to_weigh(adapt, tmp_path):
    saved = adapt("words linear", "copy")
    with pytest.raises(SettingError, match="expected rows of a source, found a saved classifier"):
        finetune(words(SIZES, 1), source=saved.folder, transfer=Reweight(), output_dir=tmp_path / "no")


@pytest.mark.parametrize(("first", "then"), [("coral", "sequential"), ("direct", "pretrain"), ("contrastive",) * 2])
def test_a_strategy_that_makes_a_classifier_comes_last(first, then):
    with pytest.raises(SettingError, match=f"{first} >> {then}: expected something before that makes no classifier"):
        TRANSFERS[first]() >> TRANSFERS[then]()


def test_validation_is_scored_by_a_head_that_has_not_learned_it(adapt):
    rows = words({"train": 12, "validation": 8, "test": 20}, 1)
    # Labels that nothing in a text tells: who has learned them by heart scores too well.
    blind = (rows["validation"][0], ["good", "good", "bad", "bad"] * 2)
    texts = words({"train": 60}, 4)["train"][0]
    run = adapt("words linear", "selftrain", data=rows | {"validation": blind}, source=None, unlabeled=texts)
    assert run.scores["validation"]["accuracy"] <= 0.75
