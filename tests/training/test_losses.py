from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional

from nlptransfer.data.labels import Labels
from nlptransfer.errors import SettingError
from nlptransfer.training.losses import SOURCE, TARGET, BatchTargets, LabelLoss, Objective, class_weights
from nlptransfer.transfer.joint import JointLoss
from nlptransfer.transfer.relational import RelationalLoss, angle_loss, distance_loss
from nlptransfer.transfer.sequential import TowardsSourceLoss

ONE = Labels(("a", "b", "c"))
SEVERAL = Labels(("a", "b", "c"), multi_label=True)
WEIGHTS = np.array([0.5, 2.0, 3.0])


class Passing(nn.Module):
    """Takes logits and gives them back."""

    def forward(self, x):
        return SimpleNamespace(logits=x)


def loss_of(objective, logits, targets):
    return objective({"x": logits}, BatchTargets(targets, float(objective.row_weights(targets).sum())))


@pytest.fixture
def logits():
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_one_label_is_torchs_cross_entropy(logits, weights, smoothing):
    targets = torch.tensor([0, 1, 2, 2, 2, 0, 0, 1])
    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float32)
    expected = functional.cross_entropy(logits, targets, tensor, label_smoothing=smoothing)
    objective = Objective(Passing(), LabelLoss(ONE, weights, smoothing))
    torch.testing.assert_close(loss_of(objective, logits, targets), expected)
    halves = [objective({"x": logits[part]}, BatchTargets(targets[part], 8.0)) for part in (slice(0, 5), slice(5, 8))]
    torch.testing.assert_close(sum(halves) * 8 / objective.row_weights(targets).sum(), expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_several_labels_are_torchs_binary_cross_entropy(logits, weights):
    targets = torch.tensor(np.random.default_rng(0).integers(0, 2, (8, 3)), dtype=torch.float32)
    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float32)
    for smoothing, goal in ((0.0, targets), (0.2, targets * 0.8 + 0.1)):
        expected = functional.binary_cross_entropy_with_logits(logits, goal, pos_weight=tensor)
        found = loss_of(Objective(Passing(), LabelLoss(SEVERAL, weights, smoothing)), logits, targets)
        torch.testing.assert_close(found, expected)


def test_half_precision_logits_are_judged_in_full(logits):
    objective = Objective(Passing(), LabelLoss(ONE, WEIGHTS))
    assert loss_of(objective, logits.bfloat16(), torch.zeros(8, dtype=torch.long)).dtype == torch.float32


def test_class_weights_are_no_part_of_the_saved_state():
    assert not Objective(Passing(), LabelLoss(ONE, WEIGHTS)).state_dict()


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


class Classifying(nn.Module):
    """A hidden layer and a head; counts its passes."""

    def __init__(self, labels=3):
        super().__init__()
        torch.manual_seed(3)
        self.hidden, self.classifier, self.passes = nn.Linear(4, 5), nn.Linear(5, labels), 0

    def forward(self, x):
        self.passes += 1
        return SimpleNamespace(logits=self.classifier(torch.tanh(self.hidden(x))))


def rows_of(count, labels, seed):
    draw = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(count, 4, generator=draw)}, torch.randint(0, labels, (count,), generator=draw)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.37, 2.4), (5.0, 0.01)])
@pytest.mark.parametrize("labels", [3, 4], ids=["one head", "two heads"])
def test_the_joint_gradient_is_that_of_the_weighted_sum(alpha, beta, labels):
    model, criterion = Classifying(), LabelLoss(ONE, WEIGHTS)
    source = LabelLoss(Labels(tuple("abcd"[:labels])))
    second = nn.Linear(5, labels) if labels != 3 else None
    joint = JointLoss(model, criterion, source, lambda progress: (alpha, beta), second, second and model.classifier)
    target_rows, source_rows = rows_of(6, 3, 0), rows_of(9, labels, 1)
    weight = float(criterion.row_weights(target_rows[1]).sum())
    losses = {
        TARGET: joint(target_rows[0], BatchTargets(target_rows[1], weight)),
        SOURCE: joint(source_rows[0], BatchTargets(source_rows[1], 9.0, role=SOURCE)),
    }
    assert model.passes == 2
    found = gradients(joint, sum(losses.values()))
    # Each by itself, in plain torch.
    features = torch.tanh(model.hidden(source_rows[0]["x"]))
    of_source = gradients(joint, functional.cross_entropy((second or model.classifier)(features), source_rows[1]))
    plain_target = functional.cross_entropy(
        model(**target_rows[0]).logits, target_rows[1], torch.tensor(WEIGHTS, dtype=torch.float32)
    )
    of_target = gradients(joint, plain_target)
    for name, gradient in found.items():
        nothing = torch.zeros_like(gradient)
        expected = alpha * of_source.get(name, nothing) + beta * of_target.get(name, nothing)
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-6)
    # Every parameter takes part in every pass, or processes would wait for each other.
    assert set(gradients(joint, losses_again(joint, target_rows, TARGET))) == set(found)
    assert set(gradients(joint, losses_again(joint, source_rows, SOURCE))) == set(found)


