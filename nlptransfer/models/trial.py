"""Try a model on a few rows before anything learns, and find what it asks of rows.
It knows rows and outputs, not architectures."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nlptransfer.errors import BaseModelError, NlpTransferError, first_line
from nlptransfer.models.memory import is_out_of_memory
from nlptransfer.models.tokens import TokenRows, encode, limit, limits_of, token_counts

log = logging.getLogger("nlptransfer")

LEAST = (1, 2, 4, 8, 16, 32, 64)
"""Lengths that a model may need."""
LONG, LONGEST = 24, 512
"""Tokens of the rows that are compared, and the most that are read at all."""
WORDS = (LONGEST, LONGEST, 1, 7)
"""Tokens of the vocabulary in the texts, besides an empty one."""
PADDED = [0, 1, 2, 3, 4]
"""Places of the texts that are compared; the last, which is empty, may have no token at all."""
TOLERANCES = {torch.float32: 1e-4}
"""Largest difference of outputs, as a share of their size, that is rounding."""
IN_16_BITS = 0.1
Outputs = Callable[[dict[str, Tensor]], Tensor]


def try_rows(model: Any, tokenizer: PreTrainedTokenizerFast, base: str, outputs: Outputs) -> None:
    """Compute rows of several lengths, each alone and in a batch; change the tokenizer until both give the same.

    ``outputs`` maps a batch of n rows, on the model's device, to (n, width). Padding goes to the other side where that
    helps; or rows of one length alone are predicted together; or short rows are padded, see :class:`RowLimits`. A
    model that fails on a row, in which rows of one length change each other, or that reads nothing of them, is a
    BaseModelError.
    """
    trial = _Trial(model, tokenizer, base, outputs)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        modes = [(module, module.training) for module in model.modules()]
        try:
            model.eval()
            trial.run()
            model.train()
            trial.batch(PADDED)
        finally:
            for module, mode in modes:
                module.training = mode


@contextmanager
def trying(base: str, what: str) -> Iterator[None]:
    """Turn what a model raises into a BaseModelError, but where memory has run out."""
    try:
        yield
    except NlpTransferError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        found = f"{type(error).__name__}: {first_line(error).rstrip('.')}"
        raise BaseModelError(
            f"{base}: expected a model that reads {what}, found {found}: take another encoder"
        ) from error


class _Trial:
    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerFast, base: str, outputs: Outputs) -> None:
        self.model, self.tokenizer, self.base, self.outputs = model, tokenizer, base, outputs
        parameter = next(model.parameters())
        self.device, self.tolerance = parameter.device, TOLERANCES.get(parameter.dtype, IN_16_BITS)
        known, special = limits_of(tokenizer).embeddings or len(tokenizer), {*tokenizer.all_special_ids}
        words = sorted(number for number in tokenizer.get_vocab().values() if number < known and number not in special)
        draw = Random(0)
        self.texts = [str(tokenizer.decode(draw.choices(words, k=count))) for count in WORDS] + [""]
        counts = token_counts(self.texts, tokenizer)
        # The prompt is read before all of them.
        self.length = min(int(counts[-1]) + LONG, *counts[:2].tolist(), tokenizer.model_max_length)
        one, other = np.split(encode(self.texts[:2], tokenizer, None).ids, counts[:1])
        if np.array_equal(one, other):
            raise self._refusal("a tokenizer that tells texts apart", "one that reads two texts alike")

    def run(self) -> None:
        self._find_least()
        alone = torch.cat([self.batch([row]) for row in PADDED])
        if not torch.isfinite(alone[:-1]).all():
            raise self._refusal("finite numbers", "others")
        if self._same(alone[:1], alone[1:2], share=1e-6):
            raise self._refusal("other outputs for other texts", "the same")
        if not self._same(self.batch([0, 1]), alone[:2]):
            raise self._refusal("the same outputs for a text in a batch with another one", "others")
        self._find_padding(alone)
        self._find_segments(alone)
        self.batch([0], encode(self.texts[:1], self.tokenizer, min(self.tokenizer.model_max_length, LONGEST)))

    def _find_padding(self, alone: Tensor) -> None:
        side = self.tokenizer.padding_side
        for other in (side, *{"left", "right"} - {side}):
            self._set("padding_side", other)
            if self._same(torch.nan_to_num(self.batch(PADDED)), torch.nan_to_num(alone)):
                if other != side:
                    log.info("%s: padding goes to the %s, as it changes predictions on the %s", self.base, other, side)
                return
        self._set("padding_side", side)
        limit(self.tokenizer, one_length=True)
        log.warning(
            "%s: padding changes its predictions: texts of one length alone are predicted together, and plain "
            "transformers gives the same for one text at a time",
            self.base,
        )

    def _find_segments(self, alone: Tensor) -> None:
        # Rows leave segments out that are all 0; plain transformers does not, and to XLNet that is another text.
        names = self.tokenizer.model_input_names
        if "token_type_ids" not in names or self.rows.type_ids is not None:
            return
        zeros = np.zeros(len(self.rows.ids), dtype=np.int8)
        if not self._same(self.batch([0], replace(self.rows, type_ids=zeros)), alone[:1]):
            self._set("model_input_names", [name for name in names if name != "token_type_ids"])

    def _set(self, name: str, value: Any) -> None:
        if getattr(self.tokenizer, name) != value:
            setattr(self.tokenizer, name, value)
            # These are what is saved.
            self.tokenizer.init_kwargs[name] = value

    @property
    def rows(self) -> TokenRows:
        """Two rows of one length, shorter ones and an empty one."""
        return encode(self.texts, self.tokenizer, self.length)

    def _find_least(self) -> None:
        failed: BaseModelError | None = None
        for least in LEAST:
            if least > 1:
                limit(self.tokenizer, least=least)
            try:
                for row in (2, 3, 4):
                    self.batch([row])
                if failed is not None:
                    log.info("%s: shorter texts are padded to %d tokens", self.base, least)
                return
            except BaseModelError as error:
                failed = failed or error
        assert failed is not None
        raise failed

    def batch(self, places: list[int], rows: TokenRows | None = None) -> Tensor:
        rows = self.rows if rows is None else rows
        longest = int(rows.lengths[places].max())
        with trying(self.base, f"rows of {longest} tokens"):
            inputs = {name: value.to(self.device) for name, value in rows.batch(np.array(places)).items()}
            return self.outputs(inputs).float()

    def _same(self, one: Tensor, other: Tensor, share: float | None = None) -> bool:
        # By column: a few may be much larger than all others.
        scale = torch.maximum(one.abs(), other.abs()).amax(dim=0)
        scale = scale.clamp(min=float(scale.median()))
        return bool(((one - other).abs() <= (self.tolerance if share is None else share) * scale).all())

    def _refusal(self, expected: str, found: str) -> BaseModelError:
        return BaseModelError(f"{self.base}: expected {expected}, found {found}: take another encoder")
