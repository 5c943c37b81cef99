"""What each word of a text does to its label. It does not know how a model computes, nor how words are shown."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from transformers import PreTrainedTokenizerFast

from nlptransfer.data import JOINT, normalize
from nlptransfer.errors import SettingError, nearest
from nlptransfer.evaluation import to_probabilities
from nlptransfer.vectors import is_unspaced

if TYPE_CHECKING:
    from nlptransfer.classifier.classifier import Classifier

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]+")
"""Words with their apostrophes, and runs of marks."""
PROMPT_WORDS = 5
"""Words that Python's prompt shows."""


@dataclass(frozen=True)
class Word:
    """A word of a text, and what it does."""

    text: str
    start: int
    """place of its first character in the text, from 0"""
    end: int
    """place after its last one"""
    effect: float
    """what it adds to the log-odds of the label, that is to ln(p / p of ``against``)"""


@dataclass(frozen=True, repr=False)
class Explanation:
    """The label of a text, and what each of its words does to it."""

    text: str
    label: str
    probability: float
    against: str | None
    """the likeliest other label; None where labels are given independently of each other"""
    words: tuple[Word, ...]
    """in the order of the text"""

    def __repr__(self) -> str:
        words = ", ".join(f"{word.text} {word.effect:+.2f}" for word in self.strongest(PROMPT_WORDS))
        return f"Explanation({self.text!r}: {self.label} {self.probability:.3f}; {words})"

    def strongest(self, count: int) -> list[Word]:
        """Return the words that do most, for the label or against it."""
        return sorted(self.words, key=lambda word: -abs(word.effect))[:count]


def explained(classifier: "Classifier", text: str, label: str | None) -> Explanation:
    """Explain a label of a text, its likeliest one if None.

    Where the logits are sums over the words, these are their effects. Else each word is left out once, and its effect
    is what the log-odds lose by that (occlusion, Zeiler and Fergus 2014; Li et al. 2016).
    """
    labels = classifier.labels
    logits = classifier.logits([text])
    probabilities = to_probabilities(logits, labels)[0]
    if label is not None and label not in labels.names:
        raise SettingError(f"label {label!r}: {nearest(label, labels.names)}")
    place = int(probabilities.argmax()) if label is None else labels.names.index(label)
    others = [] if labels.multi_label else [other for other in np.argsort(-probabilities) if other != place][:1]

    def log_odds(values: np.ndarray) -> np.ndarray:
        return values[:, place] - (values[:, others[0]] if others else 0.0)

    (normal,) = normalize(classifier.normalization, [text])
    parts = None
    if normal == text:
        parts = classifier.route.contributions(classifier.model, classifier.tokenizer, text)
    if parts is not None:
        spans, effects = parts[0], log_odds(parts[1])
    else:
        spans = [*_words(text, classifier.tokenizer)]
        without = [text[:start] + text[end:] for start, end in spans]
        effects = log_odds(logits) - log_odds(classifier.logits(without)) if spans else np.zeros(0)
    words = (
        Word(text[start:end], start, end, float(effect)) for (start, end), effect in zip(spans, effects, strict=True)
    )
    against = labels.names[others[0]] if others else None
    return Explanation(text, labels.names[place], float(probabilities[place]), against, tuple(words))


def _words(text: str, tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[int, int]]:
    """Yield the (start, end) of each word; in scripts without spaces, of each piece that the tokenizer makes."""
    for match in _WORD.finditer(text):
        if match[0] == JOINT.strip():
            continue
        if not is_unspaced([match[0]]):
            yield match.span()
            continue
        end = 0
        for start, stop in tokenizer.backend_tokenizer.encode(match[0], add_special_tokens=False).offsets:
            # Pieces of one character share its place.
            if stop > max(start, end):
                yield match.start() + max(start, end), match.start() + stop
                end = stop
