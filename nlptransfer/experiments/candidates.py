"""The candidates of a comparison: what each is, how its runs are made and timed."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from nlptransfer import distributed
from nlptransfer.classifier import Classifier
from nlptransfer.data import Data, DataSettings
from nlptransfer.errors import SettingError, nearest
from nlptransfer.experiments.baselines import BASELINES, run_baseline
from nlptransfer.experiments.environment import speeds
from nlptransfer.experiments.run import run
from nlptransfer.experiments.sampling import some_rows
from nlptransfer.experiments.scoring import SCORED_TRAINING_ROWS
from nlptransfer.results import RunConfig, RunResult, to_record
from nlptransfer.routes import ROUTES, Route, named_local
from nlptransfer.settings import differences, fields_of, fill
from nlptransfer.training import Augment, TrainingSettings

PILOT_ROWS = 192
"""Training rows of a pilot run, which estimates the time of a candidate's runs."""


@dataclass(frozen=True)
class Candidate:
    """A route from a base, or a baseline."""

    name: str
    """of its folders and in tables"""
    route: Route | None = None
    """None: the baseline of that name"""
    base: str | None = None

    @property
    def method(self) -> str:
        return self.name if self.route is None else self.route.name

    @property
    def is_baseline(self) -> bool:
        """Whether it takes next to no time, and so runs whatever the budget is."""
        return self.route is None

    @property
    def is_tuned(self) -> bool:
        """Whether it trains at a learning rate; the L2 of a fitted head is always chosen."""
        return self.route is not None and not self.route.fits_head

    def described(self) -> dict[str, Any]:
        """Return name, route, settings and base, without a path of this machine."""
        settings = {} if self.route is None else self.route.recorded()
        return {"name": self.name, "route": self.method, "base": named_local(self.base), "settings": settings}

    def speeds(self, first: RunResult, texts: Sequence[str]) -> dict[str, float]:
        """Measure the texts per second that a run's classifier predicts, 1 and 64 at a time."""
        if self.route is None:
            cost = to_record(first.cost)
            return {name: value for name, value in cost.items() if name.startswith("texts_per_second_")}
        if first.live is not None:
            return speeds(first.live.probabilities, texts)
        base = self.base if self.route.needs_base(first.model_folder) else None
        return speeds(Classifier.load(first.model_folder, base).probabilities, texts)


@dataclass(frozen=True)
class SharedSettings:
    data: DataSettings
    training: TrainingSettings
    augment: Augment
    revision: str | None = None

    def run(
        self,
        candidate: Candidate,
        data: Data,
        folder: Path,
        seed: int,
        chosen: Mapping[str, Any],
        *,
        rows: int | None = None,
        save_model: bool = False,
    ) -> RunResult:
        """Make a run, or find it finished; ``chosen`` replaces settings of training and route, ``rows`` the number of
        labeled rows."""
        settings = self.data if rows is None else replace(self.data, max_train_rows=rows)
        if candidate.route is None:
            return run_baseline(candidate.name, data, settings, folder)
        of_route = {name: value for name, value in chosen.items() if name in fields_of(type(candidate.route))}
        of_training = {name: value for name, value in chosen.items() if name not in of_route}
        route = replace(candidate.route, **of_route)
        training = replace(self.training, init_seed=seed, data_seed=seed, **of_training)
        config = RunConfig(data, route, settings, training, candidate.base, self.revision, augment=self.augment)
        return run(config, folder, save_model=save_model or self.training.keep_checkpoints)

    def seconds_of_run(self, candidate: Candidate, data: Data, folder: Path, clock: Callable[[], float]) -> float:
        """Estimate the time of a run on this data, by a pilot of one epoch on a few of its rows, without test."""
        route, few, started = cast(Route, candidate.route), few_rows(data), clock()
        pilot = self.run(candidate, few, folder, self.training.seed, {"num_train_epochs": 1}, save_model=True)
        cost, spent = pilot.cost, clock() - started
        # A training without success is done again, which a pilot of one epoch often is.
        learning = cost.train_seconds / (1 + len(pilot.training.collapsed))
        scoring = 1 / max(cost.texts_per_second or 0.0, 1e-9)
        fixed = max(0.0, spent - cost.train_seconds - _scored(few) * scoring)
        # On features that are computed once, an epoch takes next to no time.
        epochs = 1 if route.is_frozen else self.training.num_train_epochs or route.defaults(data)["num_train_epochs"]
        estimate = fixed + learning * epochs * len(data.train) / len(few.train) + _scored(data) * scoring
        return float(distributed.from_main(estimate))


def candidates_of(
    methods: Sequence[str | Route], bases: Sequence[str | None], settings: Mapping[str, Any]
) -> list[Candidate]:
    """List the candidates in the order of cost: baselines once, routes with each base."""
    order = {name: place for place, name in enumerate([*BASELINES, *ROUTES])}
    for method in methods:
        if isinstance(method, str) and method not in order:
            raise SettingError(f"routes: unknown route {method!r}: {nearest(method, order)}")
    candidates: list[Candidate] = []
    for method in sorted(methods, key=lambda one: order.get(one if isinstance(one, str) else one.name, len(order))):
        if isinstance(method, str) and method in BASELINES:
            candidates.append(Candidate(method))
            continue
        route = method
        if isinstance(route, str):
            kind = ROUTES.find(route)
            of_route = {field: settings[field] for field in fields_of(kind) if field in settings}
            route = cast(Route, fill({"route": kind}, of_route)["route"])
        route.check()
        for base in bases:
            suffix = "default" if base is None else re.sub(r"[^\w.-]+", "-", Path(base).name)
            candidates.append(Candidate(route.name if len(bases) == 1 else f"{route.name}-{suffix}", route, base))
    described = [candidate.described() for candidate in candidates]
    if twice := next((one["name"] for one in described if described.count(one) > 1), None):
        raise SettingError(f"routes: expected each candidate once, found {twice} twice")
    for name in {candidate.name for candidate in candidates}:
        alike = [place for place, one in enumerate(candidates) if one.name == name]
        for place, text in zip(alike, differences([described[place]["settings"] for place in alike]), strict=True):
            # It is the name of a folder too.
            safe = re.sub(r"[^\w=,. -]+", "-", text)
            candidates[place] = replace(candidates[place], name=f"{name} {safe}".strip())
    return candidates


def labeled_rows(data: Data) -> int:
    """Count the rows outside test, as ``max_train_rows`` counts them."""
    return sum(map(len, data.splits.values())) - len(data.test)


def without_test(data: Data) -> Data:
    """Return the data without test rows, so that nothing can be chosen by them."""
    return replace(data, test=data.test.take([]))


def few_rows(data: Data) -> Data:
    """Return a few rows of train, of all labels, an equal share of the other splits, and no test rows."""
    share = min(1.0, PILOT_ROWS / len(data.train))
    hidden = without_test(data)
    parts: dict[str, Any] = {
        name: some_rows(split, max(1, round(share * len(split)))) for name, split in hidden.splits.items() if len(split)
    }
    return replace(hidden, **parts)


def _scored(data: Data) -> int:
    rows = {name: len(split) for name, split in data.splits.items()}
    return sum(rows.values()) - rows["train"] + min(rows["train"], SCORED_TRAINING_ROWS)
