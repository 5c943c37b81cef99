"""Fit one stage of a transfer, in one variant. This file does not know which stages there are, nor compare variants."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from nlptransfer import distributed
from nlptransfer.data import Split
from nlptransfer.errors import TrainingError
from nlptransfer.experiments.scoring import SCORED_TRAINING_ROWS
from nlptransfer.experiments.task import Task
from nlptransfer.memo import once
from nlptransfer.models import Examples, predict_logits, represent
from nlptransfer.results import Fit, from_record
from nlptransfer.routes import Built, HeadInputs, Route
from nlptransfer.training import SOURCE, UNLABELED, Features, Head, HeadTask, TrainingSettings, train
from nlptransfer.transfer import Learner, Pretrain, Stage, Transfer, Variant, language_texts

log = logging.getLogger("nlptransfer")

COLLAPSED_RATE = 0.25
"""Factor of the learning rate for the first restart where nothing was learned; the second has its inverse."""


@dataclass
class Learning:
    """A model on its way through the stages of a transfer."""

    route: Route
    transfer: Transfer
    training: TrainingSettings
    """with None for the route's defaults"""
    tasks: Mapping[str, Task]
    """by role; no source where a saved classifier stands in for it"""
    built: Built
    """its model is trained in place"""
    folder: Path
    """of the run: every stage has a folder of checkpoints in it"""
    labels_agree: bool = True
    pretrained: Mapping[str, Any] | None = None
    """the record of word vectors that were trained before the model was built around them"""
    source_head: nn.Linear | None = None
    """for the source's labels, where they are others than the target's"""

    @property
    def head(self) -> nn.Linear:
        return self.route.head(self.built.model)

    def weights(self, route: Route | None = None) -> dict[str, Tensor]:
        """Copy to the CPU, by name, what the route may change in the model."""
        state = (route or self.route).state(self.built.model)
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        self.built.model.load_state_dict(weights, strict=False)

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return (texts, labels) logits of the model as it is."""
        model = self.built.model
        return predict_logits(model, self.route.rows(model, self.built.tokenizer, texts, share=True), share=True)

    def new_parameters(self, module: nn.Module) -> set[str]:
        """Return the parameters' names of a last layer that was newly initialized for the target."""
        if self.source_head is None:
            return set()
        of_head = {id(parameter) for parameter in self.route.head(cast(Any, module)).parameters()}
        return {name for name, value in module.named_parameters() if id(value) in of_head}


@dataclass(frozen=True)
class Fitted:
    fit: Fit
    logits: np.ndarray | None = None
    """(validation rows, labels) of a model that has not learned from these rows, where the final one has"""
    of_training: np.ndarray | None = None
    """(training rows, labels) likewise, where there was cross-validation"""


def fit_variant(
    learning: Learning, stage: Stage, variant: Variant, settings: TrainingSettings, checkpoints: Path
) -> Fitted:
    """Train the model in place: by the loop, by L-BFGS, or on plain text."""
    fit = _VariantFit(learning, stage, variant.route, cast(Transfer, variant.transfer), settings, checkpoints)
    if stage.learns == "language":
        return fit.language_model()
    if stage.learns == "head":
        return fit.head_alone()
    if variant.route.is_frozen and fit.transfer.learns_from(stage) == (SOURCE,):
        return fit.source_once()
    return fit.with_restart_if_collapsed()


