"""The report: what it shows, that it shows the saved numbers, and that no text of a user becomes a part of the page."""

import base64
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, log_loss

from helpers.audits import made_audit
from helpers.results import ONE_LABEL, SEVERAL, VERDICT, result_of, rows_of, write_run
from nlptransfer.classifier.explain import Explanation, Word
from nlptransfer.data.dataset import Split
from nlptransfer.data.labels import Labels
from nlptransfer.errors import DataError
from nlptransfer.evaluation import reliability_curve, score_predictions
from nlptransfer.files import read_json
from nlptransfer.report.page import MATRIX_LABELS, SECTIONS, write_report
from nlptransfer.results import (
    Baseline,
    CandidateResult,
    CandidateScore,
    ComparisonResult,
    CurvePoint,
    Fit,
    PairDifference,
    Point,
    Predictions,
    RowsToReach,
    RunResult,
    TransferSummary,
    Trial,
    learning_curve,
    printable,
    score_against_cost,
)

VOID = {"meta", "br", "link", "input", "img", "hr"}
NOT_OF_THIS_RUN = {"candidates", "pairs", "curve", "choice"}
"""Its target has labels."""


class Page(HTMLParser):
    """What a page holds, as a browser reads it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, str] = {}
        """text by section, the header's under "" """
        self.tables: dict[str, list[list[str]]] = {}
        """cells by the label of their box"""
        self._open: list[str] = []
        self._section, self._box = "", ""
        self.feed(html)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.tags.append((tag, given))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = given["id"]
        elif given.get("class") == "scroll":
            self._box = given["aria-label"]
            self.tables[self._box] = []
        elif tag == "tr":
            self.tables[self._box].append([])
        elif tag in ("td", "th"):
            self.tables[self._box][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> inside {self._open[-3:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.texts[self._section] = self.texts.get(self._section, "") + data
        if "td" in self._open or "th" in self._open:
            self.tables[self._box][-1][-1] += data

    @property
    def ids(self) -> list[str]:
        return [given["id"] for _, given in self.tags if "id" in given]

    @property
    def sections(self) -> set[str]:
        return {given["id"] for tag, given in self.tags if tag == "section"} - {"detail"}

    @property
    def figures(self) -> set[str]:
        return {given["id"] for tag, given in self.tags if tag == "img"}

    def row(self, box: str, first: str) -> list[str]:
        return next(row[1:] for row in self.tables[box] if row[0] == first)


def page_of(folder: Path, **given: Any) -> Page:
    return Page(write_report(folder, **given).read_text(encoding="utf-8"))


def write_comparison(
    folder: Path,
    names: tuple[str, ...] = ("tf-idf", "probe", "full"),
    run: dict[str, Any] | None = None,
    warnings: tuple[str, ...] = ("3 rows <b>leak</b>",),
    **changes: Any,
) -> Path:
    """A comparison that recommends the second of three candidates, whose run is made with ``run``."""
    cheap, chosen, best = names
    write_run(folder / "candidates/other-0")
    write_run(folder / "candidates/chosen-0", **(run or {}))
    data = RunResult.load(folder / "candidates/chosen-0").data
    cost = {"peak_memory_mb": 800.0, "trainable_parameters": 4610, "size_mb": 0.7, "texts_per_second_1": 90.0}

    def candidate(name: str, mean: float, seconds: float) -> CandidateResult:
        return CandidateResult(
            name, "probe", status="finished", seeds=(0, 1),
            runs=("candidates/chosen-0" if name == chosen else "candidates/other-0",) * 2,
            settings={"learning_rate": 0.001}, trials=(Trial({"learning_rate": 0.001}, 0.81),), validation=0.81,
            test=CandidateScore(mean, 0.0123, (mean - 0.04, mean + 0.03), (mean, mean)),
            cost={**cost, "train_seconds": seconds, "texts_per_second_64": 444.0},
        )  # fmt: skip

    measured = (cheap, 0.701, 0.0), (chosen, 0.802, 3.5), (best, 0.806, 200.0)
    skipped = CandidateResult("lora", "lora", status="skipped", reason="would take 48 minutes")
    found = ComparisonResult(
        folder=folder,
        data=replace(data, warnings=warnings),
        settings={"seeds": 2, "delta": 0.01},
        metric="accuracy",
        machine={"processor": "a test's", "cores": 2, "gpu": None},
        versions={"torch": "2.13.0"},
        candidates=(*(candidate(*one) for one in measured), skipped),
        finished=True,
        pairs=(PairDifference(best, chosen, 0.004, (-0.01, 0.02), 0.5, 0.03125, 1e-9, 0.0625),),
        recommended=chosen,
        best=best,
        recommendation=f"{chosen}: as good as {best} & cheaper",
        curve=(
            *(CurvePoint(name, size, 0.5 + size / 1000, (0.4, 0.8)) for name in (chosen, best) for size in (100, 300)),
            CurvePoint(cheap, 100, reason="no time"),
        ),
        rows_to_reach=(RowsToReach(best, chosen, 250.4), RowsToReach(best, cheap, None)),
    )
    replace(found, **changes).save()
    return folder


def texts_of(n: int, text: str = "a lovely film") -> dict[str, list[str]]:
    return {"test": [f"{text} {row}" for row in range(n)]}


def explain(texts: Sequence[str], labels: Sequence[str]) -> list[Explanation]:
    """Say of "a lovely film 1" that the second word speaks for the label, and the third one against it."""
    words = Word("lovely", 2, 8, 0.5), Word("film", 9, 13, -0.25)
    return [Explanation(text, label, 0.8, None, words) for text, label in zip(texts, labels, strict=True)]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that a report can show, and its report."""
    folder = write_run(tmp_path_factory.mktemp("report") / "run", verdict=VERDICT)
    write_report(folder, texts=texts_of(60), explain=explain)
    return folder


@pytest.fixture(scope="module")
def comparison_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_comparison(tmp_path_factory.mktemp("report") / "comparison")
    write_report(folder, texts=texts_of(60), explain=explain)
    return folder


def html_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_a_run_has_every_part(run_folder: Path) -> None:
    page = Page(html_of(run_folder))
    assert page.sections == {*SECTIONS} - NOT_OF_THIS_RUN
    assert page.figures == {"figure-reliability", "figure-coverage", "figure-training"}
    assert "highest score on validation 0.900 in epoch 2; kept: epoch 3" in html_of(run_folder)
    links = [given["href"] for tag, given in page.tags if tag == "a"]
    assert links == [f"#{name}" for name in SECTIONS if name not in NOT_OF_THIS_RUN]


def test_a_comparison_has_every_part_and_its_advice_first(comparison_folder: Path) -> None:
    page = Page(html_of(comparison_folder))
    # Its costs are in the table of candidates, and it says nothing of a source.
    assert page.sections == {*SECTIONS} - {"verdict", "choice", "cost", "scores"}
    assert page.figures >= {"figure-cost", "figure-learning", "figure-reliability", "figure-coverage"}
    assert "probe: as good as full & cheaper" in page.texts[""]
    assert page.ids[:3] == ["asked", "answer", "trust"]
    assert "the first of its 2 seeds" in page.texts["detail"]
    assert "3 rows <b>leak</b>" in page.texts[""] and "Without lora" in page.texts[""]
    assert "2 seeds: what is trained might score otherwise" in page.texts[""]
    assert page.row("Beside the baselines", "probe") == ["0.802", "[0.762, 0.832]"]
    assert "processor a test's, cores 2, gpu none" in page.texts["candidates"]


def test_the_numbers_of_a_run_are_those_of_its_files(run_folder: Path) -> None:
    page, saved = Page(html_of(run_folder)), read_json(run_folder / "metrics.json")
    test = saved["test"]
    low, high = test["accuracy_interval"]
    right = round(60 * test["accuracy"])
    said = f"Accuracy {test['accuracy']:.3f}, 95% interval {low:.3f} to {high:.3f}: {right} of 60 test rows"
    assert said in page.texts[""]
    for name in ("f1_macro", "precision_macro", "recall_macro", "mcc", "loss"):
        assert f"{test[name]:.3f}" in page.texts["scores"]
    for label, scores in test["per_class"].items():
        support, precision, recall, f1 = page.row("Scores by label", label)
        assert [support, precision, f1] == [str(scores["support"]), f"{scores['precision']:.3f}", f"{scores['f1']:.3f}"]
        assert recall.startswith(f"{scores['recall']:.3f} [")
    assert page.row("Cost", "train seconds") == ["12"]
    assert page.row("Cost", "size MB") == ["0.500"]
    assert page.row("Label balance", "good")[:2] == ["30", str(test["per_class"]["good"]["support"])]
    assert "nlptransfer finetune rows/remarks.csv --set text_column=review" in page.texts["repeat"]
    assert page.row("Settings: training", "seed") == ["7"]
    assert page.row("Versions", "torch") == ["2.13.0"]
    assert page.row("Machine", "processor") == ["a test's"]


def test_the_numbers_of_a_comparison_are_those_of_its_file(comparison_folder: Path) -> None:
    page = Page(html_of(comparison_folder))
    assert page.row("The candidates", "probe") == [
        "0.802 [0.762, 0.832]", "2", "0.012", "3.5", "4,610", "800", "0.7", "90", "444"
    ]  # fmt: skip
    assert page.row("The candidates", "lora") == ["skipped: would take 48 minutes"]
    assert page.row("Differences of each pair", "full") == [
        "probe", "+0.004", "[-0.010, +0.020]", "0.5000", "<0.0001", "0.0312", "0.0625"
    ]  # fmt: skip
    assert page.tables["Scores by number of rows"][1:3] == [
        ["probe", "100", "0.600 [0.400, 0.800]"],
        ["probe", "300", "0.800 [0.400, 0.800]"],
    ]
    assert page.tables["Rows to reach the same score"][1:] == [["full", "probe", "250"], ["full", "tf-idf", "–"]]
    assert "tf-idf with 100 rows: no time" in page.texts["curve"]
    assert page.tables["Trials of probe"][1] == ["learning_rate=0.001", "0.810"]


def test_the_confusion_matrix_is_that_of_scikit_learn(run_folder: Path) -> None:
    page = Page(html_of(run_folder))
    columns = pq.read_table(run_folder / "predictions.parquet").to_pydict()
    expected = confusion_matrix(columns["true"], columns["predicted"], labels=ONE_LABEL.names)
    assert [row[1:] for row in page.tables["Confusion matrix"][1:]] == [[str(n) for n in row] for row in expected]


def test_of_many_labels_the_most_confused_pairs_and_the_weakest_are_shown(tmp_path: Path) -> None:
    labels = Labels(tuple(f"label {i}" for i in range(max(MATRIX_LABELS, 20) + 1)))
    page = page_of(write_run(tmp_path, labels, n=400))
    assert "Confusion matrix" not in page.tables
    columns = pq.read_table(tmp_path / "predictions.parquet").to_pydict()
    pairs = Counter(zip(columns["true"], columns["predicted"], strict=True))
    counts = [int(row[2]) for row in page.tables["Most confused pairs"][1:]]
    assert counts == sorted((n for (a, b), n in pairs.items() if a != b), reverse=True)[: len(counts)]
    assert all(pairs[row[0], row[1]] == int(row[2]) for row in page.tables["Most confused pairs"][1:])
    weakest = [float(row[-1]) for row in page.tables["Labels of the lowest F1"][1:]]
    assert weakest == sorted(float(row[-1]) for row in page.tables["Scores by label"][1:])[: len(weakest)]
    assert not any("open" in given for tag, given in page.tags if tag == "details")


@pytest.mark.parametrize("several", [False, True])
def test_labels_that_no_row_judges_have_no_scores_and_are_left_out_of_means(tmp_path: Path, several: bool) -> None:
    labels = Labels(tuple(f"label {i}" for i in range(30)), multi_label=several)
    targets, p = rows_of(labels, 80)
    targets = targets * (np.arange(30) < 24) if several else np.arange(80) % 24
    scores = {"test": {"rows": 80, **score_predictions(targets, p, labels, resamples=5)}}
    predictions = {"test": Predictions.of(Split([""] * 80, targets), p, labels, None)}
    page = page_of(write_run(tmp_path, labels, n=80, scores=scores, predictions=predictions))
    assert page.row("Scores by label", "label 29") == ["0", "–", "– ", "–"]
    assert "label 29" not in str(page.tables["Labels of the lowest F1"])
    assert "Macro means are over the 24 of 30 labels that a row has" in page.texts["classes"]
    assert "macro F1 (24 of 30 labels)" in page.texts["scores"]


def test_on_a_scale_the_distance_stands_beside_the_accuracy(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, Labels(("1", "2", "3"))))
    saved = read_json(tmp_path / "metrics.json")["test"]
    for name, value in (("mean absolute error", saved["mae"]), ("quadratic kappa", saved["quadratic_kappa"])):
        assert re.search(rf"{name}\s*{value:.3f}\s*\[", page.texts["scores"])
    assert "mean absolute error" not in page_of(write_run(tmp_path / "other", ONE_LABEL)).texts["scores"]


@pytest.mark.parametrize("labels", [ONE_LABEL, SEVERAL])
def test_calibration_before_and_after_is_that_of_the_predictions(tmp_path: Path, labels: Labels) -> None:
    page = page_of(write_run(tmp_path, labels))
    targets, p = rows_of(labels, 60)
    several = labels.multi_label
    after = reliability_curve(targets, p, multi_label=several).error
    ece, nll, _ = page.row("Calibration figures", "as it predicts")
    assert float(ece) == pytest.approx(after, abs=6e-4)
    if not several:
        assert float(nll) == pytest.approx(log_loss(targets, p), abs=6e-4)
    assert page.row("Calibration figures", "before scaling") != page.row("Calibration figures", "as it predicts")
    assert "Temperature 1.500, fitted on 20 rows" in page.texts["calibration"]
    assert "before scaling" in page.texts["calibration"]


def test_several_labels(tmp_path: Path) -> None:
    folder = write_run(tmp_path, SEVERAL)
    saved = read_json(folder / "metrics.json")["test"]
    page = page_of(folder, texts=texts_of(60))
    assert page.sections == {*SECTIONS} - NOT_OF_THIS_RUN - {"verdict", "confusion"}
    assert f"Micro F1 {saved['f1_micro']:.3f}, 95% interval" in page.texts[""]
    assert "60 test rows have no label wrong or missing" in page.texts[""]
    assert "all labels right" in page.texts["scores"]
    # Right is where all labels are: with everything answered that is the subset accuracy.
    assert page.tables["Accuracy by share that is answered"][1][1:] == ["100.0%", f"{saved['accuracy']:.1%}"]
    assert "(none)" in page.texts["mistakes"] + page.texts["margins"]


def test_mistakes_are_the_surest_and_close_calls_the_closest(run_folder: Path) -> None:
    page = Page(html_of(run_folder))
    targets, p = rows_of(ONE_LABEL, 60)
    wrong = np.flatnonzero(p.argmax(axis=1) != targets)
    surest = wrong[np.argsort(-p.max(axis=1)[wrong])][:10]
    top = np.sort(p, axis=1)
    closest = np.argsort(top[:, -1] - top[:, -2])[:10]
    for section, rows in (("mistakes", surest), ("margins", closest)):
        assert re.findall(r"a lovely film (\d+)", page.texts[section]) == [str(row) for row in rows]
    assert f"probability {p.max(axis=1)[surest[0]]:.3f}" in page.texts["mistakes"]


def test_the_data_is_described_with_what_was_truncated(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", truncated={"train": 0.125, "test": 0.5})
    page = page_of(folder, texts={"test": ["one two three"] * 59 + ["four " * 9]})
    assert page.tables["Texts that are not read whole"] == [["", "train", "test"], ["full", "12.5%", "50.0%"]]
    compared = page_of(write_comparison(tmp_path / "comparison", run={"truncated": {"train": 0.25}}))
    assert compared.tables["Texts that are not read whole"] == [["", "train", "test"], ["probe", "25.0%", "–"]]
    assert "median 3, 95 of 100 have at most 3, longest 9" in page.texts["data"]
    assert page.tables["Rows by split"] == [["train", "calibration", "test"], ["90", "0", "60"]]


def test_the_verdict_and_the_words_that_made_mistakes_are_shown(run_folder: Path) -> None:
    page = Page(html_of(run_folder))
    gain = "accuracy 0.810 with the source, 0.750 without; gain +0.060 [+0.010, +0.110], over 3 seeds"
    assert f"helps: {gain}" in page.texts["verdict"]
    mistakes = len(re.findall("a lovely film", page.texts["mistakes"]))
    assert len(re.findall(r"What speaks for (bad|good|mixed): lovely", page.texts["mistakes"])) == mistakes > 2
    spans = [(given["class"], given["style"]) for tag, given in page.tags if tag == "span" and "style" in given]
    of_a_text = [("for", "--share: 100.0%"), ("against", "--share: 50.0%")]
    # The first two say what the marks mean; what is not shown as a mistake is not explained.
    assert spans[:2] == [("for", "--share: 100%"), ("against", "--share: 100%")] and "bar" not in str(spans[:2])
    assert [span for span in spans[2:] if span[0] != "bar"] == of_a_text * mistakes


def test_what_was_not_explained_is_not_marked(tmp_path: Path) -> None:
    long = texts_of(60, f"a lovely film{' and so on' * 65}")
    page = page_of(write_run(tmp_path), texts=long, explain=lambda texts, labels: explain(texts[:2], labels[:2]))
    assert page.texts["mistakes"].count("What speaks for") == 2
    assert "Only the first texts are marked" in page.texts["mistakes"] and "…" in page.texts["mistakes"]


def test_of_several_labels_a_wrong_one_is_explained_or_a_missing_one(tmp_path: Path) -> None:
    asked: list[str] = []

    def explained(texts: Sequence[str], labels: Sequence[str]) -> list[Explanation]:
        asked.extend(labels)
        return explain(texts, labels)

    page = page_of(write_run(tmp_path, SEVERAL), texts=texts_of(60), explain=explained)
    found = re.findall(r"true (.+), predicted (.+), probability", page.texts["mistakes"])
    assert len(found) == len(asked) > 0
    for (true, predicted), label in zip(found, asked, strict=True):
        assert (label in true.split(", ")) != (label in predicted.split(", "))


@pytest.mark.parametrize(("differ", "said"), [(True, "Chosen by information"), (False, "Nothing was adapted")])
def test_what_was_chosen_without_labels_is_shown_with_its_evidence(tmp_path: Path, differ: bool, said: str) -> None:
    names = ("information", "risk", "risk_error", "deep_embedded", "entropy", "margin")
    evidence = {**dict.fromkeys(names, 0.25), "label_shares": [0.2, 0.3, 0.5]}
    curve = [{"trade_off": 0.5, "adapted": adapted, "evidence": evidence} for adapted in (True, False)]
    fit = Fit(domains_differ=differ, chosen={"trade_off": 0.5, "adapted": True}, curve=curve)
    transfer = TransferSummary("coral", True, {"choose_by": "information"}, stages={"joint": fit, "polish": Fit()})
    page = page_of(write_run(tmp_path, transfer=transfer))
    assert said in page.texts["choice"] and "bad 20.0%, good 30.0%, mixed 50.0%" in page.texts["choice"]
    assert [row[:3] for row in page.tables["Candidates and what tells of them"][1:]] == [
        ["joint", "trade off 0.5, adapted (kept)", "0.250"],
        ["joint", "trade off 0.5, not adapted", "0.250"],
    ]


@pytest.mark.parametrize(
    ("given", "sections"),
    [
        ({"predictions": {}}, {"classes", "confusion", "calibration", "coverage"}),
        ({"training": Fit(details={"fitted_on": "train"})}, {"training"}),
    ],
)
def test_a_part_with_nothing_to_show_is_left_out(tmp_path: Path, given: dict[str, Any], sections: set[str]) -> None:
    without_texts = {*SECTIONS} - NOT_OF_THIS_RUN - {"mistakes", "margins", "verdict"}
    assert page_of(write_run(tmp_path, **given)).sections == without_texts - sections


def test_a_comparison_of_which_nothing_was_recommended(tmp_path: Path) -> None:
    nothing = {"recommended": None, "recommendation": None, "pairs": (), "curve": (), "candidates": ()}
    page = page_of(write_comparison(tmp_path, **nothing, finished=False))
    assert "Nothing is recommended yet" in page.texts[""]
    assert "This comparison is not finished" in page.texts[""]
    assert page.sections == {"candidates", "data", "repeat"}
    assert "No trained route" not in page.texts[""]


def test_a_comparison_that_no_trained_route_has_won_says_what_to_do(tmp_path: Path) -> None:
    page = page_of(write_comparison(tmp_path, recommended=None, recommendation="no route beats the majority"))
    assert "No trained route is shown to be better than a baseline" in page.texts[""]


@pytest.mark.parametrize(
    ("given", "section", "words"),
    [
        ({"calibration": None}, "calibration", ["No temperature was fitted"]),
        ({"split": "validation"}, "", ["of 60 validation rows", "There were no test rows"]),
        ({"split": "train", "predictions": {}}, "", ["on train rows", "Training rows are what was learned"]),
    ],
)
def test_what_a_run_lacks_is_said(tmp_path: Path, given: dict[str, Any], section: str, words: list[str]) -> None:
    text = page_of(write_run(tmp_path, **given)).texts[section]
    assert all(word in text for word in words)


def test_warnings_of_the_data_are_shown(tmp_path: Path) -> None:
    result = result_of(tmp_path)
    replace(result, data=replace(result.data, warnings=("leak: 3 <b>rows</b>", "drift"))).save()
    page = page_of(tmp_path)
    assert "leak: 3 <b>rows</b>" in page.texts[""] and "drift" in page.texts[""]
    assert "nlptransfer audit rows/remarks.csv --set text_column=review" in page.texts[""]
    doubts = [given["class"] for tag, given in page.tags if tag == "li" and given.get("class") in ("wrong", "right")]
    assert doubts == ["wrong"] * 3, "few test rows, and both warnings"


def test_the_answer_stands_beside_the_baselines(tmp_path: Path) -> None:
    test = result_of(tmp_path).scores["test"]["accuracy"]
    beside = {
        "majority": Baseline({"accuracy": 0.1, "accuracy_interval": [0.05, 0.2]}, 0.0, 90, is_sample=False),
        "tfidf": Baseline({"accuracy": 0.2, "accuracy_interval": [0.1, 0.3]}, 1.0, 90, is_sample=True),
    }
    page = page_of(write_run(tmp_path, baselines=beside))
    names = [row[0] for row in page.tables["Beside the baselines"][1:]]
    tfidf = "TF-IDF of words with a linear classifier"
    assert names == ["this classifier", f"{tfidf} on some of the rows", "always the most frequent label"]
    assert page.row("Beside the baselines", "this classifier")[0] == f"{test:.3f}"
    assert f"It is better than the best baseline, “{tfidf}”: their intervals do not overlap" in page.texts[""]

    level = replace(beside["tfidf"], scores={"accuracy": test - 0.01, "accuracy_interval": [test - 0.1, test]})
    page = page_of(write_run(tmp_path, baselines={"tfidf": level}))
    assert "Its interval overlaps that of the baseline" in page.texts[""]
    page = page_of(write_run(tmp_path, baselines={"tfidf": replace(level, scores={"accuracy": test})}))
    assert "It is no better than the baseline" in page.texts[""]


def test_the_best_and_the_worst_label_and_what_to_do_next_are_said(run_folder: Path, tmp_path: Path) -> None:
    page, classes = Page(html_of(run_folder)), read_json(run_folder / "metrics.json")["test"]["per_class"]
    best, worst = (choose(classes, key=lambda name: classes[name]["f1"]) for choose in (max, min))
    assert f"Best label: {best}, F1 {classes[best]['f1']:.3f} on {classes[best]['support']} rows." in page.texts[""]
    place = ONE_LABEL.names.index(worst)
    counts = [int(count) for count in page.row("Confusion matrix", worst)]
    most = max(range(3), key=lambda other: counts[other] * (other != place))
    said = f"; {counts[most]} of them are taken for {ONE_LABEL.names[most]}."
    assert re.search(rf"Worst label: {worst}, F1 .*{re.escape(said)}", page.texts[""])
    assert "nlptransfer compare rows/remarks.csv --set text_column=review" in page.texts[""]
    assert "nlptransfer predict" not in page.texts[""], "there is no model"
    (tmp_path / "a run" / "model").mkdir(parents=True)
    page = page_of(write_run(tmp_path / "a run", repeat=""))
    assert f"nlptransfer predict '{tmp_path / 'a run'}' FILE --output labeled.csv" in page.texts[""]
    assert "nlptransfer compare" not in page.texts[""] and "passed from Python" in page.texts["repeat"]


HOSTILE = '</td></svg><script>alert(1)</script><img src=x onerror="alert(1)">{{ 7*7 }}{% raw %}&amp;$x_1$\\'


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a comparison in which all that a user can name is HOSTILE."""
    folder = tmp_path_factory.mktemp("report") / "hostile"
    names = (f"{HOSTILE} 1", f"{HOSTILE} 2", f"{HOSTILE} 3")
    named = {"metric": f"m{HOSTILE}", "warnings": (HOSTILE,), "settings": {f"k{HOSTILE}": HOSTILE}}
    named |= {"machine": {"processor": HOSTILE}, "versions": {"torch": HOSTILE}}
    write_comparison(folder, names, run={"labels": Labels(names), "data": HOSTILE}, **named)
    found = ComparisonResult.load(folder)
    *others, skipped = found.candidates
    replace(found, candidates=(*others, replace(skipped, reason=HOSTILE))).save()
    write_report(folder, texts={"test": [HOSTILE, "x" * 500] * 30}, explain=as_one_word)
    return folder


def as_one_word(texts: Sequence[str], labels: Sequence[str]) -> list[Explanation]:
    return [
        Explanation(text, label, 0.5, None, (Word(text, 0, len(text), 0.2),))
        for text, label in zip(texts, labels, strict=True)
    ]


def run_page(folder: Path, names: list[str]) -> Page:
    """A run in which every name is another one."""
    labels = Labels(tuple(f"{number}{name}" for number, name in enumerate(names[:4])))
    settings = {"route": {"name": names[4], "freeze": names[5]}}
    write_run(folder, labels, data=names[6], settings=settings, versions={names[7]: names[8]}, training=Fit())
    return page_of(folder, texts={"test": [names[row % len(names)] for row in range(60)]}, explain=as_one_word)


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, list[str]]]:
    page = run_page(tmp_path_factory.mktemp("harmless"), ["harmless"] * 12)
    return [(tag, list(attributes)) for tag, attributes in page.tags]


ANY = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60) | st.text("<>&\"'/ ={}%-!", min_size=1)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(ANY, min_size=12, max_size=12))
def test_no_text_becomes_a_part_of_the_page(
    tmp_path: Path, harmless: list[tuple[str, list[str]]], names: list[str]
) -> None:
    page = run_page(tmp_path, names)
    assert [(tag, list(attributes)) for tag, attributes in page.tags] == harmless
    assert all(printable(name) in "".join(page.texts.values()) for name in names[:9])


