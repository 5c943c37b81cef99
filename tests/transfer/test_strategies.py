"""From source to target: whole runs of every strategy on tiny models, what they write, and what they refuse."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from helpers.folders import RUN_FILES, files_of, no_path_in
from helpers.runs import finetune, same_weights
from helpers.transfers import ALONE, FITTED, QUICK, ROUTES, sides_of, weights
from nlptransfer import Classifier, RunResult
from nlptransfer.data.dataset import DataSettings, load_data
from nlptransfer.data.labels import Labels
from nlptransfer.errors import NlpTransferError, SettingError
from nlptransfer.experiments.fitting import fit_variant
from nlptransfer.experiments.source import load_source, weighted
from nlptransfer.results.summaries import Fit
from nlptransfer.routes.full import Full
from nlptransfer.routes.lora import Lora
from nlptransfer.training.lbfgs import Features
from nlptransfer.training.linear_head import HeadTask
from nlptransfer.training.losses import TARGET, LabelLoss
from nlptransfer.training.optimizer import TrainingSettings
from nlptransfer.transfer.base import FROM_SOURCE, ON_TARGET
from nlptransfer.transfer.joint import Joint
from nlptransfer.transfer.registry import TRANSFERS, transfer_classes
from nlptransfer.transfer.relational import Relational
from nlptransfer.transfer.select_features import SelectFeatures
from nlptransfer.transfer.sequential import Sequential

OTHER_NAMES = {"bad": "no", "good": "yes"}
FEW_EPOCHS = {"num_train_epochs": 3}
"""Where what is asked shows however little was learned."""


@pytest.fixture(autouse=True)
def few_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """How far the sides are apart is measured by every run, and looked at by few tests."""
    monkeypatch.setattr("nlptransfer.transfer.domain_shift.FOLDS", 2)


@pytest.fixture
def sides(bases, vectors_file) -> Callable[..., tuple[Any, Any, Any]]:
    return lambda route, names=None: sides_of(route, vectors_file, bases, 24, names)


@pytest.fixture(scope="module")
def known() -> dict[str, RunResult]:
    """Runs by what they were asked: what one test has asked for another need not train once more."""
    return {}


@pytest.fixture
def tune(sides, known, tmp_path) -> Callable[..., RunResult]:
    """finetune with a source, small settings, and a folder of its own; ``anew`` where the same may be known."""
    count = iter(range(99))

    def call(
        route: str, transfer: Any, *, names: dict[str, str] | None = None, anew: bool = False, **settings: Any
    ) -> RunResult:
        asked = repr((route, transfer, names, settings))
        if anew or asked not in known:
            source, target, base = sides(route, names)
            given = {**QUICK, **ROUTES[route], "base": base, "output_dir": tmp_path / str(next(count)), **settings}
            known[asked] = finetune(
                given.pop("data", target), source=given.pop("source", source), transfer=transfer, **given
            )
        return known[asked]

    return call


FITTING = [
    (route, name)
    for route in ROUTES
    for name in ("copy", "sequential", "joint", "select_features", "relational")
    if not (name == "select_features" and route not in FITTED) and not (name == "relational" and route in FITTED)
]


@pytest.mark.parametrize(("route", "name"), FITTING)
def test_every_strategy_by_every_route_that_it_fits(route, name, tune, sides):
    run = tune(route, name)
    assert run.transfer.name == name
    assert list(run.stages) == [stage.name for stage in TRANSFERS[name].stages]
    assert set(files_of(run.folder)) >= RUN_FILES - {"model/model.safetensors"}
    assert not [*run.folder.glob("checkpoints*")]
    told = run.transfer.scores
    assert told["source"]["split"] == "test" and 0 <= told["source"]["after"]["accuracy"] <= 1
    assert ("before" in told["source"]) == (name in ("sequential", "select_features", "relational"))
    assert run.metrics["accuracy"] > 0.6
    # What was saved is what was scored.
    found = pq.read_table(run.folder / "predictions.parquet").to_pydict()
    target = [place for place, split in enumerate(found["split"]) if split == "test"]
    again = run.classifier.predict(sides(route)[1]["test"][0])
    expected = [found["probabilities"][place] for place in target]
    np.testing.assert_allclose([[*one.probabilities.values()] for one in again], expected, atol=2e-3)


@pytest.mark.parametrize("route", ["words mlp", "probe mlp", "full", "lora"])
@pytest.mark.parametrize("name", ["sequential", "joint", "relational"])
def test_other_labels_get_a_head_of_their_own(route, name, tune):
    run = tune(route, name, names=OTHER_NAMES, **FEW_EPOCHS)
    assert set(json.loads((run.folder / "model" / "config.json").read_text())["id2label"].values()) == {"bad", "good"}
    assert {one.label for one in run.classifier.predict(["word1 word2 gooda badb"])} <= {"bad", "good"}
    # The source is still judged by its own labels.
    assert run.transfer.scores["source"]["after"]["per_class"].keys() == {"no", "yes"}
    assert "target" not in run.transfer.scores


@pytest.mark.parametrize("name", ["sequential", "joint", "relational"])
def test_heads_of_their_own_above_layers_that_are_computed_once(name, tune):
    run = tune("full", name, names=OTHER_NAMES, freeze_layers=1, **FEW_EPOCHS)
    assert run.transfer.scores["source"]["after"]["per_class"].keys() == {"no", "yes"}
    moved = run.transfer.distance_from_source or {}
    assert all(value == 0 for part, value in moved.items() if part.endswith(("embeddings", "layer.0")))
    assert {one.label for one in run.classifier.predict(["word1 word2", "word7"])} <= {"bad", "good"}


@pytest.mark.parametrize(
    "transfer", [Sequential(l2_sp=0.1), Joint(), Relational()], ids=["sequential", "joint", "relational"]
)
@pytest.mark.parametrize("route", ["words mlp", "full", "lora"])
def test_the_source_may_have_more_labels(route, transfer, tune, sides):
    source, *_ = sides(route)
    texts, labels = source["train"]
    more = {**source, "train": (texts, [f"{label} {number % 3}" for number, label in enumerate(labels)])}
    for name in ("validation", "test"):
        more[name] = (source[name][0], [f"{label} 0" for label in source[name][1]])
    run = tune(route, transfer, source=more, **FEW_EPOCHS)
    assert len(run.transfer.source.labels.names) == 6
    assert len(run.transfer.scores["source"]["after"]["per_class"]) == 6
    moved = run.transfer.distance_from_source or {}
    assert not [part for part in moved if part.endswith(("classifier", "default"))]


@pytest.mark.parametrize("route", ["words linear", "full"])
def test_names_are_matched_by_a_mapping_whatever_their_order(route, tune):
    same = tune(route, "copy")
    # Sorted, these names stand the other way round.
    mapped = tune(route, "copy", names={"bad": "z", "good": "a"}, label_mapping={"z": "bad", "a": "good"})
    assert mapped.metrics["accuracy"] == same.metrics["accuracy"] > 0.7
    assert mapped.transfer.scores["source"]["after"]["per_class"].keys() == {"bad", "good"}


def test_several_labels_of_a_source_may_become_one(tune, sides):
    source, *_ = sides("words linear")
    texts, labels = source["train"]
    finer = [f"very {label}" if number % 3 == 0 else label for number, label in enumerate(labels)]
    run = tune(
        "words linear", "sequential", source={**source, "train": (texts, finer)},
        label_mapping={"very good": "good", "very bad": "bad"},
    )  # fmt: skip
    assert run.transfer.source.labels.names == ("bad", "good")


WRONG: list[tuple[str, Any, dict[str, Any], str]] = [
    ("words linear", "copy", {"names": OTHER_NAMES}, "found no, yes in the source and bad, good in the target"),
    ("words linear", "sequential", {"names": OTHER_NAMES}, "same labels on both sides, found no, yes"),
    ("probe linear", "joint", {"names": OTHER_NAMES}, "same labels on both sides"),
    ("words linear", "relational", {}, "found word2vec with a fitted last layer"),
    ("full", "select_features", {}, "found full: take probe"),
    ("words linear", Joint(weighting="scheduled"), {}, "weighting='scheduled': expected fixed or size"),
    ("words linear", Sequential(l2_sp=0.1), {}, "l2_sp=0.1: expected 0 where"),
    ("full", "sequential", {"l2_sp": -1}, "l2_sp=-1: expected a number from 0"),
    ("full", "joint", {"alpha": 0, "beta": 0}, "expected more than 0"),
    ("full", "joint", {"alpha": -1}, "alpha=-1: expected a number from 0"),
    ("full", "joint", {"source_settings": {"learning_rate": 1.0}}, "joint has no such stage"),
    ("full", "copy", {"target_settings": {"learning_rate": 1.0}}, "copy has no such stage"),
    ("full", "sequential", {"target_settings": {"max_length": 8}}, "'max_length' cannot differ by stage"),
    ("full", "sequential", {"target_settings": {"freeze_layers": 9}}, "at most its 2 layers"),
    ("full", "sequential", {"temperature": 0.5}, "temperature=0.5: expected a number from 1"),
    ("full", "sequential", {"max_source_rows": 0}, "max_source_rows=0: expected a whole number from 1"),
    ("full", "relational", {"angle_weight": -1}, "angle_weight=-1: expected a number from 0"),
    ("full", "sequential", {"label_mapping": {"goood": "good"}}, "no label 'goood': did you mean 'good'"),
    ("full", "sequentail", {}, "unknown transfer 'sequentail': did you mean 'sequential'"),
    ("full", "direct", {}, "transfer='direct': expected a strategy that has a source"),
    ("full", "copy", {"source": None}, "transfer='copy': expected a source, found source=None"),
    ("full", Sequential(), {"l2_sp": 0.1}, r"give it to Sequential\(l2_sp=...\), which was passed as the transfer"),
    ("full", "sequential", {"source_label_column": "nosuch"}, "nosuch"),
]


@pytest.mark.parametrize(("route", "transfer", "settings", "message"), WRONG)
def test_what_makes_no_sense_is_refused_with_a_reason(route, transfer, settings, message, tune, tmp_path):
    with pytest.raises(NlpTransferError, match=message):
        tune(route, transfer, **settings)
    assert not [*tmp_path.rglob("model")]


def test_names_of_strategies():
    assert transfer_classes("joint") == [Joint]
    for kind in TRANSFERS.values():
        kind().check()


# From a saved classifier


@pytest.mark.parametrize("route", ["words linear", "words cnn", "probe linear", "probe ngrams", "full", "lora"])
def test_a_copied_classifier_needs_no_training_and_scores_as_its_own_evaluate_says(route, tune, sides, tmp_path):
    source, target, base = sides(route)
    own = {**ALONE, **ROUTES[route], "calibration_size": 0.3}
    saved = finetune(source, output_dir=tmp_path / "saved", base=base, **own)
    run = finetune(target, source=saved.folder, transfer="copy", output_dir=tmp_path / "copy", verdict=False)
    assert run.training == Fit()
    evaluated = Classifier.load(saved.folder).evaluate(target)
    for name, value in run.metrics.items():
        if name not in ("rows", "per_class"):
            assert value == pytest.approx(evaluated[name]), name
    assert same_weights(run, saved)


@pytest.mark.parametrize("features", [("encoder", "ngrams"), ("encoder",)])
def test_a_saved_source_keeps_its_ngrams_or_has_none(features, sides, tmp_path):
    source, target, base = sides("probe ngrams")
    saved = finetune(source, route="probe", features=features, output_dir=tmp_path / "saved", base=base, **ALONE)
    run = finetune(target, source=saved.folder, output_dir=tmp_path / "on", **QUICK)
    assert list(run.stages) == ["target"] and run.classifier.route == saved.classifier.route
    assert run.metrics["accuracy"] > 0.6 and not same_weights(run, saved)
    if "ngrams" in features:
        assert run.classifier.model.ngrams.terms == saved.classifier.model.ngrams.terms
        assert run.stages["target"].details["ngrams"]["l2"] > 0
    else:
        assert run.classifier.model.ngrams is None
        assert not [*run.folder.rglob("ngrams.safetensors")]
    loaded = Classifier.load(run.folder)
    np.testing.assert_allclose(loaded.logits(target["test"][0]), run.classifier.logits(target["test"][0]), atol=1e-6)


@pytest.mark.parametrize("route", ["full", "lora"])
def test_a_saved_source_is_gone_on_with_as_one_that_was_just_learned(route, tune, sides, tmp_path):
    source, target, base = sides(route)
    whole = tune(route, "sequential")
    saved = finetune(source, output_dir=tmp_path / "saved", base=base, **{**ALONE, **ROUTES[route]})
    before = saved.classifier.logits(target["test"][0])
    settings = {**QUICK, "num_train_epochs": ROUTES[route]["num_train_epochs"]}
    for given in (saved.folder, saved.classifier, saved):
        run = finetune(target, source=given, output_dir=tmp_path / "on", overwrite=True, **settings)
        assert list(run.stages) == ["target"]
        assert same_weights(run, whole)
    # The one that was handed over is as it was.
    assert np.array_equal(saved.classifier.logits(target["test"][0]), before)


def test_what_a_saved_classifier_cannot_do_is_refused(tune, sides, tmp_path):
    _, target, _ = sides("full")
    saved = tune("full", "copy")
    for settings, message in (
        ({"transfer": "joint"}, "expected rows of a source, found a saved classifier"),
        ({"route": "lora"}, "route=lora: expected full"),
        ({"route": Lora()}, "route=lora: expected full"),
        ({"route": Full(max_length=99)}, "max_length=99: expected 16"),
        ({"max_length": 99}, "give it to Full"),
        ({"temperature": 2.0}, "temperature=2.0: expected 1.0, as the source is a saved classifier"),
    ):
        with pytest.raises(SettingError, match=message):
            finetune(target, source=saved.folder, output_dir=tmp_path / "no", **settings)
    others = {split: (texts, [f"rather {label}" for label in labels]) for split, (texts, labels) in target.items()}
    both = {"good": "rather good", "bad": "rather good"}
    with pytest.raises(SettingError, match="another name for each label of a saved classifier"):
        finetune(others, source=saved.folder, output_dir=tmp_path / "no", label_mapping=both)


# Stages


def test_stages_have_settings_of_their_own(tune):
    run = tune(
        "full", "sequential", source_settings={"num_train_epochs": 2},
        target_settings={"num_train_epochs": 3, "freeze_layers": 1, "learning_rate": 1e-4},
    )  # fmt: skip
    assert [len(run.stages[name].history) for name in ("source", "target")] == [2, 3]
    assert run.settings["stages"]["target"]["learning_rate"] == 1e-4
    moved = run.transfer.distance_from_source
    below = {name: value for name, value in moved.items() if "embeddings" in name or name.endswith("layer.0")}
    assert len(below) >= 2 and set(below.values()) == {0.0}
    assert moved["bert.encoder.layer.1"] > 0 and moved["classifier"] > 0


def test_what_the_source_stage_froze_learns_on_the_target(tune):
    run = tune("full", "sequential", source_settings={"freeze_layers": 2}, **FEW_EPOCHS)
    assert all(value > 0 for value in run.transfer.distance_from_source.values())


@pytest.mark.parametrize("source", [True, False], ids=["sequential", "direct"])
def test_the_layers_to_freeze_are_tried_on_validation(source, tune, tmp_path, sides):
    if source:
        run = tune("full", "sequential", target_settings={"layers": "auto"})
        assert run.stages["source"].curve is None
    else:
        _, target, base = sides("full")
        run = finetune(target, route=Full(layers="auto", max_length=16), base=base, output_dir=tmp_path / "d", **ALONE)
    training = run.training
    assert [entry["freeze_layers"] for entry in training.curve] == [0, 1, 2]
    best = max(training.curve, key=lambda entry: entry["best_score"])
    assert training.chosen["freeze_layers"] == best["freeze_layers"]
    assert training.best_score == best["best_score"]
    assert (run.cost.total_parameters - run.cost.trainable_parameters > 0) == (best["freeze_layers"] > 0)
    assert run.scores["validation"]["accuracy"] == pytest.approx(best["best_score"])


def test_l2_sp_holds_to_the_source(tune):
    free, none, held = (tune("full", Sequential(l2_sp=strength)) for strength in (0.0, 1e-12, 1e3))
    assert same_weights(free, tune("full", "sequential"))
    far, near = (sum(run.transfer.distance_from_source.values()) for run in (free, held))
    assert near < far / 3
    assert sum(none.transfer.distance_from_source.values()) == pytest.approx(far, rel=1e-2)


def test_relations_hold_the_angles_that_the_source_saw(tune):
    free, held = (tune("full", Relational(distance_weight=weight, angle_weight=weight)) for weight in (0.0, 100.0))
    kept = [run.transfer.similarity[-1]["cka_with_source"] for run in (free, held)]
    assert kept[1] > kept[0]


def test_joint_weights_over_the_training():
    rows = {"source": 300, "target": 100}
    assert Joint(alpha=2, beta=3).shares(rows, 0.5) == (2, 3)
    assert Joint(alpha=2, beta=3, weighting="scheduled").shares(rows, 0.75) == (0.5, 3)
    assert Joint(weighting="size").shares(rows, 0.1) == (0.75, 0.25)


@pytest.mark.parametrize("route", ["words linear", "words mlp"])
def test_joint_with_no_weight_on_the_source_is_the_target_alone(route, tune, sides):
    source, *_ = sides(route)
    run = tune(route, Joint(alpha=0.0))
    # The source's labels turned round do no harm.
    texts, labels = source["train"]
    other = {"good": "bad", "bad": "good"}
    turned = tune(route, Joint(alpha=0.0), source={**source, "train": (texts, [other[label] for label in labels])})
    for name, value in weights(run).items():
        np.testing.assert_allclose(weights(turned)[name], value, atol=1e-6)


def test_select_keeps_what_counts_on_the_source(tune):
    run = tune("words linear", "select_features")
    stage = run.stages["target"].details
    assert set(stage["scores_by_share"]) == {"1", "0.5", "0.25", "0.1", "0.05"}
    assert stage["scores_by_share"][f"{stage['kept_features']:g}"] == max(stage["scores_by_share"].values())
    assert (weights(run)["classifier.weight"] == 0).all(axis=0).sum() == 8 - max(1, round(stage["kept_features"] * 8))


@pytest.mark.parametrize("name", ["copy", "sequential", "joint", "select_features"])
def test_ngrams_are_of_the_texts_of_both_sides(name, tune, sides):
    source, target, _ = sides("probe ngrams")
    terms = {*tune("probe ngrams", name).classifier.model.ngrams.terms}
    learned = [*source["train"][0], *target["train"][0]]
    pairs = {pair for text in learned for pair in map(" ".join, pairwise(text.split()))}
    assert terms == pairs | {word for text in learned for word in text.split()}


def test_a_transfer_with_ngrams_that_was_cut_off_goes_on(tune, monkeypatch, tmp_path):
    whole, fitted = tune("probe ngrams", "sequential"), []

    def cut_off(learning, stage, *rest):
        fitted.append(stage.name)
        if len(fitted) == 2:
            raise KeyboardInterrupt
        return fit_variant(learning, stage, *rest)

    monkeypatch.setattr("nlptransfer.experiments.stages.fit_variant", cut_off)
    with pytest.raises(KeyboardInterrupt):
        tune("probe ngrams", "sequential", output_dir=tmp_path / "cut")
    assert (tmp_path / "cut" / "checkpoints_source").exists()
    run = tune("probe ngrams", "sequential", output_dir=tmp_path / "cut")
    assert fitted == ["source", "target", "target"]
    assert same_weights(run, whole) and run.scores == whole.scores
    assert run.classifier.model.ngrams.terms == whole.classifier.model.ngrams.terms


def test_select_chooses_among_ngrams_too(tune):
    run = tune("probe ngrams", "select_features")
    weight, share = weights(run)["classifier.weight"], run.stages["target"].details["kept_features"]
    assert np.isfinite(weight).all() and (weight != 0).any(axis=0).sum() <= max(1, round(share * weight.shape[1]))
    assert set(run.stages["target"].details["scores_by_share"]) == {"1", "0.5", "0.25", "0.1", "0.05"}


def test_an_ngram_counts_as_much_as_it_moves_logits(monkeypatch):
    monkeypatch.setattr("nlptransfer.transfer.select_features.KEPT_SHARES", (0.25,))
    draw = np.random.default_rng(0)
    dense = draw.random((60, 30)) * (draw.random((60, 30)) < np.linspace(0.02, 0.6, 30))
    values, targets = draw.normal(size=(60, 10)).astype(np.float32), np.arange(60) % 2
    rows = Features(values, targets, ngrams=sparse.csr_array(dense.astype(np.float32)))
    source = draw.normal(size=(2, 40)).astype(np.float32), np.zeros(2, np.float32)
    source[0][:, 10:] *= 2.5
    task = HeadTask(LabelLoss(Labels(("a", "b"))), rows[:45], rows[45:], lambda y, z: 0.5)
    weight, _ = SelectFeatures().fit_head(ON_TARGET, {TARGET: task}, source).head
    counts = np.linalg.norm(source[0], axis=0) * np.r_[np.ones(10), np.sqrt((dense[:45] ** 2).mean(axis=0))]
    best = np.argsort(-counts)[:10]
    assert set(np.flatnonzero(weight.any(axis=0))) == set(best) and 0 < (best < 10).sum() < 10
    assert set(best) != set(np.argsort(-np.linalg.norm(source[0], axis=0))[:10])


# Which rows count


def test_sources_are_mixed_by_temperature(sides):
    (large, target, _), (small, *_) = sides("words linear"), sides("words linear")
    small = {**small, "train": tuple(part[:12] for part in small["train"])}
    data = load_data(target, DataSettings(calibration_size=0.0))

    def shares(temperature: float) -> tuple[float, ...]:
        transfer = Sequential(temperature=temperature)
        source = load_source([large, small], data.labels, DataSettings(calibration_size=0.0), transfer)
        source = weighted(source, data, transfer, 0)
        weights = np.ones(72) if source.weights is None else source.weights
        assert len(source.data.train) == 72 and weights.mean() == pytest.approx(1, abs=1e-6)
        assert source.data.train.numbers is None and source.data.train.part == ""
        return weights[:60].sum() / 72, weights[60:].sum() / 72

    assert shares(1.0) == pytest.approx((60 / 72, 12 / 72))
    assert shares(1e9) == pytest.approx((0.5, 0.5), abs=1e-6)
    root = np.sqrt([60, 12])
    assert shares(2.0) == pytest.approx(root / root.sum())


def test_a_list_of_rows_is_one_source_and_a_list_of_columns_several(sides):
    source, target, _ = sides("words linear")
    texts, labels = source["train"]
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    names = load_data(target, DataSettings(calibration_size=0.0)).labels
    one, two = (
        load_source(given, names, DataSettings(), Sequential())
        for given in (rows, [{"text": texts, "label": labels}, {"train": (texts, labels)}])
    )
    assert len(one.sizes) == 1 and len(two.sizes) == 2
    assert {*one.data.train.texts} <= {*texts}


def test_rows_that_look_like_the_target_count_more(tune, sides):
    source, target, _ = sides("words linear")
    texts, labels = source["train"]
    alien = [f"zzz yyy xxx {text[:9]}" if row % 2 else text for row, text in enumerate(texts)]
    settings = DataSettings(calibration_size=0.0)
    data = load_data(target, settings)
    transfer = Sequential(target_like=True)
    source = load_source({**source, "train": (alien, labels)}, data.labels, settings, transfer)
    found = weighted(source, data, transfer, 0)
    assert found.weights[0::2].mean() > 2 * found.weights[1::2].mean()
    assert tune("words linear", transfer).metrics["accuracy"] > 0.6


def test_fewer_source_rows(tune):
    rows = tune("words linear", "sequential", max_source_rows=30).transfer.source.rows
    assert rows["train"] + rows["validation"] == 30 and rows["test"] == 20


def test_kinds_of_labels_may_differ_where_all_learns(tune, sides):
    source, *_ = sides("full")
    several = {name: (texts, [[label] for label in labels]) for name, (texts, labels) in source.items()}
    run = tune("full", "sequential", source=several, **FEW_EPOCHS)
    assert run.data.labels.multi_label is False
    assert run.transfer.source.labels.multi_label is True
    with pytest.raises(SettingError, match="in all of the sources, or lists"):
        tune("full", "sequential", source=[source, several])


def test_similarity_of_both_sides(tune):
    for route, layers in (("words linear", 1), ("probe linear", 2), ("full", 2), ("lora", 2)):
        similarity = tune(route, "sequential").transfer.similarity
        assert [entry["layer"] for entry in similarity] == list(range(1, layers + 1))
        for entry in similarity:
            assert 0 <= entry["proxy_a_distance"] <= 2
            assert 0 <= entry["cka_with_source"] <= 1 + 1e-6
    # Frozen layers are what they were.
    first, *_ = tune("probe linear", "sequential").transfer.similarity
    assert first["cka_with_source"] == pytest.approx(1)


def test_augmented_rows_are_learned_and_are_no_part_of_the_data(tune):
    run = tune("words linear", "sequential", augment_copies=2, augment_synonyms=0.3)
    plain = tune("words linear", "sequential")
    rows = [one.data.rows["train"] for one in (run, plain)]
    assert rows[0] == rows[1] == 24
    assert run.stages["target"].examples > plain.stages["target"].examples
    assert run.settings["augment"]["augment_copies"] == 2
    # A row must not be held out whose copies are learned from.
    assert [one.stages["target"].chosen_by for one in (run, plain)] == ["validation", "cross-validation"]


def test_normalized_texts_are_normalized_in_prediction_too(tune):
    run = tune("words linear", "sequential", normalization="lower")
    lower, upper = run.classifier.predict(["goodae goodbf word", "GOODAE Goodbf WORD"])
    assert lower.probabilities == upper.probabilities and upper.text == "GOODAE Goodbf WORD"


def test_a_saved_source_brings_its_normalization(tune, sides, tmp_path):
    saved, (_, target, _) = tune("words linear", "copy", normalization="lower"), sides("words linear")
    settings = {**QUICK, "source": saved.folder, "output_dir": tmp_path / "on"}
    run = finetune(target, **settings)
    assert run.classifier.normalization == "lower" and run.settings["data"]["normalization"] == "lower"
    with pytest.raises(SettingError, match="normalization='web': expected that of the source's classifier"):
        finetune(target, normalization="web", **settings)


def test_settings_of_a_stage_are_converted_and_checked():
    route, training = Sequential(target_settings={"freeze_layers": "1", "num_train_epochs": "7"}).at(
        ON_TARGET, Full(), TrainingSettings()
    )
    assert (route.freeze_layers, training.num_train_epochs) == (1, 7)
    same, _ = Sequential(target_settings={"freeze_layers": 1}).at(FROM_SOURCE, Full(), TrainingSettings())
    assert same == Full()
    with pytest.raises(SettingError, match="learning_rate"):
        Sequential(target_settings={"learning_rate": -1}).at(ON_TARGET, Full(), TrainingSettings())


@pytest.mark.parametrize("route", ["probe linear", "full"])
def test_what_is_frozen_of_the_source_is_computed_once_too(route, tune, monkeypatch):
    frozen = {f"{stage}_settings": {"freeze_layers": 1} for stage in ("source", "target") if route == "full"}
    first = tune(route, "sequential", **frozen)
    passes = []
    monkeypatch.setattr("nlptransfer.models.features.passed", lambda *values, **_: passes.append(values))
    again = tune(route, Sequential(l2_sp=1e-9, **frozen) if route == "full" else "joint", anew=True)
    assert not passes
    assert again.data.fingerprints == first.data.fingerprints


def test_scores_before_and_after_are_said_and_written(tune, caplog):
    caplog.set_level("INFO", logger="nlptransfer")
    told = tune("full", "sequential", anew=True).transfer.scores
    for role in ("source", "target"):
        before = f"{told[role]['before']['accuracy']:.4f} before learning from the target"
        assert f"accuracy on the test rows of the {role}, data: {before}" in caplog.text
    assert f"{told['source']['after']['accuracy']:.4f} in the end" in caplog.text
    copied = tune("full", "copy")
    assert told["target"]["before"]["accuracy"] == copied.metrics["accuracy"]
    assert told["source"]["before"] == copied.transfer.scores["source"]["after"]


def test_no_path_of_this_machine_is_written(tune, sides, tmp_path):
    saved, (_, target, _) = tune("full", "copy", anew=True), sides("full")
    no_path_in(finetune(target, source=str(saved.folder), output_dir=tmp_path / "on", **QUICK).folder, tmp_path)
