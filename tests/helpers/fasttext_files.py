"""fastText's own files, as gensim writes them for the real one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gensim.models.fasttext import FastText, save_facebook_model


def save_fasttext(path: Path, sentences: Sequence[Sequence[str]], **settings: int) -> Path:
    """Train a tiny fastText model and save it; its n-grams are random, as training leaves them all but zero."""
    shape = {"vector_size": 5, "min_count": 1, "epochs": 1, "workers": 1, "seed": 0, "bucket": 50}
    model = FastText(sentences, **(shape | settings))
    model.wv.vectors_ngrams[:] = np.random.default_rng(0).normal(size=model.wv.vectors_ngrams.shape)
    save_facebook_model(model, str(path))
    return path
