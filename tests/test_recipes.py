"""Recipes: short scripts over data/ that run as they stand, and take the options of finetune."""

import json
import re
import runpy
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from helpers.encoders import make_film_base
from helpers.folders import ROOT
from helpers.runs import record_of
from nlptransfer import RunResult
from nlptransfer.data import load_data
from nlptransfer.hub.packaged import find_packaged
from nlptransfer.vectors.store import save_vectors
from nlptransfer.vectors.training import train_vectors

EVERY = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))
WORKERS = {"predict_with_ray": ("ray", 60), "predict_with_spark": ("spark", 60), "serve": ("serve", 80)}
"""Recipes that put a saved classifier to work: the extra that they need, and the lines that they may have."""
RECIPES = [name for name in EVERY if name not in WORKERS]
CORPORA = {"sentiment": "films", "topics": "headlines", "multi_label": "tickets", "chinese_sentiment": "hotels_zh"}
ROUTES = ("word2vec", "probe", "lora", "full")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> Callable[[str], Path]:
    """Word vectors of a few dimensions for the texts of a recipe."""
    folder = tmp_path_factory.mktemp("vectors")

    @cache
    def make(recipe: str) -> Path:
        texts = load_data(ROOT / "data" / CORPORA[recipe]).train.texts
        save_vectors(folder / f"{recipe}.txt", *train_vectors(texts, dimensions=12, min_count=2, epochs=2))
        return folder / f"{recipe}.txt"

    return make


@pytest.fixture
def recipe(command_line, tmp_path, monkeypatch):
    """Run a recipe as a script, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: object):
        path = str(ROOT / "recipes" / f"{name}.py")
        return command_line(lambda: runpy.run_path(path, run_name="__main__"), *arguments)

    return run


def test_a_recipe_whose_extra_is_not_installed_says_so(recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    ended = recipe("serve", "model")
    assert (ended.code, ended.err) == (2, "error: uvicorn: not installed: pip install 'nlptransfer[serve]'\n")


def runs_of(printed: str) -> list[RunResult]:
    """The runs whose folders were printed, after a table with a row for each."""
    folders = [line.removeprefix("written: ") for line in printed.splitlines() if "written: " in line]
    found = [RunResult.load(folder) for folder in folders]
    rows = [line for line in printed.splitlines() if re.match(rf"({'|'.join(ROUTES)})\b.* \d\.\d\d\d ", line)]
    assert len(rows) == len(found)
    for run, row in zip(found, rows, strict=True):
        route = run.settings["route"]
        assert f"{run.data.name}: scores on " in printed and row.startswith(f"{route['name']} ")
        assert f" {run.metrics[run.metric]:.3f} [" in row and f" {run.metrics['f1_macro']:.3f} " in row
    return found


def test_there_is_a_recipe_for_each_corpus():
    others = {"compare", "word2vec_from_scratch", "source_to_target", "few_shot", "cross_domain_sentiment"}
    assert set(RECIPES) == {*CORPORA} | others
    # gadgets is what films are the source of.
    assert {path.name for path in (ROOT / "data").iterdir() if path.is_dir()} == {*CORPORA.values(), "gadgets"}


@pytest.mark.parametrize("name", EVERY)
def test_short_and_helpful(name, recipe):
    source = (ROOT / "recipes" / f"{name}.py").read_text(encoding="utf-8")
    extra, lines = WORKERS.get(name, ("", 40))
    assert len(source.splitlines()) <= lines
    assert not extra or f"pip install 'nlptransfer[{extra}]'" in source
    ended = recipe(name, "--help")
    assert ended.code == 0 and ended.err == ""
    description = source.split('"""')[1].strip()
    assert " ".join(description.split("\n\n")[0].split()) in " ".join(ended.out.split())
    # The commands stand as they were written, a line each.
    for line in description.splitlines():
        assert "recipes/" not in line or line.strip() in ended.out
    assert ("--set" in ended.out) == (name in RECIPES)


@pytest.mark.parametrize("name", ["topics", "multi_label", "chinese_sentiment"])
def test_recipe_over_its_corpus(name, recipe, vectors, tmp_path):
    call = ["--base", vectors(name), "--output-dir", tmp_path / "run", "--num-train-epochs", 1, "--no-report"]
    ended = recipe(name, *call, *(["--route", "word2vec"] if name == "chinese_sentiment" else []))
    assert ended.code == 0, ended.err
    (run,) = runs_of(ended.out)
    assert run.folder == tmp_path / "run" and run.data.name == CORPORA[name]
    assert not (run.folder / "report.html").exists()
    assert run.settings["route"]["head_type"] == ("linear" if name == "multi_label" else "cnn")
    assert run.data.labels.multi_label == (name == "multi_label")
    assert run.base["unknown_share"] < 0.5


@pytest.mark.slow
def test_recipe_as_it_stands(recipe):
    """Distilled from the real encoder, every setting its default; .ci/newcomer has others, and Chinese."""
    encoder = find_packaged(None)
    if encoder.place is None:
        pytest.skip(f"needs {encoder.id}: {encoder.install}")
    ended = recipe("multi_label", "--no-report")
    assert ended.code == 0, ended.err
    (run,) = runs_of(ended.out)
    assert run.folder.parent == Path("runs") and run.base["name"] == encoder.id
    # Seven labels, of which a text has one or two.
    assert run.base["unknown_share"] < 0.01 and run.scores["validation"]["f1_micro"] >= 0.3


