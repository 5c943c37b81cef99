"""The fuzzer of a test: whatever it counts is printed at the end, and must be nothing but results and clean errors."""

from collections.abc import Iterator

import pytest

from helpers.fuzzing import Fuzzer


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Iterator[Fuzzer]:
    fuzzer = Fuzzer()
    yield fuzzer
    request.node.user_properties.append(("fuzz", dict(fuzzer.counts)))
    fuzzer.check()
