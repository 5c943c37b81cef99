"""What a strategy is: how knowledge reaches the target, as a list of stages; a stage is data and an objective."""

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from torch import Tensor, nn
from transformers import PreTrainedModel

from nlptransfer.errors import SettingError, nearest
from nlptransfer.models import Examples, Rows
from nlptransfer.routes import Route
from nlptransfer.settings import Count, Settings, check, convert, fields_of
from nlptransfer.training import SOURCE, TARGET, FittedHead, Head, HeadTask, LabelLoss, Objective, TrainingSettings


@dataclass(frozen=True)
class Stage:
    """One training, of rows of one role or of both."""

    name: str
    """of its checkpoints and in the record"""
    roles: tuple[str, ...]
    """the first one is judged, on its validation rows"""
    learns: Literal["model", "representation", "head", "language"] = "model"
    """what the route lets learn; that without the last layer, so that no score tells of it; the last layer alone, which
    is fitted; or the model's language, without any label"""


FROM_SOURCE, ON_TARGET = Stage("source", (SOURCE,)), Stage("target", (TARGET,))


@dataclass(frozen=True)
class Learner:
    """A model at the beginning of a stage, with its rows, losses and functions, from which an objective is made."""

    module: nn.Module
    """what the loop trains"""
    last_layer: nn.Linear
    """of the module"""
    criteria: Mapping[str, LabelLoss]
    """by role"""
    examples: Mapping[str, Examples]
    """training rows by role"""
    taught: Mapping[str, Tensor]
    """parameters that bring something from the stage before, by name; not copies"""
    represent: Callable[[Rows], np.ndarray]
    """rows -> (texts, width): what the last layer takes of them, as the model is now"""
    classify: Callable[[Rows], np.ndarray]
    """rows -> (texts, labels): logits, as the model is now"""
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
    """whether it cannot do without them"""
    is_chosen: ClassVar[bool] = False
    """whether its variants are chosen from without a label of the target"""
    is_prelude: ClassVar[bool] = False
    """whether it makes no classifier, and another strategy comes after it"""

    @property
    def parts(self) -> tuple["Transfer", ...]:
        """Return the strategies that this one is made of, in their order."""
        return (self,)

    def part(self, stage: Stage) -> "Transfer":
        """Return the strategy that a stage is of, which answers all that follows."""
        return self

    @property
    def label_free(self) -> bool:
        """Whether no label of the target is looked at."""
        return False

    def __rshift__(self, after: "Transfer") -> "Transfer":
        """This strategy, then the other one on the model that it leaves.

        Raises:
            SettingError: the first one makes a classifier already.
        """
        return Chain((*self.parts, *after.parts))

    def adjusted(self, has_source: bool) -> "Transfer":
        """Return the strategy as it is with a source, or without one."""
        return self

    def check_fits(self, route: Route, sides: Sides) -> None:
        """Raise a SettingError where the strategy makes no sense for a route, or for these labels."""
        return None

    def at(self, stage: Stage, route: Route, training: TrainingSettings) -> tuple[Route, TrainingSettings]:
        """Return the settings of a stage."""
        return route, training

    def prepare(self, stage: Stage, route: Route, model: PreTrainedModel) -> None:
        """Give the model the shape that it has from a stage on, also where the stage itself is done already."""
        return None

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
        """Fit the last layer in a stage of a route that trains nothing else.

        Args:
            tasks: by role.
            source: what the stage before has fitted.
        """
        return tasks[stage.roles[0]].choose_l2()

    def candidates(self, stage: Stage, route: Route) -> Sequence["Transfer | None"]:
        """Return the variants of a stage that are chosen from; None skips it. The first one does not adapt."""
        return [self]

    @property
    def chosen(self) -> dict[str, Any]:
        """Return the settings in which a candidate differs from the others."""
        return {}


