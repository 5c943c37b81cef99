"""What a strategy is: how knowledge reaches the target, as a list of stages; a stage is data and an objective."""

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from torch import Tensor, nn
from transformers import PreTrainedModel

from nlptransfer.data import SourceSettings
from nlptransfer.errors import SettingError, abridged, nearest
from nlptransfer.models import Examples, Rows
from nlptransfer.routes import Route
from nlptransfer.settings import Settings, check, convert, fields_of
from nlptransfer.training import SOURCE, TARGET, FittedHead, Head, HeadTask, LabelLoss, Objective, TrainingSettings
from nlptransfer.transfer.model_selection import ChooseBy


@dataclass(frozen=True)
class Stage:
    """One training, on rows of one role or of both."""

    name: str
    """of its checkpoints and in the record"""
    roles: tuple[str, ...]
    """the first one has the validation rows that score the stage"""
    learns: Literal["model", "representation", "head", "language"] = "model"
    """what the route lets learn; that without the last layer and a score; the last layer; the language model"""


FROM_SOURCE, ON_TARGET = Stage("source", (SOURCE,)), Stage("target", (TARGET,))


@dataclass(frozen=True)
class Learner:
    """A model at the beginning of a stage, with all that an objective is made from."""

    module: nn.Module
    """what the loop trains"""
    last_layer: nn.Linear
    criteria: Mapping[str, LabelLoss]
    """by role"""
    examples: Mapping[str, Examples]
    """training rows by role"""
    carried_over: Mapping[str, Tensor]
    """parameters that were not newly initialized for this stage, by name; not copies"""
    represent: Callable[[Rows], np.ndarray]
    """rows -> the last layer's inputs, (texts, width), as the model is now"""
    classify: Callable[[Rows], np.ndarray]
    """rows -> logits, (texts, labels), as the model is now"""
    source_head: nn.Linear | None = None
    """for the source's labels, where they are others than the target's"""


@dataclass(frozen=True)
class Sides:
    """What is known of source and target when a strategy is checked."""

    source_labels: tuple[str, ...]
    target_labels: tuple[str, ...]
    agree: bool
    """whether both have the same labels, by name"""
    has_rows: bool
    """whether the source is data; else a classifier that was saved"""


@dataclass(frozen=True)
class Transfer(Settings, ABC):
    """How knowledge reaches the target; its fields are the strategy's settings."""

    name: ClassVar[str]
    stages: ClassVar[tuple[Stage, ...]]
    needs_source: ClassVar[bool] = False
    takes_source: ClassVar[bool] = False
    takes_unlabeled: ClassVar[bool] = False
    """whether it learns from texts of the target that have no labels"""
    needs_unlabeled: ClassVar[bool] = False
    is_chosen: ClassVar[bool] = False
    """whether the best of its candidates is found without a label of the target"""
    is_prelude: ClassVar[bool] = False
    """whether it makes no classifier, and another strategy comes after it"""
    label_free: ClassVar[bool] = False
    """whether no label of the target is looked at"""

    @property
    def parts(self) -> tuple["Transfer", ...]:
        """Return the strategies that this one is made of, in their order."""
        return (self,)

    def part(self, stage: Stage) -> "Transfer":
        """Return the strategy that a stage belongs to, which answers all that follows."""
        return self

    def __rshift__(self, after: "Transfer") -> "Transfer":
        """Chain this strategy, which makes no classifier, and one that goes on with its model."""
        return Chain((*self.parts, *after.parts))

    def adjusted(self, has_source: bool) -> "Transfer":
        """Return the strategy as it is with a source, or without one."""
        return self

    def check_fits(self, route: Route, sides: Sides) -> None:
        """Raise a SettingError where the strategy makes no sense for a route, or for these labels."""

    def require(self, holds: bool, expected: str, found: str, instead: str) -> None:
        """Raise a SettingError unless a condition holds."""
        if not holds:
            raise SettingError(f"transfer={self.name}: expected {expected}, found {found}: {instead}")

    def require_rows(self, sides: Sides, instead: str) -> None:
        """Raise a SettingError where the source is a saved classifier."""
        self.require(sides.has_rows, "rows of a source", "a saved classifier", instead)

    def require_same_labels(self, sides: Sides) -> None:
        """Raise a SettingError where source and target have other labels."""
        source, target = abridged(sides.source_labels, 20), abridged(sides.target_labels, 20)
        found = f"{source} in the source and {target} in the target"
        instead = (
            'give label_mapping, as in {"pos": "positive"}, or take transfer=select_features where the last layer is '
            "fitted, sequential where it is trained (head_type=mlp, lora, full)"
        )
        self.require(sides.agree, "the same labels on both sides", found, instead)

    def require_defaults(self, names: Sequence[str], why: str) -> None:
        """Raise a SettingError for the first of these settings that is not at its default."""
        for name in names:
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            check(value == default, name, value, f"{default}, {why}")

    def at(self, stage: Stage, route: Route, training: TrainingSettings) -> tuple[Route, TrainingSettings]:
        """Return the settings of a stage."""
        return route, training

    def prepare(self, stage: Stage, route: Route, model: PreTrainedModel) -> None:
        """Give the model the shape that it has from a stage on, also where the stage itself is done already."""

    def learns_from(self, stage: Stage) -> tuple[str, ...]:
        """Return the roles whose rows the stage learns from; with the source alone, its loss is minimized."""
        return stage.roles

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        """Return what the loop minimizes in a stage."""
        return Objective(learner.module, learner.criteria[stage.roles[0]])

    def examples(self, stage: Stage, learner: Learner) -> Mapping[str, Examples]:
        """Return the rows that the loop learns from in a stage, by role."""
        return learner.examples

    def fit_head(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> FittedHead:
        """Fit the last layer in a stage of a route that trains nothing else; ``source`` is that of the stage before."""
        return tasks[stage.roles[0]].choose_l2()

    def candidates(self, stage: Stage, route: Route) -> Sequence["Variant"]:
        """Return the variants of a stage, of which the best is kept. The first one does not adapt."""
        return [Variant(route, self)]


@dataclass(frozen=True)
class Variant:
    """A route and a strategy that are tried for a stage."""

    route: Route
    transfer: Transfer | None
    """None: the model stays as it is"""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """in which the strategy differs from the other candidates"""

    @property
    def named(self) -> dict[str, Any]:
        """Return all settings in which it differs from the others."""
        return {name: getattr(self.route, name) for name in self.route.varied} | {**self.settings}

    @property
    def label(self) -> str:
        """Return its name in a folder's."""
        return "_".join(f"{name}{value}" for name, value in self.named.items()) or "adapted"

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.named.items()) or "adapted"