@dataclass(frozen=True)
class _VariantFit:
    learning: Learning
    stage: Stage
    route: Route
    transfer: Transfer
    settings: TrainingSettings
    checkpoints: Path

    def language_model(self) -> Fitted:
        if self.learning.pretrained is not None:
            return Fitted(from_record(Fit, self.learning.pretrained))
        target, *others = (task.data for task in self.learning.tasks.values())
        texts = language_texts(target, others, self.learning.training.initialization_seed)
        pretrain = cast(Pretrain, self.transfer)
        record = pretrain.learn(self.route, self.learning.built, texts, self.settings, self.checkpoints)
        return Fitted(from_record(Fit, record))

    def source_once(self) -> Fitted:
        """Fit a frozen route on the source alone, once for all strategies of a pair of domains."""
        learning, task = self.learning, self.learning.tasks[SOURCE]
        config = (self.stage.learns, self._takes_last_epoch, self.route, self.settings, learning.training)
        # The tokenizer stands for the base and for the texts that the vocabulary is of.
        values = self.route.state(learning.built.model).values()
        weights = [value.detach().cpu().numpy().tobytes() for value in values]
        weights += [] if task.weights is None else [task.weights.tobytes()]
        key = "learned", learning.built.tokenizer, str((config, task.data.fingerprints())), *weights
        fitted, learned = once(key, lambda: (self.with_restart_if_collapsed(), learning.weights(self.route)))
        learning.restore(learned)
        return fitted

    def head_alone(self) -> Fitted:
        started, role, built = time.perf_counter(), self.stage.roles[0], self.learning.built
        task = self.learning.tasks[role]
        texts = task.data.train.texts, task.data.validation.texts
        rows = [self.route.rows(built.model, built.tokenizer, some, share=True) for some in texts]
        features, held_out = (represent(built.model, self.learning.head, some) for some in rows)
        fitted = self._fit_head(
            {role: task}, {role: (features, None)}, _features((held_out, None), task.data.validation)
        )
        return _with_cost(fitted, started, len(features) + len(held_out))

    def with_restart_if_collapsed(self) -> Fitted:
        """Train; where it has learned nothing, train anew at a lower rate, then at a higher one, and keep the best."""
        learning, route, rate = self.learning, self.route, self.settings.learning_rate
        if route.fits_head:
            return self._fit()
        start, fitted = learning.weights(route), self._fit()
        if rate is None or not self._has_collapsed(fitted):
            return fitted
        tries, best, weights = [(rate, fitted)], 0, learning.weights(route)
        for number, factor in enumerate((COLLAPSED_RATE, 1 / COLLAPSED_RATE), start=1):
            log.warning(
                "The training has come to nothing: at learning_rate=%g no more rows are right than if all were given "
                "one label, of the training rows either. It begins anew, at %g",
                tries[-1][0],
                rate * factor,
            )
            learning.restore(start)
            checkpoints = self.checkpoints.with_name(f"{self.checkpoints.name}_retried_{number}")
            settings = replace(self.settings, learning_rate=rate * factor)
            try:
                fitted = replace(self, settings=settings, checkpoints=checkpoints)._fit()
            except TrainingError as error:
                log.warning("%s", error)
                continue
            tries.append((rate * factor, fitted))
            has_learned = not self._has_collapsed(fitted)
            if has_learned or cast(float, fitted.fit.best_score) > cast(float, tries[best][1].fit.best_score):
                best, weights = len(tries) - 1, learning.weights(route)
            if has_learned:
                break
        learning.restore(weights)
        (_, kept), others = tries[best], [one for place, one in enumerate(tries) if place != best]
        fit = replace(
            kept.fit,
            seconds=sum(one.fit.seconds for _, one in tries),
            examples=sum(one.fit.examples for _, one in tries),
            collapsed=tuple({"learning_rate": rate, "history": other.fit.history} for rate, other in others),
        )
        return replace(kept, fit=fit)

    def _has_collapsed(self, fitted: Fitted) -> bool:
        """Tell whether one label for all rows scores as well on validation, and does as well on the training rows.

        Few validation rows alone would often say so of a model that has learned: training rows are many more, and
        which has not learned anything is no better on these.
        """
        task, score = self.learning.tasks[self.stage.roles[0]], fitted.fit.best_score
        majority = task.majority_score()
        if score is None or majority is None or score > majority:
            return False
        rows = task.data.train
        some = np.unique(np.linspace(0, len(rows) - 1, SCORED_TRAINING_ROWS).round().astype(int))
        return not task.beats_one_label(rows.targets[some], self.learning.logits([rows.texts[row] for row in some]))

    def _fit(self) -> Fitted:
        """Train by L-BFGS where the last layer alone learns, else by the loop."""
        learning, route, started = self.learning, self.route, time.perf_counter()
        model, roles = learning.built.model, self.transfer.learns_from(self.stage)
        tasks = {role: learning.tasks[role] for role in roles}
        first = tasks[roles[0]]
        texts = [task.data.train.texts for task in tasks.values()]
        validation = first.data.validation
        if self._takes_last_epoch:
            validation = validation.take([])
        module, (*rows, validation_rows) = route.learning(model, learning.built.tokenizer, *texts, validation.texts)
        by_role = dict(zip(tasks, rows, strict=True))
        inputs = {role: route.head_inputs(module, of_role) for role, of_role in by_role.items()}
        if inputs[roles[0]] is not None:
            held_out = _features(cast(Any, route.head_inputs(module, validation_rows)), validation)
            fitted = self._fit_head(tasks, cast(dict[str, HeadInputs], inputs), held_out)
            if route.fits_head:
                return _with_cost(fitted, started, sum(map(len, rows)) + len(validation_rows))
        prepared = time.perf_counter() - started
        new, last_layer = learning.new_parameters(module), route.head(cast(Any, module))
        examples = {
            role: Examples(by_role[role], task.data.train.targets, task.weights) for role, task in tasks.items()
        }
        learner = Learner(
            module=module,
            last_layer=last_layer,
            criteria={role: task.criterion for role, task in tasks.items()},
            examples=examples,
            carried_over={name: value for name, value in module.named_parameters() if name not in new},
            represent=partial(represent, module, last_layer),
            classify=partial(predict_logits, module, share=True),
            source_head=learning.source_head,
        )
        learned_from = self.transfer.examples(self.stage, learner)
        report = train(
            self.transfer.objective(self.stage, learner),
            learned_from[roles[0]],
            Examples(validation_rows, validation.targets),
            score=partial(first.score, validation.targets),
            metric=first.metric,
            settings=self.settings,
            checkpoints=self.checkpoints,
            parameter_groups=route.parameter_groups(model),
            extra=learned_from[roles[1]] if len(roles) > 1 else None,
            roles=(roles[0], roles[-1]),
        )
        return Fitted(from_record(Fit, asdict(replace(report, seconds=report.seconds + prepared))))

    def _fit_head(self, tasks: Mapping[str, Task], inputs: Mapping[str, HeadInputs], held_out: Features) -> Fitted:
        """Fit the last layer on its inputs by role."""
        learning, stage, head = self.learning, self.stage, self.learning.head
        none = held_out[:0]
        heads = {
            role: HeadTask(
                task.criterion.cpu(),
                replace(_features(inputs[role], task.data.train), weights=task.weights),
                held_out if role == stage.roles[0] else none,
                task.score,
                has_bias=head.bias is not None,  # decoders have none
                seed=learning.training.initialization_seed,
                by_loss=learning.training.metric_for_best_model is None,
                folds_know=task.has_copies,
                may_drop_ngrams=self.route.chooses_ngrams,
            )
            for role, task in tasks.items()
        }
        if self.route.fits_head or stage.learns == "head":
            fitted = self.transfer.fit_head(stage, heads, _source_head(learning))
        else:
            fitted = heads[stage.roles[0]].choose_l2(refit=False)
        weight, bias = distributed.from_main(fitted.head)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weight))
            if head.bias is not None:
                head.bias.copy_(torch.from_numpy(bias))
        return Fitted(from_record(Fit, fitted.record), fitted.held_out, fitted.of_training)

    @property
    def _takes_last_epoch(self) -> bool:
        # Without a head no score tells epochs apart, and the best epoch for the source need not be the best for the
        # target; variants are compared at the same epoch, that of the source alone too.
        return self.stage.learns == "representation" or (UNLABELED in self.stage.roles and not self.route.fits_head)


def _features(inputs: HeadInputs, split: Split) -> Features:
    values, ngrams = inputs
    return Features(values, split.targets, split.weights, ngrams)


def _source_head(learning: Learning) -> Head:
    head = learning.source_head if learning.source_head is not None else learning.head
    weight = head.weight.detach().cpu().numpy().copy()
    bias = np.zeros(len(weight), np.float32) if head.bias is None else head.bias.detach().cpu().numpy().copy()
    return weight, bias


def _with_cost(fitted: Fitted, started: float, examples: int) -> Fitted:
    return replace(fitted, fit=replace(fitted.fit, seconds=time.perf_counter() - started, examples=examples))
