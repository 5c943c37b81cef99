import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
from annotated_types import Interval, MinLen

from nlptransfer.errors import SettingError
from nlptransfer.settings import (
    Count,
    Description,
    NonNegative,
    Positive,
    Seed,
    Settings,
    Share,
    check,
    convert,
    described,
    fields_of,
    fill,
)


@dataclass(frozen=True)
class Net:
    name: ClassVar[str] = "net"
    layers: int = 2
    dropout: float = 0.1
    seed: int = 0
    made: int = field(default=3, init=False)


@dataclass(frozen=True)
class Loop:
    learning_rate: float | None = None
    seed: int = 0


def test_fields_are_the_settings_alone():
    assert fields_of(Net) == {"layers": int, "dropout": float, "seed": int}


def test_fill_spreads_names_over_the_dataclasses():
    filled = fill({"net": Net, "loop": Loop}, {"layers": "3", "learning_rate": "1e-3", "seed": 7})
    assert filled == {"net": Net(layers=3, seed=7), "loop": Loop(learning_rate=1e-3, seed=7)}
    assert fill({"net": Net}, {}) == {"net": Net()}


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(SettingError, match="unknown setting 'learningrate': did you mean 'learning_rate'"):
        fill({"net": Net, "loop": Loop}, {"learningrate": 1})
    with pytest.raises(SettingError, match="unknown setting 'zzz': known: dropout, layers"):
        fill({"net": Net, "loop": Loop}, {"zzz": 1})


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("3", int, 3),
        (np.int64(3), int, 3),
        ("1e-3", float, 1e-3),
        (2, float, 2.0),
        (np.float32(0.5), float, 0.5),
        ("Yes", bool, True),
        ("0", bool, False),
        (True, bool, True),
        ("a", str, "a"),
        ("none", Literal["minimal", "none"] | None, "none"),
        (None, Literal["minimal", "none"] | None, None),
        ("none", int | None, None),
        (None, float | None, None),
        ("4", int | None, 4),
        ("4", int | Literal["auto"], 4),
        ("auto", int | Literal["auto"], "auto"),
        ("none", str, "none"),
        ("cnn", Literal["cnn", "mlp"], "cnn"),
        ("2", Literal[1, 2], 2),
        ("3, 4", tuple[int, ...], (3, 4)),
        ([3, "4"], tuple[int, ...], (3, 4)),
        ("", tuple[str, ...], ()),
        ("mean,max", tuple[Literal["mean", "max"], ...], ("mean", "max")),
        ('{"a": 2}', dict[str, float], {"a": 2.0}),
        ({"a": 2}, Mapping[str, float], {"a": 2.0}),
        ('{"a": 2}', str | dict[str, float] | None, {"a": 2.0}),
        ("balanced", str | dict[str, float] | None, "balanced"),
        (Path("a"), str | Path, Path("a")),
        ([1], Any, [1]),
    ],
)
def test_values_become_the_type_they_are_declared_with(value, hint, expected):
    found = convert("x", value, hint)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("three", int, r"x='three': expected a whole number, found str"),
        ("2.5", int, "expected a whole number"),
        (2.5, int, r"x=2.5: expected a whole number, found float"),
        (True, int, r"x=True: expected a whole number, found bool"),
        (False, float, "expected a number, found bool"),
        ("much", float, "expected a number"),
        ("maybe", bool, "expected true or false, found str"),
        (1, bool, "expected true or false, found int"),
        (None, int, "expected a whole number, found NoneType"),
        (None, int | Literal["auto"], "expected a whole number or 'auto', found NoneType"),
        (5, str, "expected text, found int"),
        ("x", int | None, "expected a whole number or none, found str"),
        ("rnn", Literal["cnn", "mlp"], "x='rnn': expected one of 'cnn', 'mlp'"),
        ("3,b", tuple[int, ...], "x='b': expected a whole number"),
        (3, tuple[int, ...], r"expected a list \(or text with commas\), found int"),
        ("[1", dict[str, float], "expected a mapping such as"),
        ("[1]", dict[str, float], "expected a mapping such as"),
        (3, dict[str, float], "expected a mapping such as"),
        ({"a": "b"}, dict[str, float], r"x\[a\]='b': expected a number"),
        ({"a": "b"}, str | dict[str, float] | None, "expected text or a mapping"),
        ("0", Count, "x='0': expected a whole number from 1$"),
        (0, Count | None, "x=0: expected a whole number from 1 or none, found int"),
        (1.0, Share, "x=1.0: expected a number from 0, below 1$"),
        (float("nan"), NonNegative, "x=nan: expected a finite number$"),
        ("1e999", float, "x='1e999': expected a finite number$"),
        (10**400, float, "expected a number, found int$"),
        (2**63, int, "expected a whole number that 64 bits hold$"),
        (1e39, float, "expected a number that 32 bits hold$"),
        ("\ud800", str | None, r"x='\\ud800': expected text or none"),
        (-1, Seed, "x=-1: expected a whole number from 0, below 4294967296$"),
        (np.arange(2), Literal["cnn"], "expected 'cnn'"),
        ("[" * 5000, dict[str, float], "expected a mapping"),
        ({"a": float("nan")}, dict[str, Any], r"x\[a\]=nan: expected"),
        (0.0, Positive, "x=0.0: expected a number above 0$"),
        (2.0, Annotated[float, Interval(gt=0, le=1)], "expected a number above 0, up to 1$"),
        ("", Annotated[tuple[Count, ...], MinLen(1)], r"expected a list \(or text with commas\) of 1 or more$"),
        ("8,0", tuple[Count, ...], "x='0': expected a whole number from 1$"),
    ],
)
def test_values_of_another_type_or_out_of_range_are_refused_in_words(value, hint, message):
    with pytest.raises(SettingError, match=message):
        convert("x", value, hint)