@dataclass(frozen=True)
class Chain(Transfer):
    """Strategies one after the other on the same model."""

    chained: tuple[Transfer, ...]

    def __post_init__(self) -> None:
        *first, last = self.chained
        for part in first:
            if not part.is_prelude:
                raise SettingError(
                    f"{part.name} >> {last.name}: expected something before that makes no classifier, as pretrain, "
                    f"found {part.name}: {last.name} would forget it"
                )
        names = [part.name for part in self.chained]
        check(len({*names}) == len(names), "transfer", " >> ".join(names), "each strategy at most once")

    @property
    def name(self) -> str:  # type: ignore[override]
        return " >> ".join(part.name for part in self.chained)

    @property
    def stages(self) -> tuple[Stage, ...]:  # type: ignore[override]
        return tuple(stage for part in self.chained for stage in part.stages)

    @property
    def parts(self) -> tuple[Transfer, ...]:
        return self.chained

    @property
    def needs_source(self) -> bool:  # type: ignore[override]
        return any(part.needs_source for part in self.chained)

    @property
    def takes_source(self) -> bool:  # type: ignore[override]
        return any(part.takes_source for part in self.chained)

    @property
    def takes_unlabeled(self) -> bool:  # type: ignore[override]
        return any(part.takes_unlabeled for part in self.chained)

    @property
    def needs_unlabeled(self) -> bool:  # type: ignore[override]
        return any(part.needs_unlabeled for part in self.chained)

    @property
    def is_prelude(self) -> bool:  # type: ignore[override]
        return self.chained[-1].is_prelude

    @property
    def label_free(self) -> bool:
        return self.chained[-1].label_free

    def adjusted(self, has_source: bool) -> Transfer:
        return Chain(tuple(part.adjusted(has_source) for part in self.chained))

    def check(self) -> None:
        for part in self.chained:
            part.check()

    def check_fits(self, route: Route, sides: Sides) -> None:
        for part in self.chained:
            part.check_fits(route, sides)

    def part(self, stage: Stage) -> Transfer:
        return next(part for part in self.chained if stage in part.stages)


@dataclass(frozen=True)
class FromSource(Transfer):
    """Settings of all strategies with a source."""

    needs_source: ClassVar[bool] = True
    takes_source: ClassVar[bool] = True

    label_mapping: dict[str, str] | None = None
    """the target's name of a label of the source, where they differ: {"pos": "positive"}"""
    temperature: Annotated[float, Ge(1)] = 1.0
    """of several sources, source i counts n_i^(1/temperature): 1 as many rows as it has; large: all alike
    (Arivazhagan et al. 2019)"""
    target_like: bool = False
    """whether each source row counts as much as it looks like the target: by a domain classifier"""
    max_source_rows: Count | None = None
    """most labeled rows of each source, its validation rows counted"""
    source_text_column: str | None = None
    """column of the source's texts; found by its name if None"""
    source_label_column: str | None = None
    """column of the source's labels; found by its name if None"""
    source_settings: dict[str, Any] | None = None
    """settings of the training, and of how the route learns, in the stage on the source alone"""
    target_settings: dict[str, Any] | None = None
    """the same in the stage on the target"""

    def check_fits(self, route: Route, sides: Sides) -> None:
        names = {stage.name for stage in self.stages}
        for name in ("source", "target"):
            given = getattr(self, f"{name}_settings")
            check(not given or name in names, f"{name}_settings", given, f"none, as {self.name} has no such stage")
        for name in ("temperature", "target_like", "max_source_rows"):
            value, unset = getattr(self, name), type(self).__dataclass_fields__[name].default
            check(sides.has_rows or value == unset, name, value, "rows of a source, found a saved classifier")

    def at(self, stage: Stage, route: Route, training: TrainingSettings) -> tuple[Route, TrainingSettings]:
        given = {"source": self.source_settings, "target": self.target_settings}.get(stage.name) or {}
        of_route: dict[str, Any] = {}
        of_training: dict[str, Any] = {}
        hints = fields_of(TrainingSettings) | {name: fields_of(type(route))[name] for name in route.per_stage}
        for name, value in given.items():
            if name not in hints:
                raise SettingError(f"{stage.name}_settings: {name!r} cannot differ by stage: {nearest(name, hints)}")
            (of_route if name in route.per_stage else of_training)[name] = convert(name, value, hints[name])
        route, training = replace(route, **of_route), replace(training, **of_training)
        route.check()
        training.check()
        return route, training


@dataclass(frozen=True)
class Variant:
    """A route and a strategy that are tried for a stage."""

    route: Route
    transfer: Transfer | None
    """None: not at all"""

    @property
    def named(self) -> dict[str, Any]:
        """Return the settings in which it differs from the others."""
        own = {"adapted": False} if self.transfer is None else self.transfer.chosen
        return {name: getattr(self.route, name) for name in self.route.varied} | own

    @property
    def label(self) -> str:
        return "_".join(f"{name}{value}" for name, value in self.named.items()) or "adapted"

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.named.items()) or "adapted"


def check_same_labels(transfer: Transfer, sides: Sides) -> None:
    """Raise a SettingError where a fitted layer cannot be handed on."""
    if not sides.agree:
        raise SettingError(
            f"transfer={transfer.name}: a fitted last layer on frozen features can only be handed on where the "
            f"labels agree, found {listed(sides.source_labels)} in the source and {listed(sides.target_labels)} in the "
            "target: give label_mapping, take transfer=select_features, or a route that learns more: head_type=mlp, "
            "lora, full"
        )


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
