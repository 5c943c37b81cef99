import os

import pytest

from nlptransfer.models.patches import give_way_soon


@pytest.mark.parametrize(("said", "expected"), [(None, "3000"), ("7", "7")])
def test_threads_give_way_soon_unless_their_user_has_said_how(
    said: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", said or "")
    if said is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    give_way_soon()
    assert os.environ["GOMP_SPINCOUNT"] == expected
