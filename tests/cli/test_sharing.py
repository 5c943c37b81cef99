"""From a run to the hub and back on another machine: every route, what is shown, and what must not leave."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard, snapshot_download

from helpers.classifiers import TEXTS, without_hashes
from helpers.corpora import write_rows
from helpers.encoders import base_of
from helpers.folders import contents
from helpers.runs import finetune
from nlptransfer import Classifier, Full, Lora, Probe, RunResult, Word2Vec
from nlptransfer.cli.app import main
from nlptransfer.errors import BaseModelError, HubError, SettingError
from nlptransfer.files import read_json

ROUTES = {
    "word2vec": Word2Vec(head_type="linear"),
    "probe": Probe(max_length=12, features=("encoder", "ngrams")),
    "full": Full(max_length=12),
    "lora": Lora(max_length=12, rank=2, lora_alpha=2),
}
BASE = "team/tiny"


@pytest.fixture(scope="session")
def base_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(base_of("bert", tmp_path_factory.mktemp("bases") / "bert").path)


@pytest.fixture
def to_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on, caches are empty."""

    def away() -> None:
        monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "elsewhere" / "hub"))

    return away


def run_of(route: str, rows: Any, vectors: Path, folder: Path) -> RunResult:
    base = vectors if route == "word2vec" else BASE
    return finetune(rows, route=ROUTES[route], base=base, output_dir=folder, num_train_epochs=1, max_train_rows=60)


@pytest.fixture
def words(hub, remarks, vectors_file, tmp_path) -> RunResult:
    """A run on word vectors."""
    return run_of("word2vec", remarks, vectors_file, tmp_path / "run")


@pytest.fixture
def adapter(hub, base_files, remarks, vectors_file, tmp_path) -> RunResult:
    """A run of LoRA on a base of the hub."""
    hub.add_repo(BASE, base_files)
    return run_of("lora", remarks, vectors_file, tmp_path / "run")


@pytest.mark.parametrize("way", [*ROUTES, "merged"])
def test_there_and_back(way, hub, base_files, remarks, vectors_file, tmp_path, command_line, to_another_machine):
    commit = hub.add_repo(BASE, base_files)
    run = run_of("lora" if way == "merged" else way, remarks, vectors_file, tmp_path / "run")
    wanted = run.classifier.logits(TEXTS)
    options = ["--merged"] if way == "merged" else []
    to_another_machine()
    os.environ["HF_TOKEN"] = hub.token
    try:
        ended = command_line(main, "push", run.folder, "me/name", "--license", "mit", "--language", "en", *options)
        assert ended.code == 0, ended.err
        *_, next_step, url = ended.out.splitlines()
        assert next_step.endswith(" | nlptransfer predict me/name -") and url == f"{hub.url}/me/name"
        assert hub.is_private("me/name")
        card = ModelCard(hub.files("me/name")["README.md"].decode())
        loaded = Classifier.load("me/name")
    finally:
        del os.environ["HF_TOKEN"]
    np.testing.assert_allclose(loaded.logits(TEXTS), wanted, atol=1e-4)
    assert loaded.labels == run.classifier.labels and loaded.thresholds == run.classifier.thresholds
    assert loaded.record["results"]["test"] == run.metrics
    assert (card.data.license, card.data.language) == ("mit", ["en"])
    accuracy = next(each for each in card.data.eval_results if each.metric_type == "accuracy")
    assert accuracy.metric_value == run.metrics["accuracy"]
    assert ("ngrams.safetensors" in hub.files("me/name")) == (way == "probe")
    if way in ("probe", "lora"):
        assert loaded.record["base"]["revision"] == commit and card.data.base_model == BASE
    if way == "lora":
        adapter = json.loads(hub.files("me/name")["adapter_config.json"])
        assert (adapter["base_model_name_or_path"], adapter["revision"]) == (BASE, commit)
    assert not [name for name, content in hub.files("me/name").items() if str(tmp_path).encode() in content]


