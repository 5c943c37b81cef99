"""Every number against scikit-learn, intervals against a naive bootstrap, fits against brute force."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, softmax
from sklearn import metrics as sk

from helpers.predictions import multi_rows, score_of, single_rows
from helpers.simulated_candidates import long_tailed, macro_f1_of, rows_of
from nlptransfer.data.labels import Labels
from nlptransfer.errors import DataError, SettingError
from nlptransfer.evaluation import bootstrap, further, metrics
from nlptransfer.evaluation.further import load_metric
from nlptransfer.evaluation.inputs import predicted
from nlptransfer.evaluation.metrics import score_predictions


def labels_of(k: int, multi_label: bool = False) -> Labels:
    return Labels(names=tuple(f"label {i}" for i in range(k)), multi_label=multi_label)


AVERAGES = [f"{rate}_{kind}" for rate in ("f1", "precision", "recall") for kind in ("macro", "micro", "weighted")]


# scikit-learn warns of data with one class, which is the point here.
@pytest.mark.filterwarnings("ignore:.*single label:UserWarning")
@pytest.mark.parametrize("several", [False, True])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 40), k=st.integers(1, 6), ties=st.booleans())
def test_scores_are_those_of_scikit_learn(several: bool, seed: int, n: int, k: int, ties: bool) -> None:
    rng, k = np.random.default_rng(seed), max(k, 1 + several)
    targets, probabilities = (multi_rows if several else single_rows)(rng, n, k)
    labels, thresholds = labels_of(k, several), rng.random(k) if several else None
    if several:
        probabilities = probabilities.round(1) if ties else probabilities
        guesses = (probabilities >= thresholds).astype(int)
        loss = sk.log_loss(targets.ravel(), probabilities.ravel(), labels=[0, 1])
    else:
        guesses = probabilities.argmax(axis=1)
        loss = sk.log_loss(targets, probabilities, labels=range(k)) if k > 1 else 0.0
    found = score_predictions(targets, probabilities, labels, thresholds=thresholds, resamples=5)
    names = ["accuracy", *AVERAGES, "subset_accuracy" if several else "mcc"]
    expected = {"loss": loss, **{name: score_of(name)(targets, guesses) for name in names}}
    if several:
        expected["lrap"] = sk.label_ranking_average_precision_score(targets, probabilities)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    scored = ["accuracy", "f1_macro", *(["f1_micro"] if several else [])]
    assert set(found) == {*expected, *(f"{name}_interval" for name in scored), "per_class", "labels_judged"}
    columns = sk.precision_recall_fscore_support(targets, guesses, labels=range(k), average=None, zero_division=0)
    assert list(found["per_class"]) == list(labels.names)
    for of_label, *row in zip(found["per_class"].values(), *columns, strict=True):
        assert list(of_label) == ["precision", "recall", "f1", "support"]
        assert list(of_label.values()) == (pytest.approx(row) if row[-1] else [None, None, None, 0])
    assert found["labels_judged"] == (columns[-1] > 0).sum()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_one_column_of_several_labels() -> None:
    found = score_predictions([[1], [0], [1]], [[0.9], [0.2], [0.1]], labels_of(1, multi_label=True), resamples=20)
    assert found["f1_micro"] == pytest.approx(2 / 3)
    assert found["lrap"] == 1.0


def test_loss_of_certain_and_wrong_predictions_is_finite() -> None:
    eps = np.finfo(float).eps
    assert score_predictions([0], [[0.0, 1.0]], labels_of(2))["loss"] == pytest.approx(-np.log(eps))
    several = score_predictions([[1.0, 0.0]], [[0.0, 0.0]], labels_of(2, multi_label=True))
    assert several["loss"] == pytest.approx(-np.log(eps) / 2)


def test_labels_without_a_row_are_not_judged_and_single_rows_have_intervals() -> None:
    found = score_predictions([1], [[0.1, 0.8, 0.1]], labels_of(3))
    assert found["f1_macro"] == found["accuracy"] == 1.0
    assert found["accuracy_interval"] == found["f1_macro_interval"] == [1.0, 1.0]
    assert found["per_class"]["label 0"] == {"precision": None, "recall": None, "f1": None, "support": 0}
    assert metrics.judged_labels(found) == "1 of 3 labels"
    # That label 2 is predicted wrongly lowers the recall of the others, and is no score of its own.
    found = score_predictions([0, 1, 1], [[0.9, 0, 0.1], [0, 0.9, 0.1], [0, 0.1, 0.9]], labels_of(3))
    assert found["f1_macro"] == pytest.approx((1 + 2 / 3) / 2) and found["labels_judged"] == 2
    assert metrics.judged_labels(score_predictions([0, 1], [[1, 0], [0, 1]], labels_of(2))) == ""
    several = score_predictions([[1, 0], [1, 0]], [[0.9, 0.9], [0.2, 0.1]], labels_of(2, multi_label=True))
    assert several["recall_macro"] == 0.5 and several["precision_macro"] == 1.0 and several["f1_micro"] == 0.5
    none = score_predictions([[0, 0]], [[0.9, 0.1]], labels_of(2, multi_label=True))
    assert none["f1_macro"] == 0.0 and none["labels_judged"] == 0


# scikit-learn warns of one class, and that agreement of it is not defined.
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 40), k=st.integers(3, 7), least=st.integers(-3, 5))
def test_scores_on_a_scale_are_those_of_scikit_learn(seed: int, n: int, k: int, least: int) -> None:
    rng = np.random.default_rng(seed)
    targets, probabilities = single_rows(rng, n, k)
    # In any order of the labels.
    numbers = rng.permutation(np.arange(least, least + k))
    true, guesses = numbers[targets], numbers[probabilities.argmax(axis=1)]
    found = score_predictions(targets, probabilities, Labels(tuple(map(str, numbers))), resamples=5)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(true, guesses))
    kappa = sk.cohen_kappa_score(true, guesses, labels=np.sort(numbers), weights="quadratic")
    assert found["quadratic_kappa"] == pytest.approx(0.0 if np.isnan(kappa) else kappa)
    assert len(found["mae_interval"]) == len(found["quadratic_kappa_interval"]) == 2


def test_intervals_on_a_scale_agree_with_a_naive_bootstrap() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(5, size=150)
    probabilities = softmax(rng.normal(size=(150, 5)) - 0.7 * np.abs(np.arange(5) - targets[:, None]), axis=1)
    found = score_predictions(targets, probabilities, Labels(("1", "2", "3", "4", "5")), resamples=5000)
    for name in ("mae", "quadratic_kappa"):
        expected = naive_bootstrap(score_of(name), targets, probabilities.argmax(axis=1), 300)
        assert found[f"{name}_interval"] == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize(
    ("names", "scale"),
    [
        (("1", "2", "3", "4", "5"), (1, 2, 3, 4, 5)),
        (("-1", "0", "1"), (-1, 0, 1)),
        (tuple(map(str, range(21))), tuple(range(21))),
        (("3", "1", "2"), (3, 1, 2)),
        (("0", "1"), None),
        (("1", "2", "4"), None),
        (("01", "02", "03"), None),
        (("one", "2", "3"), None),
        (tuple(map(str, range(22))), None),
    ],
)
def test_which_labels_are_numbers_on_a_scale(names: tuple[str, ...], scale: tuple[int, ...] | None) -> None:
    assert Labels(names).scale == scale
    assert Labels(names, multi_label=True).scale is None
    if scale is not None:
        assert metrics.measure("mae", Labels(names)) == "mae" and not metrics.higher_is_better("mae")
    else:
        with pytest.raises(SettingError, match="'mae': expected one label a row that is a whole number in a row"):
            metrics.measure("mae", Labels(names))
    with pytest.raises(SettingError, match=r"'quadratic_kappa': expected .*, found several labels a row"):
        metrics.measure("quadratic_kappa", Labels(names, multi_label=True))


def naive_bootstrap(
    measure: Callable[..., float], targets: np.ndarray, guesses: np.ndarray, resamples: int
) -> list[float]:
    rows = np.random.default_rng(7).integers(len(targets), size=(resamples, len(targets)))
    return list(np.quantile([measure(targets[row], guesses[row]) for row in rows], [0.025, 0.975]))


@pytest.mark.parametrize("multi_label", [False, True])
def test_intervals_agree_with_a_naive_bootstrap(multi_label: bool) -> None:
    rng = np.random.default_rng(0)
    if multi_label:
        targets = (rng.random((150, 3)) < [0.5, 0.3, 0.1]).astype(float)
        probabilities = expit(rng.normal(size=targets.shape) + 2 * targets - 1)
    else:
        targets = rng.choice(4, size=120, p=[0.6, 0.25, 0.1, 0.05])
        probabilities = softmax(rng.normal(size=(120, 4)) + 1.5 * np.eye(4)[targets], axis=1)
    labels = labels_of(probabilities.shape[1], multi_label)
    found = score_predictions(targets, probabilities, labels, resamples=20000)
    guesses = predicted(probabilities, labels)
    for name in ("accuracy", "f1_macro"):
        expected = naive_bootstrap(score_of(name), targets, guesses, 200)
        assert found[f"{name}_interval"] == pytest.approx(expected, abs=0.02)


def test_accuracy_interval_has_the_quantiles_of_the_binomial() -> None:
    probabilities = np.repeat([[0.9, 0.1], [0.1, 0.9]], [800, 200], axis=0)
    found = score_predictions(np.zeros(1000, int), probabilities, labels_of(2), resamples=20000)
    assert found["accuracy_interval"] == pytest.approx(stats.binom.ppf([0.025, 0.975], 1000, 0.8) / 1000, abs=0.0015)


@pytest.mark.parametrize("name", ["some hard", "two or three rows each", "one rules"])
def test_intervals_of_macro_f1_cover_the_true_one_where_labels_are_rare(name: str) -> None:
    sets, expected = long_tailed(name, np.random.default_rng(5), 120)
    found = []
    for index, counts in enumerate(sets):
        targets, guesses = rows_of(counts)
        probabilities = np.eye(len(counts))[guesses]
        scores = score_predictions(targets, probabilities, labels_of(len(counts)), resamples=150, seed=index)
        low, high = scores["f1_macro_interval"]
        # Of labels that no test row has nothing is said.
        found.append((low, macro_f1_of(expected, counts.sum(axis=1) > 0), high))
    low, true, high = np.transpose(found)
    # Three standard errors of 120 sets below what 400 give: see tests/benchmarks/coverage.py.
    assert 0.84 <= ((low <= true) & (true <= high)).mean() <= 0.995


def test_a_resample_without_a_rare_label_does_not_lift_macro_f1() -> None:
    targets = np.repeat([0, 1, 2, 3], [91, 5, 2, 2])
    found = score_predictions(targets, np.tile([0.7, 0.1, 0.1, 0.1], (100, 1)), labels_of(4))
    low, high = found["f1_macro_interval"]
    # Over the labels of each resample alone it would end above .32, where no row of three labels is in it.
    assert found["f1_macro"] == pytest.approx(0.238, abs=1e-3) and low < 0.238 < high < 0.31


def test_where_no_row_errs_and_none_is_rare_the_interval_of_macro_f1_has_no_width() -> None:
    targets = np.arange(400) % 2
    assert score_predictions(targets, np.eye(2)[targets], labels_of(2))["f1_macro_interval"] == [1.0, 1.0]


def test_intervals_depend_on_the_seed_alone_and_not_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, probabilities = multi_rows(np.random.default_rng(3), 50, 4)
    labels = labels_of(4, multi_label=True)
    first = score_predictions(targets, probabilities, labels)
    assert score_predictions(targets, probabilities, labels, seed=1) != first
    monkeypatch.setattr(bootstrap, "BLOCK", 200)
    assert score_predictions(targets, probabilities, labels) == first
    assert not [
        name for name in score_predictions(targets, probabilities, labels, resamples=0) if name.endswith("_interval")
    ]


@pytest.mark.parametrize(
    ("targets", "probabilities", "message"),
    [
        ([], np.zeros((0, 2)), "at least one row"),
        ([0, 1], [[0.5, 0.5]], r"targets: expected shape \(1,\)"),
        ([2], [[0.5, 0.5]], "label ids from 0 to 1, found 2.0 in row 0"),
        ([0.5], [[0.5, 0.5]], "found 0.5"),
        ([np.nan], [[0.5, 0.5]], "found nan"),
        (["joy"], [[0.5, 0.5]], "values of type <U3"),
        ([0], [[0.2, 0.3, 0.5]], "expected 2 columns, one a label, found 3"),
        ([0], [[4.0, 1.0]], "softmax or sigmoid"),
        ([0], [[0.5, -1.0]], "softmax or sigmoid"),
        ([0, 0], [[0.5, 0.5], [np.nan, 0.5]], "found nan in row 1, column 0"),
    ],
)
def test_rows_that_do_not_fit_are_refused(targets: Any, probabilities: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_predictions(targets, probabilities, labels_of(2))
    with pytest.raises(DataError, match=r"expected 0 or 1, found 2\.0 in row 1"):
        score_predictions([[0, 1], [2, 0]], [[0.5, 0.5]] * 2, labels_of(2, multi_label=True))


def test_predicted() -> None:
    probabilities = [[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]
    one, several = labels_of(3), labels_of(3, multi_label=True)
    assert predicted(probabilities, one).tolist() == [1, 0]
    assert predicted(probabilities, several).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert predicted(probabilities, several, [0.7, 0.3, 0.2]).tolist() == [[0, 1, 1], [0, 1, 0]]
    with pytest.raises(SettingError, match="3 numbers, one a label"):
        predicted(probabilities, several, [0.5])
    with pytest.raises(SettingError, match="none where each row has one label"):
        predicted(probabilities, one, [0.5, 0.5, 0.5])


# --- evaluate metrics


def test_every_local_metric_is_named_by_its_key_and_computes_what_scikit_learn_does() -> None:
    references, predictions = [0, 1, 2, 2, 1], [0, 2, 2, 2, 0]
    expected = {
        "accuracy": sk.accuracy_score(references, predictions),
        "precision": sk.precision_score(references, predictions, average="macro", zero_division=0),
        "recall": sk.recall_score(references, predictions, average="macro", zero_division=0),
        "f1": sk.f1_score(references, predictions, average="macro", zero_division=0),
        "matthews_correlation": sk.matthews_corrcoef(references, predictions),
    }
    assert set(further.METRICS) == {*expected, "subset_accuracy", "label_ranking_average_precision"}
    for name, value in expected.items():
        metric = load_metric(name)
        assert isinstance(metric, evaluate.Metric)
        assert metric.name == name
        assert metric.compute(predictions=predictions, references=references) == {name: pytest.approx(value)}


def test_average_and_several_labels() -> None:
    references, predictions = np.array([[1, 0], [1, 1], [0, 0]]), np.array([[1, 1], [0, 1], [0, 0]])
    for average in ("macro", "micro", "weighted"):
        for metric, function in ((load_metric("f1"), sk.f1_score), (load_metric("precision"), sk.precision_score)):
            found = metric.compute(predictions=predictions, references=references, average=average)
            assert found == {metric.name: pytest.approx(function(references, predictions, average=average))}
    assert load_metric("f1").compute(predictions=[0, 1], references=[0, 0], average=None) == {
        "f1": pytest.approx([2 / 3, 0.0])
    }
    exact = load_metric("subset_accuracy").compute(predictions=predictions, references=references.astype(float))
    assert exact == {"subset_accuracy": pytest.approx(1 / 3)}
    scores = np.array([[0.9, 0.8], [0.1, 0.2], [0.3, 0.4]])
    ranking = load_metric("label_ranking_average_precision").compute(predictions=scores, references=references)
    assert list(ranking.values()) == [sk.label_ranking_average_precision_score(references, scores)]


def test_metrics_fed_in_batches_keep_apart_and_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, other = load_metric("accuracy"), load_metric("accuracy")
    one.add_batch(predictions=[0, 1], references=[0, 1])
    other.add(prediction=0, reference=1)
    one.add_batch(predictions=[1], references=[0])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert one.compute() == {"accuracy": pytest.approx(2 / 3)}
    assert other.compute() == {"accuracy": 0.0}


def test_further_metrics_go_in_under_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    class Spread:
        def compute(self, predictions: Any, references: Any) -> dict[str, Any]:
            return {"low": np.float32(min(predictions)), "all": {"worst": np.array([np.nan])}}

    monkeypatch.setattr(further, "load_metric", lambda name: Spread() if name == "spread" else load_metric(name))
    found = score_predictions([0, 1], [[0.9, 0.1]] * 2, labels_of(2), metrics=("f1", "mcc", "spread"))
    assert found["f1"] == pytest.approx(1 / 3)
    assert found["mcc"] == 0.0
    assert found["spread_low"] == 0.0
    assert found["spread_all"] == {"worst": [None]}
    several = labels_of(3, multi_label=True)
    ranked = score_predictions([[1, 0, 0]], [[0.2, 0.4, 0.1]], several, metrics=["label_ranking_average_precision"])
    assert ranked["label_ranking_average_precision"] == ranked["lrap"] == 0.5
    with pytest.raises(SettingError, match="'subset_accuracy' cannot be computed"):
        score_predictions([0, 1], [[0.9, 0.1]] * 2, labels_of(2), metrics=["subset_accuracy"])


def test_a_metric_that_evaluate_cannot_load_names_the_local_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, **options: Any) -> None:
        raise FileNotFoundError(f"no module {name}")

    monkeypatch.setattr(evaluate, "load", offline)
    with pytest.raises(
        SettingError, match=r"expected a local one or .*; did you mean 'accuracy'\? \(it said: no module"
    ):
        load_metric("acuracy")


def test_a_metric_from_a_script_is_loaded_by_evaluate(tmp_path: Path) -> None:
    script = tmp_path / "count_rows" / "count_rows.py"
    script.parent.mkdir()
    script.write_text(
        "import datasets\n"
        "import evaluate\n"
        "class CountRows(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        ids = datasets.Value('int32')\n"
        "        features = datasets.Features(predictions=ids, references=ids)\n"
        "        return evaluate.MetricInfo(description='', citation='', inputs_description='', features=features)\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'rows': len(predictions)}\n"
    )
    assert load_metric(str(script)).compute(predictions=[1, 2], references=[1, 1]) == {"rows": 2}


def test_names_of_scores() -> None:
    one, several = labels_of(2), labels_of(2, multi_label=True)
    for labels, targets in ((one, [0, 1]), (several, [[1, 0], [0, 0]])):
        numbers = [
            name
            for name, value in score_predictions(targets, [[0.9, 0.1]] * 2, labels).items()
            if isinstance(value, float)
        ]
        assert [metrics.known_score(name, labels) for name in numbers] == numbers
        assert all(metrics.known_score(name) == name for name in numbers)
        assert metrics.default_metric(labels) in numbers
        assert [name for name in numbers if not metrics.higher_is_better(name)] == ["loss"]
    assert (metrics.default_metric(one), metrics.default_metric(several)) == ("accuracy", "f1_micro")
    with pytest.raises(SettingError, match="did you mean 'f1_macro'"):
        metrics.known_score("f1-macro")
    with pytest.raises(SettingError, match="unknown score 'mcc'"):
        metrics.known_score("mcc", several)
    with pytest.raises(SettingError, match="unknown score 'per_class'"):
        metrics.higher_is_better("per_class")
