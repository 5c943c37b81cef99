"""Continued pretraining on texts without labels: masked tokens, next tokens, or word vectors."""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer import distributed
from nlptransfer.data import Data
from nlptransfer.errors import BaseModelError, SettingError
from nlptransfer.hub import recorded_base
from nlptransfer.models import Examples, SomeRows, TokenRows, compute, encode, load_language_model, plain_model
from nlptransfer.routes import ROUTES, Built, Route
from nlptransfer.settings import Count, Positive, check
from nlptransfer.training import TARGET, BatchTargets, Objective, TrainingSettings, learned_state, train
from nlptransfer.transfer.base import Sides, Stage, Transfer

log = logging.getLogger("nlptransfer")

SHOWN_AS_MASK, SHOWN_AS_ANOTHER = 0.8, 0.1
"""Shares of the predicted tokens that the model sees as the mask, and as any other token; the rest it sees."""
HELD_OUT_SHARE, MOST_HELD_OUT = 0.1, 1000
"""Share and largest number of the texts that are held out where there are no validation texts."""
RATE, RATE_OF_ADAPTERS, RATE_OF_VECTORS = 1e-4, 1e-3, 0.025
LANGUAGE = Stage("pretrain", (TARGET,), learns="language")


@dataclass(frozen=True)
class Pretrain(Transfer):
    """The model's pretraining, continued on the target's texts before any label is seen.

    Gururangan et al. 2020, "Don't Stop Pretraining", section 4 (TAPT). Encoders learn min -mean log p(token | the rest)
    of masked tokens (Devlin et al. 2019, section 3.1), decoders min -mean log p(token | those before), word vectors
    skip-gram. The epoch with the lowest loss on texts held out is kept, or the base where none lowers it. A head for
    tokens learns with the encoder in full, and is thrown away; in lora the adapter alone learns. Long texts are read
    whole, in windows. It learns from the texts of the target and of a source, labeled or not.
    """

    name: ClassVar[str] = "pretrain"
    stages: ClassVar[tuple[Stage, ...]] = (LANGUAGE,)
    takes_unlabeled: ClassVar[bool] = True
    is_prelude: ClassVar[bool] = True

    mask_probability: Annotated[float, Interval(gt=0, lt=1)] | None = None
    """share of a text's tokens that an encoder is to predict; None: 0.15. Decoders and vectors have none"""
    pretrain_epochs: Count = 10
    """passes over the texts; for word vectors as many again before, in which known ones are held fixed"""
    pretrain_learning_rate: Positive | None = None
    """highest rate; None: 1e-4, for an adapter 1e-3, for word vectors 0.025"""
    pretrain_batch_size: Count = 32
    """texts of one forward pass on one process"""

    def check_fits(self, route: Route, sides: Sides) -> None:
        found = f"{route.name}, whose encoder stays as it is"
        instead = f"take {ROUTES.where(lambda one: one.learns_encoder)}"
        self.require(route.learns_encoder or route.has_vectors, "an encoder that learns", found, instead)
        trims = getattr(route, "trim_vocabulary", False)
        self.require(
            not trims, "the whole vocabulary, out of which tokens are masked", "trim_vocabulary", "leave it out"
        )
        self.require_rows(sides, "give its training data, or leave pretrain out")
        if route.has_vectors:
            self.require_defaults(("mask_probability", "pretrain_batch_size"), "as word vectors have no such setting")

    def at(self, stage: Stage, route: Route, training: TrainingSettings) -> tuple[Route, TrainingSettings]:
        rate = {"learning_rate": RATE_OF_ADAPTERS if route.is_adapter else RATE}
        settings = replace(
            training,
            num_train_epochs=self.pretrain_epochs,
            learning_rate=self.pretrain_learning_rate,
            per_device_train_batch_size=self.pretrain_batch_size,
        )
        return route, settings.with_defaults(rate)

    def learn(
        self,
        route: Route,
        built: Built,
        texts: tuple[Sequence[str], Sequence[str]],
        settings: TrainingSettings,
        checkpoints: Path,
    ) -> dict[str, Any]:
        """Train an encoder in place on the first texts, the second ones held out, and return the stage's record.

        A base without a head that predicts tokens is a BaseModelError; an encoder of which nothing learns, or a mask
        asked for where there is none, a SettingError.
        """
        route.freeze(built.model)
        model, is_masked = load_language_model(recorded_base(built.record), plain_model(built.model).dtype)
        masking = self._masking(model, built.tokenizer, settings.initialization_seed) if is_masked else None
        none = f"none for a decoder, as {built.record['name']} is one"
        check(is_masked or self.mask_probability is None, "mask_probability", self.mask_probability, none)
        with _around(model, built.model, head_learns=not route.is_adapter):
            learn, held_out = (_examples(some, built.tokenizer, masking) for some in texts)
            objective = LanguageLoss(model.to(distributed.state().device), masking)
            return _lowered(objective, learn, held_out, settings, checkpoints, route.parameter_groups(built.model))

    def _masking(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> "Masking":
        mask = tokenizer.mask_token_id
        if mask is None:
            raise BaseModelError(
                "expected a tokenizer with a mask, found none: set mask_token in tokenizer_config.json of the base"
            )
        is_open = np.ones(cast(nn.Embedding, model.get_input_embeddings()).num_embeddings, dtype=bool)
        is_open[[place for place in tokenizer.all_special_ids if place < len(is_open)]] = False
        is_open[len(tokenizer) :] = False
        return Masking(mask, is_open, 0.15 if self.mask_probability is None else self.mask_probability, seed)


@dataclass(frozen=True)
class Masking:
    """Draws the tokens of a text that are to be predicted, and what is seen in their place."""

    mask: int
    """the mask's id"""
    is_open: np.ndarray
    """(vocabulary,) bool: whether a token may be hidden, or stand in for another; special ones may not"""
    probability: float
    seed: int

    def counts(self, rows: TokenRows) -> np.ndarray:
        """Count the tokens of each row that are predicted, (rows,) int64: one at least, where any may be."""
        before = np.concatenate([[0], np.cumsum(self.is_open[rows.ids])])
        candidates = np.diff(before[rows.offsets])
        return np.where(candidates > 0, np.maximum(1, np.rint(self.probability * candidates)), 0).astype(np.int64)

    def draw(self, ids: np.ndarray, when: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of tokens of one row, (tokens,) ids, to be predicted, and the ids that are seen there.

        They depend on the seed, the row's tokens and ``when`` alone: not on the batch, the process, or a resume.
        """
        draw = np.random.default_rng(np.array([self.seed % 2**32, when, *ids], dtype=np.uint32))
        candidates = np.flatnonzero(self.is_open[ids])
        count = max(1, round(self.probability * len(candidates)))
        places = draw.permutation(candidates)[:count]
        kind = draw.random(len(places))
        others = draw.choice(np.flatnonzero(self.is_open), len(places))
        seen = np.where(kind < SHOWN_AS_MASK + SHOWN_AS_ANOTHER, others, ids[places])
        return places, np.where(kind < SHOWN_AS_MASK, self.mask, seen)


class LanguageLoss(Objective):
    """-log p of tokens, the mean over all that are predicted in a step; each token's next one without ``masking``."""

    # The head has them, too, and a masked token may become any other.
    needs_all_embeddings: ClassVar[bool] = True

    def __init__(self, model: PreTrainedModel, masking: Masking | None) -> None:
        # There is no criterion of labels.
        nn.Module.__init__(self)
        self.model, self.masking = model, masking

    def loss(self, inputs: dict[str, Tensor], batch: BatchTargets) -> Tensor:
        # A step has a number of its own, from 1; 0 is for what is held out.
        losses, _ = self._token_losses(inputs, 1 + int(batch.progress * 2**31))
        return losses.sum() / batch.total_weight

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return (rows, 2): the sum of the losses of a row's tokens, under an unchanging mask, and their number."""
        losses, chosen = self._token_losses(inputs, 0)
        sums = losses.new_zeros(len(chosen)).index_add(0, chosen.nonzero()[:, 0], losses)
        return torch.stack([sums, chosen.sum(dim=1).to(sums)], dim=1)

    def _token_losses(self, inputs: dict[str, Tensor], when: int) -> tuple[Tensor, Tensor]:
        """Return the losses of the predicted tokens, and which they are, (rows, tokens) bool."""
        ids, real = inputs["input_ids"], inputs["attention_mask"].bool()
        if self.masking is None:
            seen, chosen = ids, functional.pad(real[:, 1:] & real[:, :-1], (0, 1))
            expected = ids.roll(-1, dims=1)[chosen]
        else:
            seen, chosen = _masked(ids, real, self.masking, when)
            expected = ids[chosen]
        # The layer over the vocabulary, which is most of the cost, gets the predicted places alone.
        output_layer: nn.Module = cast(Any, self.model).get_output_embeddings()
        with output_layer.register_forward_pre_hook(lambda _module, hidden: (hidden[0][chosen],)):
            logits = self.model(**{**inputs, "input_ids": seen}).logits
        if logits.ndim == 3:
            # The architecture has that layer elsewhere, and gives all places.
            logits = logits[chosen]
        return functional.cross_entropy(logits.float(), expected, reduction="none"), chosen

    def row_weights(self, targets: Tensor, role: str = TARGET) -> Tensor:
        return torch.ones(len(targets), device=targets.device)

    @property
    def _no_split_modules(self) -> list[str]:
        # A weight that embeddings and output layer share must not be split into the shards of both.
        shared = {id(value) for value in cast(Any, self.model).get_output_embeddings().parameters()}
        modules = [module for module in self.model.modules() if shared & {id(value) for value in module.parameters()}]
        return sorted({*super()._no_split_modules} - {type(module).__name__ for module in modules})


def language_texts(target: Data, others: Sequence[Data], seed: int) -> tuple[list[str], list[str]]:
    """Return texts to learn from, and texts of the target that are held out: none of a test split, each text once.

    Validation texts are held out, or, where the target has none, a share of the others, drawn by ``seed``.
    """
    every = (target, *others)
    left_out = {text for one in every for split in (one.validation, one.calibration, one.test) for text in split.texts}
    held_out = [*dict.fromkeys(target.validation.texts)]
    if not held_out:
        texts = [text for text in dict.fromkeys((*target.train.texts, *target.unlabeled)) if text not in left_out]
        count = min(MOST_HELD_OUT, math.ceil(HELD_OUT_SHARE * len(texts)))
        places = np.random.default_rng(seed).permutation(len(texts))[:count]
        held_out = [texts[place] for place in np.sort(places)]
    left_out.update(held_out)
    learned = dict.fromkeys(text for one in every for text in (*one.train.texts, *one.unlabeled))
    return [text for text in learned if text not in left_out], held_out


def pretrained_base(
    transfer: Transfer,
    route: Route,
    base: str | None,
    revision: str | None,
    target: Data,
    others: Sequence[Data],
    seed: int,
) -> tuple[str | None, str | None, dict[str, Any] | None]:
    """Return the base that a route builds on, and its revision: as asked for, or word vectors trained further.

    The third is the record of the stage in which such were trained, or taken from the cache. All processes call this
    together, before the model is built: new words change its size.
    """
    pretrain = next((part for part in transfer.parts if isinstance(part, Pretrain)), None)
    if pretrain is None or not route.has_vectors:
        return base, revision, None
    started = time.perf_counter()
    texts, _ = language_texts(target, others, seed)
    training = {"epochs": pretrain.pretrain_epochs, "learning_rate": pretrain.pretrain_learning_rate or RATE_OF_VECTORS}
    continued = route.continued_vectors(texts, base, revision, **training, seed=seed)
    # Known words are held fixed in as many passes again.
    examples = 2 * pretrain.pretrain_epochs * len(texts)
    return continued, None, {"seconds": time.perf_counter() - started, "examples": examples}


def _lowered(
    objective: LanguageLoss,
    learn: Examples,
    held_out: Examples,
    settings: TrainingSettings,
    checkpoints: Path,
    parameter_groups: Mapping[str, Any],
) -> dict[str, Any]:
    """Train; where the loss on held-out texts does not fall, everything stays as it was."""
    start = {name: value.detach().to("cpu", copy=True) for name, value in learned_state(objective).items()}
    before = (
        _mean(compute(objective, objective, held_out.rows, share=True, shown="texts held out"))
        if len(held_out.rows)
        else None
    )
    report = train(
        objective,
        learn,
        held_out,
        score=lambda sums: -_mean(sums),
        metric="loss",
        settings=settings,
        checkpoints=checkpoints,
        parameter_groups=parameter_groups,
    )
    record: dict[str, Any] = {"texts": len(learn.rows), "held_out": len(held_out.rows), "loss_before": before}
    if before is not None and report.best_score is not None:
        after = -report.best_score
        record |= {"loss_after": after, "kept": after < before}
        log.info("Pretraining: the loss on held-out texts was %.4f before and is %.4f after", before, after)
        if not record["kept"]:
            log.warning("Pretraining: no epoch lowers the loss on held-out texts, so the base stays as it was")
            objective.load_state_dict(start, strict=False)
    return {**asdict(report), "language": record}


def _mean(sums: np.ndarray) -> float:
    """Return the mean loss of a token out of (rows, 2): sums of losses, and numbers of tokens."""
    total, tokens = sums.sum(axis=0, dtype=np.float64)
    return float(total / tokens)


def _examples(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, masking: Masking | None) -> Examples:
    """Return the rows with a token to predict, each window by itself; a row weighs as many tokens as are predicted."""
    rows = encode(texts, tokenizer, tokenizer.model_max_length, "windows")
    counts = np.maximum(rows.lengths - 1, 0) if masking is None else masking.counts(rows)
    some = np.flatnonzero(counts)
    no_labels = np.zeros(len(some), dtype=np.int64)
    return Examples(SomeRows(replace(rows, windows=None), some), no_labels, counts[some].astype(np.float32))


def _masked(ids: Tensor, real: Tensor, masking: Masking, when: int) -> tuple[Tensor, Tensor]:
    """Return what is seen of (rows, tokens) ids, and which of them are to be predicted."""
    seen, chosen = ids.cpu().numpy().copy(), np.zeros(ids.shape, dtype=bool)
    for row, mask in enumerate(real.cpu().numpy()):
        columns = np.flatnonzero(mask)
        places, shown = masking.draw(seen[row, columns], when)
        seen[row, columns[places]], chosen[row, columns[places]] = shown, True
    return torch.from_numpy(seen).to(ids.device), torch.from_numpy(chosen).to(ids.device)


@contextmanager
def _around(model: PreTrainedModel, classifier: nn.Module, *, head_learns: bool) -> Iterator[None]:
    """Put the classifier's encoder, the same parameters, into a language model, whose own head may learn or not."""
    encoder = plain_model(classifier).base_model
    setattr(model, model.base_model_prefix, encoder)
    # An output layer that shares the embeddings' weights had those of the encoder that is gone.
    model.tie_weights()
    if not head_learns:
        of_encoder = {id(parameter) for parameter in encoder.parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.requires_grad and id(parameter) in of_encoder)
    # No token is predicted by a pooler, and several processes wait for the gradient of all that learns.
    idle = [value for name, value in encoder.named_parameters() if "pooler" in name and value.requires_grad]
    for parameter in idle:
        parameter.requires_grad_(False)
    try:
        if not any(parameter.requires_grad for parameter in encoder.parameters()):
            raise SettingError("transfer=pretrain: expected layers that learn, found all frozen: freeze fewer layers")
        yield
    finally:
        for parameter in idle:
            parameter.requires_grad_(True)
