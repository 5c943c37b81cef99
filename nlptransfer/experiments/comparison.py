"""compare(): all routes on one frozen split, over seeds, with intervals and costs; which one is worth it, and why."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nlptransfer import distributed
from nlptransfer.classifier import Classifier
from nlptransfer.data import DataSettings, load_data
from nlptransfer.errors import DataError, RunFolderError, SettingError, nearest
from nlptransfer.evaluation import default_metric, measure
from nlptransfer.experiments.baselines import BASELINES
from nlptransfer.experiments.candidates import Rung, Workshop, labeled_rows, rungs_of
from nlptransfer.experiments.comparison_run import RECORD, Climb
from nlptransfer.files import read_json
from nlptransfer.report import report_with_texts
from nlptransfer.results import WITHOUT_EFFECT, claim
from nlptransfer.routes import ROUTES, Route
from nlptransfer.settings import check, fields_of, fill
from nlptransfer.training import Augment, TrainingSettings


@dataclass(frozen=True)
class Comparison:
    """A finished comparison, read from its folder.

    Raises:
        RunFolderError: no finished comparison is there.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if not (self.folder / RECORD).exists() or self.record["status"] != "finished":
            raise RunFolderError(f"{self.folder}: expected the folder of a finished comparison")

    @cached_property
    def record(self) -> dict[str, Any]:
        """comparison.json: rungs, pairs, recommendation, curve, settings."""
        return read_json(self.folder / RECORD)

    @property
    def rungs(self) -> list[dict[str, Any]]:
        """All rungs in the order of cost, with their scores or the reason why there are none."""
        return self.record["rungs"]

    @property
    def best(self) -> str | None:
        """Name of the rung with the best score on validation; None where none was finished."""
        return self.record["recommendation"]["best"]

    @property
    def recommended(self) -> str | None:
        """Name of the cheapest rung that is not worse than the best by more than delta; None where none beats the
        majority."""
        return self.record["recommendation"]["rung"]

    @property
    def table(self) -> list[dict[str, Any]]:
        """A flat row for each rung: name, route, base, status, reason, validation, score, low, high, spread, costs."""
        rows = []
        for rung in self.rungs:
            test, cost = rung["test"] or {}, rung["cost"] or {}
            low, high = test.get("interval") or (None, None)
            row = {name: rung[name] for name in ("name", "route", "base", "status", "reason", "validation")}
            score = {"score": test.get("mean"), "low": low, "high": high, "spread": test.get("spread")}
            rows.append({**row, **score, **cost})
        return rows

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier of the recommended rung, of its first seed.

        Raises:
            RunFolderError: the recommended rung is a baseline, which has none, or there is none.
        """
        rung = next((rung for rung in self.rungs if rung["name"] == self.recommended), None)
        if rung is None or not (self.folder / rung["runs"][0] / "model").exists():
            raise RunFolderError(
                f"{self.folder}: expected a classifier of the recommended rung, found none of {self.recommended}: "
                "take that of another, in rungs/"
            )
        return Classifier.load(self.folder / rung["runs"][0] / "model")


def compare(
    data: Any,
    *,
    routes: Sequence[str | Route] | None = None,
    bases: Sequence[str | Path | None] = (None,),
    revision: str | None = None,
    seeds: int = 3,
    trials: int = 1,
    max_minutes: float | None = None,
    delta: float = 0.01,
    sizes: Sequence[int] = (),
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> Comparison:
    """Which route is worth it on this data: all of them on one split, over seeds, judged on test.

    Rungs are climbed in the order of cost. Each is tuned on validation with the same few trials, by runs that hold no
    row of test; then it is trained over the seeds, and test is scored at the end of each of these. A rung that fails
    is told with its reason, and the others go on. The folder has report.html in the end.

    Args:
        data: as :func:`finetune` has it; with test rows, or rows to split them off.
        routes: names of baselines (majority, tfidf) and routes, or routes with their settings; None: all.
        bases: what the routes start from, several encoders for instance; None: the routes' own default.
        revision: commit, branch or tag of a base on the hub.
        seeds: runs of each rung, which differ in initialization and data order.
        trials: learning rates that a rung tries, around what the route finds good; 1: that one. The strength of what
            is solved is always chosen.
        max_minutes: rungs that would not fit are left out, by a measured estimate; baselines always run.
        delta: a loss in score that does not matter, for the recommendation.
        sizes: labeled rows of a learning curve, each a part of the next; validation and calibration are among them.
        output_dir: by default one under runs/ that is named after the data and the settings. The same call goes on
            with a comparison that was cut off there, and returns a finished one as it is.
        overwrite: whether a comparison with other settings in that folder is thrown away.
        **settings: fields of DataSettings, TrainingSettings, Augment, and of the routes that have them.

    Raises:
        SettingError: an unknown setting, or a value that makes no sense.
        DataError: the data cannot be read, or has no test rows.
        RunFolderError: the folder holds a comparison with other settings, or other files.
    """
    check(seeds >= 1, "seeds", seeds, "a whole number from 1")
    check(trials >= 1, "trials", trials, "a whole number from 1")
    check(max_minutes is None or max_minutes > 0, "max_minutes", max_minutes, "above 0")
    check(0 <= delta < 1, "delta", delta, "a share from 0 to below 1")
    routes = [*BASELINES, *ROUTES] if routes is None else routes
    check(len(routes) > 0, "routes", routes, "at least one")
    check(len(bases) > 0, "bases", bases, "at least one; (None,) for the routes' own")
    rungs, workshop = _plan(routes, [None if base is None else str(base) for base in bases], revision, settings)
    loaded = load_data(data, workshop.data_settings)
    if not len(loaded.test):
        raise DataError(f"{loaded.name}: expected test rows to compare on, found none: set test_size")
    rows = labeled_rows(loaded)
    right = all(1 <= size < rows for size in sizes) and len(set(sizes)) == len(sizes)
    check(right, "sizes", sizes, f"different numbers of labeled rows, from 1 to below the {rows:,} that there are")
    metric = measure(workshop.training.metric_for_best_model or default_metric(loaded.labels), loaded.labels)
    question = {
        "fingerprints": loaded.fingerprints(),
        "rungs": [rung.described() for rung in rungs],
        "revision": revision,
        "seeds": seeds,
        "trials": trials,
        "max_minutes": max_minutes,
        "delta": delta,
        "sizes": sorted(sizes),
        **asdict(workshop.data_settings),
        **{name: value for name, value in asdict(workshop.training).items() if name not in WITHOUT_EFFECT},
        **asdict(workshop.augment),
    }
    subsets = {size: load_data(data, replace(workshop.data_settings, max_train_rows=size)) for size in sorted(sizes)}
    question = json.loads(json.dumps(question))
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:8]
    folder = Path(output_dir) if output_dir else Path("runs") / f"{loaded.name}-compare-{digest}"
    if not claim(folder, question, overwrite, RECORD):
        Climb(folder, loaded, subsets, rungs, workshop, metric, question).go()
        if distributed.is_main():
            report_with_texts(folder, loaded)
        distributed.barrier()
    return Comparison(folder)


def _plan(
    ways: Sequence[str | Route], bases: Sequence[str | None], revision: str | None, settings: Mapping[str, Any]
) -> tuple[list[Rung], Workshop]:
    """The rungs, and the settings that all share.

    Raises:
        SettingError: a setting that is no one's, or that a route which was given as an object has already.
    """
    shared: dict[str, type] = {"data": DataSettings, "training": TrainingSettings, "augment": Augment}
    common = {name for kind in shared.values() for name in fields_of(kind)}
    known = set(common)

    def find(way: str | Route) -> Route:
        if isinstance(way, Route):
            way.check()
            return way
        kind = ROUTES.find(way)
        known.update(fields_of(kind))
        given = {name: value for name, value in settings.items() if name in fields_of(kind)}
        route = fill({"route": kind}, given)["route"]
        route.check()
        return route

    rungs = rungs_of(ways, bases, find)
    for name in settings:
        if name not in known:
            raise SettingError(f"unknown setting {name!r}, for these routes: {nearest(name, known)}")
    filled = fill(shared, {name: value for name, value in settings.items() if name in common})
    for name in ("training", "augment"):
        filled[name].check()
    return rungs, Workshop(filled["data"], filled["training"], filled["augment"], revision)
