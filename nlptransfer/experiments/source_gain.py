"""Measure whether the source helped: the same target rows, steps and tuning without it, over several seeds."""

import logging
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from nlptransfer import distributed
from nlptransfer.classifier import note_results
from nlptransfer.data import DataSettings, Labels
from nlptransfer.errors import DataError
from nlptransfer.evaluation import Gain, default_metric, higher_is_better, measure, transfer_gain
from nlptransfer.experiments.environment import with_wall_seconds
from nlptransfer.experiments.run import baselines_of, note_learned, run
from nlptransfer.files import atomic_folder
from nlptransfer.progress import progress_bar
from nlptransfer.results import (
    MODEL,
    VERDICT_RUNS,
    RunConfig,
    RunResult,
    Verdict,
    begin_run,
    card_results,
    claim,
    remove,
)
from nlptransfer.training import are_few
from nlptransfer.transfer import ON_TARGET, Direct, Joint

log = logging.getLogger("nlptransfer")

SEEDS = 3
ROWS_SEED_STEP = 1000
"""From one run's ``rows_seed`` to the next one's."""
OTHER_STEPS = (Joint.name,)
"""Strategies that take more steps on the target's rows than a run on these alone would."""
Make = Callable[[DataSettings], RunConfig]
"""Data settings -> the run with the source, on the rows that they give."""
Runs = list[RunResult]


def paired_runs(
    make: Make, config: RunConfig, seeds: int, folder: Path, *, save_first: bool = False
) -> tuple[Runs, Runs]:
    """Make runs with a source and without it, on the same rows under the same seeds, or find them.

    Runs without the source are shared by all strategies that take as many steps. ``config`` is the first run with it,
    by ``make``; ``save_first`` saves the models of the first seed, and ``keep_checkpoints`` all.
    """
    with_source, direct = Runs(), Runs()
    with progress_bar("runs with and without the source", 2 * seeds, "runs") as bar:
        for number in range(seeds):
            save_model = (save_first and number == 0) or config.training.keep_checkpoints
            seed = config.training.seed + number
            rows = _data_settings(config.data_settings, number)
            seeded = config if rows == config.data_settings else make(rows)
            seeded = replace(seeded, training=replace(seeded.training, seed=seed))
            name = seeded.transfer.name
            # The others would say what the first has said.
            with _warnings_alone(number > 0):
                with_source.append(run(seeded, folder / f"{name}-{seed}", save_model=save_model).without_model())
            bar.advance()
            shares = name not in OTHER_STEPS or seeded.route.fits_head
            place = folder / (f"direct-{seed}" if shares else f"direct-as-{name}-{seed}")
            with _warnings_alone():
                direct.append(run(_direct(seeded, with_source[-1]), place, save_model=save_model).without_model())
            bar.advance()
    return with_source, direct


@contextmanager
def _warnings_alone(is_on: bool = True) -> Iterator[None]:
    """Log warnings alone within a block."""
    level = log.level
    if is_on:
        log.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        log.setLevel(level)


def _data_settings(settings: DataSettings, number: int) -> DataSettings:
    """Let each seed draw its own rows, as which are drawn is luck too."""
    if settings.max_train_rows is None:
        return settings
    return replace(settings, rows_seed=settings.seed_of_rows + ROWS_SEED_STEP * number)


def _direct(config: RunConfig, finished: RunResult) -> RunConfig:
    """Return the run without the source: as many steps on the target's rows, the same tuning."""
    base = config.base
    if config.source is not None and config.source.classifier is not None and base is None:
        base = (config.source.classifier.record.get("base") or {}).get("name")
    route, training = config.transfer.at(ON_TARGET, config.route, config.training)
    if not route.fits_head:
        resolved = route.defaults(config.data)
        stages = finished.settings["stages"]
        for stage in ("target", "joint"):
            resolved = {name: stages.get(stage, resolved)[name] for name in resolved}
        training = replace(training, **resolved)
        if config.transfer.name in OTHER_STEPS:
            steps = finished.stages[config.transfer.name].step or 0
            batch = (training.per_device_train_batch_size or 1) * distributed.world_size()
            rows = training.gradient_accumulation_steps * batch
            epochs = math.ceil(steps / math.ceil(len(config.data.train) / rows))
            training = replace(training, num_train_epochs=epochs)
    return replace(config, route=route, transfer=Direct(), source=None, training=training, base=base)


