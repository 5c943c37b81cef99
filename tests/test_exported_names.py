"""The public names: one list, and every name in it leads somewhere."""

import ast
from pathlib import Path

import pytest

import nlptransfer


def test_names_agree() -> None:
    public = sorted(nlptransfer.__all__)
    assert len(set(public)) == len(public)
    assert sorted(nlptransfer._HOMES) == public
    assert sorted(dir(nlptransfer)) == public
    tree = ast.parse(Path(nlptransfer.__file__).read_text(encoding="utf-8"))
    typed = [node for block in tree.body if isinstance(block, ast.If) for node in block.body]
    homes = {
        name.name: (node.module or "").removeprefix("nlptransfer.")
        for node in typed
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert homes == nlptransfer._HOMES


@pytest.mark.parametrize("name", sorted(nlptransfer.__all__))
def test_name_is_there(name: str) -> None:
    assert getattr(nlptransfer, name) is not None


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="'nlptransfer' has no attribute 'finetun'"):
        _ = nlptransfer.finetun
