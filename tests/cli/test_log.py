"""The log: a line for each message, once, wrapped in a terminal; and warnings again in the end."""

import io
import logging

import pytest

from nlptransfer.cli.log import repeat_warnings, start_log

LOG = logging.getLogger("nlptransfer")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def log():
    before, level = list(LOG.handlers), LOG.level
    yield LOG
    LOG.handlers[:] = before
    LOG.setLevel(level)


def test_a_message_is_a_line(log, capsys):
    start_log()
    log.info("%s: read", "a\x1b]0;mine\x07\x9b2J\u202egood\u2066\u200f\r\x08\nerror: made up.csv")
    assert capsys.readouterr().err == (
        r"a\u001b]0;mine\u0007\u009b2J\u202egood\u2066\u200f\u000d\u0008\nerror: made up.csv: read" + "\n"
    )


def test_a_message_is_said_once_in_a_command(log, capsys):
    for _ in range(2):
        start_log()
        for name in ("one", "one", "two"):
            log.info("%s is read", name)
    assert capsys.readouterr().err == 2 * "one is read\ntwo is read\n"


def test_warnings_come_again_in_the_end(log, capsys):
    start_log()
    log.warning("%d rows are lost", 3)
    log.info("trained")
    repeat_warnings()
    repeat_warnings()
    assert capsys.readouterr().err == "warning: 3 rows are lost\ntrained\n\nWarnings, once more:\n- 3 rows are lost\n"


def test_nothing_but_errors_is_said_when_quiet_or_by_another_process(log, monkeypatch, capsys):
    start_log(quiet=True)
    log.warning("lost")
    monkeypatch.setenv("RANK", "1")
    start_log()
    log.warning("lost")
    repeat_warnings()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("text", "lines"), [
    ("some words of one sentence that goes on", ["some words of one", "sentence that goes", "on"]),
    ("酒店的位置很好房间也很干净", ["酒店的位置很好房间", "也很干净"]),
    ("see /a/path/that/is/longer/than/a/line now", ["see", "/a/path/that/is/long", "er/than/a/line now"]),
    ("[bold]as it is[/bold]", ["[bold]as it", "is[/bold]"]),
])  # fmt: skip
def test_words_are_wrapped_in_a_terminal_alone(text, lines, log, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20" if lines[0][0] != "酒" else "18")
    start_log()
    log.info(text)
    assert capsys.readouterr().err == f"{text}\n"
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    start_log()
    log.info(text)
    assert terminal.getvalue().splitlines() == lines
