"""Folders that are not as they were saved: each changed, truncated or missing file is one line that names it."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.classifiers import LABELS, TEXTS, changed, without_hashes
from nlptransfer import Classifier, Full, Lora, Probe, Word2Vec
from nlptransfer.classifier.push import push_saved
from nlptransfer.errors import BaseModelError, RunFolderError
from nlptransfer.files import read_json

ROUTES = {
    "full": Full(max_length=12),
    "lora": Lora(max_length=12, rank=2),
    "probe": Probe(features=("encoder", "word2vec", "ngrams"), dimensions=4),
    "word2vec": Word2Vec(head_type="linear", features=("word2vec", "ngrams"), dimensions=4),
}


@pytest.fixture(scope="module", params=ROUTES)
def saved(request, bases, tmp_path_factory) -> Path:
    return changed(ROUTES[request.param], bases("bert"), LABELS).save_pretrained(tmp_path_factory.mktemp("x") / "saved")


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def assert_refused(folder: Path, name: str) -> None:
    with pytest.raises(RunFolderError) as caught:
        Classifier.load(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / name}: expected ") and "\n" not in message and "save it anew" in message
    with pytest.raises(RunFolderError):
        push_saved(folder, "me/mine", dry_run=True)


def test_every_file_is_checked(saved, tmp_path):
    files = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()} - {"nlptransfer.json"}
    assert set(read_json(saved / "nlptransfer.json")["files"]) == files and len(files) >= 4
    draw = random.Random(0)
    for name in files:
        content = (saved / name).read_bytes()
        for case in (flipped(content, draw.randrange(len(content))), content[: len(content) // 2], b"", None):
            folder = tmp_path / "changed"
            shutil.copytree(saved, folder)
            (folder / name).unlink() if case is None else (folder / name).write_bytes(case)
            assert_refused(folder, name)
            shutil.rmtree(folder)


def test_every_field_of_the_record_is_checked(saved, tmp_path):
    record, draw = read_json(saved / "nlptransfer.json"), random.Random(1)
    text = (saved / "nlptransfer.json").read_text(encoding="utf-8")
    others = [None, 7, "x", [], {}, [1, "a"], 2**70]
    cases = [
        json.dumps(record | {name: draw.choice([one for one in others if one != record[name]])}) for name in record
    ]
    cases += [json.dumps({name: record[name] for name in record if name != gone}) for gone in record if gone != "files"]
    cases += [text[: len(text) // 2], "", "[]", "null", "{}", "nan", "\ufffd", "[" * 50_000]
    for case in cases:
        folder = tmp_path / "changed"
        shutil.copytree(saved, folder)
        (folder / "nlptransfer.json").write_text(case, encoding="utf-8")
        assert_refused(folder, "nlptransfer.json")
        shutil.rmtree(folder)


def test_what_was_saved_before_files_were_hashed_opens(saved, tmp_path):
    older = without_hashes(shutil.copytree(saved, tmp_path / "older"))
    np.testing.assert_array_equal(Classifier.load(older).logits(TEXTS), Classifier.load(saved).logits(TEXTS))


def test_a_card_may_be_written_beside_it(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "pushed")
    (tmp_path / "pushed" / "README.md").write_text("# Mine")
    (tmp_path / "pushed" / ".gitattributes").write_text("*.safetensors filter=lfs")
    assert Classifier.load(tmp_path / "pushed").labels == LABELS


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("labels", ["good", 7], "labels=7: expected text"),
        ("max_length", "many", "expected a whole number"),
        ("verified", {"texts": ["a"], "logits": [["x", 0.0]]}, r"logits=.x.: expected a number"),
        ("verified", {"texts": ["a"], "logits": []}, "logits that are not one for each text and label"),
        ("verified", {"texts": [], "logits": [], "tolerance": "x"}, r"tolerance=.x.: expected a number"),
        ("thresholds", "0.5", "thresholds"),
        ("base", None, "base=None: expected a mapping"),
    ],
)
def test_a_record_that_somebody_wrote_has_the_types_of_its_fields(saved, tmp_path, field, value, message):
    folder = without_hashes(shutil.copytree(saved, tmp_path / "changed"), **{field: value})
    with pytest.raises(RunFolderError, match=rf"nlptransfer\.json: expected what .*({message})"):
        Classifier.load(folder)


def test_a_hash_in_a_record_is_no_path(bases, tmp_path):
    folder = changed(ROUTES["lora"], bases("bert"), LABELS).save_pretrained(tmp_path / "saved")
    (tmp_path / "elsewhere.json").write_text(json.dumps({"path": str(bases("bert").path)}))
    for stamp in (str(tmp_path / "elsewhere"), "../" * 20 + str(tmp_path / "elsewhere"), "A" * 64, None):
        base = read_json(folder / "nlptransfer.json")["base"] | {"sha256": stamp}
        hostile = without_hashes(shutil.copytree(folder, tmp_path / "hostile"), base=base)
        with pytest.raises(BaseModelError, match="expected name, revision and sha256 of a base in the record, found"):
            Classifier.load(hostile)
        shutil.rmtree(hostile)
