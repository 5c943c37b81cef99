"""The table of the routes: the command line, the comparison and the saved record read it."""

from nlptransfer.errors import SettingError, nearest
from nlptransfer.routes.base import Route
from nlptransfer.routes.full import Full
from nlptransfer.routes.lora import Lora
from nlptransfer.routes.probe import Probe
from nlptransfer.routes.word2vec import Word2Vec

ROUTES: dict[str, type[Route]] = {route.name: route for route in (Word2Vec, Probe, Full, Lora)}
"""The routes by name."""


def route_class(name: str) -> type[Route]:
    """The route of that name.

    Raises:
        SettingError: no such route.
    """
    return found(name, ROUTES)


def found(name: str, known: dict[str, type[Route]]) -> type[Route]:
    if name not in known:
        raise SettingError(f"unknown route {name!r}: {nearest(name, known)}")
    return known[name]
