"""Word2Vec with the n-grams of a fastText model: unknown words in prediction, saved and opened by nlptransfer alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from helpers.classifiers import classifier_of, train_only, without_hashes
from helpers.fasttext_files import save_fasttext
from helpers.folders import MODEL_FILES
from nlptransfer import Classifier
from nlptransfer.classifier.persistence import SavedRecord
from nlptransfer.classifier.push import card_facts
from nlptransfer.errors import RunFolderError, SettingError, VectorsError, VerificationError
from nlptransfer.hub import model_card
from nlptransfer.models.rows import NewWordRows
from nlptransfer.models.tokens import TokenRows
from nlptransfer.routes.word2vec import Word2Vec
from nlptransfer.routes.word2vec_model import Word2VecForSequenceClassification
from nlptransfer.vectors import Subwords

SENTENCES = [["the", "film", "was", "good"], ["a", "bad", "plot", "!"]] * 3
TEXTS = ["A good film.", "The plot was bad", "goodness, a masterpiece!", "a mess"]
UNKNOWN = ["unheard films, the film", "", "goodish ! ! plots", "♪", "the unheard and unheard [UNK] plot"]
HEADS: dict[str, dict[str, Any]] = {
    "cnn": {"head_type": "cnn"},
    "mlp": {"head_type": "mlp", "mlp_sizes": (5,), "pooling": ("max", "mean")},
    "linear": {"head_type": "linear"},
    "linear, vectors learn": {"head_type": "linear", "train_vectors": True},
}

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def base(tmp_path: Path) -> str:
    return str(save_fasttext(tmp_path / "ft.bin", SENTENCES))


def classifier(base: str, extra: tuple[str, ...] = (), **settings: Any) -> Classifier:
    route = Word2Vec(**settings)
    built = route.build(train_only(TEXTS, np.arange(len(TEXTS)) % 2), base, None, 0, extra)
    return classifier_of(route, built)


@pytest.mark.parametrize("long_text", ["truncate", "head_tail", "windows"])
@pytest.mark.parametrize("unit_length", [True, False])
@pytest.mark.parametrize("head", HEADS)
def test_unknown_words_count_as_if_they_were_in_the_vocabulary(base, head, unit_length, long_text):
    settings = {**HEADS[head], "unit_length": unit_length, "long_text": long_text, "max_length": 4}
    ours, theirs = classifier(base, keep_subwords=True, **settings), classifier(base, tuple(UNKNOWN), **settings)
    state = {name: value for name, value in ours.model.state_dict().items() if name != "vectors.weight"}
    theirs.model.load_state_dict(state, strict=False)
    assert len(theirs.tokenizer) > len(ours.tokenizer)
    np.testing.assert_allclose(ours.logits(UNKNOWN), theirs.logits(UNKNOWN), atol=1e-6)
    without = classifier(base, **settings)
    assert np.abs(ours.logits(UNKNOWN) - without.logits(UNKNOWN)).max() > 1e-3
    np.testing.assert_array_equal(ours.logits(TEXTS), without.logits(TEXTS))


def test_what_the_model_is_fed(base):
    ours = classifier(base, keep_subwords=True)
    rows = ours.route.rows(ours.model, ours.tokenizer, UNKNOWN)
    assert isinstance(rows, NewWordRows)
    batch = rows.batch(np.array([3, 0]))
    assert batch["input_ids"].tolist()[0] == [1, 0, 0, 0]
    assert batch["new_vectors"].any(dim=2).tolist() == [[False] * 4, [True, True, False, False]]
    assert isinstance(ours.route.rows(ours.model, ours.tokenizer, TEXTS), TokenRows)


def test_training_words_have_vectors_without_subwords_too(base):
    ours = classifier(base)
    assert {"goodness", "masterpiece", "mess"} <= set(ours.tokenizer.get_vocab())
    assert isinstance(ours.model, Word2VecForSequenceClassification) and ours.model.subwords is None
    assert ours.record["base"]["unknown_share"] == 0


@pytest.mark.parametrize("head", HEADS)
def test_round_trip(base, head, tmp_path):
    ours = classifier(base, keep_subwords=True, **HEADS[head])
    folder = ours.save_pretrained(tmp_path / "saved", UNKNOWN)
    assert {file.name for file in folder.iterdir()} == MODEL_FILES | {"subwords.npy", "subwords.json"}
    Path(base).unlink()
    opened = Classifier.load(folder)
    np.testing.assert_array_equal(opened.logits(UNKNOWN), ours.logits(UNKNOWN))
    assert opened.route == ours.route
    # Once more over itself, where the arrays that are saved are those that are replaced.
    np.testing.assert_array_equal(Classifier.load(opened.save_pretrained(folder)).logits(UNKNOWN), ours.logits(UNKNOWN))


def test_folders_with_other_ngrams_or_none(base, tmp_path):
    folder = without_hashes(classifier(base, keep_subwords=True).save_pretrained(tmp_path / "saved"))
    np.save(folder / "subwords.npy", -np.load(folder / "subwords.npy"))
    with pytest.raises(VerificationError, match=r"saved: expected the logits that it was saved with"):
        Classifier.load(folder)
    (folder / "subwords.npy").unlink()
    with pytest.raises(VectorsError, match="saved: expected the n-grams of characters"):
        Classifier.load(folder)


def test_others_refuse_it_by_name(base, tmp_path):
    ours = classifier(base, keep_subwords=True)
    folder = ours.save_pretrained(tmp_path / "saved")
    with pytest.raises(
        RunFolderError, match=r"saved: expected nlptransfer's Classifier\.load, .*\(keep_subwords=True\)"
    ):
        AutoModelForSequenceClassification.from_pretrained(folder)
    with pytest.raises(SettingError, match=r"^keep_subwords=True: expected False for an export to ONNX"):
        ours.export_onnx(tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_its_card_says_so(base, tmp_path):
    for keeps in (False, True):
        folder = classifier(base, keep_subwords=keeps).save_pretrained(tmp_path / str(keeps))
        record = SavedRecord.read(folder)
        card = model_card(card_facts(record, "me/films"))
        assert ("nlptransfer alone opens it, neither plain transformers nor ONNX" in card) == keeps
        assert ("import nlptransfer.word2vec" in card) != keeps
        assert f"opened anew with {'nlptransfer:' if keeps else 'transformers'}" in card


@pytest.mark.parametrize("settings", [{"max_n": 0, "bucket": 0}, None])
def test_bases_without_ngrams(tmp_path, settings):
    path = tmp_path / "v.bin"
    if settings is None:
        path.write_bytes(b"the 1 2\nfilm 3 4\n")
    else:
        save_fasttext(path, SENTENCES, **settings)
    with pytest.raises(SettingError, match=r"^keep_subwords=True: expected a base with n-grams: a fastText \.bin"):
        classifier(str(path), keep_subwords=True)


def test_text_without_spaces(tmp_path):
    base = str(save_fasttext(tmp_path / "zh.bin", [["电影", "很", "好"], ["北京", "大学", "。"]] * 3))
    ours = classifier(base, keep_subwords=True)
    rows = ours.route.rows(ours.model, ours.tokenizer, ["电影院很好", "鱼"])
    assert isinstance(rows, NewWordRows)
    subwords = ours.model.subwords
    assert isinstance(subwords, Subwords)
    unit = subwords.vectors(["院", "鱼"])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(rows.vectors, unit, rtol=1e-5)
    torch.testing.assert_close(rows.batch(np.array([0]))["new_vectors"][0, 1], torch.from_numpy(rows.vectors[0]))
