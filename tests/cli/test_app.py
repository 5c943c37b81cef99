"""The command line: every verb, what it prints and writes, and how it fails."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

import nlptransfer
from helpers.encoders import FILM_WORDS, make_film_base
from nlptransfer import ComparisonResult, RunResult
from nlptransfer.classifier.output import KINDS as OUTPUTS
from nlptransfer.cli.app import app, main
from nlptransfer.cli.options import GROUPS
from nlptransfer.experiments.baselines import BASELINES
from nlptransfer.results import DROPPABLE, KINDS
from nlptransfer.routes import ROUTES
from nlptransfer.transfer import TRANSFERS
from nlptransfer.vectors.store import open_vectors

LINEAR = ["--set", "head_type=linear", "--no-report"]
TEXTS = ["wordaa goodae goodaf wordab", "wordac badae badaf", "deliveryae deliveryaf wordab"]
VERBS = (
    "", "finetune", "compare", "rank", "audit", "gap", "predict", "explain", "evaluate", "settings", "bases", "report",
    "push", "export", "average", "vectors", "vectors train", "vectors distill", "vectors show",
)  # fmt: skip


@pytest.fixture(scope="module")
def texts_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def started(*arguments: object, **more) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nlptransfer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **more)


def in_shell(line: str) -> str:
    """Run a line as a shell does in which the package is installed, and return what it prints."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = subprocess.run(line, shell=True, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


# finetune


def test_finetune(command_line, remarks_folder, vectors_file, tmp_path):
    folder = tmp_path / "one's run"
    call = ["finetune", remarks_folder, "--base", vectors_file, "--output-dir", folder, "--no-report"]
    call += ["--set", "head_type=mlp", "--set", "mlp_sizes=16,8", "--num-train-epochs", 3, "--learning-rate", 0.01]
    call += ["--route", "word2vec", "--seed", 3, "--metric", "matthews_correlation"]
    call += ["--set", 'class_weights={"positive": 2}']
    ended = command_line(main, *call)
    assert ended.code == 0, ended.err
    run = RunResult.load(folder)
    settings = run.settings
    assert settings["route"]["mlp_sizes"] == [16, 8] and settings["training"]["class_weights"] == {"positive": 2.0}
    training = settings["training"]
    assert (training["seed"], training["num_train_epochs"], training["learning_rate"]) == (3, 3, 0.01)
    assert "matthews_correlation" in run.metrics
    low, high = run.metrics["accuracy_interval"]
    assert f"word2vec            {run.metrics['accuracy']:.3f} [{low:.3f}, {high:.3f}]" in ended.out
    *_, written, labels, shares = ended.out.splitlines()
    assert written == f"written: {folder}"
    # What is to be done next runs as it is printed.
    assert json.loads(in_shell(labels.partition(":  ")[2]))["text"] == "Write your text here"
    pushed = command_line(main, *shlex.split(shares.partition(" nlptransfer ")[2]))
    assert pushed.code == 0 and "nothing was sent to" in pushed.out, pushed.err
    assert "remarks: 2 labels, with their rows: " in ended.err
    again = command_line(main, *call)
    assert again.out == ended.out and "the same run has finished there before" in again.err


def test_what_stays_on_one_side_is_named(command_line, remarks, vectors_file, tmp_path):
    rows = [f"{text},{label},c{row % 40}" for row, (text, label) in enumerate(zip(*remarks, strict=True))]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label,customer", *rows]))
    call = ["finetune", tmp_path / "rows.csv", "--base", vectors_file, "--output-dir", tmp_path / "run", "--no-report"]
    call += ["--set", "head_type=linear", "--group-column", "customer"]
    ended = command_line(main, *call)
    assert ended.code == 0 and "rows of one value of 'customer' stay on one side" in ended.err, ended.err
    run = RunResult.load(tmp_path / "run")
    assert (run.settings["data"]["group_column"], run.settings["data"]["split_by"]) == ("customer", "text")
    assert "--set group_column=customer" in run.command and run.data.rows["test"] % 4 == 0
    # With its path, unlike the command in the model card.
    again = command_line(main, *shlex.split(run.repeat)[1:], "--output-dir", tmp_path / "again", "--no-report")
    assert again.code == 0 and RunResult.load(tmp_path / "again").question == run.question
    refused = command_line(main, *call, "--set", "split_by=copies")
    assert refused.code == 2 and "split_by='copies': expected none beside group_column" in refused.err
    changed = command_line(main, *call[:-2], "--set", "split_by=copies")
    assert changed.code == 2 and "split_by, group_column): name another output_dir, or overwrite" in changed.err


