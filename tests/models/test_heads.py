"""The last layer of a classifier: what it takes, another in its place, and one for other labels."""

from types import SimpleNamespace

import pytest
import torch

from helpers.encoders import Bases
from nlptransfer.data.labels import Labels
from nlptransfer.models import architectures, loading
from nlptransfer.models.heads import last_inputs, like, relabel, reorder, standing_in, text_vectors
from nlptransfer.routes.pooled_head import PooledHead

TWO, FOUR = Labels(("bad", "good")), Labels(("a", "b", "c", "d"))


@pytest.fixture(params=["bert", "roberta", "distilbert", "llama", "modernbert"])
def classifier(request, bases: Bases):
    base = bases(request.param)
    model, _ = loading.load_model(base, TWO, loading.load_tokenizer(base), 0)
    return model.eval()


def batch(model):
    ids = torch.tensor([[4, 5, 6, 7], [8, 9, model.config.pad_token_id, model.config.pad_token_id]])
    return {"input_ids": ids, "attention_mask": (ids != model.config.pad_token_id).long()}


def test_a_fresh_layer_for_other_labels_takes_the_place_of_the_old_one(classifier):
    inputs, old = batch(classifier), architectures.last_layer(classifier)
    body = {name: value.clone() for name, value in classifier.state_dict().items()}
    assert relabel(classifier, old, FOUR, seed=3) is old
    fresh = architectures.last_layer(classifier)
    assert fresh is not old and fresh.out_features == 4 and classifier(**inputs).logits.shape == (2, 4)
    assert classifier.config.id2label == FOUR.id2label and classifier.config.num_labels == 4
    assert fresh.weight.std().item() == pytest.approx(classifier.config.initializer_range, rel=0.5)
    changed = {name for name, value in classifier.state_dict().items() if value.shape != body[name].shape}
    same = [torch.equal(value, body[name]) for name, value in classifier.state_dict().items() if name not in changed]
    assert all(same) and 1 <= len(changed) <= 2
    first = fresh.weight.clone()
    relabel(classifier, fresh, FOUR, seed=3)
    assert torch.equal(architectures.last_layer(classifier).weight, first)
    relabel(classifier, architectures.last_layer(classifier), FOUR, seed=4)
    assert not torch.equal(architectures.last_layer(classifier).weight, first)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [torch.nn.Linear, PooledHead])
def test_a_layer_like_another_has_its_kind_and_inputs(kind, bias):
    head = kind(7, 2, bias=bias)
    new = like(head, 4)
    assert type(new) is kind and new.weight.shape == (4, 7) and (new.bias is not None) == bias
    assert not torch.equal(new.weight[:2], head.weight)


def test_outputs_are_put_in_another_order(classifier):
    inputs = batch(classifier)
    relabel(classifier, architectures.last_layer(classifier), FOUR, seed=0)
    before = classifier(**inputs).logits
    turned = Labels(("d", "a", "c", "b"))
    reorder(classifier, architectures.last_layer(classifier), FOUR, turned)
    torch.testing.assert_close(classifier(**inputs).logits, before[:, [3, 0, 2, 1]])
    assert classifier.config.id2label == turned.id2label


def test_another_layer_stands_in_for_a_while(classifier):
    inputs, own = batch(classifier), architectures.last_layer(classifier)
    other = torch.nn.Linear(own.in_features, 5)
    before = classifier(**inputs).logits
    with standing_in(own, other):
        found = classifier(**inputs).logits
    with last_inputs(own) as seen:
        after = classifier(**inputs).logits
    assert torch.equal(before, after)
    torch.testing.assert_close(found, other(text_vectors(seen[0], inputs, classifier)))
    with standing_in(own, None):
        assert torch.equal(classifier(**inputs).logits, before)
    with pytest.raises(KeyError), standing_in(own, other):
        raise KeyError
    assert torch.equal(classifier(**inputs).logits, before)


def test_the_last_real_token_of_a_decoder_is_its_answer():
    states = torch.arange(24.0).view(2, 4, 3)
    ids = torch.tensor([[5, 6, 7, 0], [0, 0, 5, 6]])
    model = SimpleNamespace(config=SimpleNamespace(pad_token_id=0))
    found = text_vectors(states, {"input_ids": ids}, model)
    assert torch.equal(found, torch.stack([states[0, 2], states[1, 3]]))
    assert text_vectors(found, {"input_ids": ids}, model) is found
