"""The routes by name: the command line, the comparison and the saved record read them here. Imports none of them."""

from pathlib import Path
from typing import TYPE_CHECKING

from nlptransfer.registry import Registry

if TYPE_CHECKING:
    from nlptransfer.routes.base import Route

ROUTES: "Registry[Route]" = Registry(
    "route",
    "nlptransfer.routes",
    {
        "word2vec": "nlptransfer.routes.word2vec:Word2Vec",
        "probe": "nlptransfer.routes.probe:Probe",
        "lora": "nlptransfer.routes.lora:Lora",
        "full": "nlptransfer.routes.full:Full",
    },
)
"""The routes by name, in the order of cost; those of other packages come last."""
WORDS_ROUTE, FROZEN_ROUTE = "word2vec", "probe"
"""What begins with word vectors, and what studies of many runs take: an encoder's features are computed once."""
register_route = ROUTES.register


def default_route(base: str | Path | None) -> str:
    """Return the name of the route where none is named: that of word vectors where the base holds these, else a probe.

    On validation rows the probe is ahead of word vectors at little more time (docs/results.md, "Which route").
    """
    from nlptransfer.hub import VECTORS
    from nlptransfer.vectors import FILE_SUFFIXES

    if base is None:
        return FROZEN_ROUTE
    is_named_so = str(base).lower().removesuffix(".gz").endswith(FILE_SUFFIXES)
    return WORDS_ROUTE if is_named_so or str(base) in VECTORS or Path(base).is_file() else FROZEN_ROUTE