def test_a_hostile_text_reads_as_it_was_written(hostile_folder: Path) -> None:
    page = Page(html_of(hostile_folder))
    assert len(page.sections) == 12
    for section in {"", *page.sections} - {"calibration", "coverage", "training"}:
        assert HOSTILE in page.texts[section], section
    assert not any(name.startswith("on") for _, given in page.tags for name in given)


@pytest.mark.parametrize("name", ["名前 $x$", "\x00\x1b[31m\ud800", "x" * 200, "‮gnp.exe"])
def test_plots_take_any_name(name: str) -> None:
    plots = [
        score_against_cost({name: Point(1.0, 0.5)}, name, name, "seconds"),
        learning_curve({name: [Point(10, 0.5), Point(20, 0.6, (0.5, 0.7))]}, name),
    ]
    for plot in plots:
        html = str(plot.__html__())
        ((_, image),) = Page(html).tags
        svg = ElementTree.fromstring(base64.b64decode(image["src"].removeprefix("data:image/svg+xml;base64,")))
        assert " ".join(printable(name).split())[:20] in "".join(svg.itertext())
        assert printable(name) in image["alt"] and html == printable(html)


def test_nothing_is_fetched(run_folder: Path, comparison_folder: Path) -> None:
    for folder in (run_folder, comparison_folder):
        html = html_of(folder)
        page = Page(html)
        assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base"}
        links = [given[name] for _, given in page.tags for name in ("src", "href", "data", "action") if name in given]
        assert links and all(link.startswith(("#", "data:image/svg+xml;base64,")) for link in links)
        assert not re.search(r"https?:|@import|url\(", html)
        assert len(page.ids) == len(set(page.ids))
        assert {link[1:] for link in links if link.startswith("#")} <= set(page.ids)


