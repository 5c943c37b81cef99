"""finetune() and gain_curve(): what is asked for is read and checked. This file does not know how a run is made."""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from itertools import product
from pathlib import Path
from typing import Any

from nlptransfer import distributed
from nlptransfer.data import DataSettings, check_mapping, joined_texts, load_data, load_unlabeled, with_unlabeled
from nlptransfer.errors import SettingError
from nlptransfer.experiments.data_check import checked_data
from nlptransfer.experiments.ranking import AUTO, best_base
from nlptransfer.experiments.reporting import report_once
from nlptransfer.experiments.run import run
from nlptransfer.experiments.source import load_source, saved_classifier, weighted
from nlptransfer.experiments.source_gain import SEEDS, gain_metric, gain_of, in_words, paired_runs, run_with_verdict
from nlptransfer.files import named_path, write_json
from nlptransfer.hub import base_for
from nlptransfer.progress import progress_bar, with_progress
from nlptransfer.results import GAINS, GainCurve, RunConfig, RunResult, at_work, command_of, plain
from nlptransfer.routes import ROUTES, Route, SavedFormat, default_route
from nlptransfer.settings import Count, check, check_arguments, fields_of, fill
from nlptransfer.training import Augment, TrainingSettings
from nlptransfer.transfer import Direct, FromSource, Transfer, transfer_classes

log = logging.getLogger("nlptransfer")


@with_progress
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
    seeds: Count | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    take_lock: bool = False,
    report: bool = True,
    save_model: bool = True,
    baseline: bool = True,
    further_metrics: Sequence[str] = (),
    **settings: Any,
) -> RunResult:
    """Train a classifier on labeled text, score it, and save it with the record of its making.

    Args:
        data: a hub id; a csv, tsv, jsonl or parquet file, plain or .gz; a folder of split files; a Dataset or
            DatasetDict; a pandas frame; or (texts, labels).
        route: a name of ``ROUTES``, or a route with its settings; None: word2vec, or what a saved source was made by.
        base: what the route starts from: an encoder (hub id or folder), and for word2vec also a file of word
            vectors. None: the default encoder (the first that ``nlptransfer bases`` lists), or, where more than 5% of
            the pieces of the texts are unknown to its tokenizer, the multilingual one if that is installed. "auto":
            that which :func:`rank` chooses of those that packages hold, by training rows.
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
        take_lock: whether to work in that folder although another machine has its lock, which nobody can ask from
            here whether it still does.
        report: whether report.html is written into the folder, with some of the texts that were judged.
        save_model: whether the classifier is saved; else the run is its record, scores and predictions, and no time is
            spent on proving what was saved, nor on measuring its speed and size. A verdict needs it saved.
        baseline: whether the majority class and TF-IDF with a logistic regression are scored on test too, in a second
            or two; where that takes some of the rows alone, the result says so.
        further_metrics: names of other ``evaluate`` metrics to score with.
        **settings: fields of DataSettings, TrainingSettings, Augment, of the route and of the strategy.

    Raises:
        SettingError: an unknown setting, a value that makes no sense, or a strategy that does not fit.
        DataError, VectorsError, BaseModelError: what cannot be read.
        RunFolderError: the folder holds a run with other settings, or other files, or another process works in it.
        TrainingError: the loss is no longer a number.
    """
    repeat = command_of(finetune, locals())
    started = time.monotonic()
    plan = _Plan.of(
        data,
        source,
        settings,
        route=route,
        transfer=transfer,
        base=base,
        revision=revision,
        unlabeled=unlabeled,
        further_metrics=further_metrics,
    )
    plan = replace(plan, complete=partial(plan.complete, repeat=repeat))
    config = plan.config(plan.data_settings)
    base = _base_for(config)
    plan, config = replace(plan, complete=partial(plan.complete, base=base)), replace(config, base=base)
    check(verdict is not False or not fallback, "fallback", fallback, "verdict=True, which it rests on")
    can_judge = config.source is not None and not config.transfer.label_free
    expected = "a source and labels of the target, without which no gain can be measured"
    check(can_judge or not (verdict or fallback), "verdict", verdict, expected)
    check_arguments(finetune, seeds=seeds)
    folder = named_path(output_dir) if output_dir else config.folder()
    is_cheap = can_judge and len(config.data.test) > 0 and config.route.is_frozen
    has_verdict = fallback or (is_cheap if verdict is None else verdict)
    check(save_model or not has_verdict, "save_model", save_model, "true with a verdict, which takes one of two models")
    with at_work(folder, take_lock):
        learned = None if config.source is None else config.source.data
        config = replace(config, data=checked_data(config.data, folder, learned, overwrite=overwrite))
        if has_verdict:
            result = run_with_verdict(
                config,
                plan.config,
                folder,
                seeds=seeds,
                fallback=fallback,
                overwrite=overwrite,
                baseline=baseline,
                started=started,
            )
        else:
            result = run(config, folder, overwrite, save_model, baseline=baseline, started=started)
            if can_judge:
                log.info("Whether the source helped is not measured: --verdict (verdict=True) does, given test rows")
        if report:
            report_once(result.folder, config.data, result)
    return result


