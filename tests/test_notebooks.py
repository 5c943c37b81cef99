"""The notebooks of the docs run, and print what is kept in them, but for numbers."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from helpers.notebooks import NOTEBOOKS, as_kept, executed


def shown(notebook: NotebookNode) -> list[list[tuple[list[str], list[str]]]]:
    """What each cell of code shows: the kinds of its outputs, and the words of its texts."""
    return [
        [
            (sorted(one.get("data", ())), _words(one["text"] if "text" in one else one.data["text/plain"]))
            for one in cell.outputs
        ]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def _words(text: str) -> list[str]:
    return re.sub(r"[-+]?\d[\d,.]*(e-\d+)?", "0", text).split()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_is_kept_in_it(path: Path, tmp_path: Path) -> None:
    kept = nbformat.read(path, as_version=4)
    found = executed(path, tmp_path)
    # A library's, of a package that the extra notebook installs.
    assert "IProgress" not in str(found)
    assert shown(as_kept(found)) == shown(kept)
    # Of no machine, nor of whose it is.
    assert not re.search(r"/(home|root|tmp|work|Users)\b", path.read_text(encoding="utf-8"))
