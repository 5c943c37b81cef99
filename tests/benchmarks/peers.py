"""What the figures are measured beside, each with the settings that its own users would take.

A peer is imported where it is used: without it only the figures that need it are left out.
"""

from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any


def fasttext_train(texts: Sequence[str], labels: Sequence[str], epochs: int = 25) -> Any:
    """A fastText classifier with bigrams; the file of cleaned lines that it learns from is written here too."""
    import fasttext

    ids = {label: number for number, label in enumerate(sorted(set(labels)))}
    with NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        pairs = zip(_lines(texts), labels, strict=True)
        file.writelines(f"__label__{ids[label]} {line}\n" for line, label in pairs)
        file.flush()
        return fasttext.train_supervised(file.name, epoch=epochs, lr=0.5, wordNgrams=2, dim=100, thread=2, verbose=0)


def fasttext_predict(model: Any, texts: Sequence[str]) -> list[str]:
    """One label a text, in a single call."""
    labels, _ = model.predict(_lines(texts))
    return [found[0] for found in labels]


def model2vec_train(encoder: Path, texts: Sequence[str], labels: Sequence[str]) -> tuple[Any, Any]:
    """Static vectors distilled from an encoder, and a logistic regression on the mean of a text's vectors."""
    from model2vec.distill import distill
    from sklearn.linear_model import LogisticRegression

    with redirect_stderr(StringIO()):  # its progress bars
        static = distill(model_name=str(encoder), pca_dims=256)
    return static, LogisticRegression(max_iter=1000, C=10).fit(static.encode(texts), labels)


def model2vec_predict(model: tuple[Any, Any], texts: Sequence[str]) -> list[str]:
    """One label a text."""
    static, head = model
    return list(head.predict(static.encode(texts)))


def gensim_load(path: Path) -> Any:
    """The whole file in memory."""
    from gensim.models import KeyedVectors

    return KeyedVectors.load_word2vec_format(path, binary=False)


def _lines(texts: Sequence[str]) -> list[str]:
    # fastText cuts at white space alone, and a line is a text.
    return [" ".join(text.lower().split()) for text in texts]
