"""What several runs have in common."""

import pytest

from nlptransfer.memo import once, shared_work


def test_each_thing_is_made_once_within_and_anew_outside():
    made = []

    def make():
        made.append(len(made))
        return made[-1]

    assert [once(("a",), make), once(("a",), make)] == [0, 1]
    with shared_work():
        assert [once(("a",), make), once(("b",), make), once(("a",), make)] == [2, 3, 2]
        with shared_work({"b"}):
            assert once(("a",), make) == 2
    with shared_work({"b"}):
        assert [once(("a",), make), once(("b",), make), once(("a",), make), once(("b",), make)] == [4, 5, 6, 5]
    assert once(("a",), make) == 7


def test_what_failed_is_tried_again():
    with shared_work():
        with pytest.raises(ZeroDivisionError):
            once(("a",), lambda: 1 / 0)
        assert once(("a",), lambda: 1) == 1
