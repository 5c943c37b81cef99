"""Score encoders and sources on a data set, before any training, by heads on frozen features that are cross-validated.
It knows rows and routes, not folders or what is done with the scores."""

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any, cast

import numpy as np
import scipy
import torch

from nlptransfer import distributed
from nlptransfer.data import Data
from nlptransfer.evaluation import (
    default_metric,
    h_score,
    logme,
    measure,
    metric_name,
    paired,
    predicted,
    score_interval,
    to_probabilities,
)
from nlptransfer.experiments.sampling import some_rows
from nlptransfer.experiments.task import Task
from nlptransfer.hub import sampled_ids, unknown_share
from nlptransfer.models import FeatureRows, layer_name, predict_logits
from nlptransfer.progress import progress_bar
from nlptransfer.results import EncoderRank, SourceRank
from nlptransfer.routes import Built, Route
from nlptransfer.training import Features, Head, HeadTask, TrainingSettings
from nlptransfer.transfer import proxy_a_distance

log = logging.getLogger("nlptransfer")

TIMED_TEXTS = 32
LENGTH_OF_LOGITS = 3.0
"""Length of a source's logits over that of the features beside them: with it a source gains as much whether its labels
have the target's names or others."""
LEAST_SPREAD = 1e-6
"""Share of the largest spread below which a direction of the features is rounding."""


@dataclass(frozen=True)
class FrozenScores:
    """The rows of a data set that are looked at, and how encoders and sources are judged by them."""

    task: Task
    metric: str

    @classmethod
    def of(cls, data: Data, most: int) -> "FrozenScores":
        """Look at ``most`` training rows at most, of each label an equal share."""
        metric = measure(default_metric(data.labels), data.labels)
        return cls(_task(replace(data, train=some_rows(data.train, most))), metric)

    @property
    def data(self) -> Data:
        return self.task.data

    @property
    def targets(self) -> np.ndarray:
        return self.data.train.targets

    def encoders(
        self, route: Route, bases: Sequence[str], revision: str | None, keep_layers: Sequence[int] = ()
    ) -> tuple[EncoderRank, ...]:
        """Score encoders with all of their layers and with some; that of the least loss first, of equals the fastest.

        They are compared by the loss, as the same rows tell more of it than of a score (Gneiting and Raftery 2007).
        """
        scored = []
        with progress_bar("ranking", len(bases), "encoders") as bar:
            for base in bases:
                bar.say(f"ranking: {base.rpartition('/')[2]}")
                scored += self._layers_of(route, base, revision, keep_layers)
                bar.advance()
        (best, least), *others = sorted(scored, key=lambda one: (one[0].loss, -one[0].texts_per_second))
        ranks = [best]
        for rank, losses in others:
            more = losses - least
            half = scipy.stats.t.ppf(0.975, len(more) - 1) * more.std(ddof=1) / np.sqrt(len(more))
            interval = float(more.mean() - half), float(more.mean() + half)
            ranks.append(replace(rank, behind=float(more.mean()), behind_interval=interval))
        # Processes measure different speeds, and must choose the same.
        return cast(tuple[EncoderRank, ...], distributed.from_main(tuple(ranks)))

    def _layers_of(
        self, route: Route, base: str, revision: str | None, keep_layers: Sequence[int]
    ) -> list[tuple[EncoderRank, np.ndarray]]:
        """Return what is known of an encoder for each number of layers, by one pass of texts, and (rows,) losses."""
        texts = self.data.train.texts
        built = route.build(self.data, base, revision, 0)
        states = _states(route, built, texts)
        speed, sizes = _texts_per_second(route, built, texts), _sizes_mb(built)
        unknown = unknown_share(sampled_ids(texts, built.tokenizer), built.tokenizer)
        products = np.cumsum([one @ one.T for one in map(_standardized, states)], axis=0)
        found = []
        for count in [*(number for number in keep_layers if number < len(states)), len(states)]:
            predictions, losses = self.out_of_fold(_coordinates(products[count - 1]))
            mean = np.mean(states[:count], axis=0)
            score = score_interval(self.targets, [predictions], self.data.labels, self.metric)
            rank = EncoderRank(
                base=base,
                keep_layers=None if count == len(states) else count,
                layers=count,
                score=score.mean,
                interval=score.interval,
                loss=float(losses.mean()),
                behind=0.0,
                behind_interval=(0.0, 0.0),
                logme=logme(mean, self.targets),
                h_score=h_score(mean, self.targets),
                texts_per_second=round(speed * len(states) / count, 1),
                size_mb=round(sum(size for layer, size in sizes.items() if layer <= count), 3),
                unknown_share=unknown,
            )
            log.info(
                "%s: %s %.3f, %.0f texts a second",
                rank.name,
                metric_name(self.metric),
                rank.score,
                rank.texts_per_second,
            )
            found.append((rank, losses))
        return found

    def source(self, source: Data, route: Route, base: str, revision: str | None) -> SourceRank:
        """Estimate what a source gives: the score of heads that are pulled to the source's, less that of others.

        Where the source has other labels, the logits of its head are features beside the encoder's.
        """
        here, there = (
            _states(route, route.build(one, base, revision, 0), one.train.texts) for one in (self.data, source)
        )
        count, labels = len(self.data.train), self.data.labels
        together = [_standardized(np.concatenate(pair)) for pair in zip(here, there, strict=True)]
        features = _coordinates(np.sum([one @ one.T for one in together], axis=0))
        head = _head_task(_task(source), features[count:]).choose_l2().head
        features = features[:count]
        alone, _ = self.out_of_fold(features)
        if source.labels == labels:
            after, _ = self.out_of_fold(features, towards=head)
        else:
            logits = _standardized(features @ head[0].T + head[1])
            # Longer than the features, or the penalty would leave them no weight.
            logits *= LENGTH_OF_LOGITS * np.linalg.norm(features) / np.linalg.norm(logits)
            after, _ = self.out_of_fold(np.concatenate([features, logits], axis=1))
        gain = paired(self.targets, [after], [alone], labels, self.metric)
        distance = proxy_a_distance(np.mean(there, axis=0), np.mean(here, axis=0))
        log.info(
            "%s: using it as a source gains %+.3f; its texts are %.2f away (0: alike, 2: all different)",
            source.name,
            gain.difference,
            distance,
        )
        return SourceRank(
            source.name, len(source.train), gain.difference, gain.interval, distance, source.labels == labels
        )

    def out_of_fold(self, features: np.ndarray, towards: Head | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the predicted labels of all rows, and the (rows,) losses, of heads that were fitted on others."""
        logits = _head_task(self.task, features).out_of_fold(towards)
        losses = self.task.criterion.row_losses(torch.from_numpy(logits).double(), torch.from_numpy(self.targets))
        return predicted(to_probabilities(logits, self.data.labels), self.data.labels), losses.numpy()


def _task(data: Data) -> Task:
    none = data.train.take([])
    return Task.of(replace(data, validation=none, calibration=none, test=none), TrainingSettings())


def _head_task(task: Task, features: np.ndarray) -> HeadTask:
    rows = Features(features, task.data.train.targets, task.weights)
    return HeadTask(task.criterion, rows, rows[:0], task.score)


def _states(route: Route, built: Built, texts: Sequence[str]) -> np.ndarray:
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


def _texts_per_second(route: Route, built: Built, texts: Sequence[str]) -> float:
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
