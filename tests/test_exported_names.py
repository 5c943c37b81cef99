"""The public names: every name in the package's face leads somewhere, and so does every name in a room's."""

from importlib import import_module
from importlib.metadata import version

import pytest

import nlptransfer
from helpers.folders import ROOT

ROOMS = sorted(path.parent.name for path in (ROOT / "nlptransfer").glob("*/__init__.py"))


def test_names_are_listed() -> None:
    assert sorted(dir(nlptransfer)) == sorted(nlptransfer.__all__)


@pytest.mark.parametrize("room", ["", *(f".{room}" for room in ROOMS)])
def test_names_are_there(room: str) -> None:
    face = import_module(f"nlptransfer{room}")
    assert len(set(face.__all__)) == len(face.__all__)
    assert [name for name in face.__all__ if getattr(face, name) is None] == []
    assert not room or "does not know" in " ".join((face.__doc__ or "").split())


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="finetun"):
        _ = nlptransfer.finetun


def test_the_version_is_that_of_the_installed_package() -> None:
    assert nlptransfer.__version__ == version("nlptransfer")
