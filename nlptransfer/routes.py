"""The table of the routes: the command line, the comparison and the saved record read it."""

from nlptransfer.encoder_routes import Full, Lora
from nlptransfer.errors import SettingError, nearest
from nlptransfer.probe_route import Probe
from nlptransfer.route import Route
from nlptransfer.word2vec_route import Word2Vec

ROUTES: dict[str, type[Route]] = {route.name: route for route in (Word2Vec, Probe, Full, Lora)}
"""The routes by name."""


def route_class(name: str) -> type[Route]:
    """The route of that name.

    Raises:
        SettingError: no such route.
    """
    if name not in ROUTES:
        raise SettingError(f"unknown route {name!r}: {nearest(name, ROUTES)}")
    return ROUTES[name]
