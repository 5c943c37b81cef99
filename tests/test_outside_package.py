"""A route and a strategy of another package work everywhere, and no room names a route."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.folders import ROOT
from nlptransfer.errors import SettingError
from nlptransfer.registry import Registry
from nlptransfer.routes import ROUTES

PACKAGE = ROOT / "tests" / "helpers" / "outside_package"
NAMED = {"Full", "Lora", "Probe", "Word2Vec", "EncoderRoute", "adapted"}
ADVICE = re.compile(rf"^({'|'.join(ROUTES)})$|\btake ({'|'.join(ROUTES)})\b")
MAKE = """
import sys
from nlptransfer.cli import main

def run(*words):
    sys.argv = ["nlptransfer", *words]
    try:
        main()
    except SystemExit as end:
        assert not end.code, words

run("finetune", "--help")
run("finetune", "films.csv", "--route", "word-bag", "--source", "gadgets.csv", "--transfer", "tethered", "--no-verdict",
    "--set", "bag_width=8", "--set", "tether=0.5", "--output-dir", "run", "--quiet")
run("compare", "films.csv", "--routes", "word-bag,majority", "--seeds", "1", "--output-dir", "compared", "--quiet")
try:
    run("finetune", "films.csv", "--route", "word-bagg")
except AssertionError:
    print("refused")
"""
OPEN = """
import json, sys
from nlptransfer import Classifier
from nlptransfer.cli import main

classifier = Classifier.load("run")
print(json.dumps({"label": classifier.predict(["word1 good"])[0].label, "width": classifier.route.bag_width}))
print(json.dumps({"card": classifier.push_to_hub("acme/bag", dry_run=True).card}))
sys.argv = ["nlptransfer", "predict", "run", "texts.txt"]
main()
"""


FORKS = """
import os, sys
# What takes longest to import, once for both.
import accelerate, datasets, sklearn, torch, transformers

for code in sys.argv[1:]:
    if not (child := os.fork()):
        exec(code)
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print("ended", flush=True)
"""


def in_processes(folder: Path, *codes: str) -> tuple[list[list[str]], str]:
    """The lines that each of some processes prints, with the package on its path, and what they say to standard error.

    They run one after the other, and neither has imported anything of this project.
    """
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(PACKAGE)]), "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", FORKS, *codes], capture_output=True, text=True, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    return [part.splitlines() for part in done.stdout.split("ended\n")], done.stderr


@pytest.mark.slow
def test_a_route_and_a_strategy_of_another_package_work_everywhere(tmp_path):
    lines = [f"word{row % 7} {label},{label}" for row in range(30) for label in ("good", "bad")]
    for name in ("films", "gadgets"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *lines]))
    (tmp_path / "texts.txt").write_text("word2 bad\n")
    (printed, opened, _), errors = in_processes(tmp_path, MAKE, OPEN)
    for known in ("word2vec, probe, lora, full, word-bag", "contrastive, tethered"):
        assert known in re.sub(r"[\s│]+", " ", "\n".join(printed))
    assert any("word-bag" in line and "majority" not in line for line in printed)
    assert "unknown route 'word-bagg': did you mean 'word-bag'?" in errors and "refused" in printed
    record = json.loads((tmp_path / "run" / "experiment.json").read_text())
    assert record["settings"]["route"] == {"name": "word-bag", "long_text": "truncate", "bag_width": 8}
    assert record["transfer"]["name"] == "tethered" and record["transfer"]["settings"]["tether"] == 0.5

    first, card, predicted = map(json.loads, opened)
    assert first == {"label": "good", "width": 8} and predicted["label"] == "bad"
    assert "Vectors of 8 numbers were learned for the words" in card["card"]
    assert "by the transfer `tethered`" in card["card"] and "after import outside_package.route" in card["card"]


class Plain:
    name = "plain"


def test_classes_register_once_and_by_their_name():
    found: Registry[Plain] = Registry("thing", "nlptransfer.no_such_group", {"lost": "no_such_module:Thing"})
    assert found.register(Plain) is Plain and found.register(Plain) is Plain
    assert list(found) == ["lost", "plain"] and len(found) == 2 and found.get("none") is None
    with pytest.raises(SettingError, match="thing 'plain': expected a name that is free"):
        found.register(type("Other", (Plain,), {}))
    with pytest.raises(SettingError, match="thing 'lost': expected it at no_such_module:Thing, found No module"):
        found.find("lost")
    with pytest.raises(SettingError, match="unknown thing 'plane': did you mean 'plain'"):
        found.find("plane")


def routes_named(path: Path) -> Iterator[str]:
    """Names of routes in a file, but for those in docstrings and comments."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nlptransfer.routes"):
            yield from (name.name for name in node.names if name.name in NAMED or "SequenceClassification" in name.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and ADVICE.search(node.value):
            yield node.value


def test_no_room_but_routes_names_a_route():
    package = ROOT / "nlptransfer"
    paths = [path for path in package.rglob("*.py") if path.parts[len(package.parts)] not in ("routes", "word2vec.py")]
    found = {path.relative_to(package).as_posix(): [*routes_named(path)] for path in paths}
    assert len(paths) > 50 and {name: names for name, names in found.items() if names} == {}
    words = re.compile(rf"""["']({"|".join(ROUTES)})["']""")
    assert not [path.name for path in (package / "templates").iterdir() if words.search(path.read_text())]