def test_the_same_files_give_the_same_page_whatever_style_the_caller_draws_in(comparison_folder: Path) -> None:
    first = html_of(comparison_folder)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "svg.fonttype": "path"}):
        write_report(comparison_folder, texts=texts_of(60), explain=explain)
        assert html_of(comparison_folder) == first
        assert matplotlib.rcParams["font.size"] == 30


def test_a_report_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path)
    before, files = write_report(folder).read_bytes(), {path.name for path in folder.iterdir()}

    def half(path: Path, text: str, **options: Any) -> int:
        path.write_bytes(text.encode()[:100])
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="the disk is full"):
        write_report(folder, explain=explain)
    assert (folder / "report.html").read_bytes() == before
    assert {path.name for path in folder.iterdir()} == files


def test_too_few_texts_are_refused(run_folder: Path) -> None:
    with pytest.raises(DataError, match=r"texts\['test'\]: expected one for each of 60 predictions, found 59"):
        write_report(run_folder, texts=texts_of(59))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a report; whatever the console says fails the test."""
    said: list[str] = []
    contexts = []

    def open_page(path: Path, width: int, scheme: str = "light", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: None if request.url == path.as_uri() else said.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


# What sticks out of the page, but for what scrolls in a box of its own.
OVERFLOWING = """() => [...document.querySelectorAll("body *")].filter(element =>
    !element.parentElement.closest(".scroll") && element.getBoundingClientRect().right > innerWidth + 1
).map(element => element.outerHTML.slice(0, 200))"""
FIGURES = """() => [...document.images].map(image => image.complete && image.naturalWidth > 250 && image.width > 250)"""
CONTRAST = """() => {
    const luminance = color => {
        const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
            .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const paper = luminance(getComputedStyle(document.body).backgroundColor);
    return Math.min(...[...document.querySelectorAll("p, td, th")].map(element => {
        const style = getComputedStyle(element);
        const ink = luminance(style.color);
        return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
    }));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(
    opened: Callable[..., Any], run_folder: Path, comparison_folder: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    made_audit(tmp_path, f"<b>{'long' * 40} text").save()
    write_report(tmp_path)
    for folder, figures in ((run_folder, 3), (comparison_folder, 5), (tmp_path, 0)):
        page = opened(folder / "report.html", width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(OVERFLOWING) == []
        assert page.evaluate(FIGURES) == [True] * figures
        # WCAG 2.2, 1.4.3.
        assert page.evaluate(CONTRAST) >= 4.5


def test_hostile_names_in_a_browser(opened: Callable[..., Any], hostile_folder: Path) -> None:
    page = opened(hostile_folder / "report.html", 390)
    assert page.evaluate("document.querySelectorAll('script, img[onerror]').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_scripts_and_on_paper(opened: Callable[..., Any], run_folder: Path) -> None:
    page = opened(run_folder / "report.html", 700, "dark", java_script_enabled=False)
    page.emulate_media(media="print")
    # What is folded on the screen is written out on paper, which is white.
    assert page.locator("text=freeze_layers").is_visible()
    assert page.pdf()[:5] == b"%PDF-"
