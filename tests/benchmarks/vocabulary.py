"""Full fine-tuning of an encoder with many word embeddings: the rows of the texts alone beside all rows.

    python tests/benchmarks/vocabulary.py [--rounds 3]      # five minutes on two cores

multilingual-e5-small on trec6, 20 steps of 16 rows, each training in a process of its own, in turns. Seconds are of the
loop alone; the largest difference of weights is that after these steps.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers.folders import SHARED
from nlptransfer import finetune
from nlptransfer.hub.packaged import E5
from nlptransfer.models import vocabulary

STEPS, ROWS = 20, 16


def train(all_rows: bool, folder: Path) -> None:
    if all_rows:
        vocabulary.WORTH = 0.0
    run = finetune(
        SHARED / "data" / "trec6", route="full", base=E5.id, max_train_rows=STEPS * ROWS * 5 // 4, validation_size=0.2,
        calibration_size=0.0, num_train_epochs=1, per_device_train_batch_size=ROWS, dropout=0.0, save_epochs=False,
        progress=False, report=False, output_dir=folder,
    )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    steps = run.training.step or 0
    print(json.dumps({"steps": steps, "seconds": run.training.seconds, "peak_mb": peak, "cpu": time.process_time()}))


def measured(all_rows: bool, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--train", "all" if all_rows else "used", "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", choices=["all", "used"], help="one training, in this process")
    parser.add_argument("--folder", type=Path, help="of that training")
    options = parser.parse_args()
    if options.train:
        train(options.train == "all", options.folder)
        return
    print("| round | rows | steps/s | peak MB | largest difference of weights |\n|---:|---|---:|---:|---:|")
    ratios = []
    for number in range(1, options.rounds + 1):
        with tempfile.TemporaryDirectory() as place:
            folders = {name: Path(place) / name for name in ("all", "used")}
            found = {name: measured(name == "all", folder) for name, folder in folders.items()}
            weights = {name: load_file(folder / "model" / "model.safetensors") for name, folder in folders.items()}
        apart = max(float(np.abs(value - weights["used"][name]).max()) for name, value in weights["all"].items())
        speeds = {name: one["steps"] / one["seconds"] for name, one in found.items()}
        ratios.append(speeds["used"] / speeds["all"])
        for name, one in found.items():
            print(f"| {number} | {name} | {speeds[name]:.2f} | {one['peak_mb']:.0f} | {apart:.1e} |", flush=True)
    print(f"\nsteps per second, used rows over all: {np.median(ratios):.2f} (median)")


if __name__ == "__main__":
    main()