def _any_part(name: str) -> Any:
    return property(lambda chain: any(getattr(part, name) for part in chain.chained))


@dataclass(frozen=True)
class Chain(Transfer):
    """Strategies one after the other on the same model: all but the last are preludes."""

    chained: tuple[Transfer, ...]

    needs_source = _any_part("needs_source")
    takes_source = _any_part("takes_source")
    takes_unlabeled = _any_part("takes_unlabeled")
    needs_unlabeled = _any_part("needs_unlabeled")
    label_free = _any_part("label_free")

    def __post_init__(self) -> None:
        *first, last = self.chained
        for part in first:
            if not part.is_prelude:
                raise SettingError(
                    f"{part.name} >> {last.name}: expected something before that makes no classifier, as pretrain, "
                    f"found {part.name}: {last.name} would forget it"
                )
        once = len({part.name for part in self.chained}) == len(self.chained)
        check(once, "transfer", self.name, "each strategy at most once")

    @property
    def name(self) -> str:  # type: ignore[override]
        return " >> ".join(part.name for part in self.chained)

    @property
    def stages(self) -> tuple[Stage, ...]:  # type: ignore[override]
        return tuple(stage for part in self.chained for stage in part.stages)

    @property
    def is_prelude(self) -> bool:  # type: ignore[override]
        return self.chained[-1].is_prelude

    @property
    def parts(self) -> tuple[Transfer, ...]:
        return self.chained

    def part(self, stage: Stage) -> Transfer:
        return next(part for part in self.chained if stage in part.stages)

    def adjusted(self, has_source: bool) -> Transfer:
        return Chain(tuple(part.adjusted(has_source) for part in self.chained))

    def check(self) -> None:
        for part in self.chained:
            part.check()

    def check_fits(self, route: Route, sides: Sides) -> None:
        for part in self.chained:
            part.check_fits(route, sides)


@dataclass(frozen=True)
class FromSource(SourceSettings, Transfer):
    """Settings of all strategies with a source."""

    needs_source: ClassVar[bool] = True
    takes_source: ClassVar[bool] = True

    temperature: Annotated[float, Ge(1)] = 1.0
    """source i of several counts n_i^(1/temperature): 1: as its rows; large: all alike (Arivazhagan et al. 2019)"""
    target_like: bool = False
    """whether each source row counts as much as it looks like the target: by a domain classifier"""
    source_settings: dict[str, Any] | None = None
    """settings of the training, and of how the route learns, in the stage on the source alone"""
    target_settings: dict[str, Any] | None = None
    """the same in the stage on the target"""

    def check_fits(self, route: Route, sides: Sides) -> None:
        names = {stage.name for stage in self.stages}
        missing = [f"{name}_settings" for name in ("source", "target") if name not in names]
        self.require_defaults(missing, f"as {self.name} has no such stage")
        if not sides.has_rows:
            of_rows = ("temperature", "target_like", "max_source_rows")
            self.require_defaults(of_rows, "as the source is a saved classifier, without rows")

    def at(self, stage: Stage, route: Route, training: TrainingSettings) -> tuple[Route, TrainingSettings]:
        settings = {"source": self.source_settings, "target": self.target_settings}.get(stage.name) or {}
        hints = fields_of(TrainingSettings) | {name: fields_of(type(route))[name] for name in route.per_stage}
        values: dict[str, Any] = {}
        for name, value in settings.items():
            if name not in hints:
                raise SettingError(f"{stage.name}_settings: {name!r} cannot differ by stage: {nearest(name, hints)}")
            values[name] = convert(name, value, hints[name])
        of_route = {name: values.pop(name) for name in route.per_stage if name in values}
        route, training = replace(route, **of_route), replace(training, **values)
        route.check()
        training.check()
        return route, training


@dataclass(frozen=True)
class LabelFree(FromSource):
    """Settings of all strategies that learn from the source's labels and the target's texts, without their labels."""

    takes_unlabeled: ClassVar[bool] = True
    needs_unlabeled: ClassVar[bool] = True
    label_free: ClassVar[bool] = True

    def check_fits(self, route: Route, sides: Sides) -> None:
        super().check_fits(route, sides)
        self.require_rows(sides, "give its training data")


@dataclass(frozen=True)
class Chosen(LabelFree):
    """Settings of the strategies whose candidates, not adapting at all among them, are compared by :func:`choose`."""

    is_chosen: ClassVar[bool] = True

    choose_by: ChooseBy = "information"
    """what chooses without labels of the target: the most information of the models whose importance-weighted risk is
    at most a standard error above that of the one that was not adapted; the least importance_weighted or
    deep_embedded risk, or entropy; or the largest margin"""
    allow_label_shift: bool = False
    """whether the model is adapted too where the labels' proportions surely are others in the target"""
