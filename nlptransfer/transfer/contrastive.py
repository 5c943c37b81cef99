"""Few labeled rows per class: texts of a class are drawn together and the others apart, then a head is fitted."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from nlptransfer.errors import TrainingError
from nlptransfer.models import (
    Examples,
    Rows,
    TokenRows,
    compute,
    last_inputs,
    layers_of,
    name_of,
    plain_model,
    pool,
    text_vectors,
)
from nlptransfer.routes import ROUTES, Route
from nlptransfer.settings import Count, check
from nlptransfer.training import (
    TARGET,
    BatchTargets,
    FittedHead,
    Head,
    HeadTask,
    LabelLoss,
    Objective,
    TrainingSettings,
    are_few,
)
from nlptransfer.transfer.base import Learner, Sides, Stage, Transfer

CONTRAST, HEAD = Stage("contrastive", (TARGET,), learns="representation"), Stage("head", (TARGET,), learns="head")
PAIRS_PER_STEP = 64
"""Enough that each of a few dozen rows is in almost every step."""
LEAST_PAIRS, PAIRS_PER_ROW = 12 * PAIRS_PER_STEP, 4
"""Pairs of an epoch, where none are asked for: the larger of these, the second for each row."""
RATE, RATE_OF_ADAPTERS = 1e-4, 5e-4
PARTS = 4
"""Parts of like length in which a step's rows, of any length, go through the encoder."""
MEAN_LAYERED = ("bert", "camembert", "roberta", "xlm-roberta")
"""Model types that can have a layer that makes the mean."""
OUTWEIGHING, LEVEL = 1000.0, 0.2
"""Weight of the mean there in comparison with a token itself; and the standard deviation of the outputs."""
SCRAMBLED_TEXTS, SCRAMBLED_TOKENS = 1000, (4, 20)
"""Texts of random tokens, and least and most tokens of each, by which a first token learns to stand for the mean."""
RIDGE = 0.03
"""L2 penalty there, as a share of the mean variance of the first token's outputs."""
LARGEST = 0.5
"""Means are scaled to at most this, as far as tanh is almost a straight line."""


