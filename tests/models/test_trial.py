"""Encoders of many types and folders with flaws: tried on a few rows before anything learns, right or refused."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from helpers.classifiers import LABELS, classifier_of, data_of, weights_of
from helpers.encoder_outcomes import ALONE, RIGHT, TEXTS, largest_difference, outcome
from helpers.flawed_encoders import FLAWS
from helpers.model_types import POSITIONS, VOCABULARY, make_base, make_tokenizer
from nlptransfer import Classifier, Full, Lora, Probe
from nlptransfer.errors import BaseModelError, NlpTransferError
from nlptransfer.hub.base_models import find_base
from nlptransfer.models.batching import prediction_batches
from nlptransfer.models.loading import load_model, load_tokenizer
from nlptransfer.models.tokens import RowLimits, encode, limits_of
from nlptransfer.models.trial import try_rows, trying
from nlptransfer.routes.base import Built, Route

READ_FIRST = ("tokenizer", "tokenizer.json", "config.json", "model_type", "positions", "heads", "vocabulary")


def built(kind: str, route: Route, folder: Path) -> Built:
    return route.build(data_of(), str(make_base(kind, folder / kind)), None, 0)


@pytest.mark.parametrize(
    ("kind", "route", "line"),
    [
        # Its attention is a transform over all tokens, padding too.
        ("fnet", "lora", f"{RIGHT}: one length at a time"),
        # It pools tokens away.
        ("funnel", "full", f"{RIGHT}: padded to 4 tokens"),
        # An encoder and a decoder.
        ("t5", "probe", RIGHT),
        # Of its linear layers some are routers of experts.
        ("phimoe", "lora", RIGHT),
    ],
)
def test_a_run(kind, route, line, tmp_path):
    assert outcome(make_base(kind, tmp_path / kind), route, tmp_path / "run") == line


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        ("bert", RowLimits()),
        ("convbert", RowLimits(one_length=True)),
        ("nystromformer", RowLimits(one_length=True)),
        ("canine", RowLimits(least=4, one_length=True)),
        ("jamba", RowLimits()),
        ("bart", RowLimits()),
        ("gemma3", RowLimits()),
        # An empty text has no token, and is another text where it is padded more.
        ("qwen3_5", RowLimits(one_length=True)),
    ],
)
def test_what_a_type_asks_of_rows(kind, limits, tmp_path):
    model = built(kind, Full(), tmp_path)
    found = limits_of(model.tokenizer)
    assert (found.one_length, found.embeddings) == (
        limits.one_length,
        limits.embeddings,
    ) and found.least >= limits.least
    classifier = classifier_of(Full(), model)
    with torch.no_grad():
        classifier.route.head(classifier.model).weight.mul_(10)
    assert largest_difference(classifier) < ALONE and np.ptp(classifier.logits(TEXTS)) > 100 * ALONE


@pytest.mark.parametrize(
    ("kind", "route", "line"),
    [
        ("reformer", Full(), "reformer: expected a model that reads rows of 26 tokens, found ValueError: If training"),
        ("squeezebert", Lora(), "model type 'squeezebert': expected linear layers that LoRA can adapt, found none"),
        ("perceiver", Probe(), "perceiver: expected a model that reads rows of 8 tokens, found TypeError"),
        # Without a GPU its attention gives nothing.
        ("mra", Full(), "mra: expected other outputs for other texts, found the same: take another encoder"),
    ],
)
def test_a_type_that_cannot_work_is_one_line(kind, route, line, tmp_path):
    with pytest.raises(BaseModelError) as caught:
        built(kind, route, tmp_path)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind", ["data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta-prelayernorm", "xmod"]
)
def test_positions_that_are_counted_from_padding_leave_less_room(kind, tmp_path):
    base = find_base(str(make_base(kind, tmp_path)))
    assert load_tokenizer(base).model_max_length == POSITIONS - 2


def test_padding_goes_to_the_side_that_leaves_predictions_alone(tmp_path, caplog):
    base = make_base("xlnet", tmp_path / "xlnet")
    # Not XLNet's: it pads on the left, and has segments that are not all 0.
    make_tokenizer().save_pretrained(base)
    with caplog.at_level(logging.INFO, "nlptransfer"):
        classifier = classifier_of(Full(), Full().build(data_of(), str(base), None, 0))
    assert "xlnet: padding goes to the left, as it changes predictions on the right" in caplog.text
    assert largest_difference(classifier) < ALONE
    saved = AutoTokenizer.from_pretrained(classifier.save_pretrained(tmp_path / "saved"))
    assert saved.padding_side == "left" and "token_type_ids" not in saved("word1")


def test_what_a_model_asks_of_rows_is_saved(tmp_path, caplog):
    classifier = classifier_of(Full(), built("canine", Full(), tmp_path))
    again = Classifier.load(classifier.save_pretrained(tmp_path / "saved"))
    assert limits_of(again.tokenizer) == RowLimits(least=4, one_length=True)
    np.testing.assert_allclose(again.logits(TEXTS), classifier.logits(TEXTS), rtol=0, atol=1e-6)
    assert "canine: padding changes its predictions" in caplog.text


def test_a_trial_changes_nothing_of_the_model(tmp_path):
    make_base("bert", tmp_path / "bert")
    base = find_base(str(tmp_path / "bert"))
    tokenizer = load_tokenizer(base)
    model, _ = load_model(base, LABELS, tokenizer, 0)
    model.bert.encoder.train()
    modes = [module.training for module in model.modules()]
    weights, state = weights_of(model), torch.get_rng_state()
    try_rows(model, tokenizer, "bert", lambda inputs: model(**inputs).logits)
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, weights[name]) for name, value in weights_of(model).items())
    assert limits_of(tokenizer) == RowLimits() and not any(
        parameter.grad is not None for parameter in model.parameters()
    )


@pytest.mark.parametrize("route", [Probe(), Full()], ids=["probe", "full"])
@pytest.mark.parametrize("name", [name for name in FLAWS if name.split()[0] in READ_FIRST])
def test_a_flaw_is_right_or_one_line(name, route, tmp_path):
    FLAWS[name](tmp_path / "flawed")
    try:
        model = route.build(data_of(TEXTS[:4]), str(tmp_path / "flawed"), None, 0)
    except NlpTransferError as error:
        assert "expected" in str(error) and str(error).startswith("flawed: ") and "\n" not in str(error)
    else:
        assert largest_difference(classifier_of(route, model)) < ALONE


def test_added_tokens_without_embeddings_are_unknown(tmp_path, caplog):
    FLAWS["tokenizer with an added padding token, gpt2"](tmp_path / "flawed")
    tokenizer = load_tokenizer(find_base(str(tmp_path / "flawed")))
    assert tokenizer.convert_tokens_to_ids("<extra>") >= VOCABULARY
    assert tokenizer.pad_token == tokenizer.unk_token
    expected = encode(["word3 unheard"], tokenizer, 9).ids.tolist()
    assert encode(["word3 <extra>"], tokenizer, 9).ids.tolist() == expected and max(expected) < VOCABULARY
    assert (
        "flawed: tokens that were added without an embedding are read as unknown: <extra>, word1 word2, [PAD]"
        in caplog.text
    )


def test_a_missing_tokenizer_config_hides_no_unknown_token(tmp_path):
    FLAWS["tokenizer_config.json missing"](tmp_path / "flawed")
    with pytest.raises(BaseModelError, match=r"flawed: .* one that fails at unknown words \(WordPiece error"):
        load_tokenizer(find_base(str(tmp_path / "flawed")))


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    FLAWS["weights that are no numbers"](tmp_path / "flawed")
    for route in (Probe(), Lora()):
        with pytest.raises(BaseModelError, match="flawed: expected finite numbers, found others"):
            route.build(data_of(), str(tmp_path / "flawed"), None, 0)


def test_fields_of_a_config_are_named_with_what_is_wrong(tmp_path):
    FLAWS["hidden_size a word"](tmp_path / "flawed")
    with pytest.raises(BaseModelError, match=r"flawed: .*config\.json.*'hidden_size'.* expected int, got str"):
        load_tokenizer(find_base(str(tmp_path / "flawed")))


def test_running_out_of_memory_says_nothing_of_the_encoder():
    with pytest.raises(torch.OutOfMemoryError), trying("it", "rows"):
        raise torch.OutOfMemoryError
    with (
        pytest.raises(BaseModelError, match="it: expected a model that reads rows, found KeyError: 'a'"),
        trying("it", "rows"),
    ):
        raise KeyError("a")


@pytest.mark.parametrize("most", [None, 2])
def test_batches_of_one_length(most):
    lengths = np.array([3, 1, 3, 2, 3, 1, 9])
    batches = [*prediction_batches(lengths, 64, most, one_length=True)]
    assert sorted(np.concatenate(batches).tolist()) == [*range(7)]
    assert all(len(set(lengths[batch])) == 1 for batch in batches)
    assert [len(batch) for batch in batches] == ([1, 3, 1, 2] if most is None else [1, 2, 1, 1, 2])
