"""A base that was trained with a prompt before each text gets it in every route, in training, prediction and card."""

import json
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from helpers.classifiers import data_of
from helpers.corpora import FILM_WORDS
from helpers.encoders import make_film_base
from nlptransfer import Classifier, Full, Lora, Probe
from nlptransfer.classifier.persistence import SavedRecord
from nlptransfer.classifier.push import card_facts
from nlptransfer.hub.card import model_card
from nlptransfer.models.tokens import prompt_of

ROUTES = {"full": Full, "lora": Lora, "probe": partial(Probe, features=("encoder",))}
TEXTS = ["good plot", "the cast was dull", " ".join(FILM_WORDS)]


def film_base(folder: Path, prompt: str | None = "a film ") -> str:
    base = make_film_base(folder)
    if prompt is not None:
        prompts = {"prompts": {"query": prompt}, "default_prompt_name": None}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return base


def made(route, base: str) -> Classifier:
    built = route.build(data_of(TEXTS), base, None, 0)
    return Classifier(route, built.model.eval(), built.tokenizer, data_of().labels, record={"base": built.record})


@pytest.mark.parametrize("route", ROUTES)
def test_the_prompt_stands_before_each_text_and_is_saved(route, tmp_path, own_cache):
    prompted = made(ROUTES[route](), film_base(tmp_path / "with"))
    assert prompted.record["base"]["prompt"] == prompt_of(prompted.tokenizer) == "a film "
    assert "prompt" not in made(ROUTES[route](prompt=""), film_base(tmp_path / "with")).record["base"]
    bare = replace(prompted, tokenizer=deepcopy(prompted.tokenizer))
    bare.tokenizer.init_kwargs["prompt"] = ""
    logits = prompted.logits(TEXTS)
    np.testing.assert_allclose(logits, bare.logits([f"a film {text}" for text in TEXTS]), atol=1e-6)
    assert np.abs(logits - bare.logits(TEXTS)).max() > 1e-4
    np.testing.assert_allclose(prompted.logits([""]), bare.logits(["a film "]), atol=1e-6)
    other = made(ROUTES[route](prompt="a film "), film_base(tmp_path / "without", None))
    np.testing.assert_allclose(other.logits(TEXTS), logits, atol=1e-6)
    folder = prompted.save_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(Classifier.load(folder).logits(TEXTS), logits, atol=1e-5)
    assert AutoTokenizer.from_pretrained(folder).init_kwargs["prompt"] == "a film "
    card = model_card(card_facts(SavedRecord.read(folder), "me/films"))
    assert "trained with a prompt" in card and '"a film "' in card
