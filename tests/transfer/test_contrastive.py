"""Contrast: its loss and its pairs beside plain formulas, where it begins, and whole runs on tiny encoders."""

import tracemalloc
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy.special import expit, softmax
from torch import nn

from helpers.classifiers import LABELS, SEVERAL, build, plain_logits, plain_model
from helpers.corpora import splits_of
from helpers.folders import ADAPTER_RUN_FILES, RUN_FILES, files_of
from helpers.runs import finetune
from nlptransfer import Classifier, Contrastive, RunResult
from nlptransfer.data.labels import Labels
from nlptransfer.errors import SettingError, TrainingError
from nlptransfer.experiments import fitting
from nlptransfer.models.architectures import last_layer
from nlptransfer.models.heads import last_inputs
from nlptransfer.models.rows import Examples
from nlptransfer.models.tokens import TokenRows
from nlptransfer.routes.full import Full
from nlptransfer.routes.lora import Lora
from nlptransfer.training.linear_head import Features, HeadTask
from nlptransfer.training.loop import train
from nlptransfer.training.losses import BatchTargets, LabelLoss
from nlptransfer.training.optimizer import TrainingSettings
from nlptransfer.transfer.contrastive import (
    CONTRAST,
    HEAD,
    ContrastiveLoss,
    append_mean_layer,
    begin_at_mean,
    contrastive_losses,
    drawn_pairs,
    has_mean_layer,
    pooler_of,
)

QUICK = {"max_length": 12, "calibration_size": 0.0, "num_pairs": 96, "per_device_train_batch_size": 16}


# The loss


