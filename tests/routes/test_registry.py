"""The table of the routes."""

import pytest

from nlptransfer.errors import SettingError
from nlptransfer.routes.base import Route
from nlptransfer.routes.full import Full
from nlptransfer.routes.lora import Lora
from nlptransfer.routes.registry import ROUTES
from nlptransfer.routes.word2vec import Word2Vec
from nlptransfer.settings import fields_of


def test_table_of_routes() -> None:
    assert {"word2vec": Word2Vec, "full": Full, "lora": Lora}.items() <= ROUTES.items()
    assert all(ROUTES.find(name) is kind and kind.name == name for name, kind in ROUTES.items())
    with pytest.raises(SettingError, match=r"unknown route 'word2vek': .*word2vec"):
        ROUTES.find("word2vek")


@pytest.mark.parametrize("kind", ROUTES.values())
def test_every_route_has_defaults_that_make_sense(kind: type[Route]) -> None:
    kind().check()
    assert {"name", "seed", "learning_rate"}.isdisjoint(fields_of(kind))
