"""Settings: frozen dataclasses, filled from flat names and from text on the command line."""

import ast
import dataclasses
import inspect
import json
import math
import operator
import re
import textwrap
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import chain, pairwise
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt, MinLen

from nlptransfer.errors import SettingError, nearest

Count = Annotated[int, Ge(1)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]
Share = Annotated[float, Interval(ge=0, lt=1)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]

_LIMITS: dict[type, tuple[Callable[[Any, Any], bool], str, str]] = {
    Ge: (operator.ge, "ge", "from {}"),
    Gt: (operator.gt, "gt", "above {}"),
    Le: (operator.le, "le", "up to {}"),
    Lt: (operator.lt, "lt", "below {}"),
    MinLen: (lambda value, least: len(value) >= least, "min_length", "of {} or more"),
}
"""Whether a value keeps a limit, the limit's field, and its words."""
_LARGEST = 3.4e38
"""Of float32, in which models compute."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}


class Settings:
    """A frozen dataclass of settings, each with its type, its range and what it means at the field."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__doc__ = cast(Any, _Docstring(cls.__doc__ or ""))

    def check(self) -> None:
        """Raise a SettingError for a value of another type or out of range, or for values that do not go together.

        What stands for a value of its type, as "3" and numpy's 3 do for 3, becomes it.
        """
        for name, hint in fields_of(type(self)).items():
            object.__setattr__(self, name, convert(name, getattr(self, name), hint))


class _Docstring:
    """A class's docstring and what each of its settings means; put together when it is read, as reading sources takes
    long."""

    def __init__(self, summary: str) -> None:
        self.summary = summary

    def __get__(self, _: Any, kind: type) -> str:
        # While it makes a class, dataclass asks whether there is any.
        if "__match_args__" not in vars(kind):
            return self.summary
        texts = [f"    {one.name}: {one.meaning} [{one.values}; default: {one.default}]" for one in described(kind)]
        return "\n".join([self.summary, "", "Settings:", *texts])


@dataclasses.dataclass(frozen=True)
class Description:
    """One setting, in words."""

    name: str
    meaning: str
    values: str
    """what it may be"""
    default: str
    """as on a command line"""


def described(kind: type) -> list[Description]:
    """Describe each setting of a dataclass, its own before those that it shares, out of the source at its field."""
    defaults, hints = kind(), fields_of(kind)
    meanings = {name: text for one in reversed(kind.__mro__) for name, text in _meanings(one).items()}
    own = [name for name in vars(kind).get("__annotations__", ()) if name in hints]
    return [
        Description(name, meanings.get(name, ""), _in_words(hints[name]), as_text(getattr(defaults, name)))
        for name in dict.fromkeys([*own, *hints])
    ]


@cache
def _meanings(kind: type) -> dict[str, str]:
    """Return the docstrings at the fields that a class itself defines; none where it has no source, as in a shell."""
    if not dataclasses.is_dataclass(kind):
        return {}
    with suppress(OSError):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        return {
            ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
            for field, text in pairwise(cast(ast.ClassDef, definition).body)
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
        }
    return {}