def test_an_export_goes_there_and_back(hub, adapter, tmp_path, command_line, to_another_machine):
    ended = command_line(main, "export", adapter.folder, "--to", "onnx", "--output-dir", tmp_path / "graph")
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"written: {tmp_path / 'graph'} (")
    live = Classifier.load(tmp_path / "graph" / "model.onnx")
    np.testing.assert_allclose(live.logits(TEXTS), adapter.classifier.logits(TEXTS), atol=1e-3)
    pushed = live.push_to_hub("me/graph", token=hub.token)
    assert "model.onnx" in pushed.files and "model.safetensors" not in pushed.files
    card = hub.files("me/graph")["README.md"].decode()
    assert "by the route `lora`" in card and "exported to ONNX" in card and "Classifier.load(" in card
    hub.commit(BASE, {"model.safetensors": b"gone"})
    to_another_machine()
    loaded = Classifier.load("me/graph", token=hub.token)
    np.testing.assert_allclose(loaded.logits(TEXTS), live.logits(TEXTS), atol=1e-4)
    assert loaded.labels == adapter.classifier.labels and loaded.record["results"]["test"] == adapter.metrics


def test_what_cannot_be_exported(words, tmp_path, command_line):
    call = ["export", words.folder, "--output-dir", tmp_path / "mine", "--to"]
    wrong = {(): "merge: expected an adapter", ("--int8",): "--int8=True: expected --to onnx beside it"}
    for options, message in wrong.items():
        ended = command_line(main, *call, "merged", *options)
        assert ended.code == 2 and message in ended.err and not (tmp_path / "mine").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    ended = command_line(main, *call, "onnx")
    assert ended.code == 2 and "found other files" in ended.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_private_one_needs_its_owner(hub, words):
    pushed = words.classifier.push_to_hub("me/name", token=hub.token, revision="trial")
    assert pushed.private and pushed.commit == hub.commits("me/name", "trial")[0]
    with pytest.raises(HubError, match="me/name"):
        Classifier.load("me/name", revision="trial")
    loaded = Classifier.load("me/name", revision="trial", token=hub.token)
    np.testing.assert_allclose(loaded.logits(TEXTS), words.classifier.logits(TEXTS), atol=1e-5)
    with pytest.raises(SettingError, match="revision='trial': expected none, as a local folder has no revisions"):
        Classifier.load(words.folder, revision="trial")


@pytest.mark.parametrize("route", ["probe", "lora"])
def test_a_private_base_is_had_with_the_same_token(
    route, hub, base_files, remarks, vectors_file, tmp_path, to_another_machine
):
    hub.add_repo(BASE, base_files)
    run = run_of(route, remarks, vectors_file, tmp_path / "run")
    run.classifier.push_to_hub("me/name", token=hub.token, private=False)
    hub.repos[BASE].private = True
    to_another_machine()
    with pytest.raises(BaseModelError, match=f"{BASE}: expected a model on the hub, or a folder here"):
        Classifier.load("me/name")
    loaded = Classifier.load("me/name", token=hub.token)
    np.testing.assert_allclose(loaded.logits(TEXTS), run.classifier.logits(TEXTS), atol=1e-5)


def test_one_on_the_hub_on_the_command_line(hub, words, remarks, tmp_path, command_line):
    words.classifier.push_to_hub("me/name", token=hub.token, private=False, revision="trial")
    (tmp_path / "texts.txt").write_text("\n".join(remarks[0][:3]))
    ended = command_line(main, "predict", "me/name", tmp_path / "texts.txt", "--revision", "trial")
    assert ended.code == 0, ended.err
    wanted = [found.label for found in words.classifier.predict(remarks[0][:3])]
    assert [json.loads(line)["label"] for line in ended.out.splitlines()] == wanted
    rows = write_rows(tmp_path / "rows.jsonl", remarks)
    ended = command_line(main, "evaluate", "me/name", rows, "--revision", "trial", "--json")
    assert json.loads(ended.out)["accuracy"] == words.classifier.evaluate(rows)["accuracy"]


