"""Rows with several labels whose frequencies have a long tail, composed of texts with one label each."""

import random
from collections.abc import Mapping, Sequence

Rows = Mapping[str, Sequence[str]]
"""Texts by label."""

MOST_LABELS = 4
ALONE = 0.84
"""Share of rows with one label alone, as in Reuters-21578."""


def tail(labels: int, most: int) -> list[int]:
    """Rows of labels that fall evenly over the logarithm, from ``most`` to one."""
    return [max(1, round(most ** (1 - rank / (labels - 1)))) for rank in range(labels)]


def long_tailed(sources: Rows, counts: Mapping[str, int], seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """Compose rows that carry each label as often as ``counts`` say. Each text is used once."""
    draw = random.Random(seed)
    parts = [(name, text) for name, rows in counts.items() for text in draw.sample(list(sources[name]), rows)]
    draw.shuffle(parts)
    texts, sets = [], []
    while parts:
        wanted = 1 if draw.random() < ALONE else draw.randint(2, MOST_LABELS)
        row: dict[str, str] = {}
        for name, text in [parts.pop() for _ in range(min(wanted, len(parts)))]:
            if name in row:
                parts.insert(draw.randrange(len(parts) + 1), (name, text))
            row.setdefault(name, text)
        texts.append(" ".join(row.values()))
        sets.append(sorted(row))
    return texts, sets