@pytest.mark.parametrize(("route", "features"), [("probe", "encoder,ngrams"), ("word2vec", "word2vec,ngrams")])
def test_features_are_named_with_commas(route, features, command_line, remarks_folder, vectors_file, tmp_path):
    base = vectors_file if route == "word2vec" else make_film_base(tmp_path / "encoder")
    folder, texts = tmp_path / "run", remarks_folder / "test.jsonl"
    call = ["finetune", remarks_folder, "--base", base, "--output-dir", folder, "--route", route]
    ended = command_line(main, *call, *LINEAR, "--set", f"features={features}")
    assert ended.code == 0, ended.err
    assert RunResult.load(folder).settings["route"]["features"] == features.split(",")
    assert (folder / "model" / "ngrams.safetensors").exists()
    predicted = [json.loads(line)["label"] for line in command_line(main, "predict", folder, texts).out.splitlines()]
    true = [json.loads(line)["label"] for line in texts.read_text().splitlines()]
    assert sum(map(str.__eq__, predicted, true)) > 0.8 * len(true)


def test_compare_with_ngrams(command_line, remarks_folder, tmp_path):
    base = make_film_base(tmp_path / "encoder")
    call = ["compare", remarks_folder, "--routes", "probe,majority", "--bases", base, "--seeds", 1, "--quiet"]
    ended = command_line(main, *call, "--output-dir", tmp_path / "out", "--set", "features=encoder,ngrams")
    assert ended.code == 0, ended.err
    (run,) = ComparisonResult.load(tmp_path / "out").runs("probe")
    assert run.settings["route"]["features"] == ["encoder", "ngrams"] and run.metrics["accuracy"] > 0.8


def test_several_data_sets_go_to_folders_of_their_own(
    command_line, remarks_folder, tickets_file, vectors_file, tmp_path
):
    call = ["--base", vectors_file, "--output-dir", tmp_path / "out", *LINEAR, "--quiet"]
    ended = command_line(main, "finetune", remarks_folder, tickets_file, *call)
    assert (ended.code, ended.err) == (0, "")
    for name, score in (("remarks", "accuracy (95%)"), ("tickets", "micro F1 (95%)")):
        assert f"written: {tmp_path / 'out' / name}\n" in ended.out
        assert f"{name}: scores on" in ended.out and score in ended.out
    assert ended.out.count("baseline: tfidf") == 2 and ended.out.count("nlptransfer predict") == 1
    runs = {folder.name: RunResult.load(folder) for folder in (tmp_path / "out").iterdir()}
    assert {name: run.data.labels.multi_label for name, run in runs.items()} == {"remarks": False, "tickets": True}


def test_data_sets_of_one_name_do_not_share_a_folder(command_line, remarks_folder, vectors_file, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "train.jsonl").write_text((remarks_folder / "train.jsonl").read_text().replace("positive", "fine"))
    call = ["--base", vectors_file, "--output-dir", tmp_path / "out", *LINEAR, "--quiet"]
    ended = command_line(main, "finetune", remarks_folder / "train.jsonl", other / "train.jsonl", *call)
    assert ended.code == 0, ended.err
    labels = [RunResult.load(folder).data.labels.names for folder in sorted((tmp_path / "out").iterdir())]
    assert sorted(labels) == [("fine", "negative"), ("negative", "positive")]


def test_overwrite_and_columns(command_line, vectors_file, remarks, tmp_path):
    table = tmp_path / "rows.tsv"
    rows = "".join(f"{i}\t{text}\t{label}\n" for i, (text, label) in enumerate(zip(*remarks, strict=True)))
    table.write_text(f"number\tsays\tmood\n{rows}")
    call = ["finetune", table, "--base", vectors_file, "--output-dir", tmp_path / "run", *LINEAR]
    columns = ["--text-column", "says", "--label-column", "mood", "--max-train-rows", 60]
    refused = command_line(main, *call, "--text-column", "said")
    assert refused.code == 2 and "set text_column" in refused.err
    assert command_line(main, *call, *columns).code == 0
    prints = RunResult.load(tmp_path / "run").data.fingerprints
    assert 50 <= sum(each["rows"] for name, each in prints.items() if name != "test") <= 60
    refused = command_line(main, *call, *columns, "--seed", 1)
    assert refused.code == 2 and "seed=0, asked for seed=1" in refused.err
    assert command_line(main, *call, *columns, "--seed", 1, "--overwrite").code == 0
    assert RunResult.load(tmp_path / "run").settings["training"]["seed"] == 1


