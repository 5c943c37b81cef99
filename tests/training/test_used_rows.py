"""Rows of word embeddings that the texts use learn alone: the numbers are those of a training of all rows."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from helpers.encoders import Bases
from helpers.training import BASE, LABELS
from nlptransfer.models import vocabulary
from nlptransfer.models.rows import Examples, FeatureRows, VectorRows
from nlptransfer.models.tokens import TokenRows
from nlptransfer.models.vocabulary import UsedRows, used_rows
from nlptransfer.training.loop import train
from nlptransfer.training.losses import LabelLoss, Objective
from nlptransfer.transfer.sequential import TowardsSourceLoss

VOCABULARY, USED = 200, 30
SETTINGS = replace(BASE, num_train_epochs=4, weight_decay=0.5, learning_rate=0.01, per_device_train_batch_size=8)


def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 8, "vocab_size": VOCABULARY, "num_labels": 3, "hidden_dropout_prob": 0.0}
    return BertForSequenceClassification(BertConfig(**sizes, attention_probs_dropout_prob=0.0))


def examples(count: int, seed: int, ids: int) -> Examples:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(2, 6, count)
    tokens = draw.integers(1, ids, lengths.sum()).astype(np.int32)
    return Examples(TokenRows(tokens, np.concatenate([[0], np.cumsum(lengths)])), draw.integers(0, 3, count))


TRAIN, VALIDATION = examples(40, 0, USED), examples(12, 1, VOCABULARY)


def learn(
    folder: Path, settings: Any = SETTINGS, objective: type[Objective] = Objective, stop_at: int = 0, **options: Any
) -> tuple[BertForSequenceClassification, list[np.ndarray]]:
    """Train; return the model, and the logits of the validation rows after each epoch."""
    learner, seen = model(), list[np.ndarray]()

    def score(logits: np.ndarray) -> float:
        seen.append(logits)
        return len(seen) / 10

    passes = iter(range(1, 1000))

    def stop(*_: Any) -> None:
        if learner.training and next(passes) == stop_at:
            raise KeyboardInterrupt

    learner.register_forward_pre_hook(stop)
    train(
        objective(learner, LabelLoss(LABELS), **options),
        TRAIN,
        VALIDATION,
        score=score,
        settings=settings,
        checkpoints=folder / "checkpoints",
    )
    return learner, seen


@contextmanager
def all_rows() -> Iterator[None]:
    worth, vocabulary.WORTH = vocabulary.WORTH, 0.0
    try:
        yield
    finally:
        vocabulary.WORTH = worth


def same(one: nn.Module, other: nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"lr_scheduler_type": "constant", "warmup_ratio": 0.0, "gradient_accumulation_steps": 2},
        {"optimizer": "sgd", "weight_decay": 0.0},
        {"optimizer": "adam", "weight_decay": 0.0, "max_grad_norm": 0.05},
    ],
)
def test_weights_and_logits_are_those_of_all_rows(tmp_path: Path, changed: dict[str, Any]) -> None:
    settings = replace(SETTINGS, **changed)
    few, few_logits = learn(tmp_path / "few", settings)
    with all_rows():
        whole, logits = learn(tmp_path / "whole", settings)
    same(few, whole)
    np.testing.assert_allclose(few_logits, logits, atol=1e-6)
    start = model().get_input_embeddings().weight
    learned, other = (few.get_input_embeddings().weight[part] for part in (slice(1, USED), slice(USED, None)))
    assert type(few.get_input_embeddings()) is nn.Embedding and not torch.allclose(learned, start[1:USED])
    if settings.weight_decay:
        assert (other.abs() < start[USED:].abs()).all()


def test_optimizer_state_and_gradient_are_of_the_rows_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    step = torch.optim.AdamW.step

    def noted(self: Any, *given: Any) -> Any:
        shapes.append(max(value.numel() for group in self.param_groups for value in group["params"]))
        return step(self, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    learn(tmp_path)
    assert set(shapes) == {USED * 8} or set(shapes) == {512 * 8}  # the positions, which are more
    assert VOCABULARY * 8 not in shapes


@pytest.mark.parametrize("stop_at", [4, 13])
def test_a_resumed_training_gives_the_same(tmp_path: Path, stop_at: int) -> None:
    settings = replace(SETTINGS, save_steps=3)
    expected, _ = learn(tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "cut", settings, stop_at=stop_at)
    resumed, _ = learn(tmp_path / "cut", settings)
    for name, value in expected.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_what_is_cut_off_leaves_the_model_as_it_was_built(tmp_path: Path) -> None:
    learner = model()
    with pytest.raises(ZeroDivisionError), used_rows(learner, [TRAIN.rows]) as part:
        assert isinstance(part, UsedRows) and learner.get_input_embeddings() is part
        raise ZeroDivisionError
    same(learner, model())


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"optimizer": "adafactor"}, "adafactor scales a row's steps by those of others"),
        ({"l1": 0.01}, "l1 moves rows without a gradient, too"),
        ({"optimizer": "sgd"}, "weight_decay of sgd moves rows without a gradient, too"),
    ],
)
def test_where_other_rows_move_all_learn_and_the_log_says_so(
    tmp_path: Path, changed: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(SETTINGS, **changed)
    with caplog.at_level(logging.INFO, logger="nlptransfer"):
        one, _ = learn(tmp_path / "one", settings)
    assert (
        f"all 200 rows of the word embeddings are learned, not the 30 of the texts alone: {reason}" in caplog.messages
    )
    with all_rows():
        other, _ = learn(tmp_path / "other", settings)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_what_is_held_to_the_source_is_all_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start = {name: value.detach().clone() for name, value in model().named_parameters()}
    with caplog.at_level(logging.INFO, logger="nlptransfer"):
        learn(tmp_path, objective=TowardsSourceLoss, l2_sp=0.1, start=start)
    assert any("what is learned is about all of them" in line for line in caplog.messages)


def test_other_rows_than_those_in_use_are_no_training_rows() -> None:
    learner = model()
    with used_rows(learner, [TRAIN.rows]):
        learner.train()
        with pytest.raises(IndexError):
            learner(input_ids=torch.tensor([[VOCABULARY - 1]]))


def test_where_it_is_not_worth_it_or_cannot_be_done(bases: Bases) -> None:
    tied = model()
    tied.extra = nn.Linear(8, VOCABULARY, bias=False)
    tied.extra.weight = tied.get_input_embeddings().weight
    frozen = model()
    frozen.get_input_embeddings().weight.requires_grad_(False)
    scaled = model()
    scaled.set_input_embeddings(type("Scaled", (nn.Embedding,), {})(VOCABULARY, 8))
    without = SimpleNamespace()
    for other in (tied, frozen, scaled, without):
        with used_rows(other, [TRAIN.rows]) as part:  # type: ignore[arg-type]
            assert part is None
    with used_rows(model(), [examples(400, 0, VOCABULARY).rows]) as part:
        assert part is None
    with used_rows(model(), [FeatureRows(np.zeros((3, 4), np.float32))]) as part:
        assert part is None
    with used_rows(model(), [TRAIN.rows, VectorRows(VALIDATION.rows, "other", np.zeros((12, 2), np.float32))]) as part:
        assert part is not None and len(part.used) > USED
