"""The report with texts in it, and with the words that made its mistakes."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import runs
from helpers.folders import RUN_FILES, files_of, no_path_in
from nlptransfer import finetune
from nlptransfer.cli.app import main
from nlptransfer.data.dataset import load_data
from nlptransfer.errors import DataError, RunFolderError
from nlptransfer.report.build import EXPLAINED_LENGTH, EXPLAINED_WHEN_ASKED, _explained, report_on
from nlptransfer.results import REPORT, RunResult


@pytest.fixture(scope="module")
def run(remarks_folder, vectors_file, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return runs.finetune(remarks_folder, base=vectors_file, head_type="linear", output_dir=folder).folder


def test_a_report_has_texts_where_the_data_is_given(run, remarks_folder, command_line):
    rows, texts = RunResult.load(run).predictions["test"], load_data(remarks_folder).test.texts
    text = texts[rows.ids[rows.margins.argmin()]]
    ended = command_line(main, "report", run)
    assert (ended.code, ended.out) == (0, f"written: {run / 'report.html'}\n")
    plain = (run / "report.html").read_text()
    ended = command_line(main, "report", run, remarks_folder)
    assert ended.code == 0, ended.err
    full = (run / "report.html").read_text()
    # The closest call is shown, and of mistakes also the words that made them.
    assert text not in plain and text in full
    assert ("What speaks for" in full) == bool((~rows.right).any()) and "What speaks for" not in plain


def test_other_data_is_refused(run, remarks, tmp_path, command_line):
    before = report_on(run).read_bytes()
    with pytest.raises(DataError, match=r"expected the rows that .* was trained on, found others in train"):
        report_on(run, remarks)
    assert (run / REPORT).read_bytes() == before
    with pytest.raises(RunFolderError, match="a finished run, a comparison, a ranking or an audit, found none"):
        report_on(tmp_path)


def test_texts_are_explained_as_far_as_it_costs_little():
    def explain(texts, label):
        return [*zip(texts, label, strict=True)]

    run = SimpleNamespace(classifier=SimpleNamespace(explain=explain))
    texts = ["x" * 200, "y" * 200, "z" * 200]
    assert _explained(run, EXPLAINED_LENGTH, texts, ["a", "b", "c"]) == [(texts[0], "a"), (texts[1], "b")]
    assert len(_explained(run, EXPLAINED_WHEN_ASKED, texts, ["a", "b", "c"])) == 3


# With a run


def test_a_run_writes_its_report_with_texts_from_memory(remarks, vectors_file, tmp_path):
    call = {"base": vectors_file, "num_train_epochs": 2, "output_dir": tmp_path / "run", "progress": False}
    run = finetune(remarks, **call)
    assert set(files_of(run.folder)) == {*RUN_FILES, REPORT}
    page = (run.folder / REPORT).read_text()
    low, high = run.metrics["accuracy_interval"]
    assert f"{run.metrics['accuracy']:.3f}" in page and f"{low:.3f} to {high:.3f}" in page
    assert run.machine["processor"] in page
    assert all(f'id="{part}"' in page for part in ("training", "margins", "coverage", "cost", "repeat"))
    predictions = run.predictions["test"]
    # The closest call is shown by its text, which no file of the run has.
    closest = predictions.ids[predictions.margins.argmin()]
    text = load_data(remarks).test.texts[closest]
    assert text in page
    no_path_in(run.folder, tmp_path)
    assert not [name for name in RUN_FILES if text.encode() in (run.folder / name).read_bytes()]

    before = files_of(run.folder)
    finetune(remarks, **call)
    assert files_of(run.folder) == before, "a finished run with its report is left alone"
    (run.folder / REPORT).unlink()
    finetune(remarks, **call, report=False)
    assert set(files_of(run.folder)) == RUN_FILES
    finetune(remarks, **call)
    assert (run.folder / REPORT).read_text() == page and files_of(run.folder).items() >= {
        (name, time) for name, time in before.items() if name != REPORT
    }


def test_a_verdict_has_one_report_and_its_runs_have_none(remarks, vectors_file, tmp_path):
    texts, labels = remarks
    source, target = ({"train": (texts[:80], labels[:80])}, {"train": (texts[80:110], labels[80:110])})
    target["test"] = (texts[110:], labels[110:])
    run = finetune(
        target, source=source, base=vectors_file, head_type="linear", seeds=1, output_dir=tmp_path / "run",
        verdict=True,
    )  # fmt: skip
    assert [path.parent for path in run.folder.rglob(REPORT)] == [run.folder]
    assert f"gain {run.verdict.gain:+.3f}" in (run.folder / REPORT).read_text()
