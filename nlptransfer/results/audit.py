"""What an audit found in a data set before any training. It knows no file names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with the data, or may be."""

    kind: str
    """the name of its section, as ``drop`` and --fail-on have it"""
    rows: int
    """rows concerned"""
    sentence: str
    """what was found, with its numbers"""
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
