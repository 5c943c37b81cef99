"""Plots as files."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib import rc_context

from nlptransfer.errors import SettingError
from nlptransfer.results import Plot, Point, score_against_cost


@pytest.fixture
def plot() -> Plot:
    points = {"名前 $x$": Point(1.0, 0.5), "full": Point(30.0, 0.75, (0.7, 0.8))}
    return score_against_cost(points, "full", "accuracy", "training seconds")


@pytest.mark.parametrize(
    ("name", "begins"), [("a.svg", b"<?xml"), ("new/b.PDF", b"%PDF-"), (Path("c.png"), b"\x89PNG\r\n")]
)
def test_a_plot_is_what_its_name_ends_in(plot: Plot, name: Any, begins: bytes, tmp_path: Path) -> None:
    path = plot.save(tmp_path / name)
    assert path == tmp_path / name
    content = path.read_bytes()
    assert content.startswith(begins) and [*path.parent.iterdir()] == [path]
    with rc_context({"font.size": 30, "savefig.facecolor": "black"}):
        assert plot.save(path).read_bytes() == content


@pytest.mark.parametrize(("name", "found"), [("a.jpg", "one that ends in .jpg"), ("svg", "no ending")])
def test_other_endings_are_refused(plot: Plot, name: str, found: str, tmp_path: Path) -> None:
    with pytest.raises(
        SettingError, match=rf"{name}: expected a file name that ends in .svg, .pdf or .png, found {found}"
    ):
        plot.save(tmp_path / name)
    assert not [*tmp_path.iterdir()]
