"""rank(): which encoder, how many of its layers, and which source, by frozen features of training rows alone."""

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast

import numpy as np

from nlptransfer import distributed
from nlptransfer.data import Data, DataSettings, load_data
from nlptransfer.errors import DataError, SettingError
from nlptransfer.evaluation import (
    default_metric,
    h_score,
    logme,
    measure,
    paired,
    predicted,
    score_interval,
    to_probabilities,
)
from nlptransfer.experiments.candidates import some_rows
from nlptransfer.experiments.environment import machine, versions
from nlptransfer.experiments.source import load_source
from nlptransfer.experiments.task import Task
from nlptransfer.hub import installed_encoders, sampled_ids, unknown_share
from nlptransfer.memo import shared_work
from nlptransfer.models import FeatureRows, layer_name, predict_logits
from nlptransfer.results import RANKING, DataSummary, EncoderRank, Ranking, SourceRank, claim, plain, short_hash
from nlptransfer.routes import Built, Probe
from nlptransfer.settings import Count, check, check_arguments, fill
from nlptransfer.training import Features, Head, HeadTask, TrainingSettings
from nlptransfer.transfer import Sequential, proxy_a_distance

log = logging.getLogger("nlptransfer")

TIMED_TEXTS = 64
LENGTH_OF_LOGITS = 3.0
"""Length of a source's logits over that of the features beside them: with it a source gains as much whether its labels
have the target's names or others."""
LEAST_SPREAD = 1e-6
"""Share of the largest spread below which a direction of the features is rounding."""


def rank(
    data: Any,
    *,
    bases: Sequence[str | Path] | None = None,
    keep_layers: Sequence[int] = (),
    sources: Sequence[Any] = (),
    revision: str | None = None,
    max_rows: Count = 1000,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    report: bool = True,
    **settings: Any,
) -> Ranking:
    """Rank encoders, how many of their layers to keep, and sources, before any training.

    Of training rows alone the frozen features are computed once; a linear head on them is cross-validated, as the route
    probe fits it. Of the encoders that are level with the best by their paired intervals the fastest is chosen.

    Args:
        data: as :func:`finetune` has it; validation and test rows are not looked at.
        bases: encoders, hub ids or folders; None: those that installed packages hold.
        keep_layers: numbers of first layers that are tried besides all; of an encoder with fewer, that one is left out.
        sources: further data sets, as :func:`finetune` has them, whose gain is estimated with the chosen encoder.
        revision: commit, branch or tag of the bases on the hub.
        max_rows: most training rows that are looked at, of each label an equal share; of each source as many.
        output_dir: folder of ranking.json, ranking.csv and report.html; by default one under runs/ that is named after
            the data and the settings. A finished ranking there is returned as it is.
        overwrite: whether a ranking with other settings in that folder is deleted.
        report: whether report.html is written.
        **settings: fields of DataSettings, and max_length, long_text, pooling and prompt of the route probe.

    Raises:
        SettingError: an unknown setting, or a value that makes no sense.
        DataError, BaseModelError: what cannot be read, or rows too few to cross-validate.
        RunFolderError: the folder holds a ranking with other settings, or other files.
    """
    check_arguments(rank, max_rows=max_rows)
    layers = sorted(set(keep_layers))
    check(all(number >= 1 for number in layers), "keep_layers", keep_layers, "numbers of layers from 1")
    filled = fill({"data": DataSettings, "route": Probe}, {"features": ("encoder",), **settings})
    route, reading = filled["route"], filled["data"]
    fixed = Probe(**{name: getattr(route, name) for name in ("max_length", "long_text", "pooling", "prompt")})
    expected = "max_length, long_text, pooling and prompt alone"
    check(replace(fixed, features=("encoder",)) == route, "settings of probe", {**settings}, expected)
    named = [str(base) for base in bases] if bases is not None else installed_encoders()
    if not named:
        raise SettingError("bases: expected encoders to rank, found none installed: name some, hub ids or folders")
    loaded = load_data(data, reading)
    rows = some_rows(loaded.train, max_rows)
    metric = measure(default_metric(loaded.labels), loaded.labels)
    known = [load_source(source, loaded.labels, reading, Sequential()) for source in sources]
    others = []
    for source in known:
        if source.data is None:
            raise DataError(f"{source.name}: expected labeled rows of a source, found a saved classifier")
        others.append(replace(source.data, train=some_rows(source.data.train, max_rows)))
    question = plain(
        {
            "fingerprints": {"train": rows.fingerprint(), **{one.name: one.train.fingerprint() for one in others}},
            "bases": [Path(name).name if Path(name).is_dir() else name for name in named],
            "keep_layers": layers,
            "revision": revision,
            "route": asdict(route),
        }
    )
    folder = Path(output_dir) if output_dir else Path("runs") / f"{loaded.name}-rank-{short_hash(question)}"
    if claim(folder, question, overwrite, RANKING):
        return Ranking.load(folder)
    target = _Target.of(replace(loaded, train=rows), metric)
    with shared_work():
        scored = [one for name in named for one in _encoders(target, route, name, revision, layers)]
        result = Ranking(
            folder=folder,
            data=DataSummary.of(loaded),
            settings=question,
            metric=metric,
            rows=len(rows),
            encoders=_in_order(scored, target),
            sources=(),
            machine=machine(),
            versions=versions(),
        )
        chosen = result.chosen
        kept = replace(route, keep_layers=chosen.keep_layers)
        ranked = [_source(target, other, kept, chosen.base, revision) for other in others]
    result = replace(result, sources=tuple(sorted(ranked, key=lambda one: -one.gain)))
    distributed.on_main(result.save)
    if report:
        distributed.on_main(partial(_write_report, folder))
    log.info("%s", result.sentence)
    return result


