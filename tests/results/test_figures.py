"""Plots as files."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import rc_context
from matplotlib.font_manager import fontManager

from nlptransfer.errors import SettingError
from nlptransfer.results import Plot, Point, score_against_cost
from nlptransfer.results.figures import FONTS


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


@pytest.mark.parametrize("form", ["png", "pdf"])
def test_letters_are_drawn_by_a_font_that_has_them(
    form: str, plot: Plot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fontManager, "ttflist", [one for one in fontManager.ttflist if one.name not in FONTS])
    plot.save(tmp_path / "plot.svg")
    assert not caplog.records
    path = plot.save(tmp_path / f"plot.{form}")
    boxes = path.read_bytes()
    (line,) = caplog.messages
    assert line.startswith("The plot has blank boxes for 名前, as matplotlib finds no font") and "\n" not in line
    caplog.clear()
    fontManager.addfont(font_with("名前", tmp_path / "font.ttf"))
    assert plot.save(path).read_bytes() != boxes and not caplog.records


def font_with(letters: str, path: Path) -> Path:
    """Make a font in which each letter is a triangle."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    pen.lineTo((500, 1000))
    pen.lineTo((1000, 0))
    pen.closePath()
    names = [".notdef", *(f"uni{ord(letter):04X}" for letter in letters)]
    font = FontBuilder(1000)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:], strict=True)})
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable({"familyName": FONTS[0], "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return path


def test_other_warnings_of_a_plot_are_passed_on(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="of somebody"):
        Plot("a", "", lambda _: warnings.warn("of somebody", stacklevel=1)).save(tmp_path / "a.png")


@pytest.mark.parametrize(("name", "found"), [("a.jpg", "one that ends in .jpg"), ("svg", "no ending")])
def test_other_endings_are_refused(plot: Plot, name: str, found: str, tmp_path: Path) -> None:
    with pytest.raises(
        SettingError, match=rf"{name}: expected a file name that ends in .svg, .pdf or .png, found {found}"
    ):
        plot.save(tmp_path / name)
    assert not [*tmp_path.iterdir()]