@dataclass(frozen=True)
class Contrastive(Transfer):
    """min mean_i [mean_{p in P(i)} (1 - cos(z_i, z_p))^2 + mean_{n in N(i)} cos(z_i, z_n)^2] / 2, then a head.

    For few rows of each class, with SetFit's loss (Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts",
    section 3.1; Reimers and Gurevych 2019, "Sentence-BERT", section 3, regression objective). z is the last layer's
    input for a text; P(i) are the other rows of the batch that share a label with row i, N(i) those that share none.
    Batches are drawn as pairs of rows that share a label. The last layer is then fitted on what the encoder gives; it
    alone learns validation rows.
    """

    name: ClassVar[str] = "contrastive"
    stages: ClassVar[tuple[Stage, ...]] = (CONTRAST, HEAD)

    num_pairs: Count | None = None
    """pairs of rows that are drawn, and passed over in each epoch; None: 768, or 4 for each row if that is more"""
    mean_start: bool = True
    """whether BERT and its like begin with the mean over the tokens, not the first: by a layer, or in lora a map"""

    def check_fits(self, route: Route, sides: Sides) -> None:
        learning = ROUTES.where(lambda one: one.learns_encoder)
        instead = f"take {learning}, or {route.name} without {self.name}, which is good with few rows too"
        self.require(route.learns_encoder, "an encoder that learns", route.name, instead)
        refused = dict.fromkeys(("freeze_layers", "layers"), "none, as all layers learn: layer_decay slows the lower")
        refused["head_first"] = "false, as the last layer is fitted at the end"
        for name, expected in refused.items():
            value = getattr(route, name) if name in route.per_stage else None
            check(not value, name, value, expected)

    def at(self, stage: Stage, route: Route, training: TrainingSettings) -> tuple[Route, TrainingSettings]:
        rate = RATE_OF_ADAPTERS if route.is_adapter else RATE
        of_pairs = {"num_train_epochs": 1, "learning_rate": rate, "per_device_train_batch_size": PAIRS_PER_STEP}
        return route, training.with_defaults(of_pairs)

    def prepare(self, stage: Stage, route: Route, model: PreTrainedModel) -> None:
        if stage is CONTRAST and self.mean_start and not route.is_adapter:
            append_mean_layer(model)

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        # No layer is frozen, so they are tokens.
        rows = cast(TokenRows, learner.examples[TARGET].rows)
        pooler = pooler_of(learner.module, learner.last_layer, rows)
        if pooler is not None and self.mean_start:
            begin_at_mean(learner.module, pooler, rows)
        return ContrastiveLoss(learner.module, learner.criteria[TARGET], learner.last_layer, pooler)

    def examples(self, stage: Stage, learner: Learner) -> Mapping[str, Examples]:
        target = learner.examples[TARGET]
        count = self.num_pairs or max(LEAST_PAIRS, PAIRS_PER_ROW * len(target.targets))
        return {TARGET: drawn_pairs(target, learner.last_layer.out_features, count)}

    def fit_head(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> FittedHead:
        # The encoder has learned from the training rows: folds of them say nothing of a strength.
        task = replace(tasks[TARGET], folds_know=True)
        if not are_few(len(task.train), len(task.validation)):
            return task.choose_l2()
        # 1 on vectors of length 1, as SetFit's logistic regression has it.
        return replace(task, l2=float(np.square(task.train.values).sum(axis=1).mean())).choose_l2()


@dataclass(frozen=True)
class PairRows(Rows):
    """Pairs of rows, each pair in place of one row."""

    rows: Rows
    pairs: np.ndarray
    """(pairs, 2) int64, places of rows"""
    labels: np.ndarray
    """(pairs, 2, labels) bool, of either row"""

    @property
    def lengths(self) -> np.ndarray:
        """Return the tokens of the longest row for each pair: batches of like length would hold the same few rows."""
        return np.full(len(self.pairs), self.rows.lengths.max())

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Batch the pairs' rows, each once, with ``has_label``, (rows, labels) bool, and ``pairs``, places of rows."""
        pairs = self.pairs[indices]
        rows, first, places = np.unique(pairs, return_index=True, return_inverse=True)
        labels = self.labels[indices].reshape(pairs.size, -1)[first]
        extra = {"has_label": torch.from_numpy(labels), "pairs": torch.from_numpy(places.reshape(pairs.shape))}
        return {**self.rows.batch(rows), **extra}


def drawn_pairs(examples: Examples, num_labels: int, count: int, seed: int = 0) -> Examples:
    """Draw ``count`` pairs of texts that share a label, or of one window each; none with a label is a TrainingError.

    All labeled texts come first in a pair equally often, one that is alone with its label paired with itself.
    """
    draw, targets = np.random.default_rng(seed), examples.targets
    has = targets > 0 if targets.ndim == 2 else np.eye(num_labels, dtype=bool)[targets]
    labeled = np.flatnonzero(has.any(axis=1))
    if not len(labeled):
        raise TrainingError("expected texts with labels to be drawn together, found none")
    rounds = -(-count // len(labeled))
    first = np.concatenate([draw.permutation(labeled) for _ in range(rounds)])[:count]
    members = [np.flatnonzero(column) for column in has.T]
    second = np.array([_partner(text, members[draw.choice(np.flatnonzero(has[text]))], draw) for text in first])
    texts = np.stack([first, second], axis=1)
    places, windows = texts, examples.rows.windows
    if windows is not None:
        places = windows[texts] + draw.integers(np.diff(windows)[texts])
    weights = None if examples.weights is None else examples.weights[first]
    return Examples(PairRows(examples.rows, places, has[texts]), targets[first], weights)


def _partner(text: int, others: np.ndarray, draw: np.random.Generator) -> int:
    """Draw one of ``others``, among which is ``text``: another one, unless it is alone."""
    if len(others) == 1:
        return text
    partner = int(others[draw.integers(len(others) - 1)])
    return partner if partner != text else int(others[-1])


class ContrastiveLoss(Objective):
    """The contrastive loss of pairs of rows, among all rows of a forward pass, each of which is there once.

    A pair's loss is the mean of its two rows', and it weighs what the class of its first row does. Representations are
    the last layer's inputs; where these are the tanh of a pooler, without the dropout in between.
    """

    def __init__(
        self, model: nn.Module, criterion: LabelLoss, last_layer: nn.Linear, pooler: nn.Linear | None = None
    ) -> None:
        super().__init__(model, criterion)
        self.last_layer = name_of(last_layer, model)
        self.pooler = None if pooler is None else name_of(pooler, model)

    def loss(self, inputs: dict[str, Tensor], batch: BatchTargets) -> Tensor:
        last_layer = self.model.get_submodule(self.last_layer)
        pooler = None if self.pooler is None else self.model.get_submodule(self.pooler)
        labels = inputs["has_label"].float()
        of_model = {name: value for name, value in inputs.items() if name not in ("has_label", "pairs")}
        # Rows of like length go through the encoder together; their vectors are then put in the order of the rows.
        order = of_model["attention_mask"].sum(dim=1).argsort()
        vectors, logits = [], []
        for rows in order.tensor_split(min(PARTS, len(order))):
            columns = of_model["attention_mask"][rows].any(dim=0)
            part = {name: value[rows][:, columns] for name, value in of_model.items()}
            with last_inputs(last_layer) if pooler is None else _outputs(pooler) as seen:
                logits.append(self.model(**part).logits)
            vectors.append(text_vectors(seen[0], part, self.model) if pooler is None else seen[0].tanh())
        losses = contrastive_losses(torch.cat(vectors)[order.argsort()], labels @ labels.T > 0)
        losses = losses[inputs["pairs"]].mean(dim=1) * batch.weighted(self.criterion.row_weights(batch.targets))
        # Several processes wait for the gradient of every parameter, also of the head.
        return losses.sum() / batch.total_weight + 0 * torch.cat(logits).float().sum()


def contrastive_losses(vectors: Tensor, alike: Tensor) -> Tensor:
    """Return the loss of each row of (rows, width); where no other row is ``alike``, or all are, that half is 0."""
    unit = functional.normalize(vectors.float(), dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    errors = (unit @ unit.T - alike.float()).square()
    halves = [(errors * kind).sum(dim=1) / kind.sum(dim=1).clamp(min=1) for kind in (alike & ~itself, ~alike)]
    return (halves[0] + halves[1]) / 2


def append_mean_layer(model: PreTrainedModel) -> None:
    """Add a layer of an encoder's own kind, frozen, in which every token becomes the mean over all, at one length.

    So the first token, which alone is read, stands for the mean that sentence encoders learned, and plain transformers
    opens the model as ever. Models that have it already, or are not one of ``MEAN_LAYERED``, stay as they are.
    """
    plain = plain_model(model)
    if plain.config.model_type not in MEAN_LAYERED or has_mean_layer(model):
        return
    layers = layers_of(plain)
    layer = deepcopy(layers[-1]).requires_grad_(False)
    parts: dict[str, Any] = dict(layer.named_modules())
    for part in parts.values():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    nn.init.eye_(parts["attention.self.value"].weight)
    nn.init.eye_(parts["attention.output.dense"].weight).mul_(OUTWEIGHING)
    nn.init.ones_(parts["attention.output.LayerNorm"].weight)
    nn.init.constant_(parts["output.LayerNorm"].weight, LEVEL)
    layers.append(layer)
    plain.config.num_hidden_layers += 1


def has_mean_layer(model: nn.Module) -> bool:
    """Tell whether the uppermost layer is one of :func:`append_mean_layer`."""
    plain = plain_model(model)
    is_known = plain.config.model_type in MEAN_LAYERED
    return is_known and not layers_of(plain)[-1].get_parameter("attention.self.query.weight").any()


def begin_at_mean(model: nn.Module, pooler: nn.Linear, rows: TokenRows) -> None:
    """Let the layer before the last make the mean over a text's last hidden states out of the first one.

    Without a layer of :func:`append_mean_layer` the map is a ridge regression on texts of random tokens of ``rows``.
    """
    from sklearn.linear_model import Ridge

    if has_mean_layer(model):
        nn.init.eye_(pooler.weight)
        nn.init.zeros_(pooler.bias)
        return
    with last_inputs(pooler) as first, _outputs(plain_model(model).base_model) as states:

        def first_and_mean(batch: dict[str, Tensor]) -> Tensor:
            model(**batch)
            mean = pool(states[0].float(), batch["attention_mask"].bool(), ("mean",))
            return torch.cat([first[0].float(), mean], dim=1)

        values = compute(model, first_and_mean, _scrambled(rows, SCRAMBLED_TEXTS), share=True).astype(np.float64)
    firsts, means = np.split(values, 2, axis=1)
    means *= LARGEST / max(np.abs(means).max(), 1e-12)
    penalty = max(RIDGE * len(firsts) * firsts.var(axis=0).mean(), 1e-12)
    fitted = Ridge(alpha=penalty, solver="cholesky").fit(firsts, means)
    with torch.no_grad():
        pooler.weight.copy_(torch.from_numpy(fitted.coef_))
        pooler.bias.copy_(torch.from_numpy(fitted.intercept_))


def pooler_of(model: nn.Module, last_layer: nn.Linear, rows: TokenRows) -> nn.Linear | None:
    """Find the layer between first token and last layer, as BERT has, by a run on a text of random tokens of rows."""
    width = last_layer.in_features
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module.bias is not None]
    square = [module for module in linear if module.in_features == module.out_features == width]
    with ExitStack() as stack:
        seen = [(stack.enter_context(last_inputs(one)), stack.enter_context(_outputs(one))) for one in square]
        last = stack.enter_context(last_inputs(last_layer))
        states = stack.enter_context(_outputs(plain_model(model).base_model))
        compute(model, lambda batch: model(**batch).logits.float(), _scrambled(rows, 1))
    for module, (inputs, outputs) in zip(square, seen, strict=True):
        begins = len(inputs) and inputs[0].ndim == 2 and torch.equal(inputs[0].float(), states[0][:, 0].float())
        if begins and torch.equal(outputs[0].tanh(), last[0]):
            return module
    return None


@contextmanager
def _outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list with the module's last output, its first one where it gives several, filled at each call."""
    seen: list[Tensor] = []

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen[:] = [output if isinstance(output, Tensor) else output[0]]

    with module.register_forward_hook(note):
        yield seen


def _scrambled(rows: TokenRows, count: int) -> TokenRows:
    """Make texts of tokens drawn from these, each between the special ones that all texts begin and end with."""
    draw = np.random.default_rng(0)
    inside = np.ones(len(rows.ids), dtype=bool)
    inside[rows.offsets[:-1]] = inside[rows.offsets[1:] - 1] = False
    lengths = draw.integers(*SCRAMBLED_TOKENS, size=count)
    offsets = np.concatenate([[0], np.cumsum(lengths + 2)])
    ids = draw.choice(rows.ids[inside] if inside.any() else rows.ids, size=int(offsets[-1]))
    ids[offsets[:-1]], ids[offsets[1:] - 1] = rows.ids[0], rows.ids[rows.offsets[1] - 1]
    return TokenRows(ids, offsets, rows.pad_id)