def _write_report(folder: Path) -> None:
    # Plots take half a second to import.
    from nlptransfer.report import write_report

    write_report(folder)


@dataclass(frozen=True)
class _Target:
    """The rows that are looked at, and how predictions of them are judged."""

    task: Task
    metric: str

    @classmethod
    def of(cls, data: Data, metric: str) -> "_Target":
        return cls(_task(data), metric)

    @property
    def data(self) -> Data:
        return self.task.data

    @property
    def targets(self) -> np.ndarray:
        return self.data.train.targets

    def out_of_fold(self, features: np.ndarray, towards: Head | None = None) -> np.ndarray:
        """Predict the labels of all rows by heads that were fitted on others."""
        logits = _head_task(self.task, features).out_of_fold(towards)
        return predicted(to_probabilities(logits, self.data.labels), self.data.labels)


@dataclass(frozen=True)
class _Scored:
    """An encoder, not yet compared with others."""

    rank: EncoderRank
    predicted: np.ndarray


def _encoders(
    target: _Target, route: Probe, base: str, revision: str | None, keep_layers: Sequence[int]
) -> list[_Scored]:
    """Score an encoder with all of its layers and with some, by one pass of the texts."""
    texts = target.data.train.texts
    built = route.build(target.data, base, revision, 0)
    states = _layers(route, built, texts)
    speed, sizes = _texts_per_second(route, built, texts), _sizes_mb(built)
    unknown = unknown_share(sampled_ids(texts, built.tokenizer), built.tokenizer)
    found = []
    grams = np.cumsum([one @ one.T for one in map(_standardized, states)], axis=0)
    for count in [*(number for number in keep_layers if number < len(states)), len(states)]:
        predictions = target.out_of_fold(_coordinates(grams[count - 1]))
        mean = np.mean(states[:count], axis=0)
        score = score_interval(target.targets, [predictions], target.data.labels, target.metric)
        rank = EncoderRank(
            base=base,
            keep_layers=None if count == len(states) else count,
            layers=count,
            score=score.mean,
            interval=score.interval,
            behind=0.0,
            behind_interval=(0.0, 0.0),
            logme=logme(mean, target.targets),
            h_score=h_score(mean, target.targets),
            texts_per_second=round(speed * len(states) / count, 1),
            size_mb=round(sum(size for layer, size in sizes.items() if layer <= count), 3),
            unknown_share=unknown,
        )
        log.info("%s: %s %.3f, %.0f texts/s", rank.name, target.metric, rank.score, rank.texts_per_second)
        found.append(_Scored(rank, predictions))
    return found


