"""What is wrong with data is said before anything heavy is imported."""

import inspect
import json
import subprocess
import sys

import pytest

from nlptransfer.cli.app import main
from nlptransfer.cli.finetuning import ARGUMENTS
from nlptransfer.cli.first_look import rows_first
from nlptransfer.data.dataset import DataSettings, load_data
from nlptransfer.data.files import parsing
from nlptransfer.data.reading import open_source
from nlptransfer.experiments import finetune
from nlptransfer.transfer import TRANSFERS, may_lack_labels

HEAVY = "torch transformers accelerate datasets evaluate sklearn scipy matplotlib gensim pandas peft"
SCRIPT = f"""
import json, sys
from nlptransfer.cli.app import main
for arguments in json.load(sys.stdin):
    sys.argv = ["nlptransfer", *arguments]
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    heavy = [name for name in {HEAVY.split()} if name in sys.modules]
    print(json.dumps([arguments[0], code, heavy]), file=sys.stderr)
"""


def test_no_command_imports_what_it_does_not_need(run, remarks_folder, tmp_path):
    one_label, rows = tmp_path / "one.csv", tmp_path / "rows.csv"
    one_label.write_text("text,label\ngood,a\nbad,a\n")
    rows.write_text("text,label\ngood,positive\nbad,negative\nbad,other\n")
    commands = [
        ["--help"], ["--version"], ["bases"], ["finetune", "--help"], ["settings", "data"], ["settings", "training"],
        ["finetune", "gone.csv"], ["finetune", one_label], ["finetune", one_label, "--route", "lora", "--seed", "3"],
        ["finetune", rows, "--text-column", "txt"], ["finetune", rows, "--learning-rate", "-1"],
        ["finetune", rows, "--route", "nothing"], ["finetune", one_label, "--source", rows],
        ["finetune", rows, "--transfer", "nothing"], ["finetune", rows, "--set", "test_size=2"],
        ["finetune", one_label, "--route", "lora", "--set", "rank=8"], ["finetune", "gone.csv", "--set", "rank=no"],
        ["finetune", remarks_folder, "--source", "gone.csv"], ["finetune", remarks_folder, "--source", one_label],
        ["finetune", remarks_folder, "--source", remarks_folder, "--set", "source_label_column=gone"],
        ["finetune", one_label, "--source", remarks_folder, "--transfer", "pretrain >> joint"],
        ["finetune", "gone.csv", "--source", remarks_folder, "--transfer", "coral"],
        ["finetune", rows, "--source", remarks_folder, "--transfer", "adapt", "--text-column", "txt"],
        ["finetune", remarks_folder, "--transfer", "pretrain", "--unlabeled", "gone.txt"],
        ["finetune", one_label, "--source", remarks_folder, "--sizes", "10,20"],
        ["compare", one_label], ["compare", rows, "--set", "learning_rate=-1", "--seeds", "2"],
        ["rank", one_label], ["rank", remarks_folder, "--sources", "gone.csv"], ["gap", remarks_folder, "gone.csv"],
        ["explain", tmp_path, "good"], ["push", tmp_path, "me/it"], ["export", tmp_path, "--to", "onnx"],
        ["push", run.folder, "it"], ["report", tmp_path / "gone"],
        ["average", tmp_path, tmp_path, "--output-dir", "x"], ["audit", rows, "--label-column", "gone"],
        ["predict", run.folder, "gone.csv"], ["predict", run.folder, rows, "--text-column", "txt"],
        ["predict", run.folder, rows, "--output", "x.doc"], ["predict", tmp_path, rows],
        ["evaluate", run.folder, one_label], ["evaluate", run.folder, rows], ["evaluate", tmp_path, rows],
    ]  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(commands, default=str), capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    ends = [json.loads(line) for line in ended.stderr.splitlines() if line.startswith("[")]
    assert ends == [[command[0], 0 if number < 6 else 2, []] for number, command in enumerate(commands)], ended.stderr
    said = ended.stderr.split("\n")
    assert f"Reading {one_label} ..." in said and not any(line.startswith("Traceback") for line in said)


def test_rows_are_read_once(remarks_folder, monkeypatch):
    read, original = [], parsing.read_file

    def reading(path, settings):
        read.append(path.stem)
        return original(path, settings)

    monkeypatch.setattr("nlptransfer.data.reading.read_file", reading)
    with rows_first(str(remarks_folder), {"test_size": "0.3", "seed": 3, "route": "full"}):
        # As finetune, compare and rank do.
        load_data(remarks_folder, test_size=0.3)
    assert sorted(read) == ["test", "train", "validation"]
    read.clear()
    with rows_first(str(remarks_folder), {}, whole=True):
        load_data(open_source(remarks_folder, DataSettings()))  # as audit does
    assert sorted(read) == ["test", "train", "validation"]


def test_data_come_before_the_settings_that_torch_must_check(command_line):
    ended = command_line(main, "finetune", "gone.csv", "--set", "head_type=nothing")
    assert ended.code == 2 and "gone.csv" in ended.err.splitlines()[-1]


@pytest.mark.parametrize("name", TRANSFERS)
def test_what_may_lack_labels_is_known_before_torch(name):
    kind = TRANSFERS[name]
    assert may_lack_labels(name) == kind().adjusted(True).label_free if kind.takes_source else not may_lack_labels(name)


def test_arguments_are_those_of_the_public_function():
    assert {*inspect.signature(finetune).parameters} - {"settings"} == {*ARGUMENTS}
