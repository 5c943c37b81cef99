"""A model's way through the stages of a transfer: what learns, from what start, on whose rows, and what it forgot."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nlptransfer import distributed
from nlptransfer.evaluation import score_predictions, to_probabilities
from nlptransfer.experiments.task import Task
from nlptransfer.files import atomic_folder, read_json, write_json
from nlptransfer.memo import once
from nlptransfer.models import Examples, layer_name, predict_logits, relabel, represent, standing_in
from nlptransfer.routes import Built, Route
from nlptransfer.training import SOURCE, TARGET, UNLABELED, Features, Head, HeadTask, TrainingSettings, train
from nlptransfer.transfer import (
    FROM_SOURCE,
    Chosen,
    Evidence,
    Learner,
    Pretrain,
    Stage,
    Transfer,
    Way,
    chance_distance,
    choose,
    kept_distance,
    kept_odds,
    language_texts,
    linear_cka,
    proxy_a_distance,
    warn_of_shift,
)

log = logging.getLogger("nlptransfer")

COLLAPSED_RATE = 0.25
"""Where all rows came out as the most frequent label, the training begins anew at so much of the learning rate."""
COMPARED_ROWS = 256
"""Training texts of either side by which the layers are compared."""
CHECKPOINTS = "checkpoints"
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Learned:
    """What is worth knowing after all stages."""

    fitted: dict[str, Any]
    """of the last stage, with the seconds and rows of all"""
    stages: dict[str, dict[str, Any]]
    """of each stage"""
    held_out: np.ndarray | None
    """(validation rows, labels) logits of a model that has not learned from these rows, where the final one has"""
    scores: dict[str, Any]
    """before and after the target was learned, by role"""
    record: dict[str, Any]
    """how far the weights went, and how alike both sides are"""


@dataclass
class Course:
    """A model on its way.

    Args:
        route: how it learns.
        transfer: the strategy.
        asked: training settings; None means what the route finds good for the rows of a stage.
        tasks: by role; no source where a saved classifier stands in for it.
        built: the model, in the state that the first stage begins with.
        folder: of the run: every stage has a folder for its checkpoints in it.
        agree: whether both sides have the same labels.
        learned_before: whether the source's stage is behind the model already.
    """

    route: Route
    transfer: Transfer
    asked: TrainingSettings
    tasks: Mapping[str, Task]
    built: Built
    folder: Path
    agree: bool = True
    learned_before: bool = False
    source_head: nn.Linear | None = None
    """for the source's labels, where they are others"""
    settings: dict[str, TrainingSettings] = field(default_factory=dict)
    """as resolved, by stage"""
    scores: dict[str, Any] = field(default_factory=dict)
    """by role: before and after the target is learned"""
    start: State = field(default_factory=dict)
    """theta_s, where the target is learned after the source"""
    layers_before: list[np.ndarray] = field(default_factory=list)
    """what each layer makes of some of the target's texts at theta_s"""
    evidence: dict[str, Any] = field(default_factory=dict)
    """for the model as it is, where choices are made without labels"""
    told_apart: bool = True
    """whether the texts of source and target are told apart better than by chance, before anything is adapted"""
    told_of_shift: bool = False
    """whether the log has what is known of the labels' shares"""
    odds: np.ndarray | None = None
    """(training and validation rows,) how much likelier each labeled text is in the target, where that is asked"""

    def take(self) -> Learned:
        """Go through all stages."""
        stages = [stage for stage in self.transfer.stages if not (self.learned_before and stage.roles == (SOURCE,))]
        if self.transfer.label_free and any(map(self.transfer.judged_without_labels, stages)):
            self.told_apart = self._told_apart()
        found: dict[str, dict[str, Any]] = {}
        held_out = None
        for stage in stages:
            if stage.roles == (TARGET,) and (FROM_SOURCE.name in found or self.learned_before):
                self._leave_source()
            elif stage.roles == (TARGET, SOURCE) and not self.agree:
                self.source_head = self._second_head()
            found[stage.name] = self._stage(stage, last=stage is stages[-1])
            logits = found[stage.name].pop("validation_logits", None)
            if found[stage.name].get("chosen", {}).get("adapted") is False:
                # The model is the one that the stage before has left.
                continue
            known = logits is not None and stage.roles[0] == TARGET
            held_out = np.asarray(logits, dtype=np.float32) if known else None
        fitted = dict(found[stages[-1].name]) if stages else {"seconds": 0.0, "examples": 0}
        for name in ("seconds", "examples"):
            fitted[name] = sum(one[name] for one in found.values())
        if SOURCE in self.tasks:
            for role, after in self._scores("after").items():
                self.scores[role] = self.scores.get(role, {}) | after
        return Learned(fitted, found, held_out, self.scores, self._distances() | self._alike())

    def _leave_source(self) -> None:
        """Note what is known of the model before it learns the target, and give it the target's labels."""
        self.scores = self._scores("before")
        self.layers_before = self._layers(TARGET)
        self.start = _copied(self.route.state(self.built.model))
        if not self.agree:
            labels = self.tasks[TARGET].data.labels
            self.source_head = relabel(self.built.model, self._head(), labels, self._seed())

    # One stage

    def _stage(self, stage: Stage, last: bool) -> dict[str, Any]:
        """Train or solve; of several variants of the route the best on validation is kept."""
        route, asked = self.transfer.at(stage, self.route, self.asked)
        self.transfer.prepare(stage, route, self.built.model)
        if stage.learns == "language":
            self.settings[stage.name] = asked
            return self._once(stage, Way(route, self.transfer), asked, [stage.name], keep=True)
        largest = max((self.tasks[role].data for role in stage.roles), key=lambda data: len(data.train))
        chosen = {name: value for name, value in route.defaults(largest).items() if getattr(asked, name) is None}
        settings = self.settings[stage.name] = replace(asked, **chosen)
        model, parts = self.built.model, [] if last else [stage.name]
        candidates = self.transfer.candidates(stage, route)
        ways = [Way(variant, own) for variant in route.variants(model) for own in candidates]
        told = {"told_apart": self.told_apart} if self.transfer.judged_without_labels(stage) else {}
        if len(candidates) > 1 and not self.told_apart:
            # There is nothing to adapt to, and none of the others could be taken.
            ways = ways[:1]
            log.info("%s: kept, as source and target are not told apart", ways[0])
        elif len(ways) == 1:
            fitted = self._once(stage, ways[0], settings, parts, keep=not last)
            self.evidence = fitted.get("evidence", self.evidence)
            return fitted
        start = _copied(route.state(model))

        def take(way: Way) -> dict[str, Any]:
            model.load_state_dict(start, strict=False)
            # A strategy that is chosen among has settings of its own; a variant of the route has those of the stage.
            own = way.transfer.at(stage, way.route, settings)[1] if told and way.transfer else settings
            return self._once(stage, way, own, [*parts, way.label], keep=True)

        found = [take(way) for way in ways]
        best = self._best(stage, ways, found) if len(ways) > 1 else 0
        shown = ("best_score", "evidence", "seconds", "examples")
        curve = [
            {**way.named, **{name: one[name] for name in shown if one.get(name) is not None}}
            for way, one in zip(ways, found, strict=True)
        ]
        # As it was kept: not all of them fit into memory side by side.
        fitted = take(ways[best])
        ways[best].route.freeze(model)
        self.evidence = fitted.get("evidence", self.evidence)
        spent = {name: sum(one[name] for one in found) for name in ("seconds", "examples")}
        return {**fitted, **spent, **told, "chosen": ways[best].named, "curve": curve}

    def _best(self, stage: Stage, ways: Sequence[Way], found: Sequence[Mapping[str, Any]]) -> int:
        """The place of the way that is kept: by its validation score, or without a label of the target."""
        if not self.transfer.judged_without_labels(stage):
            for way, one in zip(ways, found, strict=True):
                log.info("%s: validation score %.4f", way, one["best_score"])
            return max(range(len(ways)), key=lambda place: found[place]["best_score"])
        evidence = [Evidence(**one["evidence"]) for one in found]
        own = cast(Chosen, next(part for part in self.transfer.parts if stage in part.stages))
        names = self.tasks[stage.roles[0]].data.labels.names
        if not self.told_of_shift:
            warn_of_shift(evidence[0], names, whatever_shift=own.allow_label_shift)
            self.told_of_shift = True
        best = choose(evidence, own.choose_by, whatever_shift=own.allow_label_shift)
        for way, given in zip(ways, evidence, strict=True):
            log.info("%s, %s: information %.4f, risk %.4f", stage.name, way, given.information, given.risk)
        log.info("%s, %s: kept, chosen by %s", stage.name, ways[best], own.choose_by)
        return best

    def _once(
        self, stage: Stage, way: Way, settings: TrainingSettings, parts: Sequence[str], *, keep: bool
    ) -> dict[str, Any]:
        """Fit, or go on from where the same was finished before.

        Args:
            parts: of the name of the checkpoints' folder.
            keep: whether what is learned is kept for a resume when something else follows.
        """
        if way.transfer is None:
            return {"evidence": self.evidence, "seconds": 0.0, "examples": 0}
        folder = self.folder / "_".join([CHECKPOINTS, *parts])
        done = folder / "finished"
        if keep and (done / "fitted.json").exists():
            self.built.model.load_state_dict(load_file(done / "state.safetensors"), strict=False)
            return read_json(done / "fitted.json")
        fits = {"language": self._learn_language, "head": self._solve_head}
        fitted = fits.get(stage.learns, self._fit_once)(stage, way, settings, folder)
        if self.transfer.judged_without_labels(stage):
            fitted["evidence"] = asdict(self._evidence(stage, fitted.get("validation_logits")))
        if keep and (logits := fitted.get("validation_logits")) is not None:
            fitted["validation_logits"] = logits.tolist()
        if keep and distributed.is_main():
            with atomic_folder(done) as new:
                save_file(_copied(way.route.state(self.built.model)), new / "state.safetensors")
                write_json(new / "fitted.json", fitted)
        distributed.barrier()
        return fitted

    def _evidence(self, stage: Stage, held_out: np.ndarray | None) -> Evidence:
        """What tells of the model as it is, without a label of the target.

        Args:
            held_out: validation logits, where the model has learned from these rows by now.
        """
        task, texts = self.tasks[stage.roles[0]], self.tasks[UNLABELED].data.train.texts
        validation, model = task.data.validation, self.built.model
        rows_of = partial(self.route.rows, model, self.built.tokenizer, share=True)
        if held_out is None:
            held_out = predict_logits(model, rows_of(validation.texts), share=True)
        unlabeled = predict_logits(model, rows_of(texts), share=True)
        if self.odds is None:
            own = [*task.data.train.texts, *validation.texts]
            same = stage.roles[0] == TARGET
            self.odds = np.ones(len(own)) if same else kept_odds(own, texts, self._seed())
        weights = self.odds[-len(validation) :]
        return Evidence.of(task.data.labels, held_out, validation.targets, weights, unlabeled)

    def _learn_language(self, stage: Stage, way: Way, settings: TrainingSettings, checkpoints: Path) -> dict[str, Any]:
        own = cast(Pretrain, next(part for part in self.transfer.parts if stage in part.stages))
        target, *others = (task.data for task in self.tasks.values())
        texts = language_texts(target, others, self._seed())
        return own.learn(way.route, self.built, texts, settings, checkpoints)

    def _solve_head(self, stage: Stage, way: Way, settings: TrainingSettings, checkpoints: Path) -> dict[str, Any]:
        """Solve the last layer on what the rest of the model gives as it is."""
        started, role, model = time.perf_counter(), stage.roles[0], self.built.model
        task = self.tasks[role]
        texts = task.data.train.texts, task.data.validation.texts
        rows = [way.route.rows(model, self.built.tokenizer, some, share=True) for some in texts]
        train, validation = (represent(model, self._head(), some) for some in rows)
        held_out = Features(validation, task.data.validation.targets)
        solved = self._solve(stage, way, {role: task}, {role: train}, held_out)
        return solved | {"seconds": time.perf_counter() - started, "examples": len(train) + len(validation)}

    def _fit_once(self, stage: Stage, way: Way, settings: TrainingSettings, folder: Path) -> dict[str, Any]:
        """Train; what a frozen route learns of the source alone is the same for all strategies of a pair."""
        route, model = way.route, self.built.model
        fit = partial(self._fit_twice_if_collapsed, stage, way, settings, folder)
        if not route.is_frozen or cast(Transfer, way.transfer).learns_from(stage) != (SOURCE,):
            return fit()
        task, last = self.tasks[SOURCE], _takes_last_epoch(stage, route)
        asked = str((stage.learns, last, route, settings, self.asked, task.data.fingerprints()))
        state = (*route.state(model).values(), *([] if task.weights is None else [torch.from_numpy(task.weights)]))
        # The tokenizer stands for the base and for the texts that the vocabulary is of.
        key = "learned", self.built.tokenizer, asked, *(value.detach().cpu().numpy().tobytes() for value in state)
        fitted, learned = once(key, lambda: (fit(), _copied(route.state(model))))
        model.load_state_dict(learned, strict=False)
        return dict(fitted)

    def _fit_twice_if_collapsed(
        self, stage: Stage, way: Way, settings: TrainingSettings, folder: Path
    ) -> dict[str, Any]:
        """Train; where the validation score is no better than one label for all rows, once more at a lower rate.

        The better of the two is kept, of equals the second.
        """
        model, route = self.built.model, way.route
        start = {} if route.is_solved else _copied(route.state(model))
        fitted = self._fit(stage, way, settings, folder)
        score, rate = fitted.get("best_score"), settings.learning_rate
        majority = self.tasks[stage.roles[0]].majority_score()
        if route.is_solved or score is None or majority is None or rate is None or score > majority:
            return fitted
        lower = rate * COLLAPSED_RATE
        log.warning(
            "collapsed: the validation score, %.4f, is no better than one label for all rows; anew from the start, "
            "with learning_rate=%g instead of %g",
            score,
            lower,
            rate,
        )
        first = _copied(route.state(model))
        model.load_state_dict(start, strict=False)
        retried = folder.with_name(f"{folder.name}_retried")
        again = self._fit(stage, way, replace(settings, learning_rate=lower), retried)
        kept, other, others_rate = (again, fitted, rate)
        if again["best_score"] < score:
            model.load_state_dict(first, strict=False)
            kept, other, others_rate = (fitted, again, lower)
        both = {name: kept[name] + other[name] for name in ("seconds", "examples")}
        return {**kept, **both, "collapsed": {"learning_rate": others_rate, "history": other["history"]}}

    def _fit(self, stage: Stage, way: Way, settings: TrainingSettings, checkpoints: Path) -> dict[str, Any]:
        """Train the model in place; returns what is worth recording, the seconds and rows seen among it."""
        route, transfer = way.route, cast(Transfer, way.transfer)
        model, roles, started = self.built.model, transfer.learns_from(stage), time.perf_counter()
        tasks = {role: self.tasks[role] for role in roles}
        judged = tasks[roles[0]]
        texts = [task.data.train.texts for task in tasks.values()]
        watched = judged.data.validation
        if _takes_last_epoch(stage, route):
            watched = watched.take([])
        learner, (*rows, validation) = route.learning(model, self.built.tokenizer, *texts, watched.texts)
        learned = dict(zip(tasks, rows, strict=True))
        inputs = {role: route.head_inputs(learner, own) for role, own in learned.items()}
        if inputs[roles[0]] is not None:
            held_out = Features(cast(Any, route.head_inputs(learner, validation)), watched.targets)
            solved = self._solve(stage, way, tasks, cast(dict[str, np.ndarray], inputs), held_out)
            if route.is_solved:
                seen = sum(map(len, rows)) + len(validation)
                return solved | {"seconds": time.perf_counter() - started, "examples": seen}
        prepared = time.perf_counter() - started
        given = Learner(
            module=learner,
            last_layer=route.head(cast(Any, learner)),
            criteria={role: task.criterion for role, task in tasks.items()},
            examples={
                role: Examples(learned[role], task.data.train.targets, task.weights) for role, task in tasks.items()
            },
            taught=self._taught(learner),
            represent=partial(represent, learner, route.head(cast(Any, learner))),
            classify=partial(predict_logits, learner, share=True),
            source_head=self.source_head,
        )
        examples, targets = transfer.examples(stage, given), watched.targets
        report = train(
            transfer.objective(stage, given),
            examples[roles[0]],
            Examples(validation, targets),
            partial(judged.judge, targets),
            settings,
            checkpoints,
            route.paces(model),
            examples[roles[1]] if len(roles) > 1 else None,
            (roles[0], roles[-1]),
        )
        return asdict(replace(report, seconds=report.seconds + prepared))

    def _solve(
        self,
        stage: Stage,
        way: Way,
        tasks: Mapping[str, Task],
        inputs: Mapping[str, np.ndarray],
        held_out: Features,
    ) -> dict[str, Any]:
        """Solve the last layer and put it into the model."""
        head = self._head()
        none = Features(held_out.values[:0], held_out.targets[:0])
        found = {
            role: HeadTask(
                task.criterion.cpu(),
                Features(inputs[role], task.data.train.targets, task.weights),
                held_out if role == stage.roles[0] else none,
                task.judge,
                has_bias=head.bias is not None,  # decoders have none
                seed=self._seed(),
                by_loss=self.asked.metric_for_best_model is None,
                folds_know=task.has_copies,
            )
            for role, task in tasks.items()
        }
        if way.route.is_solved or stage.learns == "head":
            solved = cast(Transfer, way.transfer).solve(stage, found, self._source_solution(head))
        else:
            solved = found[stage.roles[0]].choose(refit=False)
        weight, bias = distributed.from_main(solved.head)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weight))
            if head.bias is not None:
                head.bias.copy_(torch.from_numpy(bias))
        return {**solved.record, "validation_logits": solved.held_out}

    def _source_solution(self, head: nn.Linear) -> Head:
        own = self.source_head if self.source_head is not None else head
        weight = own.weight.detach().cpu().numpy().copy()
        bias = np.zeros(len(weight), np.float32) if own.bias is None else own.bias.detach().cpu().numpy().copy()
        return weight, bias

    def _taught(self, learner: nn.Module) -> dict[str, Tensor]:
        fresh = self._fresh(learner)
        return {name: value for name, value in learner.named_parameters() if name not in fresh}

    def _fresh(self, module: nn.Module) -> set[str]:
        """Names of the parameters of the last layer, where it is new on the target."""
        if self.source_head is None:
            return set()
        own = {id(parameter) for parameter in self.route.head(cast(Any, module)).parameters()}
        return {name for name, value in module.named_parameters() if id(value) in own}

    def _second_head(self) -> nn.Linear:
        """A fresh last layer for the source's labels, beside the target's."""
        torch.manual_seed(self._seed())
        own = self._head()
        labels = self.tasks[SOURCE].data.labels.num_labels
        return nn.Linear(own.in_features, labels, bias=own.bias is not None).to(own.weight)

    # What is worth knowing of source and target

    def _scores(self, when: str) -> dict[str, Any]:
        """Scores of both sides as the model is now, on test where there is one: by role, then ``when``."""
        found = {}
        heads = {role: task for role, task in self.tasks.items() if role == SOURCE or (self.agree and when == "before")}
        for role, task in heads.items():
            name = "test" if len(task.data.test) else "validation"
            split = task.data.splits[name]
            rows = self.route.rows(self.built.model, self.built.tokenizer, split.texts, share=True)
            with standing_in(self._head(), self.source_head if role == SOURCE else None):
                logits = predict_logits(self.built.model, rows, share=True)
            probabilities = to_probabilities(logits, task.data.labels)
            found[role] = {"split": name, when: score_predictions(split.targets, probabilities, task.data.labels)}
        return found

    def _layers(self, role: str) -> list[np.ndarray]:
        """What each layer makes of some training texts of a role, as the model is now."""
        role = UNLABELED if role == TARGET and TARGET not in self.tasks else role
        if role not in self.tasks:
            return []
        texts = self.tasks[role].data.train.texts
        some = np.sort(np.random.default_rng(0).permutation(len(texts))[:COMPARED_ROWS])
        return self.route.layer_vectors(self.built.model, self.built.tokenizer, texts, some)

    def _alike(self) -> dict[str, Any]:
        """How alike both sides are to each layer, and how alike each layer is to what the source had made of it."""
        if SOURCE not in self.tasks:
            return {}
        found, distance = [], kept_distance if self.route.is_frozen else proxy_a_distance
        for number, (source, target) in enumerate(zip(self._layers(SOURCE), self._layers(TARGET), strict=True)):
            layer: dict[str, Any] = {"layer": number + 1, "proxy_a_distance": distance(source, target)}
            if self.layers_before:
                layer["cka_with_source"] = linear_cka(self.layers_before[number], target)
            found.append(layer)
        return {"similarity": found}

    def _told_apart(self) -> bool:
        """Whether a classifier tells the texts of both sides apart better than by chance (Lopez-Paz and Oquab 2017)."""
        distances = [layer["proxy_a_distance"] for layer in self._alike().get("similarity", [])]
        rows = sum(min(len(self.tasks[role].data.train), COMPARED_ROWS) for role in (SOURCE, UNLABELED))
        return not distances or float(np.mean(distances)) > chance_distance(rows)

    def _distances(self) -> dict[str, Any]:
        """|theta_t - theta_s| of each layer."""
        if not self.start:
            return {}
        now = self.route.state(self.built.model)
        fresh = self._fresh(self.built.model)
        squares: dict[str, float] = {}
        for name, before in self.start.items():
            if name in now and before.is_floating_point() and name not in fresh:
                part = layer_name(name)
                squares[part] = squares.get(part, 0.0) + float((now[name].cpu() - before).double().square().sum())
        return {"distance_from_source": {part: square**0.5 for part, square in squares.items()}}

    def _head(self) -> nn.Linear:
        return self.route.head(self.built.model)

    def _seed(self) -> int:
        return self.asked.seed if self.asked.init_seed is None else self.asked.init_seed


def _takes_last_epoch(stage: Stage, route: Route) -> bool:
    # Nothing tells of an epoch without a head, and the one that is best for the source need not be so for the target;
    # candidates are compared as they are at the same epoch, that of the source alone too.
    return stage.learns == "representation" or (UNLABELED in stage.roles and not route.is_solved)


def _copied(state: State) -> dict[str, Tensor]:
    # On the processor: a GPU's memory is for the training.
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}
