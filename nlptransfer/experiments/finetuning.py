"""finetune(): data and a route in, a run's result out. gain_curve(): what a source gains by target rows.

This file reads what was asked for, and checks it. It does not know how a run is made.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from nlptransfer import distributed
from nlptransfer.data import Data, DataSettings, load_data, load_unlabeled, with_unlabeled
from nlptransfer.errors import SettingError
from nlptransfer.evaluation import load_metric
from nlptransfer.experiments.run import run
from nlptransfer.experiments.source import load_source, saved_classifier, weighted
from nlptransfer.experiments.source_gain import (
    SEEDS,
    Pairs,
    gain_metric,
    gain_of,
    in_words,
    run_with_verdict,
    seeds_for,
)
from nlptransfer.files import write_json
from nlptransfer.results import GAINS, REPORT, RunConfig, RunResult, plain
from nlptransfer.routes import DEFAULT_ROUTE, ROUTES, Route, SavedFormat
from nlptransfer.settings import check, fields_of, fill
from nlptransfer.training import Augment, TrainingSettings
from nlptransfer.transfer import Direct, FromSource, Transfer, transfer_classes

log = logging.getLogger("nlptransfer")


def finetune(
    data: Any,
    *,
    route: str | Route | None = None,
    base: str | Path | None = None,
    revision: str | None = None,
    source: Any = None,
    unlabeled: Any = None,
    transfer: str | Transfer | None = None,
    verdict: bool | None = None,
    fallback: bool = False,
    seeds: int | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    report: bool = True,
    save_model: bool = True,
    further_metrics: Sequence[str] = (),
    **settings: Any,
) -> RunResult:
    """Train a classifier on labeled text, score it, and save it with the record of its making.

    Args:
        data: a hub id; a csv, tsv, jsonl or parquet file, plain or .gz; a folder of split files; a Dataset or
            DatasetDict; a pandas frame; or (texts, labels).
        route: a name of ``ROUTES``, or a route with its settings; None: word2vec, or what a saved source was made by.
        base: what the route starts from: an encoder (hub id or folder), and for word2vec also a file of word
            vectors. None: all-MiniLM-L6-v2.
        revision: commit, branch or tag of a base on the hub.
        source: another task that knowledge is taken from: data in any form, a list of several, or a saved classifier
            or its folder.
        unlabeled: further texts of the target that have no labels, for strategies that learn from such: a file, or a
            list of texts. Where a strategy sees no label of the target, those of ``data`` that are not test count as
            such texts too, and ``data`` needs no labels.
        transfer: how: a name of ``TRANSFERS``, several with ">>" between them, or a strategy with its settings; None:
            sequential.
        verdict: whether the same is done without the source too, over several seeds, and the gain is measured on
            test; None: where the route's features are frozen, which makes it cheap.
        fallback: whether the run without the source is returned where it scores better on validation; needs a verdict.
        seeds: of the verdict; None: 3.
        output_dir: the run's folder; by default one under runs/ that is named after the data and the settings.
            The same call resumes a run that was cut off there, and returns a finished one as it is.
        overwrite: whether a run with other settings in that folder is thrown away.
        report: whether report.html is written into the folder, with some of the texts that were judged.
        save_model: whether the classifier is saved; else the run is its record, scores and predictions, and no time is
            spent on proving what was saved, nor on measuring its speed and size. A verdict needs it saved.
        further_metrics: names of other ``evaluate`` metrics to score with.
        **settings: fields of DataSettings, TrainingSettings, Augment, of the route and of the strategy.

    Raises:
        SettingError: an unknown setting, a value that makes no sense, or a strategy that does not fit.
        DataError, VectorsError, BaseModelError: what cannot be read.
        RunFolderError: the folder holds a run with other settings, or other files.
        TrainingError: the loss is no longer a number.
    """
    plan = _Plan.of(data, route, base, revision, source, unlabeled, transfer, further_metrics, settings)
    config = plan.config(plan.data_settings)
    check(verdict is not False or not fallback, "fallback", fallback, "verdict=True, which it rests on")
    can_judge = config.source is not None and not config.transfer.label_free
    expected = "a source and labels of the target, without which no gain can be measured"
    check(can_judge or not (verdict or fallback), "verdict", verdict, expected)
    check(seeds is None or seeds >= 1, "seeds", seeds, "a whole number from 1")
    folder = Path(output_dir) if output_dir else Path("runs") / config.name()
    if fallback or (_is_cheap(config) if verdict is None else verdict):
        check(save_model, "save_model", save_model, "true with a verdict, which takes one of two models")
        pairs = Pairs(plan.config, plan.data_settings, plan.training, seeds_for(config, seeds))
        result = run_with_verdict(config, pairs, folder, fallback=fallback, overwrite=overwrite)
    else:
        result = run(config, folder, overwrite, save_model)
        if config.source is not None:
            log.info("Not measured whether the source helped; pass verdict=True (needs a test split)")
    if report:
        _write_report(result, config.data)
    return result


def _write_report(result: RunResult, data: Data) -> None:
    """Write a finished run's report, unless it is there."""
    # Plots take half a second to import, which nobody should wait for who asks for no report.
    from nlptransfer.report import report_with_texts

    if distributed.is_main() and not (result.folder / REPORT).exists():
        report_with_texts(result.folder, data, result)
    distributed.barrier()


