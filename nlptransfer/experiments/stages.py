"""Take a model through the stages of a transfer, and keep the best variant of each. fitting.py fits them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from nlptransfer import distributed
from nlptransfer.experiments.diagnostics import (
    distance_by_layer,
    domains_differ,
    layer_vectors,
    scores_by_role,
    similarity,
)
from nlptransfer.experiments.fitting import Fitted, Learning, fit_variant
from nlptransfer.models import like, relabel
from nlptransfer.results import CHECKPOINTS, Fit, read_stage, to_record, write_stage
from nlptransfer.routes import Route
from nlptransfer.training import SOURCE, TARGET, UNLABELED, TrainingSettings
from nlptransfer.transfer import (
    FROM_SOURCE,
    Chosen,
    Evidence,
    Stage,
    Variant,
    cached_importance_weights,
    choose,
    warn_of_shift,
)

log = logging.getLogger("nlptransfer")

SHOWN_OF_VARIANTS = ("best_score", "evidence", "seconds", "examples")


@dataclass
class Learned:
    stages: dict[str, Fit] = field(default_factory=dict)
    settings: dict[str, TrainingSettings] = field(default_factory=dict)
    logits: np.ndarray | None = None
    """(validation rows, labels) of a model that has not learned from these rows, where the final one has"""
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    """before and after the target was learned, by role"""
    distance_from_source: dict[str, float] | None = None
    """by layer, where the target was learned after the source"""
    similarity: list[dict[str, Any]] | None = None
    """by layer, where there are rows of a source"""

    @property
    def fit(self) -> Fit:
        """The fit of the last stage, with the seconds and examples of all."""
        fits = [*self.stages.values()]
        return replace(fits[-1], **_spent(fits)) if fits else Fit()


def _spent(fits: Sequence[Fit]) -> dict[str, Any]:
    return {"seconds": sum(one.seconds for one in fits), "examples": sum(one.examples for one in fits)}


def run_stages(learning: Learning, *, source_learned: bool = False) -> Learned:
    """Take the model through the stages of its transfer, in place; without the source's, if that is learned."""
    stages = [stage for stage in learning.transfer.stages if not (source_learned and stage.roles == (SOURCE,))]
    learned = Learned()
    runner = _Runner(learning)
    if learning.transfer.label_free and any(learning.transfer.part(stage).is_chosen for stage in stages):
        runner.differ = domains_differ(learning)
    start, layers = None, list[np.ndarray]()
    for stage in stages:
        if stage.roles == (TARGET,) and (source_learned or FROM_SOURCE.name in learned.stages):
            learned.scores = scores_by_role(learning, "before")
            layers, start = layer_vectors(learning, TARGET), learning.weights()
            if not learning.labels_agree:
                labels, seed = learning.tasks[TARGET].data.labels, learning.training.initialization_seed
                learning.source_head = relabel(learning.built.model, learning.head, labels, seed)
        elif stage.roles == (TARGET, SOURCE) and not learning.labels_agree:
            learning.source_head = _new_source_head(learning)
        settings, fitted = runner.run(stage, is_last=stage is stages[-1])
        learned.settings[stage.name], learned.stages[stage.name] = settings, fitted.fit
        if (fitted.fit.chosen or {}).get("adapted", True):
            # Else the model is the one that the stage before has left.
            known = fitted.logits is not None and stage.roles[0] == TARGET
            learned.logits = np.asarray(fitted.logits, dtype=np.float32) if known else None
    if SOURCE in learning.tasks:
        for role, after in scores_by_role(learning, "after").items():
            learned.scores[role] = learned.scores.get(role, {}) | after
        learned.similarity = similarity(learning, layers)
    if start:
        learned.distance_from_source = distance_by_layer(learning, start)
    return learned


def _new_source_head(learning: Learning) -> nn.Linear:
    torch.manual_seed(learning.training.initialization_seed)
    return like(learning.head, learning.tasks[SOURCE].data.labels.num_labels).to(learning.head.weight)


