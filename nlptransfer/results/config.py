"""All that decides what a run learns, its name, and the command that repeats it."""

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, cast

import numpy as np

from nlptransfer.classifier import Classifier
from nlptransfer.data import Data, DataSettings, Labels
from nlptransfer.files import is_there, named_path
from nlptransfer.models import hash_of_modules
from nlptransfer.results.records import plain
from nlptransfer.routes import Route, named_local
from nlptransfer.settings import as_text
from nlptransfer.training import Augment, TrainingSettings
from nlptransfer.transfer import Direct, Sides, Transfer

WITHOUT_EFFECT = ("progress", "report_to", "save_steps", "save_epochs", "keep_checkpoints")
"""Settings that change nothing of what is learned: a run may be resumed with others."""


_FILES = ("output_dir", "overwrite", "take_lock", "report", "save_model", "progress", "clean_to", "drop")
"""Arguments that say where something is written, or what is shown, and nothing of what is made."""
_REPEATED = ("source", "further_metrics")
"""Options that name one value each, and are repeated."""
_NAME_BYTES = 120
"""Most bytes of the data's name in a folder's, which file systems limit to 255."""


def run_folder(output_dir: str | Path | None, question: Mapping[str, Any], data: str, *parts: str) -> Path:
    """Return the folder that is asked for; by default one under runs/ whose name tells data and settings from others.

    It begins with the name of the data, of which a long one is cut, and ends with a hash of what is asked for.
    """
    if output_dir:
        return named_path(output_dir)
    name = data.encode(errors="replace")[:_NAME_BYTES].decode(errors="ignore")
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:8]
    return Path("runs") / "-".join([name, *parts, digest])


def command_of(function: Callable[..., Any], call: Mapping[str, Any]) -> str:
    """Return the command line of a call of a public function, with paths as they were passed.

    ``call`` has its arguments by name. Where one of them is an object, as data in memory, there is no such line: "".
    """
    words, sets = ["nlptransfer", function.__name__], dict(call["settings"])
    for name, parameter in signature(function).parameters.items():
        value = call[name]
        if name in (*_FILES, "settings") or value is None:
            continue
        if isinstance(value, (Route, Transfer)):
            for part in value.parts if isinstance(value, Transfer) else (value,):
                chosen = {one: getattr(part, one.name) for one in fields(cast(Any, part))}
                sets |= {one.name: setting for one, setting in chosen.items() if setting != one.default}
            value = value.name
        if isinstance(value, (list, tuple)) and tuple(value) == parameter.default:
            continue
        several = isinstance(value, (list, tuple)) and name != "data"
        if not all(isinstance(one, (str, Path, int, float)) for one in (value if several else [value])):
            return ""
        if value == parameter.default:
            continue
        option = f"--{'metric' if name == 'further_metrics' else name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option[2:]}")
        elif parameter.kind is Parameter.POSITIONAL_OR_KEYWORD:
            words.append(str(value))
        elif several and name in _REPEATED:
            words += [word for one in value for word in (option, str(one))]
        else:
            words += [option, as_text(value)]
    sets = {name: value for name, value in sets.items() if name not in WITHOUT_EFFECT}
    return shlex.join(words + [word for name, value in sets.items() for word in ("--set", f"{name}={as_text(value)}")])


def decisive(training: TrainingSettings) -> dict[str, Any]:
    """Return the settings of a training that change what is learned."""
    return {name: value for name, value in asdict(training).items() if name not in WITHOUT_EFFECT}


