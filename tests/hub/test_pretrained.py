"""Code in a folder is never run, and nobody is asked whether to: every route, verb and hostile file."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from transformers import AutoTokenizer

from helpers.classifiers import changed, without_hashes
from helpers.encoders import base_of
from nlptransfer import Classifier, Full, Lora, Probe, Word2Vec
from nlptransfer.cli.app import main
from nlptransfer.data.labels import Labels
from nlptransfer.errors import BaseModelError, NlpTransferError, RunFolderError
from nlptransfer.files import read_json, write_json
from nlptransfer.hub.base_models import BaseModel
from nlptransfer.hub.pretrained import adapter_config, from_pretrained

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LABELS = Labels(("no", "yes"))
YES = "y\n" * 100
ROUTES = {
    "word2vec": Word2Vec(head_type="linear"),
    "probe": Probe(max_length=12),
    "lora": Lora(max_length=12, rank=2),
    "full": Full(max_length=12),
}
AUTO_MAP = {
    "AutoConfig": "planted.Planted",
    "AutoModelForSequenceClassification": "planted.Planted",
    "AutoTokenizer": [None, "planted.Planted"],
}
OWN_TYPE = {"model_type": "planted"}
OWN_TOKENIZER = {"tokenizer_config.json": {"tokenizer_class": "Planted", "auto_map": AUTO_MAP}}
HOSTILE: dict[str, dict[str, dict[str, Any]]] = {
    "tokenizer": OWN_TOKENIZER,
    "config": {"config.json": {"auto_map": AUTO_MAP}},
    "model type": {"config.json": OWN_TYPE},
    "config of its own type": {"config.json": OWN_TYPE | {"auto_map": AUTO_MAP}},
    "all": {"config.json": OWN_TYPE | {"auto_map": AUTO_MAP}} | OWN_TOKENIZER,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, vectors_file: Path) -> dict[str, Path]:
    """A saved classifier of each route, by its name."""
    root = tmp_path_factory.mktemp("saved")
    bases = dict.fromkeys(ROUTES, base_of("bert", root / "bert")) | {"word2vec": vectors_file}
    made = {name: changed(route, bases[name], LABELS) for name, route in ROUTES.items()}
    made["word2vec"].export_onnx(root / "onnx")
    return {"onnx": root / "onnx"} | {name: one.save_pretrained(root / name) for name, one in made.items()}


@dataclass(frozen=True)
class Trap:
    """A folder with code of its own, which leaves a file behind when it runs."""

    folder: Path
    mark: Path

    def spring(self, *files: dict[str, dict[str, Any]]) -> None:
        """Make the folder's files name the code."""
        for file in files:
            for name, entries in file.items():
                write_json(self.folder / name, read_json(self.folder / name) | entries)


@pytest.fixture
def trap(saved: dict[str, Path], tmp_path: Path) -> Callable[[str], Trap]:
    """A copy of a saved classifier with code beside it."""

    def make_trap(route: str) -> Trap:
        # Who plants code hashes it too, or leaves the hashes out.
        folder, mark = without_hashes(copytree(saved[route], tmp_path / route)), tmp_path / "ran"
        (folder / "planted.py").write_text(f"open({str(mark)!r}, 'w')\nclass Planted: pass\n")
        return Trap(folder, mark)

    return make_trap


@pytest.mark.parametrize("stdin", [YES, "", None], ids=["yes", "empty", "closed"])
@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("route", [*ROUTES, "onnx"])
def test_loading_runs_nothing_and_asks_nothing(trap, route, hostile, stdin, monkeypatch):
    one = trap(route)
    one.spring(HOSTILE[hostile])
    typed = None if stdin is None else io.StringIO(stdin)
    monkeypatch.setattr("sys.stdin", typed)
    try:
        found = Classifier.load(one.folder)
    except NlpTransferError as error:
        assert "\n" not in str(error) and str(error).startswith(f"{one.folder}: expected ")
        assert "auto_map" in str(error) or "planted" in str(error)
    else:
        # What transformers has a class for is loaded with that.
        assert "type" not in hostile and hostile != "all"
        assert found.labels == LABELS
    assert not one.mark.exists() and (typed is None or typed.tell() == 0)


@pytest.mark.parametrize("route", ["word2vec", "full"])
def test_verbs_end_in_one_line(trap, route, tmp_path, monkeypatch, command_line):
    one = trap(route)
    one.spring(HOSTILE["all"])
    (tmp_path / "texts.txt").write_text("good\n")
    (tmp_path / "rows.csv").write_text(f"text,label\ngood,{LABELS.names[0]}\n")
    for verb in (
        ["predict", one.folder, tmp_path / "texts.txt"],
        ["evaluate", one.folder, tmp_path / "rows.csv"],
        ["push", one.folder, "me/name", "--dry-run"],
        ["export", one.folder, "--to", "onnx", "--output-dir", tmp_path / "out"],
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(YES))
        ended = command_line(main, *verb)
        errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
        assert (ended.code, ended.out, len(errors)) == (2, "", 1) and ended.err.endswith(f"{errors[0]}\n")
        assert "an auto_map to other code, which is never run" in errors[0]
        assert not one.mark.exists() and sys.stdin.tell() == 0


def test_a_text_that_is_piped_in_is_no_consent(trap, tmp_path):
    one = trap("word2vec")
    one.spring(HOSTILE["all"])
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "nlptransfer", "predict", str(one.folder), "-"]
    done = subprocess.run(
        command, input=YES, capture_output=True, text=True, timeout=120, cwd=one.folder, env=environment
    )
    assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1, done.stderr
    assert "auto_map" in done.stderr and not one.mark.exists()


@pytest.mark.parametrize(
    "adapter",
    [
        {"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "a", "token_dim": 8},
        {"megatron_config": {"a": 1}, "megatron_core": "planted"},
    ],
    ids=["prompt tuning", "megatron"],
)
@pytest.mark.parametrize("route", ["lora", "full"])
def test_an_adapter_runs_nothing(trap, saved, route, adapter, monkeypatch):
    one = trap(route)
    # peft opens the tokenizer that prompt tuning names, and imports a module for Megatron.
    hostile = copytree(one.folder, one.folder.with_name("tokenizer"))
    Trap(hostile, one.mark).spring(HOSTILE["all"])
    ours = read_json(saved["lora"] / "adapter_config.json")
    named = {"tokenizer_name_or_path": str(hostile), "num_virtual_tokens": 2}
    write_json(one.folder / "adapter_config.json", ours | adapter | named)
    monkeypatch.syspath_prepend(one.folder)
    monkeypatch.setattr("sys.stdin", io.StringIO(YES))
    with pytest.raises(RunFolderError, match=r"another kind of adapter than plain LoRA in adapter_config\.json"):
        Classifier.load(one.folder)
    assert not one.mark.exists() and sys.stdin.tell() == 0 and "planted" not in sys.modules


def test_the_door_names_what_it_was_asked_for(trap, saved):
    one = trap("word2vec")
    one.spring(HOSTILE["all"])
    base = BaseModel(one.folder, "me/base", None)
    with pytest.raises(
        BaseModelError, match=r"^me/base: expected what tokenizer_config\.json .* auto_map .*: take another"
    ):
        from_pretrained(AutoTokenizer, base)
    with pytest.raises(RunFolderError, match=r"what adapter_config\.json describes .* found ValueError"):
        adapter_config(saved["full"])
