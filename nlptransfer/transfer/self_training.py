"""Learn, in rounds, from the texts of which the model itself is most confident."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

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
    Features,
    FittedHead,
    Head,
    HeadTask,
    Objective,
    share_weights,
)
from nlptransfer.transfer.base import FromSource, Learner, Stage, Transfer
from nlptransfer.transfer.joint import JointLoss
from nlptransfer.transfer.label_free import Chosen


@dataclass(frozen=True)
class SelfTrain(Chosen):
    """min L + weight * Lp in rounds, Lp being the loss of confident texts under the labels the model gives them itself.

    Lee 2013, "Pseudo-Label", equation 15, in rounds (Yarowsky 1995). Before the most confident texts of each label
    are taken, the predictions are scaled so that their mean is the labeled rows' shares of the labels (distribution
    alignment, Berthelot et al. 2020): no label can crowd out the others. What a round learned is kept where a choice
    without labels prefers it, else the model stays as it was before. With a source the labeled rows are the source's,
    and no label of the target is seen; without one they are the task's own, and the texts those given as
    ``unlabeled``.
    """

    name: ClassVar[str] = "selftrain"
    needs_source: ClassVar[bool] = False

    rounds: Count = 3
    """most rounds"""
    share: Annotated[float, Interval(gt=0, le=1)] = 0.8
    """of the texts, the most confident of each label, that are learned from in the last round; in round i i / rounds of
    it"""
    pseudo_weight: Positive = 1.0
    """weight of the loss of these texts beside that of the labeled rows"""
    within: bool = False
    """whether the labeled rows are of the same task; so where there is no source"""

    @property
    def stages(self) -> tuple[Stage, ...]:  # type: ignore[override]
        rounds = (Stage(f"round_{number + 1}", (self._role, UNLABELED)) for number in range(self.rounds))
        return (Stage("labeled", (self._role,)), *rounds)

    @property
    def label_free(self) -> bool:
        return not self.within

    def adjusted(self, has_source: bool) -> Transfer:
        check(not (has_source and self.within), "within", True, "false where there is a source")
        for name in () if has_source else fields_of(FromSource):
            value, unset = getattr(self, name), FromSource.__dataclass_fields__[name].default
            check(value == unset, name, value, "a source, which it is of")
        return replace(self, within=not has_source)

    @property
    def chosen(self) -> dict[str, Any]:
        return {"adapted": True}

    def candidates(self, stage: Stage, route: Route) -> Sequence[Transfer | None]:
        return [None, self] if UNLABELED in stage.roles else [self]

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        _one_label(learner.criteria[self._role].multi_label)
        if UNLABELED not in stage.roles:
            return super().objective(stage, learner)
        labeled, own = learner.criteria[self._role], learner.criteria[UNLABELED]
        weights = self.pseudo_weight, 1.0
        return JointLoss(learner.module, labeled, own, lambda _: weights, other=UNLABELED)

    def examples(self, stage: Stage, learner: Learner) -> Mapping[str, Examples]:
        if UNLABELED not in stage.roles:
            return learner.examples
        own, labeled = learner.examples[UNLABELED], learner.examples[self._role]
        texts, targets = self._labeled(stage, learner.classify(own.rows), labeled.targets)
        return {**learner.examples, UNLABELED: Examples(SomeRows(own.rows, texts), targets)}

    def fit_head(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> FittedHead:
        task = tasks[self._role]
        _one_label(task.criterion.multi_label)
        if UNLABELED not in stage.roles or source is None:
            return task.choose_l2()
        values = tasks[UNLABELED].train.values
        texts, targets = self._labeled(stage, values @ source[0].T + source[1], task.train.targets)
        rows = Features(values[texts], targets)
        weights = share_weights(tasks[UNLABELED].criterion, rows, self.pseudo_weight)
        return task.choose_l2(extra=replace(rows, weights=weights), share=1.0)

    @property
    def _role(self) -> str:
        return TARGET if self.within else SOURCE

    def _labeled(self, stage: Stage, logits: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number = self.stages.index(stage)
        shares = np.bincount(known, minlength=logits.shape[1]) / len(known)
        return pseudo_labels(logits, shares, self.share * number / self.rounds)


def pseudo_labels(logits: np.ndarray, shares: np.ndarray, kept: float) -> tuple[np.ndarray, np.ndarray]:
    """The most confident texts and the labels that they are given.

    Args:
        logits: (texts, labels)
        shares: (labels,) that the mean prediction is brought to.
        kept: share of the texts of each label, the most confident first.

    Returns:
        Places of texts, ascending, and their labels, int64.
    """
    bias = np.zeros(logits.shape[1])
    wanted = np.log(np.clip(shares, 1e-6, None))
    for _ in range(100):
        step = wanted - np.log(np.clip(softmax(logits + bias, axis=1).mean(axis=0), 1e-12, None))
        bias += step
        if np.abs(step).max() < 1e-6:
            break
    probabilities = softmax(logits + bias, axis=1)
    given, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    chosen = [
        own[np.argsort(-sure[own], kind="stable")[: max(1, round(kept * len(own)))]]
        for label in range(logits.shape[1])
        if len(own := np.flatnonzero(given == label))
    ]
    places = np.sort(np.concatenate(chosen))
    return places, given[places].astype(np.int64)


def _one_label(multi_label: bool) -> None:
    check(
        not multi_label, "transfer", "selftrain", "rows with one label: several labels at once have no shares to keep"
    )
