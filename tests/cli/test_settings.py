"""Every setting has words, and the verb and help() have the same."""

import pytest

from nlptransfer.cli import main
from nlptransfer.cli.settings import settings_classes
from nlptransfer.settings import described


@pytest.mark.parametrize("name", settings_classes())
def test_every_setting_says_what_it_means(name):
    assert [one.name for one in described(settings_classes()[name]) if not one.meaning] == []


def test_the_verb_prints_what_help_says(command_line, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    kind = settings_classes()["joint"]
    printed = command_line(main, "settings", "joint").out
    for one in described(kind):
        assert all(part in printed for part in (one.name, one.values, one.default))
        assert f"{one.name}: {one.meaning} [{one.values}; default: {one.default}]" in str(kind.__doc__)


def test_a_name_of_nothing_is_answered_with_the_nearest(command_line):
    ended = command_line(main, "settings", "ful")
    assert (ended.code, ended.err) == (2, "error: settings 'ful': did you mean 'full'?\n")
