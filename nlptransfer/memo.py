"""Make a thing once where several runs, or several steps of one, need the same."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Made = TypeVar("Made")
_memo: ContextVar[tuple[dict[Any, Any], Collection[str] | None] | None] = ContextVar("memo", default=None)


@contextmanager
def shared_work(kinds: Collection[str] | None = None) -> Iterator[None]:
    """Enable memoization of :func:`once` of these kinds (None: of all) inside this block, unless it is enabled."""
    memo, enabled = _memo.get() or ({}, ())
    if enabled is None or (kinds is not None and {*kinds} <= {*enabled}):
        yield
        return
    before = _memo.set(({**memo}, None if kinds is None else {*enabled, *kinds}))
    try:
        yield
    finally:
        _memo.reset(before)


def once(key: tuple[Any, ...], make: Callable[[], Made]) -> Made:
    """Make a value, not to be changed, once for each key (its kind, and all it depends on) in :func:`shared_work`."""
    memo, kinds = _memo.get() or ({}, ())
    if kinds is not None and key[0] not in kinds:
        return make()
    if key not in memo:
        memo[key] = make()
    made: Made = memo[key]
    return made
