from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional

from nlptransfer.errors import SettingError
from nlptransfer.labels import Labels
from nlptransfer.objectives import Supervised, class_weights

ONE = Labels(("a", "b", "c"))
SEVERAL = Labels(("a", "b", "c"), multi_label=True)
WEIGHTS = np.array([0.5, 2.0, 3.0])


class Passing(nn.Module):
    """Takes logits and gives them back."""

    def forward(self, x):
        return SimpleNamespace(logits=x)


def loss_of(objective, logits, targets):
    return objective({"x": logits}, targets, float(objective.row_weights(targets).sum()))


@pytest.fixture
def logits():
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_one_label_is_torchs_cross_entropy(logits, weights, smoothing):
    targets = torch.tensor([0, 1, 2, 2, 2, 0, 0, 1])
    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float32)
    expected = functional.cross_entropy(logits, targets, tensor, label_smoothing=smoothing)
    objective = Supervised(Passing(), ONE, weights, smoothing)
    torch.testing.assert_close(loss_of(objective, logits, targets), expected)
    halves = [objective({"x": logits[part]}, targets[part], 8.0) for part in (slice(0, 5), slice(5, 8))]
    torch.testing.assert_close(sum(halves) * 8 / objective.row_weights(targets).sum(), expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_several_labels_are_torchs_binary_cross_entropy(logits, weights):
    targets = torch.tensor(np.random.default_rng(0).integers(0, 2, (8, 3)), dtype=torch.float32)
    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float32)
    smoothed = targets * 0.8 + 0.1
    for smoothing, goal in ((0.0, targets), (0.2, smoothed)):
        expected = functional.binary_cross_entropy_with_logits(logits, goal, pos_weight=tensor)
        found = loss_of(Supervised(Passing(), SEVERAL, weights, smoothing), logits, targets)
        torch.testing.assert_close(found, expected)


def test_half_precision_logits_are_judged_in_full(logits):
    objective = Supervised(Passing(), ONE, WEIGHTS)
    assert loss_of(objective, logits.bfloat16(), torch.zeros(8, dtype=torch.long)).dtype == torch.float32


def test_class_weights_are_no_part_of_the_saved_state():
    assert not Supervised(Passing(), ONE, WEIGHTS).state_dict()


def test_balanced_weights_are_sklearns():
    targets = np.array([0] * 6 + [1] * 3 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    np.testing.assert_allclose(class_weights("balanced", ONE, targets), expected)
    assert np.isfinite(class_weights("balanced", ONE, np.array([0, 0, 1]))).all()


def test_balanced_weights_of_several_labels_are_negatives_over_positives():
    targets = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]], dtype=np.float32)
    # No weight can balance a label of all rows, or of none.
    np.testing.assert_allclose(class_weights("balanced", SEVERAL, targets), [3, 1, 1])


def test_weights_by_name_and_none():
    np.testing.assert_allclose(class_weights({"c": 2}, ONE, np.zeros(1)), [1, 1, 2])
    assert class_weights(None, ONE, np.zeros(1)) is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("balance", "class_weights='balance': expected 'balanced' or weights by label name"),
        ({"d": 1.0}, "class_weights: unknown label 'd': known: a, b, c"),
        ({"a": 0.0}, "class_weights: a=0.0: expected a number above 0"),
        ({"a": float("nan")}, "a=nan: expected a number above 0"),
        ({"a": float("inf")}, "a=inf: expected a number above 0"),
        ({"a": "2"}, "a='2': expected a number above 0"),
    ],
)
def test_senseless_weights_are_refused(asked, message):
    with pytest.raises(SettingError, match=message):
        class_weights(asked, ONE, np.zeros(3, dtype=np.int64))
