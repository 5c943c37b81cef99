"""On real text, where it lies beside the repository: what is learned is far above guessing, on validation rows."""

from collections.abc import Callable
from typing import Any

import pytest

from helpers.folders import SHARED, needs_shared
from helpers.runs import finetune
from nlptransfer import RunResult

pytestmark = [pytest.mark.slow, needs_shared]


@pytest.fixture
def tune(tmp_path) -> Callable[..., RunResult]:
    def call(corpus: str, **settings: Any) -> RunResult:
        language = "zh" if corpus == "chnsenticorp" else "en"
        base = SHARED / "vectors" / f"{language}_word2vec_100d.txt.gz"
        data = SHARED / "data" / corpus
        return finetune(data, base=base, output_dir=tmp_path / "run", max_words=20_000, **settings)

    return call


def majority(run: RunResult) -> float:
    """The validation accuracy of always giving the most frequent label."""
    found = run.scores["validation"]
    return max(each["support"] for each in found["per_class"].values()) / found["rows"]


@pytest.mark.parametrize("settings", [{"head_type": "linear"}, {"head_type": "cnn", "num_train_epochs": 2}])
def test_questions(settings, tune):
    run = tune("trec6", max_train_rows=1500, **settings)
    assert run.base["unknown_share"] < 0.05
    assert run.scores["validation"]["accuracy"] > majority(run) + 0.25


def test_emotions_several_at_once(tune):
    run = tune("go_emotions", max_train_rows=2000, head_type="linear")
    assert run.data.labels.multi_label and len(run.classifier.thresholds) == 28
    assert run.scores["validation"]["f1_micro"] > 0.25
    assert run.classifier.predict(["thank you so much, that is wonderful"])[0].labels


def test_chinese_reviews(tune):
    run = tune("chnsenticorp", max_train_rows=1500, head_type="linear")
    assert run.base["unknown_share"] < 0.1
    assert run.scores["validation"]["accuracy"] > majority(run) + 0.15
    found = run.classifier.predict(["房间很脏，服务态度极差，再也不来了", "服务周到，房间干净舒适，非常满意"])
    assert [each.label for each in found] == ["negative", "positive"]
