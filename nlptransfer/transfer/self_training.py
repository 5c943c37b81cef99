"""Learn, in rounds, from the texts of which the model itself is most confident."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Interval
from scipy.special import softmax

from nlptransfer.models import Examples, SomeRows
from nlptransfer.routes import Route
from nlptransfer.settings import Count, Positive, check, fields_of
from nlptransfer.training import (
    SOURCE,
    TARGET,
    UNLABELED,
    FittedHead,
    Head,
    HeadTask,
    Objective,
    share_weights,
)
from nlptransfer.transfer.base import Chosen, FromSource, Learner, Stage, Transfer, Variant
from nlptransfer.transfer.joint import JointLoss


@dataclass(frozen=True)
class SelfTrain(Chosen):
    """min L + weight * Lp in rounds, Lp being the loss of confident texts under the model's own labels for them.

    Lee 2013, "Pseudo-Label", equation 15, in rounds (Yarowsky 1995); a round is kept where a choice without labels
    prefers it. Predictions are scaled so that their mean is the labeled rows' shares of the labels (distribution
    alignment, Berthelot et al. 2020). The labeled rows are the source's, and no label of the target is seen; without a
    source they are the task's.
    """

    name: ClassVar[str] = "selftrain"
    needs_source: ClassVar[bool] = False

    rounds: Count = 3
    """most rounds"""
    share: Annotated[float, Interval(gt=0, le=1)] = 0.8
    """of the texts, the most confident of each label, learned from in the last round; in round i: i / rounds of it"""
    pseudo_weight: Positive = 1.0
    """weight of the loss of these texts next to that of the labeled rows"""
    within: bool = False
    """whether the labeled rows are of the same task; so where there is no source"""

    @property
    def stages(self) -> tuple[Stage, ...]:  # type: ignore[override]
        rounds = (Stage(f"round_{number + 1}", (self._role, UNLABELED)) for number in range(self.rounds))
        return (Stage("labeled", (self._role,)), *rounds)

    @property
    def label_free(self) -> bool:  # type: ignore[override]
        return not self.within

    def adjusted(self, has_source: bool) -> Transfer:
        check(not (has_source and self.within), "within", True, "false where there is a source")
        if not has_source:
            self.require_defaults([*fields_of(FromSource)], "as there is no source")
        return replace(self, within=not has_source)

    def candidates(self, stage: Stage, route: Route) -> Sequence[Variant]:
        adapted = Variant(route, self, {"adapted": True})
        return [Variant(route, None, {"adapted": False}), adapted] if UNLABELED in stage.roles else [adapted]

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        labeled = learner.criteria[self._role]
        _require_one_label(labeled.multi_label)
        if UNLABELED not in stage.roles:
            return super().objective(stage, learner)
        weights = self.pseudo_weight, 1.0
        return JointLoss(learner.module, labeled, learner.criteria[UNLABELED], lambda _: weights, other=UNLABELED)

    def examples(self, stage: Stage, learner: Learner) -> Mapping[str, Examples]:
        if UNLABELED not in stage.roles:
            return learner.examples
        rows, known = learner.examples[UNLABELED].rows, learner.examples[self._role].targets
        texts, targets = self._pseudo_labels(stage, learner.classify(rows), known)
        return {**learner.examples, UNLABELED: Examples(SomeRows(rows, texts), targets)}

    def fit_head(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> FittedHead:
        task = tasks[self._role]
        _require_one_label(task.criterion.multi_label)
        if UNLABELED not in stage.roles or source is None:
            return task.choose_l2()
        unlabeled = tasks[UNLABELED].train
        texts, targets = self._pseudo_labels(stage, unlabeled.logits(source), task.train.targets)
        rows = replace(unlabeled[texts], targets=targets, weights=None)
        weights = share_weights(tasks[UNLABELED].criterion, rows, self.pseudo_weight)
        return task.choose_l2(extra=replace(rows, weights=weights), share=1.0)

    @property
    def _role(self) -> str:
        return TARGET if self.within else SOURCE

    def _pseudo_labels(self, stage: Stage, logits: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shares = np.bincount(known, minlength=logits.shape[1]) / len(known)
        return pseudo_labels(logits, shares, self.share * self.stages.index(stage) / self.rounds)


def pseudo_labels(logits: np.ndarray, shares: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
    """Find the most confident texts, the share ``most`` of each label's: their places, ascending, and labels, int64.

    ``logits`` are (texts, labels); predictions are first scaled so that their mean is ``shares``, (labels,).
    """
    bias = np.zeros(logits.shape[1])
    wanted = np.log(np.clip(shares, 1e-6, None))
    for _ in range(100):
        step = wanted - np.log(np.clip(softmax(logits + bias, axis=1).mean(axis=0), 1e-12, None))
        bias += step
        if np.abs(step).max() < 1e-6:
            break
    probabilities = softmax(logits + bias, axis=1)
    labels, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
    taken = []
    for label in np.unique(labels):
        texts = np.flatnonzero(labels == label)
        most_confident = np.argsort(-confidences[texts], kind="stable")
        taken.append(texts[most_confident[: max(1, round(most * len(texts)))]])
    places = np.sort(np.concatenate(taken))
    return places, labels[places].astype(np.int64)


def _require_one_label(multi_label: bool) -> None:
    expected = "rows with one label: several labels at once have no shares to keep"
    check(not multi_label, "transfer", "selftrain", expected)
