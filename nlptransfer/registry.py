"""Find classes by name: those of this package, and those that other packages register."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from nlptransfer.errors import SettingError, nearest

log = logging.getLogger("nlptransfer")


class Named(Protocol):
    """A class that can be registered."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Registry(Mapping[str, type[T]]):
    """Classes by their ``name``, each imported when first asked for; ``kind`` is what errors call one of them.

    ``modules`` are this package's own, "module:Class"; entry points of ``group`` are those of other packages.
    """

    def __init__(self, kind: str, group: str, modules: Mapping[str, str]) -> None:
        self.kind, self.group, self._is_complete = kind, group, False
        self._places = dict(modules)
        self._classes: dict[str, type[T]] = {}

    def register(self, cls: type[T]) -> type[T]:
        """Add a class under its ``name``; also a decorator. A SettingError where another class has that name."""
        name = str(cls.name)
        if self.get(name, cls) is not cls:
            raise SettingError(f"{self.kind} {name!r}: expected a name that is free, found that of {self[name]}")
        self._classes[name] = cls
        return cls

    def check(self, name: str) -> None:
        """Raise a SettingError where there is no class of that name; nothing is imported."""
        if name not in self:
            raise SettingError(f"unknown {self.kind} {name!r}: {nearest(name, self)}")

    def find(self, name: str) -> type[T]:
        """Return the class of that name; a SettingError where there is none, or it cannot be imported."""
        self.check(name)
        return self[name]

    def where(self, fits: Callable[[T], bool]) -> str:
        """Name those that fit by their defaults, for an error that says which to take."""
        return " or ".join(name for name, cls in self.items() if fits(cls()))

    def __getitem__(self, name: str) -> type[T]:
        if name not in self:
            raise KeyError(name)
        if name not in self._classes:
            self._classes[name] = self._imported(name)
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places or name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _names(self) -> list[str]:
        if not self._is_complete:
            # Takes a while, as does its import: all installed packages are looked at.
            from importlib.metadata import entry_points

            for entry in entry_points(group=self.group):
                if self._places.setdefault(entry.name, entry.value) != entry.value:
                    log.warning("%s %r: %s is left out, as that name is taken", self.kind, entry.name, entry.value)
            self._is_complete = True
        return list(self._places | self._classes)

    def _imported(self, name: str) -> Any:
        from importlib.metadata import EntryPoint

        place = self._places[name]
        try:
            cls = EntryPoint(name, place, self.group).load()
        except (ImportError, AttributeError) as error:
            raise SettingError(f"{self.kind} {name!r}: expected it at {place}, found {error}") from error
        if getattr(cls, "name", None) != name:
            raise SettingError(f"{self.kind} {name!r}: expected a class of that name at {place}")
        return cls
