"""compare(): what is asked for is read and checked. comparison_run.py runs it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nlptransfer import distributed
from nlptransfer.data import Data, DataSettings, load_data
from nlptransfer.errors import DataError, SettingError, nearest
from nlptransfer.evaluation import default_metric, measure
from nlptransfer.experiments.baselines import BASELINES
from nlptransfer.experiments.candidates import Candidate, SharedSettings, candidates_of, labeled_rows
from nlptransfer.experiments.comparison_run import ComparisonRun
from nlptransfer.experiments.data_check import checked_data
from nlptransfer.experiments.environment import machine, versions
from nlptransfer.experiments.opening import data_lines
from nlptransfer.experiments.ranking import AUTO, best_base
from nlptransfer.experiments.reporting import report_once
from nlptransfer.hub import base_for
from nlptransfer.progress import with_progress
from nlptransfer.results import (
    COMPARISON,
    CandidateResult,
    ComparisonResult,
    DataSummary,
    at_work,
    claim,
    command_of,
    decisive,
    is_comparison,
    plain,
    run_folder,
)
from nlptransfer.routes import ROUTES, Route
from nlptransfer.settings import Count, Positive, Share, check, check_arguments, fields_of, fill
from nlptransfer.training import Augment, TrainingSettings

log = logging.getLogger("nlptransfer")


@with_progress
def compare(
    data: Any,
    *,
    routes: Sequence[str | Route] | None = None,
    bases: Sequence[str | Path | None] = (None,),
    revision: str | None = None,
    seeds: Count = 3,
    trials: Count = 1,
    max_minutes: Positive | None = None,
    delta: Share = 0.01,
    sizes: Sequence[int] = (),
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    take_lock: bool = False,
    **settings: Any,
) -> ComparisonResult:
    """Find which route is worth it on this data: all of them on one split, over seeds, scored on test.

    Candidates are run in the order of cost. Each is tuned on validation with the same few trials, by runs that hold no
    row of test; then it is trained over the seeds, and test is scored at the end of each of these runs. A candidate
    that fails is named with its reason, and the others go on. The folder has report.html in the end.

    Args:
        data: as :func:`finetune` has it; with test rows, or rows to split them off.
        routes: names of baselines (majority, tfidf) and routes, or routes with their settings; None: all.
        bases: what the routes start from, several encoders for instance; None or "auto": as :func:`finetune` has
            it.
        revision: commit, branch or tag of a base on the hub.
        seeds: runs of each candidate, which differ in initialization and data order.
        trials: settings that a candidate tries; 1: the default alone. The first three are learning rates; later ones
            also epochs, batch size, dropout and the rank of LoRA, where none is named, by Optuna if it is installed.
            The L2 of a fitted head is always chosen.
        max_minutes: candidates that would not fit are left out, by a measured estimate; baselines always run.
        delta: a loss in score that does not matter, for the recommendation.
        sizes: labeled rows of a learning curve, each a part of the next; validation and calibration are among them.
        output_dir: by default one under runs/ that is named after the data and the settings. The same call resumes a
            comparison that was interrupted there, and returns a finished one as it is.
        overwrite: whether a comparison with other settings in that folder is deleted.
        take_lock: as :func:`finetune` has it.
        **settings: fields of DataSettings, TrainingSettings, Augment, and of the routes that have them.

    Raises:
        SettingError: an unknown setting, or a value that makes no sense.
        DataError: the data cannot be read, or has no test rows.
        RunFolderError: the folder holds a comparison with other settings, or other files, or another process works
            in it.
    """
    repeat = command_of(compare, locals())
    routes = [*BASELINES, *ROUTES] if routes is None else routes
    numbers = {"seeds": seeds, "trials": trials, "max_minutes": max_minutes, "delta": delta}
    check_arguments(compare, **numbers)
    check(len(routes) > 0, "routes", routes, "at least one")
    check(len(bases) > 0, "bases", bases, "at least one; (None,) for the routes' own")
    named = [None if base is None else str(base) for base in bases]
    candidates, shared = _plan(routes, named, revision, settings)
    loaded = load_data(data, shared.data)
    if not len(loaded.test):
        raise DataError(f"{loaded.name}: expected test rows to compare on, found none: set test_size")
    rows = labeled_rows(loaded)
    right = all(1 <= size < rows for size in sizes) and len(set(sizes)) == len(sizes)
    check(right, "sizes", sizes, f"different numbers of labeled rows, from 1 to below the {rows:,} that there are")
    found = list(dict.fromkeys(_base_for(base, revision, loaded) for base in named))
    if found != named:
        candidates = candidates_of(routes, found, settings)
    metric = measure(shared.training.metric_for_best_model or default_metric(loaded.labels), loaded.labels)
    question = plain(
        {
            "fingerprints": loaded.fingerprints(),
            "candidates": [candidate.described() for candidate in candidates],
            "revision": revision,
            **numbers,
            "sizes": sorted(sizes),
            **asdict(shared.data),
            **decisive(shared.training),
            **asdict(shared.augment),
        }
    )
    subsets = {size: load_data(data, replace(shared.data, max_train_rows=size)) for size in sorted(sizes)}
    folder = run_folder(output_dir, question, loaded.name, "compare")
    with at_work(folder, take_lock):
        loaded = checked_data(loaded, folder, overwrite=overwrite)
        is_finished = claim(folder, question, overwrite, COMPARISON)
        names = ", ".join(one.name for one in candidates)
        for line in [] if is_finished else [*data_lines(loaded), f"Comparing {names}, into {folder}"]:
            log.info("%s", line)
        if distributed.from_main(is_comparison(folder)):
            result = ComparisonResult.load_any(folder)
        else:
            result = ComparisonResult(
                folder=folder,
                data=DataSummary.of(loaded),
                settings=question,
                metric=metric,
                machine=machine(),
                versions=versions(),
                repeat=repeat,
                candidates=tuple(CandidateResult(one.name, one.method, one.described()["base"]) for one in candidates),
            )
        if not is_finished:
            result = ComparisonRun(result, loaded, subsets, candidates, shared).run()
        report_once(folder, loaded)
    return result


def _base_for(base: str | None, revision: str | None, data: Data) -> str | None:
    return best_base(data, revision) if base == AUTO else base_for(base, revision, [data.train.texts])


def _plan(
    methods: Sequence[str | Route], bases: Sequence[str | None], revision: str | None, settings: Mapping[str, Any]
) -> tuple[list[Candidate], SharedSettings]:
    """List the candidates, and fill the settings that all share; raise a SettingError for one that none has."""
    kinds: dict[str, type] = {"data": DataSettings, "training": TrainingSettings, "augment": Augment}
    common = {name for kind in kinds.values() for name in fields_of(kind)}
    candidates = candidates_of(methods, bases, settings)
    named = [ROUTES.find(method) for method in methods if isinstance(method, str) and method in ROUTES]
    known = common.union(*map(fields_of, named))
    if unknown := [name for name in settings if name not in known]:
        raise SettingError(f"unknown setting {unknown[0]!r}, for these routes: {nearest(unknown[0], known)}")
    filled = fill(kinds, {name: value for name, value in settings.items() if name in common})
    for name in ("training", "augment"):
        filled[name].check()
    return candidates, SharedSettings(filled["data"], filled["training"], filled["augment"], revision)