def losses_again(joint, rows, role):
    return joint(rows[0], BatchTargets(rows[1], 1.0, role=role))


def test_joint_without_targets_gives_the_targets_logits():
    model, second = Classifying(), nn.Linear(5, 4)
    criteria = LabelLoss(ONE), LabelLoss(Labels(tuple("abcd")))
    joint = JointLoss(model, *criteria, lambda progress: (1.0, 1.0), second, model.classifier)
    inputs, _ = rows_of(5, 3, 0)
    torch.testing.assert_close(joint(inputs), model(**inputs).logits)


def test_the_pull_to_the_source_is_half_the_strength_times_the_squared_distance():
    model, criterion = Classifying(), LabelLoss(ONE)
    start = {name: torch.randn_like(value) for name, value in model.hidden.named_parameters(prefix="hidden")}
    inputs, targets = rows_of(8, 3, 0)
    plain = Objective(model, criterion)(inputs, BatchTargets(targets, 8.0))
    held = TowardsSourceLoss(model, criterion, 0.3, start)
    distance = sum((value - start[f"hidden.{name}"]).square().sum() for name, value in model.hidden.named_parameters())
    torch.testing.assert_close(held(inputs, BatchTargets(targets, 8.0)), plain + 0.15 * distance)
    # In two passes the pull counts once.
    parts = [held({"x": inputs["x"][part]}, BatchTargets(targets[part], 8.0)) for part in (slice(0, 3), slice(3, 8))]
    torch.testing.assert_close(sum(parts), plain + 0.15 * distance)
    assert held(inputs, BatchTargets(targets, float("inf"))).item() == 0
    torch.testing.assert_close(held(inputs), model(**inputs).logits)


def test_a_pull_of_no_strength_is_none():
    model, criterion = Classifying(), LabelLoss(ONE)
    start = {name: torch.randn_like(value) for name, value in model.named_parameters()}
    inputs, targets = rows_of(8, 3, 0)
    plain = gradients(model, Objective(model, criterion)(inputs, BatchTargets(targets, 8.0)))
    held = gradients(model, TowardsSourceLoss(model, criterion, 0.0, start)(inputs, BatchTargets(targets, 8.0)))
    assert all(torch.equal(plain[name], held[name]) for name in plain)


def huber(one, other):
    gap = abs(one - other)
    return gap**2 / 2 if gap < 1 else gap - 0.5


def test_relations_are_those_of_the_paper_written_out():
    draw = np.random.default_rng(0)
    learned, taught = draw.normal(size=(5, 3)), draw.normal(size=(5, 7))

    def distances(rows):
        pairs = {(i, j): np.linalg.norm(rows[i] - rows[j]) for i in range(5) for j in range(5) if i < j}
        mean = np.mean([*pairs.values()])
        return {pair: distance / mean for pair, distance in pairs.items()}

    def angle(rows, i, j, k):
        one, other = rows[i] - rows[j], rows[k] - rows[j]
        return 0.0 if j in (i, k) else one @ other / np.linalg.norm(one) / np.linalg.norm(other)

    one, other = distances(learned), distances(taught)
    expected = np.mean([huber(one[pair], other[pair]) for pair in one])
    tensors = torch.from_numpy(learned), torch.from_numpy(taught)
    assert distance_loss(*tensors).item() == pytest.approx(expected)
    triples = [(i, j, k) for i in range(5) for j in range(5) for k in range(5)]
    expected = np.mean([huber(angle(learned, *triple), angle(taught, *triple)) for triple in triples])
    assert angle_loss(*tensors).item() == pytest.approx(expected)


def test_relations_are_kept_by_turning_and_stretching_and_lost_by_mixing():
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 4, generator=draw, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=draw, dtype=torch.float64))
    for loss in (distance_loss, angle_loss):
        assert loss(3 * rows @ turn + 1, rows).item() == pytest.approx(0, abs=1e-12)
        assert loss(rows.flip(0), rows).item() > 0.01


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
def test_too_few_rows_have_no_relations_and_equal_ones_no_nan(loss):
    assert loss(torch.zeros(1, 4, requires_grad=True), torch.zeros(1, 4)).item() == 0
    equal = torch.ones(4, 3, requires_grad=True)
    loss(equal, torch.randn(4, 3)).backward()
    assert torch.isfinite(equal.grad).all()


def test_the_relational_loss_adds_both_with_their_weights():
    model, criterion = Classifying(), LabelLoss(ONE)
    objective = RelationalLoss(model, criterion, 2.0, 3.0, model.classifier)
    inputs, targets = rows_of(6, 3, 0)
    taught = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    learned = torch.tanh(model.hidden(inputs["x"]))
    plain = Objective(model, criterion)(inputs, BatchTargets(targets, 6.0))
    expected = plain + 2 * distance_loss(learned, taught) + 3 * angle_loss(learned, taught)
    torch.testing.assert_close(objective({**inputs, "teacher": taught}, BatchTargets(targets, 6.0)), expected)
    torch.testing.assert_close(objective(inputs), model(**inputs).logits)