def _seeds_for(config: RunConfig, seeds: int | None) -> int:
    """Return how many seeds are needed: one where a head is fitted on the same rows and nothing is drawn."""
    few = are_few(len(config.data.train), len(config.data.validation))
    if config.route.fits_head and config.data_settings.max_train_rows is None and not few:
        return 1
    return SEEDS if seeds is None else seeds


def gain_of(with_source: Runs, direct: Runs, labels: Labels, metric: str) -> Gain:
    """Measure the gain of the runs with a source over those without, on test."""
    before, after = ([run.predictions["test"].predicted for run in side] for side in (direct, with_source))
    return transfer_gain(direct[0].predictions["test"].targets, before, after, labels, metric)


def run_with_verdict(
    config: RunConfig,
    make: Make,
    folder: Path,
    *,
    seeds: int | None,
    fallback: bool,
    overwrite: bool,
    baseline: bool,
    started: float,
) -> RunResult:
    """Make the runs of a verdict, ``seeds`` on each side, and take one of the first seed's as the run itself.

    ``baseline`` and ``started`` are as :func:`run` has them.
    """
    metric, seeds = gain_metric(config), _seeds_for(config, seeds)
    question = {**config.question(), "verdict": True, "fallback": fallback, "seeds": seeds}
    if not claim(folder, question, overwrite):
        begin_run(folder, question, warnings=config.data.warnings)
        several = f"{seeds} runs with it and {seeds} without" if seeds > 1 else "a run with it and one without"
        log.info("Whether %s helps is measured by %s", config.source.name if config.source else "it", several)
        with_source, direct = paired_runs(make, config, seeds, folder / VERDICT_RUNS, save_first=True)
        if distributed.is_main():
            verdict = _verdict(with_source, direct, config, metric, fallback=fallback)
            taken = (direct if verdict.taken == Direct.name else with_source)[0]
            command = f"{config.command()} --verdict --seeds {seeds}" + (" --fallback" if fallback else "")
            result = replace(
                taken,
                folder=folder,
                question=question,
                command=command,
                verdict=verdict,
                baselines=baselines_of(config) if baseline else {},
                cost=with_wall_seconds(taken.cost, started),
            )
            with atomic_folder(result.model_folder) as new:
                shutil.copytree(taken.model_folder, new, dirs_exist_ok=True)
                note_results(new, card_results(result))
            note_learned(config, folder)
            result.save()
            log.info("%s: %s", config.transfer.name, in_words(verdict))
        distributed.barrier()
    result = RunResult.load(folder)
    # Of a finished run too: it may have been killed just before.
    if distributed.is_main() and not result.settings["training"]["keep_checkpoints"]:
        for model in (folder / VERDICT_RUNS).glob(f"*/{MODEL}"):
            remove(model)
    distributed.barrier()
    return result


def _verdict(with_source: Runs, direct: Runs, config: RunConfig, metric: str, *, fallback: bool) -> Verdict:
    gain, name = gain_of(with_source, direct, config.data.labels, metric), config.transfer.name
    after, before = (float(np.mean([run.validation_score(metric) for run in side])) for side in (with_source, direct))
    is_better = after > before if higher_is_better(metric) else after < before
    taken = Direct.name if fallback and not is_better else name
    return Verdict(**vars(gain), validation={name: after, Direct.name: before}, fallback=fallback, taken=taken)


def gain_metric(config: RunConfig) -> str:
    """Return the score that a gain is measured by, of predicted labels alone."""
    if not len(config.data.test):
        raise DataError(
            f"{config.data.name}: expected test rows, by which a gain is measured, found none: "
            "set test_size, or pass verdict=False"
        )
    return measure(config.training.metric_for_best_model or default_metric(config.data.labels), config.data.labels)


def in_words(gain: Gain) -> str:
    low, high = gain.interval
    return (
        f"{gain.verdict}: {gain.metric} {gain.with_source:.3f}, without the source {gain.direct:.3f}, "
        f"gain {gain.gain:+.3f} [{low:+.3f}, {high:+.3f}] over {gain.seeds} {'seed' if gain.seeds == 1 else 'seeds'}"
    )
