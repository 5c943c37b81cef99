"""Few labeled rows per class: texts of a class are drawn together and the others apart, then a head is fitted."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from nlptransfer.errors import SettingError, TrainingError
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
from nlptransfer.routes import Route
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
"""So many that each of a few dozen rows is in almost every step."""
LEAST_PAIRS, PAIRS_PER_ROW = 12 * PAIRS_PER_STEP, 4
"""Pairs of an epoch, where none are asked for: so many, or so many for each row if that is more."""
RATE, RATE_OF_ADAPTERS = 1e-4, 5e-4
PARTS = 4
"""Rows of a step, which are of any length, go through the encoder in so many parts of like length."""
MEAN_LAYERED = ("bert", "camembert", "roberta", "xlm-roberta")
"""Model types that can have a layer that makes the mean."""
OUTWEIGHING, LEVEL = 1000.0, 0.2
"""How many times as much as a token itself the mean counts there; and the spread of the numbers that come out."""
SCRAMBLED_TEXTS, SCRAMBLED_TOKENS = 1000, (4, 20)
"""Texts of random tokens, and how many tokens each has, by which a first token learns to stand for the mean."""
RIDGE = 0.03
"""L2 strength of that, as a share of the mean variance of what a first token has become."""
LARGEST = 0.5
"""Means are scaled to at most this: so far tanh is almost a straight line."""


@dataclass(frozen=True)
class Contrastive(Transfer):
    """min mean_i [mean_{p in P(i)} (1 - cos(z_i, z_p))^2 + mean_{n in N(i)} cos(z_i, z_n)^2] / 2, then a head.

    For few rows of each class, as SetFit (Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts", section
    3.1), whose loss it is: the squared error of a cosine that should be 1 of two texts of a class and 0 of others
    (Reimers and Gurevych 2019, "Sentence-BERT", section 3, regression objective). z is what the last layer takes of a
    text; P(i) are the other rows of the batch that share a label with row i, and N(i) those that share none: either
    kind counts alike, as in SetFit, which draws as many pairs of one as of the other. Batches are drawn as pairs of
    rows that share a label; each row of a batch goes through the encoder once, however many pairs it is in, and is
    compared with all others (of its own process): there is no list of all pairs, and the memory grows with the rows.
    The last layer is then fitted on what the tuned encoder gives. Validation rows are learned by the last layer alone.
    """

    name: ClassVar[str] = "contrastive"
    stages: ClassVar[tuple[Stage, ...]] = (CONTRAST, HEAD)

    num_pairs: Count | None = None
    """pairs of rows that are drawn, and passed over in each epoch; None: 768, or 4 for each row if that is more"""
    mean_start: bool = True
    """whether the last layer begins with the mean over a text's tokens, where what sentence encoders have learned lies,
    and not with the first token: by a further layer that attends to all tokens alike, and for lora, whose base must
    stay as it is, by a map from the one to the other; of BERT, RoBERTa and the like"""

    def check_fits(self, route: Route, sides: Sides) -> None:
        if not route.learns_encoder:
            raise SettingError(
                f"transfer={self.name}: expected an encoder that learns, found {route.name}: take full or lora, or "
                f"{route.name} without {self.name}, which is quick and good with few rows too"
            )
        instead = {
            "head_first": "false, as the last layer is fitted at the end",
            "freeze_layers": "none, as all layers learn from pairs: layer_decay slows the lower",
            "layers": "none, as all layers learn from pairs: layer_decay slows the lower",
        }
        for name, expected in instead.items():
            value = getattr(route, name) if name in route.per_stage else None
            check(not value, name, value, expected)

    def at(self, stage: Stage, route: Route, training: TrainingSettings) -> tuple[Route, TrainingSettings]:
        good: dict[str, Any] = {
            "num_train_epochs": 1,
            "learning_rate": RATE_OF_ADAPTERS if route.is_adapter else RATE,
            "per_device_train_batch_size": PAIRS_PER_STEP,
        }
        unasked = {name: value for name, value in good.items() if getattr(training, name) is None}
        return route, replace(training, **unasked)

    def prepare(self, stage: Stage, route: Route, model: PreTrainedModel) -> None:
        if stage is CONTRAST and self.mean_start and not route.is_adapter and not has_mean_layer(model):
            append_mean_layer(model)

    def objective(self, stage: Stage, learner: Learner) -> Objective:
        # No layer is frozen, so they are tokens.
        rows = cast(TokenRows, learner.examples[TARGET].rows)
        pooler = pooler_of(learner.module, learner.last_layer, rows)
        if pooler is not None and self.mean_start:
            if has_mean_layer(learner.module):
                pass_on(pooler)
            else:
                begin_at_mean(learner.module, pooler, rows)
        return ContrastiveLoss(learner.module, learner.criteria[TARGET], learner.last_layer, pooler)

    def examples(self, stage: Stage, learner: Learner) -> Mapping[str, Examples]:
        own = learner.examples[TARGET]
        count = self.num_pairs or max(LEAST_PAIRS, PAIRS_PER_ROW * len(own.targets))
        return {TARGET: drawn_pairs(own, learner.last_layer.out_features, count)}

    def fit_head(self, stage: Stage, tasks: Mapping[str, HeadTask], source: Head | None) -> FittedHead:
        # The encoder has learned from the training rows: what folds of them say of a strength is too good to be true.
        task = replace(tasks[TARGET], folds_know=True)
        if not are_few(len(task.train), len(task.validation)):
            return task.choose_l2()
        # 1 on vectors of length 1, as SetFit's logistic regression has it.
        return replace(task, l2=float(np.square(task.train.values).sum(axis=1).mean())).choose_l2()


@dataclass(frozen=True)
class PairRows:
    """Pairs of rows, each pair in place of one row."""

    rows: Rows
    pairs: np.ndarray
    """(pairs, 2) int64, places of rows"""
    labels: np.ndarray
    """(pairs, 2, labels) bool, of either row"""

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of the longest row, for each pair, (pairs,): batches of like length would be of the same few rows."""
        return np.full(len(self.pairs), self.rows.lengths.max())

    @property
    def windows(self) -> None:
        return None

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """As the rows', each once, with ``has_label``, (rows, labels) bool, and ``pairs``, (len(indices), 2), by which
        of these rows they are of."""
        pairs = self.pairs[indices]
        rows, first, places = np.unique(pairs, return_index=True, return_inverse=True)
        labels = self.labels[indices].reshape(pairs.size, -1)[first]
        own = {"has_label": torch.from_numpy(labels), "pairs": torch.from_numpy(places.reshape(pairs.shape))}
        return {**self.rows.batch(rows), **own}


