"""The routes by name: the command line, the comparison and the saved record read them here. Imports none of them."""

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
DEFAULT_ROUTE = "word2vec"
FROZEN_ROUTE = "probe"
"""What studies of many runs take: an encoder's features are computed once."""
register_route = ROUTES.register
