"""Texts of several classifiers at once: each gets what its classifier gives alone, and adapters go together."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from peft import PeftModelForSequenceClassification, get_peft_model_state_dict
from transformers import BertModel

from helpers.classifiers import FIVE, LABELS, TEXTS, changed
from helpers.encoders import base_of
from nlptransfer import Lora, MixedClassifiers, Probe, SharedBase
from nlptransfer.data.labels import Labels
from nlptransfer.errors import DataError, SettingError

ROUTES = {
    "two": (Lora(rank=2, max_length=12), LABELS),
    "five": (Lora(rank=5, lora_alpha=3, max_length=12, target_modules=("query",), prompt="word1 "), Labels(FIVE)),
    "short": (Lora(rank=2, max_length=12, keep_layers=1), LABELS),
    "several": (Lora(rank=3, use_rslora=True, max_length=9, long_text="windows"), Labels(FIVE[:3], multi_label=True)),
}
ROWS = [*zip(TEXTS * len(ROUTES), np.random.default_rng(0).permutation([*ROUTES] * len(TEXTS)).tolist(), strict=True)]


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """Adapters with a base of their own each."""
    base = base_of("bert", tmp_path_factory.mktemp("bases") / "bert")
    return base, {name: changed(route, base, labels) for name, (route, labels) in ROUTES.items()}


@pytest.fixture(scope="module")
def shared(alike):
    return SharedBase(str(alike[0].path))


@pytest.fixture(scope="module")
def classifiers(alike, shared):
    """The same adapters on one base."""

    def put(one):
        config = one.model.peft_config["default"]
        state = get_peft_model_state_dict(one.model, save_embedding_layers=False)
        call = (one.record["base"], shared, one.labels, one.tokenizer, config, state)
        return replace(one, model=one.route.with_adapter(*call))

    return {name: put(one) for name, one in alike[1].items()}


@pytest.fixture
def passes(monkeypatch):
    """The rows of each pass through an encoder."""
    real, rows = BertModel.forward, []

    def noted(model, input_ids=None, *call, **named):
        rows.append(len(input_ids))
        return real(model, input_ids, *call, **named)

    monkeypatch.setattr(BertModel, "forward", noted)
    return rows


def alone(classifiers, rows=ROWS):
    return [classifiers[name].logits([text])[0] for text, name in rows]


def assert_equal(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_adapters_go_through_the_base_together(classifiers, passes):
    """They differ in rank, scale, adapted layers, number of labels, several at once, prompt, length and windows."""
    mixed = MixedClassifiers(classifiers)
    passes.clear()
    texts, names = zip(*ROWS, strict=True)
    assert_equal(mixed.logits(texts, names), wanted := alone(classifiers))
    # One of its first layer too.
    assert len(passes) - len(wanted) == 2 and {*map(len, wanted)} == {2, 3, 5}
    assert_equal(mixed.logits(texts, names, batch_size=1), wanted)
    for some in (["several", "two"], ["five", "five"]):
        assert_equal(mixed.logits(texts[:2], some), alone(classifiers, zip(texts, some, strict=False)))
    with ThreadPoolExecutor(4) as pool:
        for part in pool.map(lambda start: mixed.logits(texts[start:], names[start:]), range(8)):
            assert_equal(part, wanted[len(texts) - len(part) :])
    # They are as they were.
    np.testing.assert_array_equal(np.concatenate(wanted), np.concatenate(alone(classifiers)))


def test_predictions_are_those_of_each(classifiers):
    part = {
        "five": replace(classifiers["five"], normalization="nfkc"),
        "several": replace(classifiers["several"], thresholds=(0.1, 0.9, 0.5)),
    }
    rows = [("ｗｏｒｄ1 word2", "several"), ("ｗｏｒｄ1 word2", "five"), ("", "several"), ("word7", "five")]
    found = MixedClassifiers(part).predict(*zip(*rows, strict=True), min_confidence=0.3)
    for one, (text, name) in zip(found, rows, strict=True):
        (wanted,) = part[name].predict([text], min_confidence=0.3)
        assert (one.text, one.labels, one.abstained, one.multi_label) == (
            text, wanted.labels, wanted.abstained, wanted.multi_label
        )  # fmt: skip
        assert one.probabilities == pytest.approx(wanted.probabilities, abs=1e-5)


def test_no_tensor_is_copied(classifiers):
    (together,) = [each for _, each in MixedClassifiers(classifiers)._groups if each]
    known = {
        id(value) for each in classifiers.values() for value in chain(each.model.parameters(), each.model.buffers())
    }
    assert {id(value) for value in chain(together.model.parameters(), together.model.buffers())} <= known


def test_what_shares_no_base_goes_alone(classifiers, alike, passes):
    part = classifiers | {"of its own": alike[1]["two"], "probe": changed(Probe(max_length=12), alike[0], LABELS)}
    mixed = MixedClassifiers(part)
    assert [names for names, together in mixed._groups if together] == [["two", "five", "several"]]
    passes.clear()
    rows = [(text, name) for text in TEXTS for name in part]
    assert_equal(mixed.logits(*zip(*rows, strict=True)), alone(part, rows))


def test_an_adapter_of_another_kind_computes_its_rows_by_itself(classifiers, shared, passes):
    """DoRA scales the sum of the base's product and its own."""
    one = classifiers["two"]
    config = replace(one.model.peft_config["default"], use_dora=True)
    model = PeftModelForSequenceClassification(shared.classifier(one.record["base"], LABELS), config).eval()
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    part = {"dora": replace(one, model=model), "two": one}
    mixed = MixedClassifiers(part)
    passes.clear()
    rows = [(text, name) for text in TEXTS for name in part]
    found = mixed.logits(*zip(*rows, strict=True))
    assert sum(passes) == len(rows) and len(passes) < 4
    assert_equal(found, alone(part, rows))


def test_what_makes_no_sense(classifiers):
    mixed = MixedClassifiers(classifiers)
    assert mixed.logits([], []) == mixed.predict([], []) == []
    with pytest.raises(SettingError, match="unknown classifier 'fife': did you mean 'five'"):
        mixed.predict(["word1", "word2"], ["two", "fife"])
    with pytest.raises(SettingError, match="min_confidence=2: expected"):
        mixed.predict([], [], min_confidence=2)
    with pytest.raises(SettingError, match="batch_size=0: expected"):
        mixed.logits([], [], batch_size=0)
    for texts, names in ((["word1"], []), ("word1", ["two"] * 5), (["word1"] * 3, "two")):
        with pytest.raises(DataError, match="expected a list of texts, and a list of as many names"):
            mixed.predict(texts, names)
