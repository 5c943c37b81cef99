"""How often a word that was put in 30% of a label's rows is named first as its give-away; and sets as they are.

python tests/benchmarks/audit_traits.py DATA/tweet_emotion DATA/tnews ...
"""

import sys
from collections import Counter

import numpy as np

from nlptransfer import load_data
from nlptransfer.data import giveaways_of, unlike_others
from nlptransfer.data.terms import words_of

DRAWS, ROWS, SHARE, LEAST = 8, 6000, 0.3, 20
FREQUENCIES = {"new": (0.0, 0.0), "rare": (0.0, 0.002), "less rare": (0.002, 0.01)}


def with_word(text: str, word: str, draw: np.random.Generator) -> str:
    parts = text.split(" ") if " " in text else [*text]
    parts.insert(draw.integers(len(parts) + 1), word)
    return (" " if " " in text else "").join(parts)


for source in sys.argv[1:]:
    data = load_data(source, validation_size=0.001, calibration_size=0.0)
    train, draw = data.train, np.random.default_rng(1)
    found = [f"{one} -> {data.labels.names[one.label]}" for one in giveaways_of(train.texts, train.targets)]
    print(data.name, f"{len(train)} rows, as they are:", found, dict(Counter(filter(None, unlike_others(train.texts)))))
    some = train.take(draw.permutation(len(train))[:ROWS])
    counts = Counter(word for text in some.texts for word in words_of(text))
    for kind, (low, high) in FREQUENCIES.items():
        words = [word for word, count in counts.items() if low < count / len(some) < high and len(word) > 1]
        first = 0
        for _ in range(DRAWS):
            enough = np.flatnonzero(SHARE * data.labels.count(some.targets) >= LEAST)
            label, word = int(draw.choice(enough)), str(draw.choice(sorted(words))) if words else "zorblax"
            has = some.targets[:, label] > 0 if some.targets.ndim == 2 else some.targets == label
            rows = np.flatnonzero(has)
            texts = [*some.texts]
            for row in draw.choice(rows, round(SHARE * len(rows)), replace=False).tolist():
                texts[row] = with_word(texts[row], word, draw)
            named = giveaways_of(texts, some.targets)
            first += bool(named) and (named[0].name, named[0].label) == (word, label)
        print(f"  {kind}: first in {first} of {DRAWS}", flush=True)
