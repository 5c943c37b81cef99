"""The rungs of a comparison: what each is, which learning rates it tries, how long it takes, what it costs."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from nlptransfer import distributed
from nlptransfer.classifier import Classifier
from nlptransfer.data import Data, DataSettings, Split
from nlptransfer.errors import SettingError, nearest
from nlptransfer.experiments.baselines import BASELINES, Baseline, run_baseline
from nlptransfer.experiments.environment import speeds
from nlptransfer.experiments.run import run
from nlptransfer.experiments.scoring import SCORED_TRAINING_ROWS
from nlptransfer.results import MODEL, RunConfig, RunResult
from nlptransfer.routes import ROUTES, Route, named_local
from nlptransfer.training import Augment, TrainingSettings

PILOT_ROWS = 192
"""Training rows of a pilot, by which the time of a rung is estimated."""
FIRST_RATES = (1.0, 1 / 3, 3.0)
"""Learning rates that are tried first, beside what the route finds good."""
WIDEST = 10.0
"""Later ones are at most so many times higher or lower."""


@dataclass(frozen=True)
class Rung:
    """A route from a base, or a baseline."""

    name: str
    """of its folders and in tables"""
    way: Baseline | Route
    base: str | None = None

    @property
    def is_baseline(self) -> bool:
        """Whether it takes next to no time, so that it runs whatever the budget is."""
        return isinstance(self.way, Baseline)

    @property
    def is_tuned(self) -> bool:
        """Whether it steps at a learning rate; the strength of what is solved is always chosen."""
        return isinstance(self.way, Route) and not self.way.is_solved

    def described(self) -> dict[str, Any]:
        """Name, route with its settings, and base: no path of this machine."""
        settings = self.way.recorded() if isinstance(self.way, Route) else {}
        return {"name": self.name, "route": self.way.name, "base": named_local(self.base), "settings": settings}


@dataclass(frozen=True)
class Workshop:
    """Makes the runs of rungs, all in the same settings."""

    data_settings: DataSettings
    training: TrainingSettings
    augment: Augment
    revision: str | None = None

    def make(
        self, rung: Rung, data: Data, folder: Path, seed: int, chosen: Mapping[str, Any], rows: int | None = None
    ) -> RunResult:
        """A finished run in a folder, or the one that is there.

        Args:
            seed: of initialization and of data order.
            chosen: training settings in place of those asked for.
            rows: ``max_train_rows`` that the data was read with, where it is another than asked for.
        """
        settings = self.data_settings if rows is None else replace(self.data_settings, max_train_rows=rows)
        if isinstance(rung.way, Baseline):
            return run_baseline(rung.way, data, settings, folder)
        asked = replace(self.training, init_seed=seed, data_seed=seed, **chosen)
        config = RunConfig(data, rung.way, settings, asked, rung.base, self.revision, augment=self.augment)
        return run(config, folder).without_model()

    def learning_rate(self, rung: Rung, data: Data) -> float:
        """The learning rate where none is chosen."""
        assert isinstance(rung.way, Route)
        return self.training.learning_rate or float(rung.way.defaults(data)["learning_rate"])

    def seconds_of_run(self, rung: Rung, data: Data, folder: Path, clock: Callable[[], float]) -> float:
        """What a run on this data would take, from one on a few of its rows for one epoch, without test."""
        assert isinstance(rung.way, Route)
        few = few_rows(data)
        started = clock()
        self.make(rung, few, folder, self.training.seed, {"num_train_epochs": 1})
        spent = distributed.from_main(clock() - started)
        return distributed.from_main(self._scaled(rung.way, data, few, folder, spent) if distributed.is_main() else 0.0)

    def _scaled(self, route: Route, data: Data, few: Data, folder: Path, spent: float) -> float:
        pilot = RunResult.load(folder)
        cost = pilot.cost
        # A training without success is done twice, which a pilot of one epoch often is.
        learning = cost.train_seconds / (2 if pilot.training.collapsed else 1)
        scoring = 1 / max(cost.texts_per_second or 0.0, 1e-9)
        fixed = max(0.0, spent - cost.train_seconds - _scored(few) * scoring)
        # On features that are computed once, an epoch takes next to no time.
        epochs = 1 if route.is_frozen else self.training.num_train_epochs or route.defaults(data)["num_train_epochs"]
        return fixed + learning * epochs * len(data.train) / len(few.train) + _scored(data) * scoring


def rungs_of(
    ways: Sequence[str | Route], bases: Sequence[str | None], find: Callable[[str | Route], Route]
) -> list[Rung]:
    """The rungs in the order of cost; baselines once, routes with each base.

    Args:
        ways: names of baselines and routes, or routes with their settings.
        bases: what the routes start from; None: their own default.
        find: a route by its name, or with its settings checked.

    Raises:
        SettingError: an unknown name, or the same rung twice.
    """
    known = [*BASELINES, *ROUTES]
    for way in ways:
        if isinstance(way, str) and way not in known:
            raise SettingError(f"routes: unknown route {way!r}: {nearest(way, known)}")
    # In the order of cost, as both tables are.
    order = {name: place for place, name in enumerate(known)}
    found: list[Rung] = []
    for way in sorted(ways, key=lambda one: order.get(one if isinstance(one, str) else one.name, len(order))):
        if isinstance(way, str) and way in BASELINES:
            found.append(Rung(way, BASELINES[way]()))
            continue
        route = find(way)
        for base in bases:
            parts = [route.name] if len(bases) == 1 else [route.name, _slug(base)]
            found.append(Rung("-".join(parts), route, base))
    told = [rung.described() for rung in found]
    if twice := next((one["name"] for one in told if told.count(one) > 1), None):
        raise SettingError(f"routes: expected each rung once, found {twice} twice")
    names = [rung.name for rung in found]
    return [
        rung
        if names.count(rung.name) == 1
        else replace(rung, name=f"{rung.name}-{names[: place + 1].count(rung.name)}")
        for place, rung in enumerate(found)
    ]


def _slug(base: str | None) -> str:
    return "default" if base is None else re.sub(r"[^\w.-]+", "-", Path(base).name)


def labeled_rows(data: Data) -> int:
    """Rows outside test, as ``max_train_rows`` counts them."""
    return sum(map(len, data.splits.values())) - len(data.test)


def without_test(data: Data) -> Data:
    """The same data for what chooses: test has no rows, so that nothing can be read from it."""
    return replace(data, test=data.test.take([]))


def few_rows(data: Data) -> Data:
    """A few rows of train, of all labels, as many times fewer of the others, and none of test."""
    share = min(1.0, PILOT_ROWS / len(data.train))
    blind = without_test(data)
    parts: dict[str, Any] = {
        name: _some(split, max(1, round(share * len(split)))) for name, split in blind.splits.items() if len(split)
    }
    return replace(blind, **parts)


def _some(split: Split, rows: int) -> Split:
    order = np.lexsort(split.targets.reshape(len(split), -1).T)
    return split.take(np.sort(order[np.linspace(0, len(split) - 1, min(rows, len(split))).round().astype(int)]))


def _scored(data: Data) -> int:
    rows = {name: len(split) for name, split in data.splits.items()}
    return sum(rows.values()) - rows["train"] + min(rows["train"], SCORED_TRAINING_ROWS)


# Learning rates


def next_rate(default: float, tried: Sequence[tuple[float, float | None]], trials: int) -> float:
    """The learning rate to try next: near the default first, then where the scores so far say, by Optuna (Akiba et al.
    2019) if it is installed, or the next point of a grid (Halton 1960) around the default.

    Args:
        default: what the route finds good.
        tried: learning rates so far with their scores; None: it failed.
        trials: how many there will be in all: up to three are the first ones.
    """
    number = len(tried)
    if number < len(FIRST_RATES):
        return default * FIRST_RATES[number]
    if trials > len(FIRST_RATES) and find_spec("optuna"):
        return _suggested(default, tried)
    place, part, left = 0.0, 1.0, number - len(FIRST_RATES) + 1
    while left:
        left, digit = divmod(left, 3)
        part /= 3
        place += digit * part
    return default * WIDEST ** (2 * place - 1)


def _suggested(default: float, tried: Sequence[tuple[float, float | None]]) -> float:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rates = optuna.distributions.FloatDistribution(default / WIDEST, default * WIDEST, log=True)
    within: dict[str, optuna.distributions.BaseDistribution] = {"learning_rate": rates}
    # Made anew each time, out of what is on record: a comparison that was cut off goes on with the same.
    sampler = optuna.samplers.TPESampler(seed=len(tried), n_startup_trials=len(FIRST_RATES))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for rate, score in tried:
        state = optuna.trial.TrialState.FAIL if score is None else optuna.trial.TrialState.COMPLETE
        params = {"learning_rate": rate}
        study.add_trial(optuna.create_trial(params=params, distributions=within, value=score, state=state))
    return float(study.ask(within).params["learning_rate"])


# What it costs


def costs(rung: Rung, folders: Sequence[Path], data: Data) -> dict[str, float]:
    """The cost of finished runs of a rung: seconds of the slowest, the rest of the first."""
    reports = [RunResult.load(folder).cost.to_record() for folder in folders]
    first = reports[0]
    found = {
        # What is frozen is computed in one of the runs, and the others find it in the cache.
        "train_seconds": max(report["train_seconds"] for report in reports),
        **{name: first[name] for name in ("peak_memory_mb", "trainable_parameters", "total_parameters", "size_mb")},
    }
    if not rung.is_baseline:
        base = rung.base if isinstance(rung.way, Route) and rung.way.needs_base(folders[0] / MODEL) else None
        classifier = Classifier.load(folders[0] / MODEL, base)
        return found | speeds(classifier.probabilities, data.test.texts)
    return found | {name: first[name] for name in ("texts_per_second_1", "texts_per_second_64")}