def drawn_pairs(examples: Examples, num_labels: int, count: int, seed: int = 0) -> Examples:
    """Pairs of texts that share a label, drawn one by one; of a text in windows one window.

    All texts with a label come first in a pair equally often. The other one has one of its labels, drawn at random; a
    text that is alone with it is paired with itself.

    Args:
        num_labels: labels there are.
        count: pairs to draw.

    Raises:
        TrainingError: no text has a label.
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
    """One of ``others``, of which ``text`` is one, but for itself unless it is alone."""
    if len(others) == 1:
        return int(others[0])
    found = int(others[draw.integers(len(others) - 1)])
    return found if found != text else int(others[-1])


class ContrastiveLoss(Objective):
    """The contrastive loss of pairs of rows, among all rows of a forward pass, each of which is there once.

    A pair loses the mean of what its two rows do, and weighs what the class of its first row does.

    Args:
        last_layer: the model's last layer; what it takes is the representation.
        pooler: the layer whose tanh that is, where there is one: seen there, the dropout between is left out.
    """

    def __init__(
        self, model: nn.Module, criterion: LabelLoss, last_layer: nn.Linear, pooler: nn.Linear | None = None
    ) -> None:
        super().__init__(model, criterion)
        self.last_layer = name_of(last_layer, model)
        self.pooler = None if pooler is None else name_of(pooler, model)

    def forward(self, inputs: dict[str, Tensor], batch: BatchTargets | None = None) -> Tensor:
        if batch is None:
            return super().forward(inputs)
        labels = inputs["has_label"].float()
        own = {name: value for name, value in inputs.items() if name not in ("has_label", "pairs")}
        vectors, logits = self._seen(own)
        losses = contrastive_losses(vectors, labels @ labels.T > 0)[inputs["pairs"]].mean(dim=1)
        weights = self.criterion.row_weights(batch.targets)
        if batch.weights is not None:
            weights = weights * batch.weights
        # Several processes wait for the gradient of every parameter, also of the head.
        return (losses * weights).sum() / batch.total_weight + 0 * logits.float().sum()

    def _seen(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Representations, (rows, width), in the order of the rows; and logits, in some order."""
        last_layer = self.model.get_submodule(self.last_layer)
        pooler = None if self.pooler is None else self.model.get_submodule(self.pooler)
        order = inputs["attention_mask"].sum(dim=1).argsort()
        vectors, logits = [], []
        for rows in order.tensor_split(min(PARTS, len(order))):
            columns = inputs["attention_mask"][rows].any(dim=0)
            part = {name: value[rows][:, columns] for name, value in inputs.items()}
            with last_inputs(last_layer) as taken, _outputs(pooler) as pooled:
                logits.append(self.model(**part).logits)
            vectors.append(pooled[0].tanh() if pooled else text_vectors(taken[0], part, self.model))
        return torch.cat(vectors)[order.argsort()], torch.cat(logits)


