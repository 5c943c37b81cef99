"""rank(): which encoder, how many of its layers, and which source, by frozen features of training rows alone."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from nlptransfer import distributed
from nlptransfer.data import Data, DataSettings, load_data
from nlptransfer.errors import DataError, SettingError, nearest
from nlptransfer.experiments.environment import machine, versions
from nlptransfer.experiments.frozen_scores import FrozenScores
from nlptransfer.experiments.reporting import report_once
from nlptransfer.experiments.sampling import some_rows
from nlptransfer.experiments.source import load_source
from nlptransfer.hub import installed_encoders
from nlptransfer.memo import shared_work
from nlptransfer.progress import with_progress
from nlptransfer.results import (
    RANKING,
    DataSummary,
    Ranking,
    Source,
    at_work,
    claim,
    command_of,
    fastest_level,
    plain,
    run_folder,
)
from nlptransfer.routes import FROZEN_ROUTE, ROUTES, Route
from nlptransfer.settings import Count, check, check_arguments, fields_of, fill
from nlptransfer.transfer import Sequential

log = logging.getLogger("nlptransfer")

AUTO = "auto"
"""In place of a base: the one that a ranking chooses."""
MAX_ROWS = 1000
READING = ("max_length", "long_text", "pooling", "prompt")
"""Settings of the route whose features are ranked."""


@with_progress
def rank(
    data: Any,
    *,
    bases: Sequence[str | Path] | None = None,
    keep_layers: Sequence[int] = (),
    sources: Sequence[Any] = (),
    revision: str | None = None,
    max_rows: Count = MAX_ROWS,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    take_lock: bool = False,
    report: bool = True,
    progress: bool = True,
    **settings: Any,
) -> Ranking:
    """Rank encoders, how many of their layers to keep, and sources, before any training.

    Of training rows alone the frozen features are computed once; a linear head on them is cross-validated, as the route
    probe fits it. Of the encoders whose loss is level with the least, by their paired intervals, the fastest is chosen.

    Args:
        data: as :func:`finetune` has it; validation and test rows are not looked at.
        bases: encoders, hub ids or folders; None: those that installed packages hold.
        keep_layers: numbers of first layers that are tried besides all; of an encoder with fewer, that one is left out.
        sources: further data sets, as :func:`finetune` has them, whose gain is estimated with the chosen encoder.
        revision: commit, branch or tag of the bases on the hub.
        max_rows: most training rows that are looked at, of each label an equal share; of each source as many.
        output_dir: folder of ranking.json, encoders.csv, sources.csv and report.html; by default one under runs/
            that is named after the data and the settings. A finished ranking there is returned as it is.
        overwrite: whether a ranking with other settings in that folder is deleted.
        take_lock: as :func:`finetune` has it.
        report: whether report.html is written.
        progress: whether bars show how far it is.
        **settings: fields of DataSettings, and max_length, long_text, pooling and prompt of the route probe.

    Raises:
        SettingError: an unknown setting, or a value that makes no sense.
        DataError, BaseModelError: what cannot be read, or rows too few to cross-validate.
        RunFolderError: the folder holds a ranking with other settings, or other files, or another process works in it.
    """
    repeat = command_of(rank, locals())
    check_arguments(rank, max_rows=max_rows)
    layers = sorted(set(keep_layers))
    check(all(number >= 1 for number in layers), "keep_layers", keep_layers, "numbers of layers from 1")
    reading, route = frozen_settings(settings)
    named = _installed() if bases is None else [str(base) for base in bases]
    check(len(named) > 0, "bases", bases, "at least one")
    loaded = load_data(data, reading)
    target = FrozenScores.of(loaded, max_rows)
    others = [_rows_of(load_source(source, loaded.labels, reading, Sequential()), max_rows) for source in sources]
    rows = {"train": target.data.train, **{one.name: one.train for one in others}}
    question = plain(
        {
            "fingerprints": {name: split.fingerprint() for name, split in rows.items()},
            "bases": [Path(name).name if Path(name).is_dir() else name for name in named],
            "keep_layers": layers,
            "revision": revision,
            "route": asdict(route),
        }
    )
    folder = run_folder(output_dir, question, loaded.name, "rank")
    with at_work(folder, take_lock):
        if claim(folder, question, overwrite, RANKING):
            result = Ranking.load(folder)
        else:
            with shared_work():
                encoders = target.encoders(route, named, revision, layers)
                chosen = fastest_level(encoders)
                kept = replace(cast(Any, route), keep_layers=chosen.keep_layers)
                ranked = [target.source(other, kept, chosen.base, revision) for other in others]
            result = Ranking(
                folder=folder,
                data=DataSummary.of(loaded),
                settings=question,
                metric=target.metric,
                rows=len(target.data.train),
                encoders=encoders,
                sources=tuple(sorted(ranked, key=lambda one: -one.gain)),
                machine=machine(),
                versions=versions(),
                repeat=repeat,
            )
            distributed.on_main(result.save)
        if report:
            report_once(folder)
    return result


def best_base(data: Data, revision: str | None) -> str:
    """Return the encoder that :func:`rank` chooses for data out of those that installed packages hold, and say so."""
    check(revision is None, "revision", revision, "none with base=auto, as packages have one")
    target = FrozenScores.of(data, MAX_ROWS)
    chosen = fastest_level(target.encoders(frozen_route({}), _installed(), None))
    message = (
        "base=auto: %s, the fastest of a loss level with the least (%s %.3f by frozen features of %d training rows)"
    )
    log.info(message, chosen.base, target.metric, chosen.score, len(target.data.train))
    return chosen.base


def frozen_settings(settings: Mapping[str, Any]) -> tuple[DataSettings, Route]:
    """Return how rows are read, and the route whose features need no training, with how it reads texts."""
    of_data = {name: value for name, value in settings.items() if name in fields_of(DataSettings)}
    route = frozen_route({name: value for name, value in settings.items() if name not in of_data})
    return fill({"data": DataSettings}, of_data)["data"], route


def frozen_route(settings: Mapping[str, Any]) -> Route:
    """Return the route whose features need no training, with some settings of how texts are read."""
    if unknown := [name for name in settings if name not in READING]:
        raise SettingError(f"unknown setting {unknown[0]!r}, for frozen features: {nearest(unknown[0], READING)}")
    kind = ROUTES.find(FROZEN_ROUTE)
    route: Route = fill({"route": kind}, {"features": ("encoder",), **settings})["route"]
    route.check()
    return route


def _installed() -> list[str]:
    if not (found := installed_encoders()):
        raise SettingError("bases: expected encoders to rank, found none installed: name some, hub ids or folders")
    return found


def _rows_of(source: Source, most: int) -> Data:
    if source.data is None:
        raise DataError(f"{source.name}: expected labeled rows of a source, found a saved classifier")
    return replace(source.data, train=some_rows(source.data.train, most))
