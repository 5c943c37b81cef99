"""Routes on the first layers of an encoder: the numbers of a cut stack, and what is saved, by plain libraries too."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification, T5Config, T5ForSequenceClassification

from helpers.classifiers import LABELS, TEXTS, changed, data_of
from helpers.encoders import UNKNOWN, Bases, make_tokenizer
from nlptransfer import Classifier, Full, Lora, Probe, SharedBase, Word2Vec
from nlptransfer.errors import SettingError
from nlptransfer.files import read_json
from nlptransfer.hub import base_name
from nlptransfer.models.architectures import FAMILIES, layers_of
from nlptransfer.models.loading import load_encoder
from nlptransfer.routes.base import Route
from nlptransfer.vectors.distillation import distill_vectors

ROUTES: dict[str, Route] = {
    "full": Full(keep_layers=1),
    "lora": Lora(keep_layers=1, rank=2),
    "merged": Lora(keep_layers=1, rank=2, merge=True),
    "probe": Probe(keep_layers=1, features=("encoder",)),
    "words": Word2Vec(keep_layers=1, head_type="linear", dimensions=6),
}
TOKENS = torch.tensor([[2, 4, 5, 6, 7, 3]])


def states(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).last_hidden_state.numpy()


@pytest.mark.parametrize("kind", [name for name, family in FAMILIES.items() if family.layers])
def test_an_encoder_has_its_first_layers_alone(kind: str, bases: Bases) -> None:
    base = bases(kind)
    cut, whole = load_encoder(replace(base, keep_layers=1)), load_encoder(base)
    assert len(layers_of(cut)) == cut.config.num_hidden_layers == 1 < len(layers_of(whole))
    assert not np.allclose(states(cut), states(whole), atol=1e-3)
    del layers_of(whole)[1:]
    np.testing.assert_allclose(states(cut), states(whole), atol=1e-6)


@pytest.mark.parametrize("kind", ["albert", *UNKNOWN])
def test_of_others_the_hidden_states_between_are_the_last(kind: str, bases: Bases) -> None:
    base = bases(kind)
    cut, whole = load_encoder(replace(base, keep_layers=1)), load_encoder(base)
    with torch.no_grad():
        between = whole(TOKENS, output_hidden_states=True).hidden_states[1]
        between = whole.ln_f(between) if kind == "gpt2" else between
    np.testing.assert_allclose(states(cut), between.numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ROUTES)
def test_saved_and_opened_again(name: str, bases: Bases, tmp_path: Path) -> None:
    base, folder = bases("roberta"), tmp_path / "saved"
    made = changed(ROUTES[name], base, LABELS)
    expected = made.probabilities(TEXTS)
    made.save_pretrained(folder, TEXTS)
    assert made.record["base"]["keep_layers"] == 1
    assert read_json(folder / "nlptransfer.json")["base"]["keep_layers"] == 1
    loaded = Classifier.load(folder)
    assert loaded.route == ROUTES[name]
    np.testing.assert_allclose(loaded.probabilities(TEXTS), expected, atol=1e-6)
    weights = load_file(next(folder.glob("*model.safetensors")))
    assert not any(".layer.1." in name or ".layers.1." in name for name in weights)
    assert "layers 1 to 1 of" in base_name(made.record["base"])


def test_plain_transformers_opens_a_smaller_model(bases: Bases, tmp_path: Path) -> None:
    made = changed(Full(keep_layers=2), bases("roberta"), LABELS)
    made.save_pretrained(tmp_path / "saved")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    assert plain.config.num_hidden_layers == 2 == len(plain.base_model.encoder.layer)
    inputs = made.tokenizer(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        probabilities = plain(**inputs).logits.softmax(-1)[0]
    np.testing.assert_allclose(made.probabilities(TEXTS[:1])[0], probabilities, atol=1e-6)


def test_what_the_card_says_opens_an_adapter(bases: Bases, tmp_path: Path) -> None:
    made = changed(ROUTES["lora"], bases("roberta"), LABELS)
    made.save_pretrained(tmp_path / "saved")
    logits = made.route.reopened_logits(tmp_path / "saved", made.record["base"], TEXTS[:2])
    probabilities = torch.from_numpy(logits).softmax(-1)
    np.testing.assert_allclose(made.probabilities(TEXTS[:2]), probabilities, atol=1e-6)


def test_one_base_in_memory_serves_classifiers_with_different_layers(bases: Bases, tmp_path: Path) -> None:
    base = bases("roberta")
    shared = SharedBase(str(base.path))
    for name, route in {"one": ROUTES["lora"], "all": Lora(rank=2), "two": Probe(keep_layers=2)}.items():
        made = changed(route, base, LABELS)
        made.save_pretrained(tmp_path / name)
        loaded = Classifier.load(tmp_path / name, shared)
        np.testing.assert_allclose(loaded.probabilities(TEXTS), made.probabilities(TEXTS), atol=1e-6)


def test_words_are_distilled_from_the_layers_that_are_kept(bases: Bases) -> None:
    base = bases("roberta")
    words = ["word1", "word2", "word3"]
    few, one = (distill_vectors(words, replace(base, keep_layers=count)) for count in (2, 1))
    assert not np.allclose(few.matrix, one.matrix, atol=1e-4)
    whole = distill_vectors(words, replace(base, keep_layers=load_encoder(base).config.num_hidden_layers))
    np.testing.assert_array_equal(whole.matrix, distill_vectors(words, base).matrix)


@pytest.mark.parametrize(
    "route", [Full(keep_layers=9), Lora(keep_layers=9), Probe(keep_layers=9), Word2Vec(keep_layers=9)]
)
def test_more_layers_than_there_are(route: Route, bases: Bases) -> None:
    with pytest.raises(SettingError, match=r"keep_layers=9: expected at most the 4 layers of the encoder"):
        changed(route, bases("roberta"), LABELS)


def test_encoders_with_a_decoder_are_refused(tmp_path: Path) -> None:
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 24}
    T5ForSequenceClassification(T5Config(**sizes, decoder_start_token_id=0)).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(SettingError, match=r"keep_layers=1: expected an encoder of one stack.*'t5'"):
        Full(keep_layers=1).build(data_of(), str(tmp_path), None, 0)


def test_files_of_vectors_have_no_layers(tmp_path: Path) -> None:
    (tmp_path / "vectors.txt").write_text("2 2\nword1 1 0\nword2 0 1\n")
    with pytest.raises(SettingError, match=r"keep_layers=1: expected none, as word vectors have no layers"):
        changed(Word2Vec(keep_layers=1), tmp_path / "vectors.txt", LABELS)
