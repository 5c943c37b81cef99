"""What an audit costs: its time over that of its features, the same with them cached, each question, and its memory.

    python tests/benchmarks/audit.py DATA/ag_news              # asked: 1.5 times its features; a third of them, cached
    python tests/benchmarks/audit.py --rows 500000             # synthetic rows by TF-IDF: the peak of memory

Nothing is asserted. Features are computed in a cache of their own, which goes away.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from nlptransfer import audit
from nlptransfer.experiments import data_audit
from nlptransfer.experiments.auditing.rows import AuditRows
from nlptransfer.experiments.environment import watched_memory

LABELS, WORDS, LENGTH = 10, 50_000, 20


def timed(find: Callable[[AuditRows], Any], seconds: dict[str, float], name: str) -> Callable[[AuditRows], Any]:
    def call(rows: AuditRows) -> Any:
        started = time.perf_counter()
        section = find(rows)
        seconds[name] = time.perf_counter() - started
        return section

    return call


def audited(data: Any, **settings: Any) -> tuple[float, dict[str, float]]:
    """Return the seconds of a whole audit with its report, and of each question."""
    seconds: dict[str, float] = {}
    finders = dict(data_audit.FINDERS)
    data_audit.FINDERS.update({name: timed(find, seconds, name) for name, find in finders.items()})
    try:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            audit(data, output_dir=Path(folder) / "audit", **settings)
            return time.perf_counter() - started, seconds
    finally:
        data_audit.FINDERS.update(finders)


def cost(data: Path) -> None:
    """Time an audit that computes its features, these within it, and the same audit with them in the cache."""
    made, spent = AuditRows._made, 0.0

    def features(rows: AuditRows, texts: Sequence[str]) -> Any:
        nonlocal spent
        started = time.perf_counter()
        found = made(rows, texts)
        spent += time.perf_counter() - started
        return found

    with tempfile.TemporaryDirectory() as home:
        os.environ["HF_HOME"] = home
        AuditRows._made = features  # type: ignore[method-assign]
        whole, _ = audited(data)
        AuditRows._made = made  # type: ignore[method-assign]
        computed = spent
        cached, of_questions = audited(data)
    print(f"{data.name}: {whole:.1f} s, of these features {computed:.1f} s: {whole / computed:.2f} times")
    print(f"with features cached {cached:.1f} s: {cached / computed:.2f} times their computing")
    print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in of_questions.items()))


def memory(rows: int) -> None:
    draw = random.Random(0)
    words = [f"w{number}" for number in range(WORDS)]
    # The most frequent words are in most texts, as in any language.
    likely = [*accumulate(1 / rank for rank in range(1, WORDS + 1))]
    labels = [f"label{draw.randrange(LABELS)}" for _ in range(rows)]
    texts = [" ".join([*draw.choices(words, cum_weights=likely, k=LENGTH), draw.choice([label, "none"])])
             for label in labels]  # fmt: skip
    with watched_memory() as before:
        pass
    with watched_memory() as peak:
        seconds, of_questions = audited((texts, labels), base="tfidf")
    print(f"{rows:,} rows: {seconds:.0f} s, memory {before[0]:,.0f} MiB before, {peak[0]:,.0f} MiB at the peak")
    print(", ".join(f"{name} {seconds:.0f} s" for name, seconds in of_questions.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", type=Path, help="folders of rows")
    parser.add_argument("--rows", type=int, help="as many synthetic rows")
    options = parser.parse_args()
    for data in options.data:
        cost(data)
    if options.rows:
        memory(options.rows)


if __name__ == "__main__":
    main()