def test_what_needs_no_classifier_is_said_before_torch_is_imported(words, monkeypatch, command_line):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("nlptransfer.classifier.push_saved", lambda *_, **__: pytest.fail("the classifier was opened"))
    for name, expected in (("name", "expected the name of a repo"), ("me/name", "expected an access token")):
        ended = command_line(main, "push", words.folder, name)
        assert ended.code == 2 and expected in ended.err


def test_a_dry_run_shows_all_and_sends_nothing(hub, words, command_line):
    ended = command_line(main, "push", words.folder, "me/name", "--dry-run", "--example", "what a *film*")
    assert ended.code == 0, ended.err
    sizes = {path.name: path.stat().st_size for path in (words.folder / "model").iterdir()}
    for name, size in sizes.items():
        assert f"{size:>13,} bytes  {name}\n" in ended.out
    assert "README.md\n" in ended.out and "pipeline_tag: text-classification\n" in ended.out
    assert f"accuracy | {words.metrics['accuracy']:.3f}" in ended.out and "film" in ended.out
    assert ended.out.endswith(f"nothing was sent to {hub.url}/me/name\n")
    assert hub.requests == []


def test_a_base_that_moved_on(hub, adapter, to_another_machine, caplog):
    first, wanted = hub.commits(BASE)[0], adapter.classifier.logits(TEXTS)
    moved = hub.commit(BASE, {"model.safetensors": b"another model"})
    to_another_machine()
    np.testing.assert_allclose(Classifier.load(adapter.folder).logits(TEXTS), wanted, atol=1e-5)
    assert f"{BASE} has moved on to commit {moved}; {first} is taken, as asked for" in caplog.messages


def test_a_base_whose_history_was_written_anew(hub, adapter, to_another_machine, caplog):
    record = read_json(adapter.folder / "model" / "nlptransfer.json")
    without_hashes(adapter.folder / "model", base=record["base"] | {"revision": "0" * 40})
    to_another_machine()
    loaded = Classifier.load(adapter.folder)
    np.testing.assert_allclose(loaded.logits(TEXTS), adapter.classifier.logits(TEXTS), atol=1e-5)
    assert any("has the same weights and is taken" in message for message in caplog.messages)


OFFLINE = """
import json, socket, sys

def closed(*_): raise AssertionError("the network was asked for")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = closed
from nlptransfer import Classifier, finetune
from nlptransfer.cli import main

rows, folder, hubs, local, vectors = json.loads(sys.argv[1]), *sys.argv[2:]
few = {"num_train_epochs": 1, "max_train_rows": 40, "progress": False, "max_length": 12}
bases = {"hub": hubs, "local": local, "words": vectors}
names = [f"{place}-{route}" for route in ("lora", "full", "probe") for place in ("hub", "local")]
for name in (*names, "words-word2vec"):
    place, route = name.split("-")
    out = f"{folder}/{name}"
    run = finetune(tuple(rows), route=route, base=bases[place], output_dir=out, **few)
    loaded = Classifier.load(run.folder)
    loaded.save_pretrained(f"{out}-again")
    loaded.evaluate({"test": (rows[0][:20], rows[1][:20])})
    if route == "lora":
        loaded.merge().save_pretrained(f"{out}-merged")
sys.argv[1:] = ["push", out, "me/name", "--dry-run"]
main()
"""


def test_without_a_network_all_but_pushing_works(hub, base_files, remarks, vectors_file, tmp_path, monkeypatch):
    """With a base in the hub's cache and with one in a folder."""
    base = tmp_path / "tiny"
    base.mkdir()
    for name, content in base_files.items():
        (base / name).write_bytes(content)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    hub.add_repo(BASE, base_files)
    snapshot_download(BASE, cache_dir=tmp_path / "home" / "hub")
    ended = subprocess.run(
        [sys.executable, "-c", OFFLINE, json.dumps(remarks), *map(str, (tmp_path, BASE, base, vectors_file))],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    assert "nothing was sent" in ended.stdout
    names = {f"{place}-{name}" for place in ("hub", "local") for name in ("lora-again", "lora-merged", "probe-again")}
    assert names < {path.name for path in tmp_path.iterdir()}
