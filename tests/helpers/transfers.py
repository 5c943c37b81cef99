"""Settings of transfers that take little time, by every route."""

from typing import Any

import numpy as np
from safetensors.numpy import load_file

from nlptransfer import RunResult

QUICK = {
    "num_train_epochs": 4, "per_device_train_batch_size": 16, "learning_rate": 5e-3,
    "calibration_size": 0.0, "verdict": False,
}  # fmt: skip
ON_WORDS = {
    "num_train_epochs": 8,
    "learning_rate": 0.05,
    "num_filters": 8,
    "kernel_sizes": (1, 2),
    "mlp_sizes": (8,),
    "dropout": 0.0,
}
# So few steps and so small encoders learn whatever the seed is, but only without dropout.
ENCODERS = {"num_train_epochs": 8, "dropout": 0.0}
ROUTES: dict[str, dict[str, Any]] = {
    "words linear": {"route": "word2vec", "head_type": "linear"},
    "words mlp": {"route": "word2vec", "head_type": "mlp", **ON_WORDS},
    "words cnn": {"route": "word2vec", "head_type": "cnn", **ON_WORDS},
    "probe linear": {"route": "probe"},
    "probe mlp": {"route": "probe", "head_type": "mlp", "mlp_sizes": (8,)},
    "full": {"route": "full", "max_length": 16, **ENCODERS},
    "lora": {"route": "lora", "max_length": 16, "rank": 4, **ENCODERS},
}
FITTED = ("words linear", "probe linear")


def weights(run: RunResult) -> dict[str, np.ndarray]:
    (file,) = [*(run.folder / "model").glob("*.safetensors")]
    return load_file(file)
