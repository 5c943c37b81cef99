"""Settings: frozen dataclasses, filled from flat names and from text on the command line."""

import dataclasses
import json
import operator
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt, MinLen

from nlptransfer.errors import SettingError, nearest

Count = Annotated[int, Ge(1)]
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
"""Whether a value keeps a limit, the limit's field, and how it is said."""


class Settings:
    """A frozen dataclass of settings, each with its type and its range at the field."""

    def check(self) -> None:
        """Raise a SettingError for a value of another type or out of range, or for values that do not go together."""
        for name, hint in fields_of(type(self)).items():
            convert(name, getattr(self, name), hint)


@cache
def _hints(annotated: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(annotated, include_extras=True)


def fields_of(kind: type) -> dict[str, Any]:
    """The settings of one dataclass: name -> type."""
    return {field.name: _hints(kind)[field.name] for field in dataclasses.fields(kind) if field.init}


def fill(kinds: Mapping[str, type], flat: Mapping[str, Any]) -> dict[str, Any]:
    """Spread flat settings over dataclasses by field name.

    Args:
        kinds: the dataclasses, each under the name that it has in the result.
        flat: settings by field name; a string is read as the field's type.

    Returns:
        One instance for each of ``kinds``.

    Raises:
        SettingError: a name that no dataclass has, or a value of the wrong type.
    """
    known = {name: kind for kind in kinds.values() for name in fields_of(kind)}
    for name in flat:
        if name not in known:
            raise SettingError(f"unknown setting {name!r}: {nearest(name, known)}")
    return {
        key: kind(**{name: convert(name, flat[name], hint) for name, hint in fields_of(kind).items() if name in flat})
        for key, kind in kinds.items()
    }


def pairs(settings: Iterable[str] | None, own: Collection[str] = ()) -> dict[str, str]:
    """Settings that were given as KEY=VALUE.

    Args:
        own: what the command has arguments of its own for.

    Raises:
        SettingError: one without "=", or one of ``own``.
    """
    found = {}
    for setting in settings or ():
        name, equals, value = setting.partition("=")
        if not equals:
            raise SettingError(f"--set {setting}: expected KEY=VALUE")
        if name.strip() in own:
            raise SettingError(f"--set {name.strip()}: not a setting but an argument by itself; see --help")
        found[name.strip()] = value
    return found


def convert(name: str, value: Any, hint: Any) -> Any:
    """``value`` as the type ``hint``; strings are read as they come from a command line.

    Raises:
        SettingError: the value cannot be of that type, or is out of its range.
    """
    if get_origin(hint) is Annotated:
        found = convert(name, value, get_args(hint)[0])
        if not all(keeps(found, limit) for keeps, limit, _ in _limits(hint)):
            raise SettingError(f"{name}={value!r}: expected {_said(hint)}")
        return found
    if get_origin(hint) in (Union, types.UnionType):
        choices = get_args(hint)
        if value is None or (isinstance(value, str) and value.lower() == "none" and type(None) in choices):
            return None
        # Text is anything's last meaning: '{"good": 2}' is a mapping before it is a string.
        for choice in sorted(choices, key=lambda choice: choice is str):
            try:
                return convert(name, value, choice)
            except SettingError:
                continue
        raise _wrong(name, value, hint)
    if get_origin(hint) is Literal:
        for choice in get_args(hint):
            if value == choice or (isinstance(value, str) and value == str(choice)):
                return choice
        raise SettingError(f"{name}={value!r}: expected {_said(hint)}")
    if get_origin(hint) is tuple:
        parts = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)):
            raise _wrong(name, value, hint)
        return tuple(
            convert(name, part.strip() if isinstance(part, str) else part, get_args(hint)[0]) for part in parts
        )
    if get_origin(hint) in (dict, Mapping):
        return _mapping(name, value, hint)
    return _plain(name, value, hint)


def as_text(value: Any) -> str:
    """A setting as it is written on a command line; :func:`convert` reads it back."""
    if isinstance(value, Mapping):
        return json.dumps(dict(value), ensure_ascii=False)
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _mapping(name: str, value: Any, hint: Any) -> dict[str, Any]:
    try:
        pairs = dict(json.loads(value) if isinstance(value, str) else value)
    except (ValueError, TypeError) as error:
        raise _wrong(name, value, hint) from error
    return {str(key): convert(f"{name}[{key}]", item, get_args(hint)[1]) for key, item in pairs.items()}


def _plain(name: str, value: Any, hint: Any) -> Any:
    if hint is Any:
        return value
    if isinstance(value, str) and hint is bool and value.lower() in ("true", "false", "1", "0", "yes", "no"):
        return value.lower() in ("true", "1", "yes")
    if isinstance(value, str) and hint in (int, float):
        try:
            return hint(value)
        except ValueError as error:
            raise _wrong(name, value, hint) from error
    # numpy's numbers are numbers too, and true is none.
    if hint in (int, float) and isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool):
        return hint(value)
    if hint not in (int, float) and isinstance(value, hint):
        return value
    raise _wrong(name, value, hint)


def _limits(hint: Any) -> Iterator[tuple[Callable[[Any, Any], bool], Any, str]]:
    for mark in get_args(hint)[1:]:
        for limit in mark if isinstance(mark, Interval) else [mark]:
            keeps, field, words = _LIMITS[type(limit)]
            yield keeps, getattr(limit, field), words.format(getattr(limit, field))


def _wrong(name: str, value: Any, hint: Any) -> SettingError:
    return SettingError(f"{name}={value!r}: expected {_said(hint)}, found {type(value).__name__}")


def _said(hint: Any) -> str:
    """A type in words."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    if hint in words:
        return words[hint]
    if get_origin(hint) is Annotated:
        return f"{_said(get_args(hint)[0])} {', '.join(words for *_, words in _limits(hint))}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_said(choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return "a list (or text with commas)"
    if get_origin(hint) in (dict, Mapping):
        return 'a mapping such as {"name": 1}'
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    return getattr(hint, "__name__", str(hint))


def check(condition: bool, name: str, value: Any, expected: str) -> None:
    """Raise a SettingError that says what was expected of ``name`` unless ``condition`` holds."""
    if not condition:
        raise SettingError(f"{name}={value!r}: expected {expected}")


def check_arguments(function: Callable[..., Any], **values: Any) -> None:
    """Raise a SettingError for an argument that is not of the type, or out of the range, that the function declares."""
    for name, value in values.items():
        convert(name, value, _hints(function)[name])