def _in_order(scored: Sequence[_Scored], target: _Target) -> tuple[EncoderRank, ...]:
    """Sort encoders by their scores, of equals the fastest first, and say how far they are behind the first."""
    first, *others = sorted(scored, key=lambda one: (-one.rank.score, -one.rank.texts_per_second))
    ranks = [first.rank]
    for other in others:
        apart = paired(target.targets, [first.predicted], [other.predicted], target.data.labels, target.metric)
        ranks.append(replace(other.rank, behind=apart.difference, behind_interval=apart.interval))
    return tuple(ranks)


def _source(target: _Target, source: Data, route: Probe, base: str, revision: str | None) -> SourceRank:
    """Estimate what a source gives: the score of heads on the target's rows that are pulled to the source's head, less
    that of others. Where the source has other labels, the logits of its head are features beside the encoder's.
    """
    here, there = (
        _layers(route, route.build(one, base, revision, 0), one.train.texts) for one in (target.data, source)
    )
    count = len(target.data.train)
    together = [_standardized(np.concatenate(pair)) for pair in zip(here, there, strict=True)]
    features = _coordinates(np.sum([one @ one.T for one in together], axis=0))
    same = source.labels == target.data.labels
    head = _head_task(_task(source), features[count:]).choose_l2().head
    features = features[:count]
    alone = target.out_of_fold(features)
    if same:
        after = target.out_of_fold(features, towards=head)
    else:
        logits = _standardized(features @ head[0].T + head[1])
        # Longer than the features, or the penalty would leave them no weight.
        logits *= LENGTH_OF_LOGITS * np.linalg.norm(features) / np.linalg.norm(logits)
        after = target.out_of_fold(np.concatenate([features, logits], axis=1))
    gain = paired(target.targets, [after], [alone], target.data.labels, target.metric)
    distance = proxy_a_distance(np.mean(there, axis=0), np.mean(here, axis=0))
    log.info("%s: a gain of %+.3f, domains %.2f apart", source.name, gain.difference, distance)
    return SourceRank(source.name, len(source.train), gain.difference, gain.interval, distance, same)


def _task(data: Data) -> Task:
    none = data.train.take([])
    return Task.of(replace(data, validation=none, calibration=none, test=none), TrainingSettings())


def _head_task(task: Task, features: np.ndarray) -> HeadTask:
    rows = Features(features, task.data.train.targets, task.weights)
    return HeadTask(task.criterion, rows, rows[:0], task.score)


def _layers(route: Probe, built: Built, texts: Sequence[str]) -> np.ndarray:
    """Return what each layer makes of the texts, (layers, texts, width) float32; layers of different widths are one."""
    rows = route.rows(built.model, built.tokenizer, texts, share=True)
    assert isinstance(rows, FeatureRows)
    layers = len(built.model.config.layers)
    layers = layers if rows.features.shape[1] % layers == 0 else 1
    return np.stack(np.split(rows.features.astype(np.float32), layers, axis=1))


def _standardized(features: np.ndarray) -> np.ndarray:
    spread = features.std(axis=0)
    return (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)  # type: ignore[no-any-return]


def _coordinates(gram: np.ndarray) -> np.ndarray:
    """Return features of as many columns as rows at most, whose products are those of the features themselves.

    A head with an L2 penalty lies in the space of its rows, so that its logits are the same with these.
    """
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    kept = values > values[-1] * LEAST_SPREAD
    return cast(np.ndarray, (vectors[:, kept] * np.sqrt(values[kept])).astype(np.float32))


def _texts_per_second(route: Probe, built: Built, texts: Sequence[str]) -> float:
    """Time the whole encoder on some texts at once, after a warm-up of a few."""
    some = list(islice(cycle(texts), TIMED_TEXTS))
    predict_logits(built.model, route.rows(built.model, built.tokenizer, some[:4]))
    started = time.perf_counter()
    predict_logits(built.model, route.rows(built.model, built.tokenizer, some))
    return TIMED_TEXTS / (time.perf_counter() - started)


def _sizes_mb(built: Built) -> dict[int, float]:
    """Return the MB of the weights of each layer by its number from 1, and of all outside of layers by 0."""
    sizes = defaultdict[int, float](float)
    for name, value in cast(Any, built.model).encoder.named_parameters():
        last = layer_name(name).rpartition(".")[2]
        sizes[int(last) + 1 if last.isdigit() else 0] += value.nbytes / 2**20
    return sizes