def plain_losses(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Row by row the mean of sentence-transformers' CosineSimilarityLoss over its pairs of either kind, halved."""
    found = []
    for row in range(len(vectors)):
        errors: dict[float, list[float]] = {1.0: [], 0.0: []}
        for other in (other for other in range(len(vectors)) if other != row):
            first, second = vectors[row], vectors[other]
            cosine = first @ second / np.sqrt((first @ first) * (second @ second))
            wanted = float(labels[other] == labels[row])
            errors[wanted].append((cosine - wanted) ** 2)
        found.append(sum(np.mean(kind) for kind in errors.values() if kind) / 2)
    return np.array(found)


def losses_of(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return contrastive_losses(torch.from_numpy(vectors), torch.from_numpy(labels[:, None] == labels[None])).numpy()


def test_loss_is_that_of_setfit():
    vectors = np.random.default_rng(0).normal(size=(7, 5))
    labels = np.array([0, 1, 0, 2, 1, 0, 3])
    np.testing.assert_allclose(losses_of(vectors, labels), plain_losses(vectors, labels), rtol=1e-5)
    # Classes of equal size: the mean over the rows is that over equally many pairs of either kind.
    balanced = np.array([0, 0, 1, 1, 2, 2])
    unit = vectors[:6] / np.linalg.norm(vectors[:6], axis=1, keepdims=True)
    first, second = np.triu_indices(6, 1)
    wanted = (balanced[first] == balanced[second]).astype(float)
    errors = ((unit[first] * unit[second]).sum(axis=1) - wanted) ** 2
    expected = (errors[wanted == 1].mean() + errors[wanted == 0].mean()) / 2
    assert losses_of(vectors[:6], balanced).mean() == pytest.approx(expected, rel=1e-5)


def test_loss_is_without_a_kind_of_pairs_that_is_not_there():
    vectors = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert losses_of(vectors, np.array([0, 1])) == pytest.approx([0.25, 0.25])
    assert losses_of(vectors, np.array([0, 0])) == pytest.approx([(1 - 0.5**0.5) ** 2 / 2] * 2)


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_loss_goes_with_its_rows_wherever_they_stand_and_however_long_they_are(seed):
    draw = np.random.default_rng(seed)
    vectors, labels, order = draw.normal(size=(6, 4)), draw.integers(0, 3, 6), draw.permutation(6)
    found = losses_of(vectors, labels)
    np.testing.assert_allclose(losses_of(vectors[order], labels[order]), found[order], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(losses_of(vectors * draw.uniform(0.1, 9, (6, 1)), labels), found, rtol=1e-4, atol=1e-6)


class Sums(nn.Module):
    """A last layer on sums over the tokens of each row, and how many tokens each of its passes had."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.passes = nn.Embedding(50, 4), nn.Linear(4, 2), list[tuple[int, ...]]()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        self.passes.append(tuple(input_ids.shape))
        return SimpleNamespace(logits=self.head((self.body(input_ids) * attention_mask[:, :, None]).sum(dim=1)))


@pytest.mark.parametrize("pad_left", [False, True])
def test_objective_weighs_pairs_and_moves_all_but_the_head(pad_left):
    model, criterion = Sums(), LabelLoss(Labels(("bad", "good")), np.array([1.0, 3.0]))
    objective = ContrastiveLoss(model, criterion, model.head)
    rows, classes = replace(token_rows(6), pad_left=pad_left), np.array([0, 1, 1, 0, 1, 1])
    inputs = rows.batch(np.arange(6))
    has, pairs = torch.from_numpy(np.eye(2, dtype=bool)[classes]), torch.tensor([[0, 3], [1, 4], [5, 1]])
    batch_targets = BatchTargets(torch.tensor([0, 1, 1]), total_weight=7.0, weights=torch.tensor([1.0, 2.0, 0.0]))
    loss = objective({**inputs, "has_label": has, "pairs": pairs}, batch_targets)
    # Rows of 3 to 7 tokens, in parts of like length.
    assert model.passes == [(2, 3), (2, 5), (1, 6), (1, 7)]
    sums = (model.body(inputs["input_ids"]) * inputs["attention_mask"][:, :, None]).sum(dim=1)
    losses = plain_losses(sums.detach().numpy(), classes)
    assert loss.item() == pytest.approx((losses[[0, 3]].mean() + 6 * losses[[1, 4]].mean()) / 7, rel=1e-5)
    loss.backward()
    assert model.body.weight.grad.norm() > 1e-3
    assert model.head.weight.grad is not None and model.head.weight.grad.norm() == 0
    # Without targets it gives logits, as others do.
    torch.testing.assert_close(objective(inputs), model(**inputs).logits)


# Pairs


def token_rows(count: int, windows: np.ndarray | None = None) -> TokenRows:
    offsets = np.concatenate([[0], np.cumsum(np.arange(count) % 5 + 3)])
    return TokenRows(np.arange(offsets[-1], dtype=np.int32) % 20 + 4, offsets, windows=windows)


@given(st.integers(2, 12), st.integers(1, 60), st.booleans())
@settings(max_examples=30, deadline=None)
def test_pairs_share_a_label_and_all_rows_come_first_equally_often(rows, count, several):
    draw = np.random.default_rng(rows * 100 + count)
    targets = draw.integers(0, 3, rows)
    if several:
        targets = (draw.random((rows, 3)) < 0.4).astype(np.float32)
        targets[0, 0] = 1
    has = targets > 0 if several else np.eye(3, dtype=bool)[targets]
    found = drawn_pairs(Examples(token_rows(rows), targets), 3, count)
    assert found.rows.pairs.shape == (count, 2) and len(found.targets) == count
    for first, second in found.rows.pairs:
        assert (has[first] & has[second]).any()
        assert first != second or any(column[first] and column.sum() == 1 for column in has.T)
    times = np.bincount(found.rows.pairs[:, 0], minlength=rows)[has.any(axis=1)]
    assert times.max() - times.min() <= 1
    assert (found.targets == targets[found.rows.pairs[:, 0]]).all()


def test_memory_grows_with_the_rows_and_not_with_their_pairs():
    rows = 20_000
    examples = Examples(token_rows(rows), np.arange(rows) % 4)
    tracemalloc.start()
    try:
        found = drawn_pairs(examples, 4, 480)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.rows) == 480
    # A list of all pairs would be 20,000 ** 2 / 2 long.
    assert peak < 100 * rows


def test_a_batch_has_each_row_of_its_pairs_once():
    examples = Examples(token_rows(6), np.array([0, 0, 1, 1, 2, 2]), np.arange(6, dtype=np.float32))
    found = drawn_pairs(examples, 3, 12)
    some = np.array([7, 2, 7, 11])
    batch, pairs = found.rows.batch(some), found.rows.pairs[some]
    rows = np.unique(pairs)
    torch.testing.assert_close(batch["input_ids"], examples.rows.batch(rows)["input_ids"])
    assert batch["has_label"].int().argmax(dim=1).tolist() == examples.targets[rows].tolist()
    assert (rows[batch["pairs"].numpy()] == pairs).all()
    # All the same, or batches would be of the same few rows, of like length.
    assert {*found.rows.lengths} == {examples.rows.lengths.max()}
    assert (found.weights == found.rows.pairs[:, 0]).all()


def test_of_a_text_in_windows_one_window_is_drawn():
    windows = np.array([0, 1, 4, 6, 7])
    found = drawn_pairs(Examples(token_rows(7, windows), np.array([0, 0, 1, 1])), 2, 200)
    text_of = np.repeat(np.arange(4), np.diff(windows))
    assert {*found.rows.pairs.reshape(-1).tolist()} == {*range(7)}
    first, second = text_of[found.rows.pairs].T
    assert (first // 2 == second // 2).all() and (first != second).all()
    assert (found.targets == first // 2).all()


def test_rows_without_any_label_cannot_be_drawn_together():
    with pytest.raises(TrainingError, match="expected texts with labels to be drawn together, found none"):
        drawn_pairs(Examples(token_rows(3), np.zeros((3, 2), np.float32)), 2, 4)


# Where it begins


def means_and_heads(built: Any, batch: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the last hidden states of the texts of a batch, and what the last layer takes of them."""
    with last_inputs(last_layer(built.model)) as seen, torch.no_grad():
        states = built.model.eval()(**batch, output_hidden_states=True).hidden_states[-1]
    real = batch["attention_mask"][:, :, None]
    return ((states * real).sum(dim=1) / real.sum(dim=1)).numpy(), seen[0].numpy()


def rows_of(built: Any) -> TokenRows:
    return Full(max_length=12).rows(built.model, built.tokenizer, splits_of()["train"][0])


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_further_layer_makes_the_mean(kind, bases):
    built = build(Full(max_length=12, dropout=0.0), bases(kind))
    rows = rows_of(built)
    batch, layers = rows.batch(np.arange(len(rows))), built.model.config.num_hidden_layers
    mean, _ = means_and_heads(built, batch)
    assert not has_mean_layer(built.model)
    append_mean_layer(built.model)
    append_mean_layer(built.model)
    assert has_mean_layer(built.model)
    assert built.model.config.num_hidden_layers == layers + 1
    begin_at_mean(built.model, pooler_of(built.model, last_layer(built.model), rows), rows)
    _, made = means_and_heads(built, batch)
    unit = (mean - mean.mean(axis=1, keepdims=True)) / mean.std(axis=1, keepdims=True)
    np.testing.assert_allclose(np.arctanh(made), 0.2 * unit, atol=0.01)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_without_a_further_layer_the_first_token_begins_near_the_mean(kind, bases):
    built = build(Full(max_length=12), bases(kind))
    rows = rows_of(built)
    begin_at_mean(built.model, pooler_of(built.model, last_layer(built.model), rows), rows)
    mean, made = means_and_heads(built, rows.batch(np.arange(len(rows))))
    made = np.arctanh(made)
    made, mean = made - made.mean(axis=0), mean - mean.mean(axis=0)
    assert (made * mean).sum() / np.linalg.norm(made) / np.linalg.norm(mean) > 0.8


@pytest.mark.parametrize("kind", ["modernbert", "electra"])
def test_other_architectures_begin_as_they_are(kind, bases):
    built = build(Full(max_length=12), bases(kind))
    assert pooler_of(built.model, last_layer(built.model), rows_of(built)) is None
    append_mean_layer(built.model)
    assert not has_mean_layer(built.model)


# Whole runs


def tuned(data: Any, base: Any, folder: Any, route: str, **asked: Any) -> RunResult:
    return finetune(
        data, route=route, base=str(base.path), transfer="contrastive", output_dir=folder, **{**QUICK, **asked}
    )


RUNS = {
    "full": ("full", "bert", LABELS),
    "full with several labels": ("full", "roberta", SEVERAL),
    "lora": ("lora", "bert", LABELS),
    "full on a decoder": ("full", "llama", LABELS),
}


@pytest.fixture(scope="module", params=RUNS)
def ran(request, tmp_path_factory, bases) -> Any:
    route, kind, labels = RUNS[request.param]
    folder = tmp_path_factory.mktemp("contrastive") / "run"
    rate = 1e-3 if route == "full" else 1e-2
    run = tuned(splits_of(labels.multi_label), bases(kind), folder, route, learning_rate=rate)
    return run, route, bases(kind), labels


def test_a_run_writes_what_others_write_and_opens_in_plain_libraries(ran):
    run, route, base, labels = ran
    assert set(files_of(run.folder)) >= (RUN_FILES if route == "full" else ADAPTER_RUN_FILES)
    assert not [*run.folder.glob("checkpoints*")]
    texts = splits_of()["test"][0]
    logits = plain_logits(plain_model(run.folder / "model", base), run.folder / "model", texts)
    expected = expit(logits) if labels.multi_label else softmax(logits, axis=1)
    np.testing.assert_allclose(Classifier.load(run.folder / "model").probabilities(texts), expected, atol=1e-5)


def test_the_record_has_both_stages(ran):
    run = ran[0]
    told = run.transfer
    assert told.name == "contrastive" and list(told.stages) == ["contrastive", "head"]
    (entry,) = told.stages["contrastive"].history
    assert entry["loss"] > 0 and "score" not in entry
    assert told.stages["contrastive"].examples == 96
    assert told.stages["head"].details["fitted_on"] == "train+validation"
    assert run.settings["training"]["num_train_epochs"] == 1


def unlike(run: RunResult, data: Any) -> float:
    """The loss of the representations of test texts, none of which was learned from."""
    texts, labels = data["test"]
    classifier = run.classifier
    rows = classifier.route.rows(classifier.model, classifier.tokenizer, texts)
    with last_inputs(last_layer(classifier.model)) as seen, torch.no_grad():
        classifier.model(**rows.batch(np.arange(len(texts))))
    return losses_of(seen[0].numpy(), np.array(labels)).mean()


def test_texts_of_a_class_that_it_has_not_seen_come_together(bases, tmp_path):
    data = splits_of()
    learned = tuned(data, bases("bert"), tmp_path / "learned", "full", learning_rate=1e-3, num_pairs=480)
    begun = tuned(data, bases("bert"), tmp_path / "begun", "full", learning_rate=1e-9, num_pairs=1)
    assert unlike(learned, data) < unlike(begun, data) - 0.1
    assert learned.metrics["accuracy"] >= 0.9


class Cut(Exception):
    """A run is cut off."""


def cut_in_training(patch: pytest.MonkeyPatch, at: int) -> None:
    passes = iter(range(1, 99))

    def watched(objective: Any, *examples: Any, **how: Any) -> Any:
        objective.register_forward_pre_hook(count)
        return train(objective, *examples, **how)

    def count(objective: Any, _: Any) -> None:
        if objective.training and next(passes) == at:
            raise Cut

    patch.setattr(fitting, "train", watched)


def cut_before_the_head(patch: pytest.MonkeyPatch) -> None:
    def choose(_: HeadTask) -> Any:
        raise Cut

    patch.setattr(HeadTask, "choose_l2", choose)


@pytest.mark.parametrize("cut", [lambda patch: cut_in_training(patch, 5), cut_before_the_head])
def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(cut, bases, tmp_path):
    asked = {"learning_rate": 1e-3, "save_steps": 2, "dropout": 0.2}
    with pytest.MonkeyPatch.context() as patch:
        cut(patch)
        with pytest.raises(Cut):
            tuned(splits_of(), bases("bert"), tmp_path / "cut", "full", **asked)
    assert [*(tmp_path / "cut").glob("checkpoints_contrastive/*")]
    for name in ("cut", "whole"):
        tuned(splits_of(), bases("bert"), tmp_path / name, "full", **asked)
    found, expected = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("cut", "whole"))
    assert found.keys() == expected.keys() and any(".layer.2." in name for name in found)
    assert all((found[name] == expected[name]).all() for name in found)


# The head


def head_task(train: int, validation: int) -> HeadTask:
    values = np.random.default_rng(0).normal(size=(train + validation, 6)).astype(np.float32)
    rows = Features(values, values[:, :2].argmax(axis=1))
    parts = [Features(rows.values[some], rows.targets[some]) for some in (slice(train), slice(train, None))]
    return HeadTask(LabelLoss(LABELS), *parts, lambda targets, logits: (logits.argmax(axis=1) == targets).mean())


def test_no_fold_of_rows_that_the_encoder_has_learned_chooses_the_strength():
    few, many = (head_task(*size) for size in ((30, 10), (30, 100)))
    found = Contrastive().fit_head(HEAD, {"target": few}, None)
    assert found.record["chosen_by"] == "default"
    assert found.record["l2"] == pytest.approx((few.train.values**2).sum() / 30, rel=1e-5)
    # The score is of rows that neither the encoder nor the head has learned from.
    assert found.score == few.score(few.validation.targets, found.held_out)
    assert Contrastive().fit_head(HEAD, {"target": many}, None).record["chosen_by"] == "validation"


# Settings


def test_settings_that_nobody_asked_for_are_its_own():
    contrast, asked = Contrastive(), TrainingSettings()
    for route, rate in ((Full(), 1e-4), (Lora(), 5e-4)):
        _, found = contrast.at(CONTRAST, route, asked)
        assert (found.num_train_epochs, found.learning_rate, found.per_device_train_batch_size) == (1, rate, 64)
    _, found = contrast.at(CONTRAST, Full(), TrainingSettings(num_train_epochs=3, learning_rate=0.1))
    assert (found.num_train_epochs, found.learning_rate) == (3, 0.1)


REFUSED = [
    ({"route": "probe"}, "transfer=contrastive: expected an encoder that learns, found probe: take lora or full"),
    ({"route": "full", "freeze_layers": 1}, "freeze_layers.*layer_decay"),
    ({"route": "full", "layers": "auto"}, "layers.*layer_decay"),
    ({"route": "full", "head_first": True}, "head_first"),
    ({"route": "full", "num_pairs": 0}, "num_pairs.*a whole number from 1"),
    ({"route": "full", "source": splits_of()}, "transfer='contrastive'"),
]


@pytest.mark.parametrize(("asked", "said"), REFUSED)
def test_what_makes_no_sense_is_refused_before_anything_is_written(asked, said, bases, tmp_path):
    own = {name: value for name, value in QUICK.items() if name != "max_length"} | asked
    with pytest.raises(SettingError, match=said):
        finetune(splits_of(), base=str(bases("bert").path), transfer="contrastive", output_dir=tmp_path / "run", **own)
    assert not (tmp_path / "run").exists()


def test_word_vectors_are_refused(vectors_file, remarks_folder, tmp_path):
    with pytest.raises(SettingError, match="found word2vec: take lora or full"):
        finetune(remarks_folder, base=vectors_file, transfer=Contrastive(), output_dir=tmp_path / "run")
