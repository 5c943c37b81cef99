"""What the trials of a candidate try, with Optuna and without, and a comparison that tries more than learning rates."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.classifiers import data_of
from helpers.encoders import Bases
from helpers.runs import compare
from nlptransfer import Full, Lora, Probe, Word2Vec
from nlptransfer.experiments import tuning
from nlptransfer.experiments.tuning import Space
from nlptransfer.files import read_json
from nlptransfer.training import TrainingSettings

SPACE = Space(1e-3, {"num_train_epochs": (4, 2, 8), "rank": (32, 8, 64), "dropout": (None, 0.0, 0.2)})
Tried = list[tuple[dict[str, Any], float | None]]


def tries(space: Space, count: int, score: Any = lambda _: None) -> list[dict[str, Any]]:
    tried: Tried = []
    while len(tried) < count:
        settings = space.next(tried, count)
        tried.append((settings, score(settings)))
    return [settings for settings, _ in tried]


@pytest.mark.parametrize("installed", [False, True])
def test_rates_come_first_and_then_all(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if installed:
        pytest.importorskip("optuna", reason="a sequence is taken where optuna is not installed")
    monkeypatch.setattr(tuning, "find_spec", lambda _: installed or None)
    found = tries(SPACE, 14, lambda settings: None if settings["learning_rate"] > 8e-3 else 0.5)
    assert [list(settings) for settings in found[:3]] == [["learning_rate"]] * 3
    assert [settings["learning_rate"] for settings in found[:3]] == pytest.approx([1e-3, 1e-3 / 3, 3e-3])
    for settings in found[3:]:
        assert settings.keys() == {"learning_rate", *SPACE.choices}
        assert 1e-4 <= settings["learning_rate"] <= 1e-2
        assert all(settings[name] in values for name, values in SPACE.choices.items())
    assert len({settings["learning_rate"] for settings in found}) == 14
    for name in SPACE.choices:
        assert len({settings[name] for settings in found[3:]}) > 1, name
    assert tries(SPACE, 14, lambda settings: None if settings["learning_rate"] > 8e-3 else 0.5) == found


def test_optuna_goes_where_it_is_better() -> None:
    pytest.importorskip("optuna", reason="a sequence is taken where optuna is not installed")

    def score(settings: dict[str, Any]) -> float:
        return -abs(np.log(settings["learning_rate"] / 3e-3)) + (settings.get("rank", 32) == 64)

    last = tries(SPACE, 40, score)[-15:]
    assert np.mean([settings["rank"] == 64 for settings in last]) > 0.6
    assert np.median([abs(np.log(settings["learning_rate"] / 3e-3)) for settings in last]) < 0.8


def test_what_was_named_stays_as_it_is() -> None:
    data, training = data_of(), TrainingSettings()
    defaults = Lora().defaults(data)
    batch, epochs = defaults["per_device_train_batch_size"], defaults["num_train_epochs"]
    space = Space.of(Lora(), training, data)
    assert space.rate == defaults["learning_rate"]
    assert space.choices == {
        "num_train_epochs": (epochs, epochs // 2, 2 * epochs),
        "per_device_train_batch_size": (batch, batch // 2, 2 * batch),
        "dropout": (None, 0.0, 0.2),
        "rank": (32, 8, 64),
    }
    named = replace(training, num_train_epochs=3, per_device_train_batch_size=8, learning_rate=0.5)
    assert Space.of(Lora(rank=4, dropout=0.3), named, data) == Space(0.5, {})
    assert set(Space.of(Full(), named, data).choices) == {"dropout"}
    for pooled in (Word2Vec(head_type="mlp"), Probe(head_type="mlp")):
        assert Space.of(pooled, named, data).choices == {"dropout": (0.5, 0.0, 0.2)}
    one = Space.of(Lora(), replace(training, num_train_epochs=None), data)
    assert one.length({"learning_rate": 1.0}) == 1 and one.length({"num_train_epochs": 2 * epochs}) == 2


def test_a_comparison_tries_them_and_trains_with_the_best(bases: Bases, tmp_path: Any) -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 140).tolist()
    texts = [" ".join(f"word{1 + label + 2 * int(draw.integers(0, 5))}" for _ in range(3)) for label in labels]
    rows = {name: (texts[part], [str(one) for one in labels[part]]) for name, part in {
        "train": slice(0, 80), "validation": slice(80, 110), "test": slice(110, 140)}.items()}  # fmt: skip
    found = compare(
        rows, routes=["lora"], bases=[str(bases("bert").path)], seeds=1, trials=5, num_train_epochs=2, max_length=8,
        output_dir=tmp_path / "comparison", sizes=[60],
    )  # fmt: skip
    (one,) = found.candidates
    assert one.status == "finished" and len(one.trials) == 5
    assert [len(trial.settings) for trial in one.trials] == [1, 1, 1, 4, 4]
    best = max(one.trials, key=lambda trial: trial.validation or 0.0)
    assert one.settings is not None and best.settings.items() <= one.settings.items()
    record = read_json(found.folder / one.runs[0] / "experiment.json")["settings"]
    for name, value in best.settings.items():
        assert (record["training"] | record["route"])[name] == pytest.approx(value)
    saved = read_json(found.folder / "comparison.json")["candidates"][0]["trials"]
    assert [trial["settings"] for trial in saved] == [dict(trial.settings) for trial in one.trials]
    assert [point.size for point in found.curve][:1] == [60]
