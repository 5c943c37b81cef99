"""Features of a frozen encoder, computed in parts: killed twice with -9 and begun again; memory by the number of rows.

python tests/benchmarks/features_in_parts.py [--rows N]
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nlptransfer.models.features import PART_ROWS

BASE = "sentence-transformers/all-MiniLM-L6-v2"
FILMS = Path(__file__).parents[2] / "data" / "films" / "train.jsonl"
SHORTEST, LONGEST = 3, 12
MOST_MB = 100
SHOWN = {"VmRSS": "peak", "RssAnon": "anonymous", "RssFile": "of files"}
"""Lines of /proc/self/status: memory as it is used at most, see the manual page proc_pid_status."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.home is not None:
        computed(options.rows)
        return 0
    print(f"{BASE}, texts of {SHORTEST} to {LONGEST} words, one thread a process")
    with TemporaryDirectory() as place:
        few, many, cut = (Path(place, name) for name in ("few", "many", "cut"))
        less = ended(started(options.rows // 3, few))
        whole = ended(started(options.rows, many))
        for share in (1, 2):
            process = started(options.rows, cut)
            while (done := len([*cut.rglob("*-*/whole.json")])) < share * options.rows / PART_ROWS / 3:
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            print(f"killed after {done} of about {options.rows / PART_ROWS:.0f} parts", flush=True)
        last = ended(started(options.rows, cut))
        left = len([*cut.glob("nlptransfer/features/*")])
    more, differ = whole["peak"] - less["peak"], last["sha256"] != whole["sha256"]
    return 0 if all([
        said(f"peak of {options.rows:,} rows above that of a third of them:", more, MOST_MB, "MB", more < MOST_MB),
        said("texts of the last of three runs:", last["texts"], options.rows / 2, "", last["texts"] < options.rows / 2),
        said("bits that are not those of the undisturbed run:", differ, 0, "", not differ),
        # One is of the few rows that the encoder is tried on.
        said("entries of the cache:", left, 2, "", left == 2),
    ]) else 1  # fmt: skip


def said(what: str, value: float, limit: float, unit: str, is_good: bool) -> bool:
    print(f"{what} {value:,.0f} {unit} (limit {limit:,g}): {'ok' if is_good else 'MISSED'}")
    return is_good


def started(rows: int, home: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(home)}
    call = [sys.executable, __file__, "--rows", str(rows), "--home", str(home)]
    return subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out = process.communicate()[0]
    assert process.returncode == 0, out
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    memory = ", ".join(f"{name} {found[name]:,.0f}" for name in ("before", *SHOWN.values()))
    print(f"{found['texts']:,} texts through the encoder, {found['seconds']:.0f} s; MB: {memory}", flush=True)
    return found


def computed(rows: int) -> None:
    """Compute features; print a hash of them, the texts that went through the encoder, and MB of memory meanwhile."""
    import torch

    from nlptransfer import Probe
    from nlptransfer.data import load_data
    from nlptransfer.models import FeatureRows
    from nlptransfer.routes.probe_model import ProbeForSequenceClassification

    draw, passed, real = random.Random(0), 0, ProbeForSequenceClassification.encoder_features
    words = [word for line in FILMS.read_text().splitlines() for word in json.loads(line)["text"].split()]
    texts = [" ".join(draw.choices(words, k=draw.randint(SHORTEST, LONGEST))) for _ in range(rows)]
    route = Probe(features=("encoder",))
    built = route.build(load_data((texts[:32], ["good", "bad"] * 16)), BASE, None, 0)

    def counted(model: Any, input_ids: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        nonlocal passed
        passed += len(input_ids)
        return real(model, input_ids, **inputs)

    ProbeForSequenceClassification.encoder_features = counted  # type: ignore[assignment, method-assign]
    most, over, began = memory(), threading.Event(), time.monotonic()
    before = most["peak"]

    def watch() -> None:
        while not over.wait(0.01):
            most.update({name: max(most[name], mb) for name, mb in memory().items()})

    watcher = threading.Thread(target=watch)
    watcher.start()
    found = route.rows(built.model, built.tokenizer, texts, share=True)
    over.set()
    watcher.join()
    assert isinstance(found, FeatureRows)
    seconds, digest = time.monotonic() - began, sha256(found.features.tobytes()).hexdigest()
    print(json.dumps({"texts": passed, "seconds": seconds, "sha256": digest, "before": before, **most}))


def memory() -> dict[str, float]:
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE))
    return {name: int(found[line]) / 1024 for line, name in SHOWN.items()}


if __name__ == "__main__":
    sys.exit(main())
