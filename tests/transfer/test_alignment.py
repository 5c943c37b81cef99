"""Distances between domains, against closed forms; the reversed gradient; what an aligned training minimizes."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from sklearn.metrics.pairwise import rbf_kernel
from torch import nn
from torch.nn import functional

from nlptransfer.data.labels import Labels
from nlptransfer.models.rows import Examples, FeatureRows
from nlptransfer.training.lbfgs import Features, fit
from nlptransfer.training.loop import train
from nlptransfer.training.losses import SOURCE, UNLABELED, BatchTargets, LabelLoss
from nlptransfer.training.optimizer import TrainingSettings
from nlptransfer.transfer.alignment import (
    CRITIC_PENALTY,
    KERNELS,
    Adversary,
    Aligned,
    correlation_distance,
    correlation_map,
    covariance,
    mean_discrepancy,
    reverse_gradient,
    warmed_up,
)


def alike(*counts: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.full((count,), 1 / count, dtype=torch.float64) for count in counts)


def gaussians(first: int = 40, second: int = 55, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    source = torch.randn(first, width, generator=draw, dtype=torch.float64)
    return source, torch.randn(second, width, generator=draw, dtype=torch.float64) * 2 + 1


def test_correlation_is_the_distance_of_plain_covariances():
    source, target = gaussians()
    apart = torch.cov(source.T) - torch.cov(target.T)
    means = source.mean(dim=0) - target.mean(dim=0)
    found = correlation_distance(source, target, alike(40, 55), 1.0)
    assert float(found) == pytest.approx(float(apart.square().sum() / (4 * 25) + means.square().sum() / 5), rel=1e-12)


def test_mean_discrepancy_is_the_textbook_estimate():
    source, target = (side.numpy() for side in gaussians())
    rows = np.concatenate([source, target])
    middle = ((rows[:, None] - rows) ** 2).sum(axis=2)
    counts = np.concatenate([np.full(40, 0.5 / 40), np.full(55, 0.5 / 55)])
    middle = counts @ middle @ counts
    expected = 0.0
    for width in KERNELS:
        gamma = 1 / (2 * width * middle)
        within = rbf_kernel(source, gamma=gamma).mean() + rbf_kernel(target, gamma=gamma).mean()
        expected += (within - 2 * rbf_kernel(source, target, gamma=gamma).mean()) / len(KERNELS)
    found = mean_discrepancy(*map(torch.from_numpy, (source, target)), alike(40, 55), 1.0)
    assert float(found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("distance", [correlation_distance, mean_discrepancy])
@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_a_domain_is_at_no_distance_from_itself_and_order_does_not_count(distance, rows, seed):
    draw = torch.Generator().manual_seed(seed)
    source, target = (torch.randn(rows, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    found = distance(source, target, alike(rows, rows), 1.0)
    assert float(found) >= -1e-12
    assert float(distance(source, source.flip(0), alike(rows, rows), 1.0)) == pytest.approx(0, abs=1e-9)
    assert float(distance(target.flip(0), source, alike(rows, rows), 1.0)) == pytest.approx(float(found), abs=1e-9)


@pytest.mark.parametrize("distance", [correlation_distance, mean_discrepancy])
def test_rows_without_weight_count_for_nothing(distance):
    source, target = gaussians()
    weights = alike(40, 55)
    more = torch.cat([source, 1e3 * torch.ones(3, 5, dtype=torch.float64)])
    padded = torch.cat([weights[0], torch.zeros(3, dtype=torch.float64)])
    plain, with_more = distance(source, target, weights, 0.7), distance(more, target, (padded, weights[1]), 0.7)
    assert float(with_more) == pytest.approx(float(plain), rel=1e-9)


def test_covariance_of_weights_is_numpys():
    rows, _ = gaussians()
    weights = torch.rand(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights /= weights.sum()
    np.testing.assert_allclose(covariance(rows, weights), np.cov(rows.numpy().T, aweights=weights.numpy()), rtol=1e-9)


def test_reversed_gradient_is_minus_the_plain_one():
    rows = torch.randn(4, 3, requires_grad=True)
    weight = torch.randn(4, 3)
    (plain,) = torch.autograd.grad((rows * weight).sum(), rows)
    (turned,) = torch.autograd.grad((reverse_gradient(rows, 0.3) * weight).sum(), rows)
    assert torch.equal(turned, -0.3 * plain)
    assert torch.equal(reverse_gradient(rows, 0.3), rows)


def test_critic_learns_at_full_rate_while_its_gradient_is_turned_round():
    source, target = (side.float().requires_grad_() for side in gaussians())
    weights = tuple(part.float() for part in alike(40, 55))
    torch.manual_seed(0)
    adversary = Adversary(5)
    critic = nn.Sequential(adversary.hidden, nn.ReLU(), adversary.output, nn.Flatten(0))
    loss = adversary(source, target, weights, 0.25)
    rows, counts = torch.cat([source, target]), torch.cat(weights)
    domains = torch.cat([torch.zeros(40), torch.ones(55)])
    plain = functional.binary_cross_entropy_with_logits(critic(rows), domains, weight=counts, reduction="sum") / 2
    # The penalty as it is written down: through a second derivative.
    apart = rows.detach().requires_grad_()
    (slopes,) = torch.autograd.grad(critic(apart).sum(), apart, create_graph=True)
    held = plain + CRITIC_PENALTY / 2 * (counts * slopes.square().sum(dim=1)).sum() / 2
    assert torch.allclose(loss, held)
    learning = [adversary.hidden.weight, adversary.hidden.bias, adversary.output.weight, adversary.output.bias]
    for mine, theirs in zip(
        torch.autograd.grad(loss, learning, retain_graph=True),
        torch.autograd.grad(held, learning, retain_graph=True),
        strict=True,
    ):
        assert torch.allclose(mine, theirs, atol=1e-7)
    assert torch.allclose(torch.autograd.grad(loss, source)[0], -0.25 * torch.autograd.grad(plain, source)[0])


def test_warming_up():
    assert warmed_up(2.0, 0.0) == 0
    assert warmed_up(2.0, 0.5) == pytest.approx(2 * (2 / (1 + np.exp(-5)) - 1))
    assert warmed_up(2.0, 1.0) == pytest.approx(2, abs=1e-3)


# The closed form


def test_map_gives_the_rows_the_other_mean_and_covariance():
    draw = np.random.default_rng(0)
    first, second = (side @ side.T / 6 + np.eye(6) for side in draw.normal(size=(2, 6, 6)))
    source = draw.multivariate_normal(np.arange(6), first, size=4000)
    target = draw.multivariate_normal(-np.arange(6), second, size=5000)
    mapped = correlation_map(source, target, 0.0)(source)
    np.testing.assert_allclose(np.cov(mapped.T), np.cov(target.T), atol=1e-6)
    np.testing.assert_allclose(mapped.mean(axis=0), target.mean(axis=0), atol=1e-9)
    root = np.linalg.inv(sqrtm(np.cov(source.T))) @ sqrtm(np.cov(target.T))
    expected = (source - source.mean(axis=0)) @ root.real + target.mean(axis=0)
    np.testing.assert_allclose(mapped, expected, atol=1e-6)


def test_map_shrunk_wholly_moves_and_scales():
    source, target = (side.numpy() for side in gaussians())
    spread = [np.trace(np.cov(side.T)) for side in (source, target)]
    mapped = correlation_map(source, target, 1.0)(source)
    expected = (source - source.mean(axis=0)) * np.sqrt(spread[1] / spread[0]) + target.mean(axis=0)
    np.testing.assert_allclose(mapped, expected, atol=1e-9)


def test_map_of_wide_features_moves_all_and_keeps_what_is_across():
    source, target = np.random.default_rng(0).normal(size=(2, 150, 300)).astype(np.float32)
    source[:, 7] = 3.0
    mapped = correlation_map(source, target, 0.5)(source)
    assert mapped.dtype == np.float32 and np.isfinite(mapped).all()
    np.testing.assert_allclose(mapped.mean(axis=0), target.mean(axis=0), atol=1e-3)


def test_no_shift_is_no_map():
    source, _ = (side.numpy() for side in gaussians())
    np.testing.assert_allclose(correlation_map(source, source, 0.3)(source), source, atol=1e-9)


# The objective


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 2)

    def forward(self, features: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.body(features)))


def distance_of(kind: Any) -> Any:
    return Adversary(8) if kind is Adversary else kind


def given_rows(targets: torch.Tensor) -> tuple[dict, dict]:
    draw = torch.Generator().manual_seed(5)
    inputs = {role: {"features": torch.randn(6, 4, generator=draw)} for role in (SOURCE, UNLABELED)}
    batch = {
        SOURCE: BatchTargets(torch.tensor([0, 1, 0, 1, 1, 0]), 6.0, role=SOURCE, progress=0.5),
        UNLABELED: BatchTargets(targets, 6.0, role=UNLABELED, progress=0.5),
    }
    return inputs, batch


@pytest.mark.parametrize("kind", [correlation_distance, mean_discrepancy, Adversary])
def test_loss_is_the_sources_plus_the_distance_and_no_target_label_is_looked_at(kind):
    model, criterion = Net(), LabelLoss(Labels(("a", "b")))
    discrepancy = distance_of(kind)
    objective = Aligned(model, criterion, discrepancy, lambda progress: 0.8 * progress, model.head)
    inputs, batch = given_rows(torch.full((6,), -1))
    loss = objective(inputs, batch)
    sides = [model.body(inputs[role]["features"]) for role in (SOURCE, UNLABELED)]
    own = criterion(model(**inputs[SOURCE]).logits, batch[SOURCE])
    weights = tuple(torch.full((6,), 1 / 6) for _ in range(2))
    assert torch.allclose(loss, own + discrepancy(*sides, weights, 0.4))
    apart = discrepancy(*sides, weights, 0.4)
    gradient = torch.cat(torch.autograd.grad(apart, sides)).norm()
    noted = {"discrepancy": apart.item(), "discrepancy_gradient": gradient.item()}
    assert objective.notes() == pytest.approx(noted)
    assert noted["discrepancy_gradient"] > 0
    assert torch.equal(loss, objective(inputs, given_rows(torch.tensor([1, 0, 1, 1, 0, 0]))[1]))
    loss.backward()
    assert model.body[0].weight.grad.abs().sum() > 0


def test_strength_0_is_the_source_alone():
    model, criterion = Net(), LabelLoss(Labels(("a", "b")))
    objective = Aligned(model, criterion, mean_discrepancy, lambda _: 0.0, model.head)
    inputs, batch = given_rows(torch.full((6,), -1))
    found = torch.autograd.grad(objective(inputs, batch), model.body[0].weight)[0]
    expected = torch.autograd.grad(criterion(model(**inputs[SOURCE]).logits, batch[SOURCE]), model.body[0].weight)[0]
    assert torch.allclose(found, expected, atol=1e-8)


# A made shift: turned by 25 degrees, stretched and moved. The axes that are turned differ in spread, or the covariances
# would not tell that they are.


def made(rows: int, seed: int, *, shifted: bool) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    targets = np.arange(rows) % 2
    features = draw.normal(size=(rows, 4)) * [1, 1, 0.5, 1]
    features[:, 0] += 2 * (2 * targets - 1)
    if shifted:
        angle, turn = np.deg2rad(25), np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        features = features @ turn * [1.5, 0.8, 1.2, 1] + [3.5, 1, -1, 0.5]
    return features.astype(np.float32), targets


def right(logits: np.ndarray, targets: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == targets).mean())


def test_closed_form_undoes_a_made_shift():
    (source, known), (target, truth) = made(600, 0, shifted=False), made(600, 1, shifted=True)
    criterion = LabelLoss(Labels(("a", "b"), False))
    found = []
    for rows in (source, correlation_map(source, target, 0.0)(source)):
        weight, bias = fit(criterion, Features(rows, known), 1.0)
        found.append(right(target @ weight.T + bias, truth))
    assert found[0] < 0.7 and found[1] > 0.85


@pytest.mark.parametrize(
    ("discrepancy", "trade_off"), [(correlation_distance, 1.0), (mean_discrepancy, 5.0), (Adversary, 5.0)]
)
def test_what_learns_undoes_a_made_shift(discrepancy, trade_off, tmp_path):
    (source, known), (target, truth) = made(600, 0, shifted=False), made(600, 1, shifted=True)
    found = {}
    for value in (0.0, trade_off):
        net = Net()
        torch.manual_seed(0)
        distance, criterion = distance_of(discrepancy), LabelLoss(Labels(("a", "b")))
        report = train(
            Aligned(net, criterion, distance, partial(warmed_up, value), net.head),
            Examples(FeatureRows(source), known),
            Examples(FeatureRows(source[:0]), known[:0]),
            score=lambda logits: 0.0,
            settings=TrainingSettings(
                num_train_epochs=20, learning_rate=3e-3, per_device_train_batch_size=64, progress=False
            ),
            checkpoints=tmp_path / str(value),
            extra=Examples(FeatureRows(target), np.full(600, -1)),
            roles=(SOURCE, UNLABELED),
        )
        with torch.no_grad():
            found[value] = right(net(torch.from_numpy(target)).logits.numpy(), truth)
    assert found[0.0] < 0.7 and found[trade_off] > 0.85
    assert all(entry["discrepancy_gradient"] > 0 for entry in report.history)
