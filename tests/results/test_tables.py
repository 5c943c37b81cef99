"""Results as frames, csv, LaTeX and plots."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from helpers.results import result_of
from nlptransfer import Audit, ComparisonResult, GainCurve, Labels, Ranking
from nlptransfer.errors import RunFolderError, SettingError
from nlptransfer.files import write_json
from nlptransfer.results import (
    Baseline,
    CandidateResult,
    CandidateScore,
    CurvePoint,
    DataSummary,
    EncoderRank,
    PairDifference,
    RowsToReach,
    Section,
    SourceRank,
    printable,
)
from nlptransfer.results.tables import Table

DATA = DataSummary("films", Labels(("bad", "good")), {})
SIGNS = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^"}
SIGNS |= {r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|", "{}": ""} | {
    rf"\{sign}": sign for sign in "&%$#_{}"
}
BAD = "50% of_the $x & #1 {a}~^\\"


def comparison(folder: Path, **changes: Any) -> ComparisonResult:
    cost = {"train_seconds": 1234.56, "size_mb": 0.7, "texts_per_second_64": 4321.0, "peak_memory_mb": 800.0}
    constant = CandidateScore(0.5, None, None, (0.5,))
    score = CandidateScore(0.8124, 0.0123, (0.79, 0.83), (0.8, 0.8248))
    found = ComparisonResult(
        folder, DATA, {}, "f1_macro", {}, {},
        candidates=(
            CandidateResult("majority", "baseline", status="finished", test=constant, cost=cost),
            CandidateResult("=" + BAD, "probe", "acme/tiny", "finished", validation=0.8, test=score, cost=cost),
            CandidateResult("full", "full", "acme/tiny", "skipped", "would take 48 minutes"),
        ),
        finished=True,
        pairs=(PairDifference("=" + BAD, "majority", 0.3124, (-0.01, 0.4), 3.2e-9, 0.03125, 1.0, 1.0),),
        recommended="=" + BAD,
        curve=(CurvePoint("majority", 1000, 0.5, (0.4, 0.6)), CurvePoint("=" + BAD, 1000, reason="no time")),
        rows_to_reach=(RowsToReach("=" + BAD, "majority", 1250.4),),
    )  # fmt: skip
    return replace(found, **changes)


def ranking(folder: Path, *sources: SourceRank) -> Ranking:
    best = EncoderRank("acme/big", None, 12, 0.9, (0.85, 0.95), 0.3, 0.0, (0.0, 0.0), 1.5, 20.0, 100.0, 400.0, 0.01)
    fast = replace(
        best,
        base="acme/small",
        layers=6,
        score=0.89,
        behind=0.01,
        behind_interval=(-0.01, 0.03),
        texts_per_second=1000.0,
    )
    return Ranking(folder, DATA, {}, "accuracy", 100, (best, fast), sources, {}, {})


SOURCE = SourceRank("books.csv", 2000, 0.02, (-0.01, 0.05), 0.75, True)
GAINS = [
    {"size": size, "transfer": transfer, "direct": 0.7, "with_source": 0.7 + gain, "gain": gain,
     "interval": [gain - 0.05, gain + 0.05], "verdict": "helps", "metric": "accuracy", "seeds": 3, "rows": 100}
    for size in (1000, 50) for transfer, gain in (("copy", 0.1), ("joint", -0.02))
]  # fmt: skip


def read(latex: str) -> list[list[str]]:
    """Cells of a tabular, by a reader of what LaTeX makes of it; fails at whatever that would stumble over."""
    head, begin, top, *lines, bottom, end, last = latex.split("\n")
    assert (head, top, bottom, end, last) == (
        r"% \usepackage{booktabs}",
        r"\toprule",
        r"\bottomrule",
        r"\end{tabular}",
        "",
    )
    columns = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", begin)
    assert columns is not None and lines.pop(1) == r"\midrule"
    rows = []
    for line in lines:
        assert line.endswith(r" \\") and not line.startswith(("[", "*"))
        cells = re.split(r"(?<!\\)&", line[:-3])
        assert len(cells) == len(columns[1])
        rows.append([_text(re.sub(r"^ ?(\{\})?\\textbf\{(.*)\} ?$", r"\2", cell)) for cell in cells])
    return rows


def _text(cell: str) -> str:
    signs = "|".join(map(re.escape, SIGNS))
    rest = re.sub(rf"{signs}|\$-\$|\$[\d.]+\\cdot10\^\{{-\d+\}}\$", "", cell)
    assert not re.search(r"[&%$#_{}~^\\<>|]", rest) and "--" not in cell, f"not escaped: {cell}"
    return re.sub(signs, lambda sign: SIGNS[sign[0]], cell).strip()


@given(st.lists(st.text(max_size=20) | st.text("-&%$#_{}~^\\<>|[]* \n", max_size=8), min_size=1, max_size=3))
@example(["[a]", "*", "a--b---c", BAD])
def test_any_text_is_what_a_paper_shows(texts: list[str]) -> None:
    table = Table([{"text": text, "at": 1} for text in texts], {"name": ["{text}"], ">at 5%": ["{at}"]}, "accuracy")
    written = [[*filter(None, row)] for row in read(table.to_latex())]
    shown = [" ".join(printable(text).split()) for text in texts]
    assert written == [["name"] * any(texts) + ["at 5%"], *([*filter(None, [text, "1"])] for text in shown)]


def test_a_comparison_as_papers_print_it(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    assert read(found.to_latex()) == [
        ["candidate", "validation", "test macro F1 (95%)", "spread over seeds", "training (s)", "size (MB)",
         "texts/s", "no score because"],
        ["majority", "", "0.500", "", "1,234.6", "0.7", "4,321", ""],
        ["=" + BAD, "0.800", "0.812 [0.790, 0.830]", "0.012", "1,234.6", "0.7", "4,321", ""],
        ["full", "", "", "", "", "", "", "would take 48 minutes"],
    ]  # fmt: skip
    bold = [line for line in found.to_latex().splitlines() if r"\textbf" in line]
    assert len(bold) == 1 and r"\textbf{0.812 [0.790, 0.830]}" in bold[0]
    _, (one, other, *numbers) = read(found.to_latex("pairs"))
    assert (one, other) == ("=" + BAD, "majority")
    assert numbers == ["+0.312 [$-$0.010, +0.400]", r"$3.2\cdot10^{-9}$", "1", "0.031", "1"]
    assert read(found.to_latex("curve"))[1:] == [
        ["majority", "1,000", "0.500 [0.400, 0.600]", ""],
        ["=" + BAD, "1,000", "", "no time"],
    ]
    assert read(found.to_latex("rows_to_reach"))[1] == ["=" + BAD, "majority", "1,250"]


def test_a_ranking_and_gains_as_papers_print_them(tmp_path: Path) -> None:
    heading, best, fast = read(ranking(tmp_path).to_latex())
    assert heading[:3] == ["encoder", "layers", "accuracy (95%)"]
    assert best[:5] == ["acme/big", "12", "0.900 [0.850, 0.950]", "0.300", "+0.000 [+0.000, +0.000]"]
    assert fast[4:] == ["+0.010 [$-$0.010, +0.030]", "1.500", "20.000", "1,000", "400"]
    assert r"\textbf{acme/small}" in ranking(tmp_path).to_latex()
    (_, row) = read(ranking(tmp_path, SOURCE).to_latex("sources"))
    assert row == ["books.csv", "2,000", "+0.020 [$-$0.010, +0.050]", "0.75"]
    heading, *rows = read(GainCurve(GAINS).to_latex())
    assert heading[2] == "accuracy without the source" and len(rows) == 4
    assert rows[1] == ["1,000", "joint", "0.700", "0.680", "$-$0.020 [$-$0.070, +0.030]", "3", "helps"]


def test_frames_and_csv_have_every_value(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    frame = found.to_frame()
    assert frame["score"].tolist()[:2] == [0.5, 0.8124] and frame["status"].tolist() == [
        "finished",
        "finished",
        "skipped",
    ]
    assert {"name", "base", "low", "high", "peak_memory_mb"} <= {*frame}
    assert found.to_frame("pairs")[["low", "high", "mcnemar_p"]].values.tolist() == [[-0.01, 0.4, 0.03125]]
    encoders = ranking(tmp_path).to_frame()
    assert encoders[["base", "low", "behind_high"]].values.tolist() == [
        ["acme/big", 0.85, 0.0],
        ["acme/small", 0.85, 0.03],
    ]
    assert GainCurve(GAINS).to_frame()["low"].tolist() == [row["interval"][0] for row in GAINS]
    again = pd.read_csv(found.to_csv(tmp_path / "new" / "a.csv"))
    # A spreadsheet would compute what begins with =.
    assert again["name"].tolist() == ["majority", f"'={BAD}", "full"]
    np.testing.assert_array_equal(again["score"], frame["score"])
    assert pd.read_csv(found.to_csv(tmp_path / "b.csv", "rows_to_reach"))["rows"].tolist() == [1250.4]


def test_results_are_tables_at_the_prompt_and_in_notebooks(tmp_path: Path) -> None:
    audit = Audit(tmp_path, DATA, {}, None, {"drift": Section("drift", (), {})}, {}, {})
    for found in (comparison(tmp_path), ranking(tmp_path), GainCurve(GAINS), result_of(tmp_path), audit):
        cells = found.shown.cells()
        lines = repr(found).splitlines()
        assert len(lines) == 1 + len(found.shown.rows)
        shown = [[*row.itertext()] for row in ElementTree.fromstring(found._repr_html_()).iter("tr")]
        assert shown[0] == [name.removeprefix(">") for name in cells]
        for row, html, line in zip(zip(*cells.values(), strict=True), shown[1:], lines[1:], strict=True):
            assert html == [*filter(None, row)] and " ".join(html).split() == line.split()
    assert comparison(tmp_path)._repr_html_().count("font-weight") == len(comparison(tmp_path).shown.cells())
    wide = Table([{"text": "<b>好</b>\n"}, {"text": "all"}], {"name": ["{text}"], ">n": ["{text}"]}, "accuracy")
    assert repr(wide).splitlines()[1:] == ["<b>好</b>  <b>好</b>", f"all{' ' * 14}all"]
    assert "&lt;b&gt;好&lt;/b&gt;</td>" in wide._repr_html_()


def test_a_run_is_its_scores_beside_the_baselines(tmp_path: Path) -> None:
    scores = {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6]}
    run = result_of(tmp_path, baselines={"majority": Baseline(scores, 0.1, 90, False)})
    heading, one, other = repr(run).splitlines()
    assert heading.split("  ")[0] == "route" and "test accuracy (95%)" in heading
    assert one.startswith("full ") and f"{run.metrics['accuracy']:.3f} [" in one
    assert re.sub(" +", " ", other) == "baseline: majority 0.500 [0.400, 0.600] 0.1"
    assert "validation accuracy" in repr(result_of(tmp_path, split="validation"))


@pytest.mark.parametrize("table", [None, "candidates", "curve"])
def test_plots_show_the_scores(table: str | None, tmp_path: Path) -> None:
    path = comparison(tmp_path).plot(tmp_path / "a.svg", table)
    shown = "".join(ElementTree.parse(path).getroot().itertext())
    assert "majority" in shown and "macro F1" in shown and ("full" in shown) is False
    assert ("labeled rows" if table == "curve" else "training seconds") in shown


def test_plots_of_rankings_and_gains(tmp_path: Path) -> None:
    shown = ["".join(ElementTree.parse(found.plot(tmp_path / "a.svg")).getroot().itertext())
             for found in (ranking(tmp_path, SOURCE), GainCurve(GAINS))]  # fmt: skip
    assert all(text in shown[0] for text in ("12 of big", "6 of small", "seconds for 1,000 texts"))
    assert all(text in shown[1] for text in ("copy", "joint", "gain in accuracy", "1,000"))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    with pytest.raises(SettingError, match="table='pears': expected a table of this result: did you mean 'pairs'"):
        found.to_frame("pears")
    with pytest.raises(SettingError, match="table='sources': expected a table of this result: known: encoders"):
        ranking(tmp_path).to_csv(tmp_path / "a.csv", "sources")
    with pytest.raises(SettingError, match="table='pairs': expected one that has a plot: candidates, curve"):
        found.plot(tmp_path / "a.png", "pairs")
    begun = comparison(tmp_path, candidates=(CandidateResult("full", "full"),), curve=(), recommended=None)
    with pytest.raises(SettingError, match="table=None: expected one that has a plot: none has scores yet"):
        begun.plot(tmp_path / "a.png")
    assert read(begun.to_latex())[1:] == [["full"]]
    with pytest.raises(RunFolderError, match=r"expected the folder of a gain curve, found no gains\.json"):
        GainCurve.load(tmp_path)
    write_json(tmp_path / "gains.json", GAINS)
    assert GainCurve.load(tmp_path) == GAINS
    assert {path.name for path in tmp_path.iterdir()} == {"gains.json"}