@pytest.mark.parametrize(("value", "hint"), [(1, Count), (None, Count | None), (0, Share), (0, NonNegative)])
def test_ends_of_a_range_belong_to_it_as_it_says(value, hint):
    assert convert("x", value, hint) == value


def test_check_looks_at_every_field_and_says_what_was_expected():
    @dataclass(frozen=True)
    class Ranged(Settings):
        rank: Count = 8
        dropout: Share = 0.0

    Ranged().check()
    with pytest.raises(SettingError, match="dropout=1: expected a number from 0, below 1"):
        Ranged(dropout=1).check()
    check(True, "seed", 1, "anything")
    with pytest.raises(SettingError, match=r"dropout=2: expected a share in \[0, 1\)"):
        check(False, "dropout", 2, "a share in [0, 1)")


def test_what_stands_for_a_value_becomes_it_when_it_is_checked():
    @dataclass(frozen=True)
    class Sizes(Settings):
        size: Count = 1
        names: tuple[str, ...] = ()

    sizes: Any = Sizes(np.int64(3), ["a"])
    sizes.check()
    assert sizes == Sizes(3, ("a",)) and type(sizes.size) is int


@dataclass(frozen=True)
class Walk(Settings):
    """How to walk."""

    steps: Count = 3
    """how many
    steps"""


@dataclass(frozen=True)
class Run(Walk):
    """How to run."""

    name: ClassVar[str] = "run"
    """no setting"""
    shoes: tuple[str, ...] = ("left", "right")
    """what is worn"""
    silent: bool = False


def test_settings_are_described_by_what_stands_at_their_fields():
    assert described(Run) == [
        Description("shoes", "what is worn", "a list (or text with commas)", "left,right"),
        Description("silent", "", "true or false", "False"),
        Description("steps", "how many steps", "a whole number from 1", "3"),
    ]
    assert (Walk.__doc__ or "").splitlines() == [
        "How to walk.",
        "",
        "Settings:",
        "    steps: how many steps [a whole number from 1; default: 3]",
    ]


def test_a_class_without_source_is_described_by_its_types():
    made = dataclasses.make_dataclass("Made", [("rows", Count, 2)], bases=(Settings,), frozen=True)
    assert described(made) == [Description("rows", "", "a whole number from 1", "2")]