def _is_cheap(config: RunConfig) -> bool:
    """Return whether a verdict is made without being asked for."""
    can_judge = config.source is not None and not config.transfer.label_free and len(config.data.test) > 0
    return can_judge and config.route.is_frozen


def gain_curve(
    data: Any,
    *,
    source: Any,
    sizes: Sequence[int],
    transfers: Sequence[str | Transfer] = ("sequential",),
    output_dir: str | Path,
    route: str | Route | None = None,
    base: str | Path | None = None,
    revision: str | None = None,
    seeds: int | None = None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """The gain of strategies against the number of labeled target rows.

    Every seed draws its own rows, the same for all strategies and for the runs without the source; test is the same
    for all.

    Args:
        sizes: labeled rows of the target, validation included.
        transfers: names of strategies, or strategies with their settings.
        output_dir: a folder for each size in it, with a run for each strategy and seed, and gains.json; the same call
            goes on with what was cut off. Of the runs no models are kept, unless ``keep_checkpoints`` is set.
        data, source, route, base, revision, seeds, **settings: as :func:`finetune` has them.

    Returns:
        For each size and strategy: rows, transfer, and what :class:`Gain` has.
    """
    check(len(sizes) > 0 and min(sizes) >= 1, "sizes", sizes, "numbers of rows from 1")
    check("max_train_rows" not in settings, "max_train_rows", settings.get("max_train_rows"), "sizes alone")
    folder, gains = Path(output_dir), list[dict[str, Any]]()
    for size in sizes:
        for transfer in transfers:
            given = {**settings, "max_train_rows": size}
            plan = _Plan.of(data, route, base, revision, source, None, transfer, (), given)
            check(not plan.transfer.label_free, "transfer", plan.transfer.name, "one that learns from target labels")
            config = plan.config(plan.data_settings)
            metric = gain_metric(config)
            pairs = Pairs(plan.config, plan.data_settings, plan.training, seeds or SEEDS).runs(folder / str(size))
            gain = gain_of(pairs, config.data.labels, metric)
            gains.append({"size": size, "transfer": config.transfer.name, **plain(asdict(gain))})
            log.info("%d rows, %s: %s", size, config.transfer.name, in_words(gain))
            if distributed.is_main():
                write_json(folder / GAINS, gains)
    return gains


@dataclass(frozen=True)
class _Plan:
    """What was asked for, checked, with the data still to be read."""

    data: Any
    source: Any
    unlabeled: Any
    route: Route
    transfer: Transfer
    data_settings: DataSettings
    training: TrainingSettings
    augment: Augment
    base: str | None
    revision: str | None
    further: tuple[str, ...]

    @classmethod
    def of(
        cls,
        data: Any,
        route: str | Route | None,
        base: str | Path | None,
        revision: str | None,
        source: Any,
        unlabeled: Any,
        transfer: str | Transfer | None,
        further: Sequence[str],
        settings: Mapping[str, Any],
    ) -> "_Plan":
        saved = saved_classifier(source)
        if transfer is None:
            transfer = "direct" if source is None else "sequential"
        kinds: dict[str, type] = {"data": DataSettings, "training": TrainingSettings, "augment": Augment}
        route = (route or DEFAULT_ROUTE) if saved is None else _as_saved(saved.route, route)
        kinds["route"] = ROUTES.find(route) if isinstance(route, str) else type(route)
        given: dict[str, Any] = {}
        if isinstance(route, Route):
            given = _checked_apart("route", route, settings, set() if saved is None else {*route.per_stage})
        if isinstance(transfer, str):
            kinds |= {f"transfer {number}": kind for number, kind in enumerate(transfer_classes(transfer))}
        else:
            for part in transfer.parts:
                _checked_apart("transfer", part, settings, set())
        if saved is not None:
            given["normalization"] = saved.normalization
        filled = fill(kinds, {**given, **settings})
        parts = [filled[name] for name in kinds if name.startswith("transfer")]
        asked = reduce(Transfer.__rshift__, parts) if isinstance(transfer, str) else transfer
        filled["transfer"] = _completed(asked, source is not None)
        own_way = saved is None or filled["data"].normalization == saved.normalization
        check(own_way, "normalization", filled["data"].normalization, "that of the source's classifier")
        for name in ("training", "augment", "route", "transfer"):
            filled[name].check()
        _check_given(filled["transfer"], source, unlabeled, filled["augment"])
        for name in further:
            load_metric(name)
        base = None if base is None else str(base)
        own_kinds = (filled["route"], filled["transfer"], filled["data"], filled["training"], filled["augment"])
        return cls(data, source if saved is None else saved, unlabeled, *own_kinds, base, revision, tuple(further))

    def config(self, rows: DataSettings) -> RunConfig:
        """Read the rows that these settings give, and return the run on them."""
        own = next((part for part in self.transfer.parts if isinstance(part, FromSource)), None)
        source = None
        if own is not None and self.source is not None and self.transfer.label_free:
            source = load_source(self.source, None, rows, own)
            data = load_unlabeled(self.data, source.labels, rows)
        else:
            data = load_data(self.data, rows)
            if own is not None and self.source is not None:
                source = load_source(self.source, data.labels, rows, own)
        if self.unlabeled is not None:
            data = with_unlabeled(data, self.unlabeled, rows)
        there = not self.transfer.needs_unlabeled or data.unlabeled
        check(bool(there), "unlabeled", None, f"texts without labels, which {self.transfer.name} learns from")
        if own is not None and source is not None:
            source = weighted(source, data, own, self.training.seed)
        return RunConfig(
            data,
            self.route,
            rows,
            self.training,
            self.base,
            self.revision,
            self.further,
            self.transfer,
            source,
            self.augment,
            Path(self.unlabeled).name if isinstance(self.unlabeled, (str, Path)) else None,
        )


def _completed(transfer: Transfer, has_source: bool) -> Transfer:
    """A strategy that makes a classifier, as it is with a source or without."""
    return (transfer >> Direct() if transfer.is_prelude else transfer).adjusted(has_source)


def _check_given(way: Transfer, source: Any, unlabeled: Any, copies: Augment) -> None:
    """Raise a SettingError where a strategy lacks what it learns from, or is given what it does not."""
    if (source is None and way.needs_source) or (source is not None and not way.takes_source):
        expected = "a source" if way.needs_source else "a strategy that has a source: copy, sequential, joint, ..."
        raise SettingError(f"transfer={way.name!r}: expected {expected}, found source={source!r:.80}")
    learns = way.takes_unlabeled or unlabeled is None
    check(learns, "unlabeled", unlabeled, f"none, as {way.name} learns from labeled texts alone")
    seen = not (way.label_free and copies.augment_copies)
    check(seen, "augment_copies", copies.augment_copies, "0 where no label of the target is seen")


def _checked_apart(name: str, value: Any, settings: Mapping[str, Any], allowed: Collection[str]) -> dict[str, Any]:
    """The settings of a route or strategy that was given as an object.

    Raises:
        SettingError: one of them is given by itself too.
    """
    own = fields_of(type(value))
    if clash := sorted({*settings} & {*own} - {*allowed}):
        kind = type(value).__name__
        raise SettingError(f"{clash[0]}: give it to {kind}({clash[0]}=...), which was passed as the {name}")
    return {field: getattr(value, field) for field in own}


def _as_saved(saved: SavedFormat, asked: str | Route | None) -> Route:
    """The route of a saved classifier that is the source, with what may differ from stage to stage as it is asked for.

    Raises:
        SettingError: it cannot learn, or another route is asked for, or other settings.
    """
    if not isinstance(saved, Route):
        raise SettingError(
            "source: expected a classifier that can learn, found one that was exported to predict: take what it was "
            f"exported from, of route {getattr(saved, 'learned_by', saved.name)}"
        )
    if asked is None or asked == saved.name:
        return saved
    if isinstance(asked, str) or type(asked) is not type(saved):
        name = asked if isinstance(asked, str) else asked.name
        raise SettingError(f"route={name}: expected {saved.name}, by which the source's classifier was made")
    for field in fields_of(type(saved)):
        ours, theirs = getattr(saved, field), getattr(asked, field)
        check(field in saved.per_stage or ours == theirs, field, theirs, f"{ours!r}, as the source's classifier has it")
    return asked