@dataclass(frozen=True, eq=False)
class Source:
    """The source of a transfer: a dataset, or a saved classifier."""

    name: str
    labels: Labels
    """in the target's order, where both have the same"""
    data: Data | None
    """None: ``classifier`` has learned from it"""
    classifier: Classifier | None = None
    weights: np.ndarray | None = None
    """(training rows,) float32 with mean 1, in the loss; None: all 1"""
    sizes: tuple[int, ...] = ()
    """training rows of each of several sources, in their order"""

    @property
    def written_labels(self) -> set[str]:
        """The labels as rows have them, or a saved classifier, before ``label_mapping``, and after it."""
        learned = () if self.classifier is None else self.classifier.labels.names
        return {*self.labels.names, *learned} | (set() if self.data is None else self.data.written_labels)

    @cached_property
    def fingerprints(self) -> dict[str, Any]:
        if self.data is not None:
            return self.data.fingerprints()
        assert self.classifier is not None
        return {"classifier": hash_of_modules([self.classifier.model])}


def same_labels(one: Labels, other: Labels) -> bool:
    """Return whether two tasks have the same label names, in any order."""
    return set(one.names) == set(other.names) and one.multi_label == other.multi_label


@dataclass(frozen=True, eq=False)
class RunConfig:
    """All that decides what a run learns."""

    data: Data
    route: Route
    data_settings: DataSettings
    training: TrainingSettings
    """with None for the route's defaults"""
    base: str | None = None
    """hub id, folder or file; None: the route's default"""
    revision: str | None = None
    """commit, branch or tag of a base on the hub"""
    further_metrics: tuple[str, ...] = ()
    transfer: Transfer = field(default_factory=Direct)
    source: Source | None = None
    augment: Augment = field(default_factory=Augment)
    unlabeled_name: str | None = None
    repeat: str = ""
    """the command line that asks for it, with paths as they were passed"""

    @property
    def labels_agree(self) -> bool:
        """Whether the source, if there is one, has the target's labels."""
        return self.source is None or same_labels(self.source.labels, self.data.labels)

    def sides(self) -> Sides:
        labels, source = self.data.labels, self.source
        source_names = labels.names if source is None else source.labels.names
        return Sides(source_names, labels.names, self.labels_agree, source is None or source.data is not None)

    def folder(self) -> Path:
        """Return a folder that is named after the data and the settings."""
        strategy = [] if isinstance(self.transfer, Direct) else [self.transfer.name.replace(" >> ", "-")]
        return run_folder(None, self.question(), self.data.name, self.route.name, *strategy)

    def question(self) -> dict[str, Any]:
        """Return all that decides what is learned, ready for JSON; a local base by name and content."""
        question = {
            "fingerprints": self.data.fingerprints(),
            "route": self.route.name,
            "base": named_local(self.base),
            "revision": self.revision,
            "further_metrics": self.further_metrics,
            **asdict(self.data_settings),
            **decisive(self.training),
            **self.route.recorded(),
            **asdict(self.augment),
        }
        if not isinstance(self.transfer, Direct):
            question |= {"transfer": self.transfer.name, **self.transfer_settings()}
        if self.source is not None:
            question |= {"source": self.source.fingerprints}
        return dict(plain(question))

    def transfer_settings(self) -> dict[str, Any]:
        return {name: value for part in self.transfer.parts for name, value in asdict(part).items()}

    def command(self) -> str:
        """Return the command line that asks for this run, with names in place of paths, as others may read it."""
        options = [
            ("--base", Path(self.base).name if self.base is not None and is_there(self.base) else self.base),
            ("--revision", self.revision),
            *(("--metric", metric) for metric in self.further_metrics),
            ("--source", None if self.source is None else self.source.name),
            ("--transfer", None if isinstance(self.transfer, Direct) else self.transfer.name),
            ("--unlabeled", self.unlabeled_name),
        ]
        words = ["nlptransfer", "finetune", self.data.name, "--route", self.route.name]
        words += [word for option, value in options if value is not None for word in (option, value)]
        for settings in (self.data_settings, self.training, self.route, *self.transfer.parts, self.augment):
            for setting in fields(cast(Any, settings)):
                value = getattr(settings, setting.name)
                if value != setting.default and setting.name not in WITHOUT_EFFECT:
                    value = named_local(value) if isinstance(value, str) else value
                    words += ["--set", f"{setting.name}={as_text(value)}"]
        return shlex.join(words)
