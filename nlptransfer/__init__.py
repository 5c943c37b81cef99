"""Transfer pretrained language models to your own text."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Threads that wait for each other spin a little, then give way. By default they spin on, and on a machine that others
# use too a small model trains several times more slowly. GNU's OpenMP reads it once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

if TYPE_CHECKING:
    from nlptransfer.classifier import Classifier, Prediction
    from nlptransfer.comparison import Comparison, compare
    from nlptransfer.data import Data, load_data
    from nlptransfer.errors import NlpTransferError
    from nlptransfer.experiment import Experiment, finetune, gain_curve
    from nlptransfer.labels import Labels
    from nlptransfer.routes import ROUTES, Full, Lora, Probe, Word2Vec
    from nlptransfer.shared_base import SharedBase
    from nlptransfer.soup import average
    from nlptransfer.transfer import TRANSFERS, Copy, Direct, Joint, Relate, Select, Sequential
    from nlptransfer.vectors import WordVectors, open_vectors

_HOMES = {
    "Classifier": "classifier",
    "Comparison": "comparison",
    "Copy": "transfer",
    "Data": "data",
    "Direct": "transfer",
    "Experiment": "experiment",
    "Full": "routes",
    "Joint": "transfer",
    "Labels": "labels",
    "Lora": "routes",
    "NlpTransferError": "errors",
    "Prediction": "classifier",
    "Probe": "routes",
    "ROUTES": "routes",
    "Relate": "transfer",
    "Select": "transfer",
    "Sequential": "transfer",
    "SharedBase": "shared_base",
    "TRANSFERS": "transfer",
    "Word2Vec": "routes",
    "WordVectors": "vectors",
    "average": "soup",
    "compare": "comparison",
    "finetune": "experiment",
    "gain_curve": "experiment",
    "load_data": "data",
    "open_vectors": "vectors",
}
"""Where each public name lives: imported on first use, so that importing the package stays light."""

__all__ = [
    "ROUTES",
    "TRANSFERS",
    "Classifier",
    "Comparison",
    "Copy",
    "Data",
    "Direct",
    "Experiment",
    "Full",
    "Joint",
    "Labels",
    "Lora",
    "NlpTransferError",
    "Prediction",
    "Probe",
    "Relate",
    "Select",
    "Sequential",
    "SharedBase",
    "Word2Vec",
    "WordVectors",
    "average",
    "compare",
    "finetune",
    "gain_curve",
    "load_data",
    "open_vectors",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nlptransfer' has no attribute {name!r}")
    return getattr(import_module(f"nlptransfer.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