def _base_for(config: RunConfig) -> str | None:
    if config.base == AUTO:
        return best_base(config.data, config.revision)
    source, collections = config.source, [joined_texts([config.data.train.texts, config.data.unlabeled])]
    if source is not None:
        if source.data is None:
            # What is saved has a base.
            return config.base
        collections.append(source.data.train.texts)
    return base_for(config.base, config.revision, collections)


@with_progress
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
    seeds: Count | None = None,
    take_lock: bool = False,
    **settings: Any,
) -> GainCurve:
    """Measure the gain of strategies against the number of labeled target rows.

    Every seed draws its own rows, the same for all strategies and for the runs without the source; test is the same
    for all.

    Args:
        sizes: labeled rows of the target, validation included.
        transfers: names of strategies, or strategies with their settings.
        output_dir: a folder for each size in it, with a run for each strategy and seed, and gains.json; the same call
            resumes what was interrupted. No models are kept, unless ``keep_checkpoints`` is set.
        data, source, route, base, revision, seeds, take_lock, **settings: as :func:`finetune` has them.
    """
    check(len(sizes) > 0 and min(sizes) >= 1, "sizes", sizes, "numbers of rows from 1")
    check("max_train_rows" not in settings, "max_train_rows", settings.get("max_train_rows"), "sizes alone")
    folder, gains = named_path(output_dir), GainCurve()
    whole = _Plan.of(data, source, settings, route=route, transfer=transfers[0], base=base, revision=revision)
    base = _base_for(whole.config(whole.data_settings))
    with at_work(folder, take_lock), progress_bar("gains", len(sizes) * len(transfers), "gains") as bar:
        for size, transfer in product(sizes, transfers):
            bar.say(f"gain with {size:,} rows")
            sized = {**settings, "max_train_rows": size}
            plan = _Plan.of(data, source, sized, route=route, transfer=transfer, base=base, revision=revision)
            check(not plan.transfer.label_free, "transfer", plan.transfer.name, "one that learns from target labels")
            config = plan.config(plan.data_settings)
            metric = gain_metric(config)
            sides = paired_runs(plan.config, config, seeds or SEEDS, folder / str(size))
            gain = gain_of(*sides, config.data.labels, metric)
            gains.append({"size": size, "transfer": config.transfer.name, **plain(asdict(gain))})
            log.info("%d rows, %s: %s", size, config.transfer.name, in_words(gain))
            if distributed.is_main():
                write_json(folder / GAINS, gains)
            bar.advance()
    return gains