def contrastive_losses(vectors: Tensor, alike: Tensor) -> Tensor:
    """(rows,) float32: what each row loses; where no other row is like it, or all are, that half is 0.

    Args:
        vectors: (rows, width), of any length.
        alike: (rows, rows) bool, whether two rows share a label.
    """
    unit = functional.normalize(vectors.float(), dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    errors = (unit @ unit.T - alike.float()).square()
    halves = [(errors * kind).sum(dim=1) / kind.sum(dim=1).clamp(min=1) for kind in (alike & ~itself, ~alike)]
    return (halves[0] + halves[1]) / 2


def append_mean_layer(model: PreTrainedModel) -> bool:
    """Give an encoder a layer more, of its own kind, in which every token becomes the mean over all, at one length.

    It attends to all tokens alike, outweighs what was there by ``OUTWEIGHING``, and adds nothing else: so the first
    token, which alone is read, stands for the mean that sentence encoders learned, and plain transformers opens the
    model as ever. The layer itself does not learn.

    Returns:
        Whether the architecture is one of ``MEAN_LAYERED``; else nothing is changed.
    """
    plain = plain_model(model)
    if plain.config.model_type not in MEAN_LAYERED:
        return False
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
    return True


def has_mean_layer(model: nn.Module) -> bool:
    """Whether the uppermost layer is one of :func:`append_mean_layer`."""
    plain = plain_model(model)
    if plain.config.model_type not in MEAN_LAYERED:
        return False
    query = cast(nn.Linear, layers_of(plain)[-1].get_submodule("attention.self.query"))
    return not query.weight.any()


def pass_on(pooler: nn.Linear) -> None:
    """Let a layer give what it takes."""
    nn.init.eye_(pooler.weight)
    nn.init.zeros_(pooler.bias)


def begin_at_mean(model: nn.Module, pooler: nn.Linear, rows: TokenRows) -> None:
    """Let the layer before the last make the mean over a text's last hidden states out of the first one.

    Both say much the same: the linear map between them is fitted by ridge regression on texts that are put together of
    random tokens of ``rows``, without any label.

    Args:
        model: a classifier.
        pooler: as :func:`pooler_of` finds it in the model; it is changed.
        rows: texts of the task.
    """
    with last_inputs(pooler) as first, _last_states(model) as states:

        def taken(batch: dict[str, Tensor]) -> Tensor:
            model(**batch)
            mean = pool(states[0].float(), batch["attention_mask"].bool(), ("mean",))
            return torch.cat([first[0].float(), mean], dim=1)

        found = compute(model, taken, _scrambled(rows, SCRAMBLED_TEXTS), share=True).astype(np.float64)
    given, wanted = np.split(found, 2, axis=1)
    wanted *= LARGEST / max(np.abs(wanted).max(), 1e-12)
    center, middle = given.mean(axis=0), wanted.mean(axis=0)
    inner = (given - center).T @ (given - center)
    inner += max(RIDGE * np.trace(inner) / len(inner), 1e-12) * np.eye(len(inner))
    weight = np.linalg.solve(inner, (given - center).T @ (wanted - middle))
    with torch.no_grad():
        pooler.weight.copy_(torch.from_numpy(weight.T))
        pooler.bias.copy_(torch.from_numpy(middle - center @ weight))


def pooler_of(model: nn.Module, last_layer: nn.Linear, rows: TokenRows) -> nn.Linear | None:
    """The layer that takes the first of the last hidden states, and whose tanh the last layer takes, as in BERT.

    Args:
        last_layer: of the model.
        rows: texts of the task, to see it by.
    """
    seen: dict[nn.Linear, tuple[Tensor, Tensor]] = {}

    def note(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[module] = inputs[0], output

    width = last_layer.in_features
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module.bias is not None]
    square = [module for module in linear if module.in_features == module.out_features == width]
    hooks = [module.register_forward_hook(note) for module in square]
    try:
        with last_inputs(last_layer) as last, _last_states(model) as states:
            compute(model, lambda batch: model(**batch).logits.float(), _scrambled(rows, 1))
    finally:
        for hook in hooks:
            hook.remove()
    for module, (taken, made) in seen.items():
        begins = taken.ndim == 2 and torch.equal(taken.float(), states[0][:, 0].float())
        if begins and torch.equal(made.tanh(), last[0]):
            return module
    return None


@contextmanager
def _outputs(module: nn.Module | None) -> Iterator[list[Tensor]]:
    """Within it a list that holds what a module gave last; empty without one."""
    seen: list[Tensor] = []

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen[:] = [output if isinstance(output, Tensor) else output[0]]

    hook = None if module is None else module.register_forward_hook(note)
    try:
        yield seen
    finally:
        if hook is not None:
            hook.remove()


def _last_states(model: nn.Module) -> AbstractContextManager[list[Tensor]]:
    """Within it a list that holds the encoder's last hidden states, (rows, tokens, width)."""
    return _outputs(plain_model(model).base_model)


def _scrambled(rows: TokenRows, count: int) -> TokenRows:
    """Texts of tokens drawn from these, each between the special ones that all texts begin and end with."""
    draw = np.random.default_rng(0)
    inside = np.ones(len(rows.ids), dtype=bool)
    inside[rows.offsets[:-1]] = inside[rows.offsets[1:] - 1] = False
    lengths = draw.integers(*SCRAMBLED_TOKENS, size=count)
    offsets = np.concatenate([[0], np.cumsum(lengths + 2)])
    ids = draw.choice(rows.ids[inside] if inside.any() else rows.ids, size=int(offsets[-1]))
    ids[offsets[:-1]], ids[offsets[1:] - 1] = rows.ids[0], rows.ids[rows.offsets[1] - 1]
    return TokenRows(ids, offsets, rows.pad_id)