@dataclass
class _Runner:
    learning: Learning
    differ: bool = True
    """whether the domains differ, before anything is adapted"""
    evidence: Evidence | None = None
    """for the model as it is, where variants are compared without target labels"""
    importance: np.ndarray | None = None
    """(training and validation rows,): how much likelier each labeled text is in the target"""
    warned: bool = False

    def run(self, stage: Stage, *, is_last: bool) -> tuple[TrainingSettings, Fitted]:
        """Fit the stage, in its best variant; return also its settings, as resolved."""
        learning = self.learning
        transfer = learning.transfer.part(stage)
        route, settings = transfer.at(stage, learning.route, learning.training)
        if stage.learns != "language":
            # Else epochs, learning rate and batch size are the strategy's.
            largest = max((learning.tasks[role].data for role in stage.roles), key=lambda data: len(data.train))
            settings = settings.with_defaults(route.defaults(largest))
        transfer.prepare(stage, route, learning.built.model)
        if stage.learns == "language":
            return settings, self._fit_or_resume(stage, Variant(route, transfer), settings, [stage.name], keep=True)
        routes = route.variants(learning.built.model)
        variants = [variant for one in routes for variant in transfer.candidates(stage, one)]
        parts = [] if is_last else [stage.name]
        if len(variants) > len(routes) and not self.differ:
            # There is nothing to adapt to.
            variants = variants[:1]
            log.info("%s is taken, as the texts of source and target do not differ", variants[0])
        elif len(variants) == 1:
            # What takes long to learn is kept, too, until the run is whole: what follows may fail.
            fitted = self._fit_or_resume(stage, variants[0], settings, parts, keep=not is_last or settings.save_epochs)
            self.evidence = fitted.fit.evidence or self.evidence
            return settings, fitted
        return settings, self._fit_best(stage, route, variants, settings, parts)

    def _fit_best(
        self, stage: Stage, route: Route, variants: Sequence[Variant], settings: TrainingSettings, parts: Sequence[str]
    ) -> Fitted:
        learning = self.learning
        label_free = learning.transfer.part(stage).is_chosen
        start = learning.weights(route)

        def fit(variant: Variant) -> Fitted:
            learning.restore(start)
            training = settings
            if label_free and variant.transfer is not None:
                # A strategy that is chosen among has settings of its own; a variant of the route those of the stage.
                _, training = variant.transfer.at(stage, variant.route, settings)
            return self._fit_or_resume(stage, variant, training, [*parts, variant.label], keep=True)

        fits = [fit(variant).fit for variant in variants]
        best = variants[self._best(stage, variants, fits) if len(variants) > 1 else 0]
        # Fitted again, or read from its checkpoint: not all of them fit into memory side by side.
        kept = fit(best)
        best.route.freeze(learning.built.model)
        self.evidence = kept.fit.evidence or self.evidence
        curve = []
        for variant, one in zip(variants, fits, strict=True):
            record = to_record(one)
            curve.append(variant.named | {name: record[name] for name in SHOWN_OF_VARIANTS if name in record})
        differ = self.differ if label_free else None
        fit_of_all = replace(kept.fit, **_spent(fits), domains_differ=differ, chosen=best.named, curve=curve)
        return replace(kept, fit=fit_of_all)

    def _best(self, stage: Stage, variants: Sequence[Variant], fits: Sequence[Fit]) -> int:
        transfer = self.learning.transfer.part(stage)
        if not isinstance(transfer, Chosen):
            for variant, one in zip(variants, fits, strict=True):
                log.info("%s: scores %.4f on the validation rows", variant, one.best_score)
            return max(range(len(variants)), key=lambda place: cast(float, fits[place].best_score))
        evidence = [cast(Evidence, one.evidence) for one in fits]
        names = self.learning.tasks[stage.roles[0]].data.labels.names
        if not self.warned:
            warn_of_shift(evidence[0], names, whatever_shift=transfer.allow_label_shift)
            self.warned = True
        best = choose(evidence, transfer.choose_by, whatever_shift=transfer.allow_label_shift)
        for variant, known in zip(variants, evidence, strict=True):
            log.info("%s by %s: information %.4f, risk %.4f", stage.name, variant, known.information, known.risk)
        log.info("%s by %s is taken, as it is best by %s", stage.name, variants[best], transfer.choose_by)
        return best

    def _fit_or_resume(
        self, stage: Stage, variant: Variant, settings: TrainingSettings, parts: Sequence[str], *, keep: bool
    ) -> Fitted:
        """Fit, or read what was learned before; with ``keep`` it is written, as something else follows."""
        learning = self.learning
        if variant.transfer is None:
            # The model stays as it is.
            return Fitted(Fit(evidence=self.evidence))
        checkpoints = learning.folder / "_".join([CHECKPOINTS, *parts])
        if keep and (finished := read_stage(checkpoints)) is not None:
            weights, fit, logits = finished
            learning.restore(weights)
            return Fitted(fit, logits)
        fitted = fit_variant(learning, stage, variant, settings, checkpoints)
        if learning.transfer.part(stage).is_chosen:
            fitted = replace(fitted, fit=replace(fitted.fit, evidence=self._measured(stage, fitted)))
        if keep and distributed.is_main():
            write_stage(checkpoints, learning.weights(variant.route), fitted.fit, fitted.logits)
        distributed.barrier()
        return fitted

    def _measured(self, stage: Stage, fitted: Fitted) -> Evidence:
        """Measure the model by labeled rows that it has not learned from, and by the texts without labels."""
        learning, role = self.learning, stage.roles[0]
        data, texts = learning.tasks[role].data, learning.tasks[UNLABELED].data.train.texts
        logits = learning.logits(data.validation.texts) if fitted.logits is None else fitted.logits
        unlabeled = learning.logits(texts)
        if self.importance is None:
            labeled, seed = [*data.train.texts, *data.validation.texts], learning.training.initialization_seed
            is_target = role == TARGET
            self.importance = np.ones(len(labeled)) if is_target else cached_importance_weights(labeled, texts, seed)
        weights = self.importance[-len(data.validation) :]
        further = None if fitted.of_training is None else (fitted.of_training, data.train.targets)
        return Evidence.of(data.labels, logits, data.validation.targets, weights, unlabeled, further)