@dataclass(frozen=True)
class _Plan:
    """What was asked for, checked, with the data still to be read."""

    data: Any
    source: Any
    unlabeled: Any
    data_settings: DataSettings
    training: TrainingSettings
    transfer: Transfer
    complete: Callable[..., RunConfig]
    """makes the run, given data, data_settings, training, transfer and source"""

    @classmethod
    def of(
        cls,
        data: Any,
        source: Any,
        settings: Mapping[str, Any],
        *,
        route: str | Route | None,
        transfer: str | Transfer | None,
        base: str | Path | None,
        revision: str | None,
        unlabeled: Any = None,
        further_metrics: Sequence[str] = (),
    ) -> "_Plan":
        saved = saved_classifier(source)
        transfer = transfer or ("direct" if source is None else "sequential")
        if saved is not None:
            route = _as_saved(saved.route, route)
        elif route is None:
            route = default_route(base)
            log.info("No route is named: %s is taken", route)
        kinds: dict[str, type] = {"data": DataSettings, "training": TrainingSettings, "augment": Augment}
        kinds["route"] = ROUTES.find(route) if isinstance(route, str) else type(route)
        values: dict[str, Any] = {}
        if isinstance(route, Route):
            values = _fields_apart("route", route, settings, () if saved is None else route.per_stage)
        if saved is not None:
            values["normalization"] = saved.normalization
        if isinstance(transfer, str):
            parts = {f"transfer {number}": kind for number, kind in enumerate(transfer_classes(transfer))}
            filled = fill(kinds | parts, {**values, **settings})
            chosen: Transfer = reduce(Transfer.__rshift__, (filled[name] for name in parts))
        else:
            for part in transfer.parts:
                _fields_apart("transfer", part, settings)
            filled, chosen = fill(kinds, {**values, **settings}), transfer
        chosen = (chosen >> Direct() if chosen.is_prelude else chosen).adjusted(source is not None)
        if saved is not None:
            form = filled["data"].normalization
            check(form == saved.normalization, "normalization", form, "that of the source's classifier")
        for checked in (filled["training"], filled["augment"], filled["route"], chosen):
            checked.check()
        _check_given(chosen, source, unlabeled, filled["augment"])
        if further_metrics:
            from nlptransfer.evaluation import load_metric

            for name in further_metrics:
                load_metric(name)
        complete = partial(
            RunConfig,
            route=filled["route"],
            base=None if base is None else str(base),
            revision=revision,
            further_metrics=tuple(further_metrics),
            augment=filled["augment"],
            unlabeled_name=Path(unlabeled).name if isinstance(unlabeled, (str, Path)) else None,
        )
        return cls(data, saved or source, unlabeled, filled["data"], filled["training"], chosen, complete)

    def config(self, settings: DataSettings) -> RunConfig:
        """Read the rows that these settings give, and return the run on them."""
        transfer, training, source = self.transfer, self.training, None
        parts = [part for part in transfer.parts if isinstance(part, FromSource) and self.source is not None]
        if parts and transfer.label_free:
            source = load_source(self.source, None, settings, parts[0])
            data = load_unlabeled(self.data, source.labels, settings)
        else:
            data = load_data(self.data, settings, is_target=not parts)
            source = load_source(self.source, data.labels, settings, parts[0]) if parts else None
        if source is not None:
            check_mapping(settings.label_mapping, data.written_labels | source.written_labels, "source and target have")
        if self.unlabeled is not None:
            data = with_unlabeled(data, self.unlabeled, settings)
        has_texts = not transfer.needs_unlabeled or len(data.unlabeled) > 0
        check(has_texts, "unlabeled", None, f"texts without labels, which {transfer.name} learns from")
        if source is not None:
            source = weighted(source, data, parts[0], training.seed)
        return self.complete(data=data, data_settings=settings, training=training, transfer=transfer, source=source)


def _check_given(transfer: Transfer, source: Any, unlabeled: Any, augment: Augment) -> None:
    """Raise a SettingError where a strategy lacks what it learns from, or has what it does not."""
    name = transfer.name
    if (source is None and transfer.needs_source) or (source is not None and not transfer.takes_source):
        expected = "a source" if transfer.needs_source else "a strategy that has a source: copy, sequential, joint, ..."
        raise SettingError(f"transfer={name!r}: expected {expected}, found source={source!r:.80}")
    learns = transfer.takes_unlabeled or unlabeled is None
    check(learns, "unlabeled", unlabeled, f"none, as {name} learns from labeled texts alone")
    seen = not (transfer.label_free and augment.augment_copies)
    check(seen, "augment_copies", augment.augment_copies, "0 where no label of the target is seen")


def _fields_apart(
    argument: str, value: Any, settings: Mapping[str, Any], allowed: Collection[str] = ()
) -> dict[str, Any]:
    """Return the settings of a route or strategy; raise a SettingError where the call has any that is not allowed."""
    values = {name: getattr(value, name) for name in fields_of(type(value))}
    if clash := sorted({*settings} & {*values} - {*allowed}):
        kind = type(value).__name__
        raise SettingError(f"{clash[0]}: give it to {kind}({clash[0]}=...), which was passed as the {argument}")
    return values


def _as_saved(saved: SavedFormat, route: str | Route | None) -> Route:
    """Return a saved source's route with settings that may differ by stage; raise a SettingError for others."""
    if not isinstance(saved, Route):
        raise SettingError(
            "source: expected a classifier that can learn, found one that was exported to predict: take what it was "
            f"exported from, of route {getattr(saved, 'learned_by', saved.name)}"
        )
    if route is None or route == saved.name:
        return saved
    if isinstance(route, str) or type(route) is not type(saved):
        name = route if isinstance(route, str) else route.name
        raise SettingError(f"route={name}: expected {saved.name}, by which the source's classifier was made")
    for field in fields_of(type(saved)):
        ours, theirs = getattr(saved, field), getattr(route, field)
        check(field in saved.per_stage or ours == theirs, field, theirs, f"{ours!r}, as the source's classifier has it")
    return route
