"""Progress is seen in terminals and notebooks alone, is gone in the end, and says what is done in words."""

import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from helpers.bars import drawn_bars
from nlptransfer import progress
from nlptransfer.progress import Bar, counted, no_progress, progress_bar, waiting, with_progress

pty = pytest.importorskip("pty", reason="terminals of POSIX")
WORK = """
    import logging, sys
    from nlptransfer import progress
    progress.DELAY = progress.BETWEEN = progress.BETWEEN_IN_NOTEBOOK = 0
    log = logging.getLogger("nlptransfer")
    log.addHandler(logging.StreamHandler())
    log.setLevel("INFO")
    with progress.progress_bar("epoch 1 of 2", 4, "steps") as bar:
        for _ in range(3):
            bar.advance(texts=8)
        bar.say(note="loss 0.5, validation accuracy 0.75")
        log.info("a line of the log")
        with progress.progress_bar("validation", 1000) as inner:
            inner.advance(500)
    print("the end")
"""


def seen_in_terminal(code: str, columns: int = 100, **environment: str) -> str:
    """Run Python whose stderr is a terminal, and return all that was written there."""
    master, slave = pty.openpty()
    names = {"NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "RANK"}
    variables = {name: value for name, value in os.environ.items() if name not in names}
    variables |= {"TERM": "xterm", "COLUMNS": str(columns), **environment}
    call = [sys.executable, "-c", textwrap.dedent(code)]
    subprocess.run(call, stderr=slave, stdout=subprocess.PIPE, env=variables, check=True)
    os.close(slave)
    written = b""
    try:
        while part := os.read(master, 1 << 16):
            written += part
    except OSError:  # the end of a terminal
        pass
    os.close(master)
    return written.decode()


def test_bar_fills_the_width_and_says_what_is_done_and_left() -> None:
    written = seen_in_terminal(WORK)

    (bar, *_) = [part for part in re.sub(r"\x1b\[\d*m", "", written).split("\r") if "3 of 4 steps" in part]
    assert re.search(r"epoch 1 of 2  ━+[╸╺]━*  3 of 4 steps  [\d,]+ texts/s  0:00 left", bar)
    assert "loss 0.5, validation accuracy 0.75" in written
    assert "500 of 1,000 texts" in written
    assert "a line of the log\r\n" in written
    # It is taken away: the last that is written clears the line above.
    assert written.endswith("\x1b[2K")


def test_no_color_has_no_color() -> None:
    assert "\x1b[9" in seen_in_terminal(WORK)
    assert "\x1b[9" not in seen_in_terminal(WORK, NO_COLOR="1")


def test_words_give_way_where_room_is_short() -> None:
    written = seen_in_terminal(WORK.replace("epoch 1 of 2", "epoch " + "one " * 20), columns=60)

    assert "…" in written and "3 of 4 steps" in written


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"RANK": "1"}], ids=["a dumb terminal", "another process"])
def test_nothing_but_the_log_where_no_line_can_be_seen_to_move(environment: dict[str, str]) -> None:
    assert seen_in_terminal(WORK, **environment) == "a line of the log\r\n"


def test_nothing_but_the_log_where_there_is_no_terminal() -> None:
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(WORK)], capture_output=True, text=True, check=True)

    assert (ran.stdout, ran.stderr) == ("the end\n", "a line of the log\n")


def test_notebook_keeps_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    cell = nbformat.v4.new_code_cell(textwrap.dedent(WORK).replace("log.addHandler", "str"))
    seen: list[str] = []
    pages: list[str] = []

    class Client(nbclient.NotebookClient):  # type: ignore[misc, name-defined]
        def process_message(self, message, *rest):  # type: ignore[no-untyped-def]
            content = message["content"]
            data = content.get("data", {})
            seen.append(data.get("text/plain", ""))
            pages.append(data.get("text/html", ""))
            return super().process_message(message, *rest)

    Client(nbformat.v4.new_notebook(cells=[cell]), timeout=60).execute()

    assert any("3 of 4 steps" in text and "━" in text for text in seen)
    assert any("3 of 4 steps" in page and 'max="4" value="3"' in page for page in pages)
    place, printed = cell.outputs
    assert place["data"] == {"text/plain": ""}
    assert printed["text"] == "the end\n"


def descriptions(drawn: list[list[tuple[str, tuple[str, ...], str]]]) -> list[list[str]]:
    return [[description for description, *_ in bars] for bars in drawn]


def test_inner_work_has_a_line_below_the_outer_until_it_is_done() -> None:
    with drawn_bars() as drawn, progress_bar("outer", 2) as bar:
        with progress_bar("inner", 1):
            pass
        bar.advance()

    assert descriptions(drawn) == [["outer"], ["outer", "inner"], ["outer"], ["outer"], []]


def test_short_work_is_not_shown() -> None:
    with drawn_bars(delay=60.0) as drawn, progress_bar("quick", 1) as bar:
        bar.advance()

    assert drawn == []


def test_short_work_within_long_work_is_not_shown() -> None:
    with drawn_bars(delay=0.05) as drawn, progress_bar("long", 2) as bar:
        time.sleep(0.06)
        with progress_bar("quick", 1) as quick:
            quick.advance()
        bar.advance()

    assert descriptions(drawn) == [["long"], ["long"], ["long"], []]


def test_what_cannot_be_counted_is_shown_from_its_beginning() -> None:
    with drawn_bars(delay=60.0) as drawn, waiting("saving"):
        pass

    assert drawn == [[("saving", ("", "", ""), "")], []]


def test_what_comes_in_parts_is_counted_as_it_comes() -> None:
    with drawn_bars() as drawn:
        assert [*counted([["a", "b"], ["c"]], "reading", unit="rows")] == [["a", "b"], ["c"]]

    assert [bars[0][1][0] for bars in drawn if bars] == ["0 rows", "2 rows", "3 rows"]
    assert drawn[-1] == []


def test_no_progress_where_it_is_switched_off(caplog: pytest.LogCaptureFixture) -> None:
    @with_progress
    def work(progress: bool = True) -> None:
        with progress_bar("work", 1) as bar:
            bar.advance()

    with drawn_bars() as drawn:
        work(progress=False)
        with no_progress():
            work()
        with caplog.at_level(logging.ERROR, "nlptransfer"):
            work()
        assert drawn == []

        work()
        assert descriptions(drawn)[0] == ["work"]


def test_another_thread_draws_nothing_over_the_bars() -> None:
    def other() -> None:
        with progress_bar("other"):
            pass

    with drawn_bars() as drawn, progress_bar("work"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    assert descriptions(drawn) == [["work"], []]


def test_figures_are_of_what_was_done_since_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.time, "monotonic", lambda: 100.0)
    resumed = Bar("training", 1000, "steps", done=500, began=90.0)
    resumed.advance(100, texts=3200)
    assert resumed.figures == ("600 of 1,000 steps", "320 texts/s", "0:40 left")

    texts = Bar("encoding", 100_000, "texts", began=90.0)
    texts.advance(50)
    assert texts.figures == ("50 of 100,000 texts", "5.0/s", "5:33:10 left")

    assert Bar("reading", None, "texts").figures == ("0 texts", "", "")
    assert Bar("parts", 200.0, "", done=50).figures == ("25%", "", "")