def test_quiet_is_quiet_in_a_process_of_its_own(vectors_file, remarks, tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("text,label\n,positive\n" + "".join(f"{a},{b}\n" for a, b in zip(*remarks, strict=True)))
    call = ["--base", vectors_file, "--set", "head_type=mlp", "--num-train-epochs", 1]
    ended = started("finetune", "rows.csv", *call, "--quiet", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\nwritten: runs/rows-word2vec-" in ended.stdout


# predict and evaluate


def test_predict_prints_an_object_a_line(command_line, run, texts_file):
    ended = command_line(main, "predict", run.folder, texts_file)
    assert (ended.code, ended.err) == (0, "")
    found = [json.loads(line) for line in ended.out.splitlines()]
    keys = ("text", "label", "score")
    assert found == [{key: getattr(each, key) for key in keys} for each in run.classifier.predict(TEXTS)]
    assert [each["label"] for each in found[:2]] == ["positive", "negative"]


def test_predict_gives_null_where_it_abstains(command_line, run, several, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text(f"no word that it knows\n{TEXTS[0]}\n")
    for model, keys in ((run, ["label", "score"]), (several, ["labels", "scores"])):
        ended = command_line(main, "predict", model.folder, texts, "--min-confidence", 0.99)
        assert (ended.code, ended.err) == (0, "")
        unsure, other = map(json.loads, ended.out.splitlines())
        assert unsure == {"text": "no word that it knows", **dict.fromkeys(keys)}
        assert list(other) == ["text", *keys]
        assert model is several or (other["label"] == "positive" and other["score"] > 0.99)


def test_predict_from_standard_input_into_a_file(command_line, run, texts_file, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("schön 好 goodae\n".encode())))
    ended = command_line(main, "predict", run.folder, "-", "--output", tmp_path / "new" / "labels.jsonl")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    written = (tmp_path / "new" / "labels.jsonl").read_text(encoding="utf-8")
    assert '"schön 好 goodae"' in written and json.loads(written)["label"] == "positive"


def test_predict_writes_all_or_nothing(command_line, run, tmp_path):
    rows, output = tmp_path / "rows.jsonl", tmp_path / "labels.jsonl"
    rows.write_text('{"text": "goodae"}\n{"text": 3}\n')
    output.write_text("from before")
    ended = command_line(main, "predict", run.folder, rows, "--output", output)
    assert ended.code == 2 and "row 2" in ended.err
    assert output.read_text() == "from before" and len(list(tmp_path.iterdir())) == 2


def test_evaluate(command_line, run, remarks_folder, tmp_path):
    rows = remarks_folder / "test.jsonl"
    ended = command_line(main, "evaluate", run.folder, rows, "--metric", "matthews_correlation", "--json")
    assert ended.code == 0 and ended.err.startswith(f"Reading {rows} ...\n{rows}: texts from column 'text' (")
    assert ended.err.count("\n") == 2
    scores = json.loads(ended.out)
    assert scores["accuracy"] == run.metrics["accuracy"] and scores["mcc"] == scores["matthews_correlation"]
    call = ["evaluate", run.folder, remarks_folder, "--split", "validation", "--output", tmp_path / "scores.json"]
    assert command_line(main, *call).out == ""
    per_class = json.loads((tmp_path / "scores.json").read_text())["per_class"]
    assert sum(each["support"] for each in per_class.values()) == 20


def test_evaluate_shows_a_table_and_warns_of_training_rows(command_line, run, several, remarks_folder, tickets_file):
    ended = command_line(main, "evaluate", run.folder, remarks_folder / "test.jsonl")
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert lines[1].startswith("score value (95%)") and lines[3].startswith(f"accuracy {run.metrics['accuracy']:.3f} [")
    assert "label F1 precision recall rows" in lines and "warning" not in ended.err
    for model in (run.folder, run.folder / "model"):
        ended = command_line(main, "evaluate", model, remarks_folder, "--split", "train")
        rows = run.data.rows["train"]
        # The rows of the calibration are split off these.
        assert re.search(r"warning: about (\d+) of these \1 rows were used in training", ended.err), (rows, ended.err)
    shutil.copytree(run.folder / "model", remarks_folder.parent / "alone" / "model")
    ended = command_line(main, "evaluate", remarks_folder.parent / "alone", remarks_folder, "--split", "train")
    assert ended.code == 0 and "warning" not in ended.err
    ended = command_line(main, "evaluate", several.folder, tickets_file)
    assert ended.out.splitlines()[3].startswith("micro F1") and "rows were used in training" in ended.err


# vectors


def test_vectors_train_and_show(command_line, remarks, tmp_path):
    texts, output = tmp_path / "texts.txt", tmp_path / "own.txt.gz"
    texts.write_text("\n".join(remarks[0]))
    call = ["--dimensions", 6, "--epochs", 2, "--min-count", 3, "--window", 3, "--seed", 1]
    ended = command_line(main, "vectors", "train", texts, output, *call)
    vectors = open_vectors(output)
    assert (ended.code, ended.out) == (0, f"{output}: {len(vectors)} words of 6 dimensions\n")
    word = vectors.words(0, 1)[0]
    ended = command_line(main, "vectors", "show", output, "--texts", texts, "--word", word, "--word", "goodae")
    lines = ended.out.splitlines()
    assert lines[0] == f"own.txt.gz: {len(vectors)} words of 6 dimensions"
    assert lines[1].startswith(f"most frequent: {word} ")
    assert "of the running words and" in lines[2] and lines[3].startswith("most frequent without a vector:")
    assert [line.split(":")[0] for line in lines[4:]] == [word, "goodae"]


def test_vectors_distill_the_most_frequent_words(command_line, own_cache, tmp_path):
    texts, output, base = tmp_path / "texts.txt", tmp_path / "own.txt", make_film_base(tmp_path / "tiny")
    texts.write_text("\n".join(FILM_WORDS))
    ended = command_line(main, "vectors", "distill", texts, output, "--base", base, "--max-words", 9, "--dimensions", 4)
    assert (ended.code, ended.out) == (0, f"{output}: 9 words of 4 dimensions\n")
    assert (
        "words of the texts only the 9 most frequent get a vector" in ended.err
        and "makes vectors for 9 words" in ended.err
    )
    assert len(open_vectors(output)) == 9


# Help and errors


def test_help_of_every_verb_loads_nothing_heavy():
    code = f"""
import sys
from nlptransfer.cli import main
from nlptransfer.cli.terminal import show_comparison
for verb in {VERBS!r}:
    sys.argv = ["nlptransfer", *verb.split(), "--help"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, verb
heavy = ["torch", "transformers", "accelerate", "datasets", "numpy", "pandas", "gensim", "scipy", "sklearn", "pyarrow"]
print("loaded:", [name for name in heavy if name in sys.modules])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stderr == "" and ended.stdout.splitlines()[-1] == "loaded: []"
    for words in ("--max-train-rows", "--split", "--min-count", "KEY=VALUE", "Label texts", "Nearest", "DATA"):
        assert words.lower() in ended.stdout.lower()


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("", "vectors")])
def test_help_ends_with_examples_whose_options_there_are(verb, command_line):
    shown = command_line(main, *verb.split(), "--help").out
    examples = shown.partition("Examples:")[2].split("nlptransfer ")[1:]
    assert examples and all(example.startswith(verb) for example in examples), shown
    for example in examples:
        # One line of a terminal of 80 characters.
        assert len(f" nlptransfer {example.rstrip()}") < 80
        tried = command_line(main, *shlex.split(example.replace(">", "")), "--help")
        assert tried.code == 0 and "Usage: " in tried.out, tried.err


def test_the_help_has_every_verb_in_a_group(command_line):
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(get_command(app).commands)
    shown = command_line(main, "--help").out
    assert [group for group in GROUPS if group not in shown] == [] and "Commands" not in shown


CHOICES = {
    "finetune": [*ROUTES, *TRANSFERS, "Data", "Training", "Transfer", "Output"], "compare": [*ROUTES, *BASELINES],
    "audit": [*KINDS, *DROPPABLE], "predict": OUTPUTS,
}  # fmt: skip


@pytest.mark.parametrize("verb", CHOICES)
def test_help_lists_every_choice(verb, command_line):
    shown = command_line(main, verb, "--help").out
    assert [name for name in CHOICES[verb] if name not in shown] == []


def test_the_version_is_printed(command_line):
    ended = command_line(main, "--version")
    assert (ended.code, ended.out) == (0, f"nlptransfer {nlptransfer.__version__}\n")


def test_an_error_is_one_line_and_exit_code_2_in_a_process_of_its_own(tmp_path):
    ended = started("vectors", "show", tmp_path / "nowhere.txt")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1
    assert "nowhere.txt: no such file" in ended.stderr


ERRORS = {
    "finetune {data} --set dropout": "--set dropout: expected KEY=VALUE",
    "finetune {data} --set dropuot=0.1": "unknown setting 'dropuot': did you mean 'dropout'?",
    "finetune {data} --set dropout=2": "dropout='2': expected a number from 0, below 1",
    "finetune {data} --route probe --set features=encoder,ngram": "features='encoder,ngram': expected 'auto' or",
    "compare {data} --routes probe --set features=ngrams": "features=('ngrams',): expected encoder among them",
    "finetune {data} --set features=word2vec,ngrams": "head_type='cnn': expected head_type=linear beside ngrams",
    "finetune {data} --set features=encoder": "features='encoder': expected one of 'word2vec', 'ngrams'",
    "finetune {data} --route full --set features=auto": "features",
    "finetune {data} --route lorra": "unknown route 'lorra'",
    "finetune {data} --base nowhere.txt": "nowhere.txt: no such file",
    "finetune nowhere.csv": "nowhere.csv: no such file or folder",
    "finetune {data} --set name=mine --set head_type=linear": "name",
    "predict {run} nowhere.txt": "nowhere.txt: expected a file of texts",
    "predict {data} texts.txt": "expected a saved classifier",
    "predict {run} {data}/test.jsonl --min-confidence 1.5": "min_confidence=1.5: expected a probability from 0 to 1",
    "predict {run} {data}/test.jsonl --batch-size 0": "batch_size=0: expected a whole number from 1",
    "predict {run} {data}/test.jsonl --top-k 0 --output own.csv": "top_k=0: expected a whole number from 1",
    "predict {run} texts.txt --output own.xlsx": "own.xlsx: expected an output named .csv, .tsv, .jsonl, .parquet",
    "predict nowhere {data}/test.jsonl --output {data}": "expected a file to write, found a folder",
    "predict nowhere {data}/test.jsonl --output {data}/test.jsonl": "expected an output that is not the input",
    "evaluate {run} {data} --device cuda:99": "device='cuda:99': expected one that is here: cpu",
    "evaluate {run} {data} --label-column mood": "label_column",
    "finetune {data} --set report=no": "--set report: not a setting",
    "compare {data} --set max_minutes=1": "--set max_minutes: not a setting",
    "compare {data} --set overwrite=yes": "--set overwrite: not a setting",
    "gap {data} {data} --set seeds=1": "--set seeds: not a setting",
    "gap {data} {data} --set head_type=mlp": "--set head_type: not a setting",
    "finetune {data} --source {data} --sizes 9 --no-report": "--no-report: expected no --sizes with it",
    "evaluate {run} {data} --split dev2": "expected a dev2 split",
    "vectors show nowhere.txt": "nowhere.txt: no such file",
    "vectors show {vectors} --word zzz": "zzz",
    "vectors train nowhere.txt own.txt": "nowhere.txt",
    "vectors distill {data}/train.jsonl own.txt --base {data}": "expected an encoder's folder",
}


@pytest.mark.parametrize("call", ERRORS)
def test_errors_are_one_line(call, command_line, run, remarks_folder, vectors_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"data": remarks_folder, "run": run.folder, "vectors": vectors_file}
    base = ["--base", vectors_file] if call.startswith("finetune") and "--base" not in call else []
    ended = command_line(main, *(part.format(**names) for part in call.split()), *base)
    assert ended.code == 2
    last = ended.err.splitlines()[-1]
    assert last.startswith("error: ") and ERRORS[call] in last
    assert "Traceback" not in ended.err and ended.err.count("error: ") == 1
    assert not list(tmp_path.glob("own*"))


@pytest.mark.parametrize("call", ["finetune", "predict one", "finetunes data", "predict a b --no-such-option"])
def test_usage_errors(call, command_line):
    ended = command_line(main, *call.split())
    assert ended.code == 2 and "Traceback" not in ended.err and "--help" in ended.err
