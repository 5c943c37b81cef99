"""Run the notebooks of the docs; ``PYTHONPATH=tests python -m helpers.notebooks`` keeps what they print now."""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from helpers.folders import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def executed(path: Path, folder: Path) -> NotebookNode:
    """A notebook, run in a folder, with all that its cells print, return and warn of."""
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, record_timing=False, coalesce_streams=True, resources=place).execute()
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def as_kept(notebook: NotebookNode) -> NotebookNode:
    """The same with what its cells print and return alone; progress and the log are not kept."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            is_kept = [one.output_type == "execute_result" or one.get("name") == "stdout" for one in cell.outputs]
            cell.outputs = [one for one, kept in zip(cell.outputs, is_kept, strict=True) if kept]
    return notebook


if __name__ == "__main__":
    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(as_kept(executed(path, Path(folder))), path)
