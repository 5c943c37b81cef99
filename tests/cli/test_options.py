"""Options that verbs share: how rows are read, and what is given twice."""

import pytest

from nlptransfer.cli import options as opt
from nlptransfer.cli.app import main

ONCE = "expected once"


@pytest.mark.parametrize(
    ("verb", "further", "message"),
    [
        ("finetune", ["--text-column", "a", "--text-column", "b"], f"--text-column: {ONCE}, found 2 times"),
        ("finetune", ["--seed", "1", "--seed=2", "--seed", "3"], f"--seed: {ONCE}, found 3 times"),
        ("compare", ["--quiet", "--quiet"], f"--quiet: {ONCE}, found 2 times"),
        ("finetune", ["--set", "seed=1", "--set", "seed=2"], f"--set seed: {ONCE}, found '1' and '2'"),
        ("finetune", ["--set", "text_column=a", "--text-column", "b"], f"--set text_column: {ONCE}, found it as an op"),
        ("compare", ["--set", "separator=;", "--separator", "|"], f"--set separator: {ONCE}, found it as an option"),
    ],
)
def test_an_option_that_is_given_twice_is_refused(command_line, verb, further, message):
    ended = command_line(main, verb, "rows.csv", *further)
    assert ended.code == 2 and message in " ".join(ended.err.replace("│", " ").split())


def test_options_of_reading_reach_the_verb_as_one_mapping():
    seen = []

    @opt.reads(opt.ROWS_READING)
    def verb(data: str, limit: int = 3, reading: dict | None = None) -> None:
        seen.append((data, limit, reading))

    app = opt.Verbs()
    app.command()(verb)
    app(["rows.csv", "--separator", ";", "--label-column", "a,b", "--limit", "4"], standalone_mode=False)
    app(["rows.csv"], standalone_mode=False)
    assert seen == [("rows.csv", 4, {"label_column": "a,b", "separator": ";"}), ("rows.csv", 3, {})]
