"""Transfer pretrained language models to your own text."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Threads that wait for each other spin a little, then give way. By default they spin on, and on a machine that others
# use too a small model trains several times more slowly. GNU's OpenMP reads it once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

if TYPE_CHECKING:
    from nlptransfer.adaptation import Adapt, Coral, Dann, Mmd, Reweight, SelfTrain
    from nlptransfer.classifier import Classifier, Prediction
    from nlptransfer.comparison import Comparison, compare
    from nlptransfer.contrast import Contrast
    from nlptransfer.data import Data, load_data
    from nlptransfer.domains import close_the_gap
    from nlptransfer.errors import NlpTransferError
    from nlptransfer.experiment import Experiment, finetune, gain_curve
    from nlptransfer.labels import Labels
    from nlptransfer.pretraining import Pretrain
    from nlptransfer.routes import ROUTES, Full, Lora, Probe, Word2Vec
    from nlptransfer.shared_base import SharedBase
    from nlptransfer.soup import average
    from nlptransfer.strategies import Copy, Direct, Joint, Relate, Select, Sequential
    from nlptransfer.transfers import TRANSFERS
    from nlptransfer.vectors import WordVectors, open_vectors

_HOMES = {
    "Adapt": "adaptation",
    "Classifier": "classifier",
    "Comparison": "comparison",
    "Contrast": "contrast",
    "Copy": "strategies",
    "Coral": "adaptation",
    "Dann": "adaptation",
    "Data": "data",
    "Direct": "strategies",
    "Experiment": "experiment",
    "Full": "routes",
    "Joint": "strategies",
    "Labels": "labels",
    "Lora": "routes",
    "Mmd": "adaptation",
    "NlpTransferError": "errors",
    "Prediction": "classifier",
    "Pretrain": "pretraining",
    "Probe": "routes",
    "ROUTES": "routes",
    "Relate": "strategies",
    "Reweight": "adaptation",
    "Select": "strategies",
    "SelfTrain": "adaptation",
    "Sequential": "strategies",
    "SharedBase": "shared_base",
    "TRANSFERS": "transfers",
    "Word2Vec": "routes",
    "WordVectors": "vectors",
    "average": "soup",
    "close_the_gap": "domains",
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
    "Adapt",
    "Classifier",
    "Comparison",
    "Contrast",
    "Copy",
    "Coral",
    "Dann",
    "Data",
    "Direct",
    "Experiment",
    "Full",
    "Joint",
    "Labels",
    "Lora",
    "Mmd",
    "NlpTransferError",
    "Prediction",
    "Pretrain",
    "Probe",
    "Relate",
    "Reweight",
    "Select",
    "SelfTrain",
    "Sequential",
    "SharedBase",
    "Word2Vec",
    "WordVectors",
    "average",
    "close_the_gap",
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
