"""The command line that a result holds asks for what was called."""

import shlex
from functools import wraps
from inspect import Parameter, signature

import pandas as pd
import pytest

from nlptransfer import Joint, Lora, Sequential, experiments
from nlptransfer.cli.app import main
from nlptransfer.results import command_of
from nlptransfer.settings import as_text

UNSAID = {"output_dir", "overwrite", "take_lock", "progress", "report", "clean_to", "drop"}


def arguments(function, data, options):
    """All arguments of a call by name, as a function's locals() has them when it begins."""
    parameters = signature(function).parameters
    values = {name: one.default for name, one in parameters.items() if one.kind is not Parameter.VAR_KEYWORD}
    known = {name: value for name, value in options.items() if name in values}
    return values | known | {"data": data, "settings": {k: v for k, v in options.items() if k not in known}}


def command(function, data, **options):
    return command_of(function, arguments(function, data, options))


CALLS = [
    ("finetune", {}),
    ("finetune", {"route": "lora", "source": ["a b.csv", "c.csv"], "verdict": False, "seeds": 2, "seed": 3}),
    ("finetune", {"base": "its/base", "transfer": "pretrain >> joint", "source": "x", "fallback": True}),
    ("finetune", {"further_metrics": ["f1", "accuracy"], "label_mapping": {"Pos": 'good, "pos"'}}),
    ("compare", {"routes": ["majority", "probe"], "sizes": [100, 300], "seeds": 1, "max_minutes": 2.5}),
    ("compare", {"text_column": ["title", "body"], "rank": 4}),
    ("rank", {"bases": ["a/b", "c"], "keep_layers": [2, 4], "max_rows": 50, "label_column": "x"}),
    ("audit", {"base": "tfidf", "separator": ";"}),
]


@pytest.mark.parametrize(("name", "options"), CALLS)
def test_a_command_asks_for_the_same(name, options, command_line, monkeypatch):
    function, calls = getattr(experiments, name), []
    line = command(function, "the data/some rows.csv", **options)

    @wraps(function)
    def called(data, **given):
        calls.append((data, {one: value for one, value in given.items() if one not in UNSAID}))
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, name, called)
    monkeypatch.setattr("nlptransfer.data.load_data", lambda *_, **__: None)  # the command line reads rows first
    program, *words = shlex.split(line)
    command_line(main, *words)

    ((data, given),) = calls
    assert (program, data) == ("nlptransfer", "the data/some rows.csv")
    asked, found = (arguments(function, None, each) for each in (options, given))
    assert {one: str(value) for one, value in found.pop("settings").items()} == {
        one: as_text(value) for one, value in asked.pop("settings").items()
    }
    listed = [{k: [*v] if isinstance(v, tuple) else v for k, v in each.items()} for each in (asked, found)]
    assert listed[0] == listed[1]


def test_objects_are_named_by_their_settings():
    assert command(experiments.finetune, "a.csv", route=Lora(rank=4), source="b.csv", transfer=Joint(alpha=0.5)) == (
        "nlptransfer finetune a.csv --route lora --source b.csv --transfer joint --set rank=4 --set alpha=0.5"
    )
    assert command(experiments.finetune, "a.csv", transfer=Sequential()).endswith("--transfer sequential")


@pytest.mark.parametrize(
    ("name", "data", "options"),
    [
        ("finetune", (["a text"], ["a"]), {}),
        ("finetune", ("a", "b"), {}),
        ("finetune", pd.DataFrame({"text": ["a"]}), {}),
        ("compare", "a.csv", {"routes": ["probe", Lora(rank=4)]}),
        ("rank", "a.csv", {"sources": [pd.DataFrame()]}),
    ],
)
def test_what_only_python_has_makes_no_command(name, data, options):
    assert command(getattr(experiments, name), data, **options) == ""
