"""What an audit found in a data set before any training, and the data without it. It knows no file names."""

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nlptransfer.data import Data, Labels, Split
from nlptransfer.errors import RunFolderError, SettingError, nearest
from nlptransfer.results import records
from nlptransfer.results.figures import printable
from nlptransfer.results.summaries import DataSummary
from nlptransfer.results.tables import Shown, Table

if TYPE_CHECKING:
    from pandas import DataFrame

log = logging.getLogger("nlptransfer")

QUESTIONS = {
    "copies": "Do texts repeat?",
    "conflicts": "Does a text have two labels?",
    "label_errors": "Which labels are likely wrong?",
    "overlaps": "Which labels overlap?",
    "giveaways": "What gives a label away?",
    "outliers": "Which texts do not belong?",
    "balance": "Is a label rare?",
    "drift": "Is test like train?",
}
"""What each section of an audit answers, by its name, in their order."""
DROPPABLE = ("copies", "conflicts", "label_errors", "outliers")
"""Sections that mark rows which can be left out."""
DROPPED = DROPPABLE[:2]
"""Those whose rows are left out by default."""
KINDS = (*QUESTIONS, "paraphrases")
"""Kinds of findings."""
MOST_QUOTED = 120
"""Characters of a text in an example."""


def quoted(text: str) -> str:
    """Return the beginning of a text on one line, in quotes: an example in a finding."""
    line = " ".join(printable(text).split())
    return f"“{line if len(line) <= MOST_QUOTED else f'{line[:MOST_QUOTED].rstrip()}…'}”"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with the data, or may be."""

    kind: str
    """as --fail-on has it: the name of its section, or paraphrases, which are no copies"""
    rows: int
    """rows concerned"""
    sentence: str
    """what was found, with its numbers, without a full stop"""
    example: str
    """one, short: texts, names"""
    advice: str
    """what to do, in one sentence, with the exact option"""


@dataclass(frozen=True, eq=False)
class Section:
    """The answer to one question about the data."""

    name: str
    findings: tuple[Finding, ...]
    """empty: nothing is wrong"""
    frames: "Mapping[str, DataFrame]"
    """by name; the first has the section's. Rows begin with split, row (its number in the source from 1), text and
    label; where they can be dropped, the first frame has a column ``drop`` of bool."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """numbers that a report shows (thresholds, scores with intervals), as JSON has them"""

    @property
    def advises_drop(self) -> bool:
        """Whether a finding advises to leave rows out, which costs score where they are merely hard."""
        return any(f"drop={self.name}" in finding.advice for finding in self.findings)


class _Frame:
    """A frame of an audit, as an attribute that bears its name."""

    def __set_name__(self, _: type, name: str) -> None:
        self.name = name

    def __get__(self, audit: "Audit", _: type) -> "DataFrame":
        return audit.frames[self.name]


@dataclass(frozen=True, eq=False, repr=False)
class Audit(Shown):
    """The findings about a data set, question by question."""

    folder: Path
    data: DataSummary
    settings: Mapping[str, Any]
    base: str | None
    """the encoder whose features were looked at; None: TF-IDF"""
    sections: Mapping[str, Section]
    """by name, in the order of :data:`QUESTIONS`"""
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    rows: Data | None = None
    """what was audited; None where the audit was read from its folder alone"""
    repeat: str = ""
    """the command that asks for it; empty where data were passed that are no file"""

    copies = _Frame()
    """Rows whose text another row has, or nearly."""
    paraphrases = _Frame()
    """Pairs of texts that mean the same in other words."""
    alike = _Frame()
    """Pairs of short texts that differ in few words, which are no copies."""
    conflicts = _Frame()
    """Rows of a text that has different labels."""
    label_errors = _Frame()
    """Training rows with the label that is likelier, the least likely first."""
    label_confusions = _Frame()
    """How often one label stands for another."""
    overlaps = _Frame()
    """Pairs of labels that are not separated better than chance."""
    giveaways = _Frame()
    """What tells a label nearly alone."""
    outliers = _Frame()
    """Rows that do not belong."""
    balance = _Frame()
    """Rows of each label, by split."""
    lengths = _Frame()
    """Characters of the texts, and the share that is not read whole, by split."""
    drift = _Frame()
    """Words that are in another share of the test or validation texts than of the training texts."""
    label_shares = _Frame()
    """Share of each label in test or validation beside that in train."""

    @property
    def frames(self) -> "dict[str, DataFrame]":
        """The frames of all sections, by name."""
        return {name: frame for section in self.sections.values() for name, frame in section.frames.items()}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found, in the order of the questions."""
        return tuple(finding for section in self.sections.values() for finding in section.findings)

    @property
    def shown(self) -> Table:
        rows = [
            {"kind": name, "rows": first.rows, "found": first.sentence}
            if (first := next(iter(section.findings), None))
            else {"kind": name, "rows": 0, "found": "nothing found"}
            for name, section in self.sections.items()
        ]
        return Table(rows, {"kind": ["{kind}"], ">rows": ["{rows:,}"], "what was found": ["{found}"]}, "")

    @property
    def summary(self) -> str:
        """Say in a few plain sentences what was found: the first finding of each section."""
        rows = ", ".join(f"{count:,} {split}" for split, count in self.data.rows.items() if count)
        found = [section.findings[0].sentence for section in self.sections.values() if section.findings]
        nothing = [name.replace("_", " ") for name, section in self.sections.items() if not section.findings]
        said = [f"{self.data.name}: {rows} rows of {self.data.labels.num_labels} labels", *found]
        return ". ".join(said + ([f"Nothing was found of {', '.join(nothing)}"] if nothing else [])) + "."

    def clean(self, drop: Sequence[str] = DROPPED) -> Data:
        """Return the data without the rows that some sections mark; no row of test is left out.

        A row stays where without it a label would have none to learn from, or validation none at all; the log says so.

        Args:
            drop: names of :data:`DROPPABLE`.

        Raises:
            SettingError: an unknown name.
            RunFolderError: the audit was read from its folder, which holds no rows: call ``audit`` again.
        """
        dropped = self._marked(checked("drop", drop, DROPPABLE))
        if self.rows is None:
            raise RunFolderError(
                f"{self.folder}: expected an audit with its data, found its record alone: audit(data, "
                "output_dir=FOLDER) returns it with them, and computes nothing anew"
            )
        data = self.rows
        splits: dict[str, Any] = {
            name: _without(split, name, dropped.get(name, ()), data.labels)
            for name, split in data.splits.items()
            if name != "test"
        }
        return replace(data, **splits)

    def _marked(self, kinds: Collection[str]) -> dict[str, set[int]]:
        """Return the numbers of the rows that sections mark, by split."""
        marked = defaultdict[str, set[int]](set)
        for kind in kinds:
            frame = self.frames[kind]
            for split, rows in frame[frame["drop"]].groupby("split")["row"]:
                marked[str(split)].update(rows.tolist())
        return marked

    @classmethod
    def load(cls, folder: str | Path) -> "Audit":
        """Read an audit from its folder; a RunFolderError where there is none."""
        return records.read_audit(cls, Path(folder))

    def save(self) -> None:
        """Write audit.json, findings.csv, and a csv of each frame."""
        records.write_audit(self)


def checked(setting: str, kinds: Collection[str], known: Collection[str]) -> Collection[str]:
    """Return names of sections; a SettingError for one that is not known."""
    if unknown := [kind for kind in kinds if kind not in known]:
        raise SettingError(f"{setting}: unknown finding {unknown[0]!r}: {nearest(unknown[0], known)}")
    return kinds


def _without(split: Split, name: str, numbers: Collection[int], labels: Labels) -> Split:
    """Return a split without the rows of these numbers, but for those that it cannot do without."""
    places = np.arange(1, len(split) + 1) if split.numbers is None else split.numbers
    kept = ~np.isin(places, [*numbers])
    if name == "train":
        for label in np.flatnonzero((labels.count(split.targets) > 0) & (labels.count(split.targets[kept]) == 0)):
            first = int((split.targets[:, label] if split.targets.ndim == 2 else split.targets == label).argmax())
            kept[first] = True
            log.warning("Row %d of train stays, as %r has no other", places[first], labels.names[label])
    elif len(split) and not kept.any():
        kept[0] = True
        log.warning("Row %d of %s stays, as the split has no other", places[0], name)
    return split.take(kept)
