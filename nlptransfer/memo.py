"""What several runs have in common, made once while somebody says so."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Made = TypeVar("Made")
_kept: ContextVar[dict[Hashable, Any] | None] = ContextVar("kept", default=None)


@contextmanager
def shared_work() -> Iterator[None]:
    """Within it :func:`once` makes each thing once, and keeps it in memory to the end."""
    before = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(before)


def once(key: Hashable, make: Callable[[], Made]) -> Made:
    """What ``make`` gives, which nobody changes: kept within :func:`shared_work`, and made anew each time outside.

    Args:
        key: all that it depends on.
    """
    kept = _kept.get()
    if kept is None:
        return make()
    if key not in kept:
        kept[key] = make()
    return kept[key]