@cache
def _hints(annotated: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(annotated, include_extras=True)


def fields_of(kind: type) -> dict[str, Any]:
    """Return the settings of one dataclass, name -> type."""
    return {field.name: _hints(kind)[field.name] for field in dataclasses.fields(kind) if field.init}


def fill(kinds: Mapping[str, type], flat: Mapping[str, Any]) -> dict[str, Any]:
    """Make each of ``kinds``, under its key, of its settings in ``flat``; a SettingError for other names or values."""
    known = {name for kind in kinds.values() for name in fields_of(kind)}
    for name in flat:
        if name not in known:
            raise SettingError(f"unknown setting {name!r}: {nearest(name, known)}")
    return {
        key: kind(**{name: convert(name, flat[name], hint) for name, hint in fields_of(kind).items() if name in flat})
        for key, kind in kinds.items()
    }


def pairs(settings: Iterable[str] | None, arguments: Collection[str] = ()) -> dict[str, str]:
    """Read settings of the form KEY=VALUE; a SettingError names one without "=", or one of ``arguments``."""
    values: dict[str, str] = {}
    for setting in settings or ():
        name, equals, value = setting.partition("=")
        name = name.strip()
        if not equals:
            raise SettingError(f"--set {setting}: expected KEY=VALUE")
        if name in arguments:
            raise SettingError(f"--set {name}: not a setting but an argument by itself; see --help")
        if name in values:
            raise SettingError(f"--set {name}: expected once, found {values[name]!r} and {value!r}")
        values[name] = value
    return values


def convert(name: str, value: Any, hint: Any) -> Any:
    """Return ``value``, text as on a command line, as the type ``hint``; a SettingError if not, or out of range."""
    kind, args = get_origin(hint) or hint, get_args(hint)
    if kind is Annotated:
        plain = convert(name, value, args[0])
        check(all(keeps(plain, limit) for keeps, limit, _ in _limits(hint)), name, value, _in_words(hint))
        return plain
    if kind is Literal:
        choices = _chosen(value, args)
        check(bool(choices), name, value, _in_words(hint))
        return choices[0]
    if kind in (Union, types.UnionType):
        is_choice = any(_chosen(value, get_args(choice)) for choice in args if get_origin(choice) is Literal)
        if type(None) in args and (value is None or (str(value).lower() == "none" and not is_choice)):
            return None
        # Text is anything's last meaning: '{"good": 2}' is a mapping before it is a string.
        for choice in sorted(args, key=lambda choice: choice is str):
            with suppress(SettingError):
                return convert(name, value, choice)
    elif kind is tuple:
        parts = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        if isinstance(parts, (list, tuple)):
            stripped = (part.strip() if isinstance(part, str) else part for part in parts)
            return tuple(convert(name, part, args[0]) for part in stripped)
    elif kind is list and isinstance(value, (list, tuple)):
        return [convert(name, part, args[0]) for part in value]
    elif kind in (dict, Mapping):
        with suppress(ValueError, TypeError, RecursionError):
            items = json.loads(value) if isinstance(value, str) else value
            if isinstance(items, Mapping):
                return {str(key): convert(f"{name}[{key}]", item, args[1]) for key, item in items.items()}
    elif kind is bool and isinstance(value, str) and value.lower() in _TRUTHS:
        return _TRUTHS[value.lower()]
    elif kind in (int, float):
        # numpy's numbers are numbers too, and true is none.
        if isinstance(value, (str, Integral if kind is int else Real)) and not isinstance(value, bool):
            with suppress(ValueError, OverflowError):
                number = kind(value)
                check(math.isfinite(number), name, value, "a finite number")
                largest, bits = (_LARGEST, 32) if kind is float else (2**63 - 1, 64)
                check(abs(number) <= largest, name, value, f"{_WORDS[kind]} that {bits} bits hold")
                return number
    elif kind is Any:
        if not isinstance(value, float) or math.isfinite(value):
            return value
    elif isinstance(value, kind):
        check(kind is not str or not _SURROGATE.search(value), name, value, "Unicode text")
        return value
    raise SettingError(f"{name}={value!r}: expected {_in_words(hint)}, found {type(value).__name__}")


def _chosen(value: Any, choices: Sequence[Any]) -> list[Any]:
    # Arrays are equal to nothing as a whole.
    return [choice for choice in choices if isinstance(value, (str, int)) and value in (choice, str(choice))]


def as_text(value: Any) -> str:
    """Write a setting as on a command line; :func:`convert` reads it back."""
    if isinstance(value, Mapping):
        return json.dumps(dict(value), ensure_ascii=False)
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def differences(each: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write of each of some settings what is not the same in all, as "rank=4 dropout=0.1"."""
    names = [name for name in dict.fromkeys(chain(*each)) if len({as_text(one.get(name)) for one in each}) > 1]
    return [" ".join(f"{name}={as_text(one[name])}" for name in names if name in one) for one in each]


def check(condition: bool, name: str, value: Any, expected: str) -> None:
    """Raise a SettingError that says what was expected of ``name`` unless ``condition`` holds."""
    if not condition:
        raise SettingError(f"{name}={value!r}: expected {expected}")


def check_arguments(function: Callable[..., Any], **values: Any) -> None:
    """Raise a SettingError for an argument that is not of the type, or out of the range, that the function declares."""
    for name, value in values.items():
        convert(name, value, _hints(function)[name])


def _limits(hint: Any) -> Iterator[tuple[Callable[[Any, Any], bool], Any, str]]:
    for mark in get_args(hint)[1:]:
        for limit in mark if isinstance(mark, Interval) else [mark]:
            keeps, field, words = _LIMITS[type(limit)]
            yield keeps, getattr(limit, field), words.format(getattr(limit, field))


def _in_words(hint: Any) -> str:
    kind, args = get_origin(hint) or hint, get_args(hint)
    if kind is Annotated:
        return f"{_in_words(args[0])} {', '.join(words for *_, words in _limits(hint))}"
    if kind in (Union, types.UnionType):
        return " or ".join(map(_in_words, args))
    if kind is list:
        return "a list"
    if kind is tuple:
        choices = f" from {', '.join(map(repr, get_args(args[0])))}" if get_origin(args[0]) is Literal else ""
        return f"a list (or text with commas){choices}"
    if kind in (dict, Mapping):
        return 'a mapping such as {"name": 1}'
    if kind is Literal:
        return f"one of {', '.join(map(repr, args))}" if len(args) > 1 else repr(args[0])
    return str(_WORDS.get(kind, getattr(kind, "__name__", kind)))