def test_the_command_line_wins_over_a_recipe(recipe, vectors, tmp_path, remarks_folder, vectors_file):
    call = ["--base", vectors("multi_label"), "--num-train-epochs", 1, "--quiet", "--no-report"]
    (run,) = runs_of(recipe("multi_label", *call, "--set", "head_type=mlp", "--seed", 2).out)
    assert run.settings["route"]["head_type"] == "mlp"
    assert run.settings["training"]["seed"] == 2
    call = ["--base", vectors_file, "--set", "head_type=linear", "--no-report"]
    (run,) = runs_of(recipe("topics", remarks_folder, *call).out)
    assert run.data.name == "remarks"


def test_sentiment_compares_the_four_routes(recipe, tmp_path):
    call = ["--base", make_film_base(tmp_path / "encoder"), "--num-train-epochs", 1, "--quiet", "--no-report"]
    ended = recipe("sentiment", *call, "--output-dir", "out")
    assert (ended.code, ended.err) == (0, "")
    assert [run.settings["route"]["name"] for run in runs_of(ended.out)] == list(ROUTES)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"films-{route}" for route in ROUTES}
    # A route that is asked for is one run on each corpus.
    corpora = [ROOT / "data" / name for name in ("films", "gadgets")]
    found = runs_of(recipe("sentiment", *corpora, *call, "--route", "probe").out)
    assert [run.data.name for run in found] == ["films", "gadgets"]
    assert {run.settings["route"]["name"] for run in found} == {"probe"}
    assert {run.folder.parent for run in found} == {Path("runs")}


def test_source_to_target_prints_what_the_source_gains(recipe, tmp_path):
    call = ["--base", make_film_base(tmp_path / "encoder"), "--seeds", 1, "--quiet"]
    ended = recipe("source_to_target", *call, "--sizes", "12,40")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(Path("runs/gadgets-probe-gains/gains.json").read_text())
    named = [(row["size"], row["transfer"]) for row in found]
    assert named == [(size, name) for size in (12, 40) for name in ("copy", "sequential", "joint")]
    for row in found:
        pattern = rf" {row['size']}  {row['transfer']} +{row['direct']:.3f} +{row['with_source']:.3f} "
        assert re.search(pattern, ended.out)
        record = record_of(Path(f"runs/gadgets-probe-gains/{row['size']}/{row['transfer']}-0"))
        assert (record["data"]["name"], record["transfer"]["source"]["name"]) == ("gadgets", "films")
    # What is asked for takes the place of the recipe's own.
    source = ROOT / "data" / "gadgets"
    recipe("source_to_target", *call, "--transfer", "select_features", "--source", source, "--sizes", 12)
    (row,) = json.loads(Path("runs/gadgets-probe-gains/gains.json").read_text())
    assert row["transfer"] == "select_features"


def test_few_shot_sets_contrast_beside_what_learns_without_it(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("nlptransfer.transfer.contrastive.LEAST_PAIRS", 16)
    base, call = make_film_base(tmp_path / "encoder"), ["--quiet", "--num-train-epochs", 1]
    ended = recipe("few_shot", "--base", base, *call)
    assert (ended.code, ended.err) == (0, "")
    found = runs_of(ended.out)
    told = [(run.settings["route"]["name"], run.transfer and run.transfer.name) for run in found]
    assert told == [("probe", None), ("full", None), ("full", "contrastive")]
    for run in found:
        assert (run.folder / "report.html").exists()
        assert run.scores["train"]["rows"] + run.scores["validation"]["rows"] == 48
    # One way alone, and once.
    ended = recipe("few_shot", "--base", base, "--route", "full", "--transfer", "contrastive", *call)
    (run,) = runs_of(ended.out)
    assert run.settings["route"]["name"] == "full" and run.transfer.name == "contrastive"


def test_another_route_leaves_the_settings_of_a_recipes_own_behind(recipe, tmp_path):
    call = ["--base", make_film_base(tmp_path / "encoder"), "--num-train-epochs", 1, "--quiet", "--no-report"]
    (run,) = runs_of(recipe("multi_label", *call, "--route", "full").out)
    assert run.settings["route"]["name"] == "full" and run.data.labels.multi_label
    # linear is the recipe's choice, mlp the user's.
    (run,) = runs_of(recipe("multi_label", *call, "--route", "probe", "--set", "head_type=mlp").out)
    assert run.settings["route"]["head_type"] == "mlp"


def test_errors_of_a_recipe_are_one_line(recipe):
    ended = recipe("topics", "--set", "dropuot=0.1")
    assert ended.code == 2 and ended.err.splitlines()[-1] == "error: unknown setting 'dropuot': did you mean 'dropout'?"
    ended = recipe("word2vec_from_scratch", "--set", "dropuot=0.1", "--dimensions", 0)
    assert ended.code == 2 and ended.err.splitlines()[-1].startswith("error: ") and "Traceback" not in ended.err


def test_vectors_from_scratch(recipe, tmp_path):
    call = ["--dimensions", 10, "--epochs", 2, "--set", "head_type=linear", "--no-report"]
    ended = recipe("word2vec_from_scratch", *call)
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0].startswith("runs/own_vectors.txt.gz: ") and lines[0].endswith(" words of 10 dimensions")
    (run,) = runs_of(ended.out)
    assert f"written: {run.folder}" in lines and (tmp_path / run.folder).is_dir()
    assert run.base["name"] == "own_vectors.txt.gz" and run.base["dimensions"] == 10
    assert run.data.name == "headlines"
