"""The runs of test_resume.py: each is cut off by a true SIGKILL and gone on with, and runs once whole beside that.

python -m helpers.killed_runs FOLDER, with the folders remarks, texts, source, target and encoder and the file
vectors.txt in it
"""

import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from helpers.runs import finetune
from nlptransfer import Copy, Full, Joint, Lora, Relational, Sequential, Word2Vec
from nlptransfer.experiments import environment, fitting

Run = Callable[..., Any]


def plans(folder: Path) -> dict[str, tuple[int, Run]]:
    """By name: the forward pass in training that a run is killed at, and the run, which takes its output_dir."""
    encoder = str(folder / "encoder")
    settings = {"num_train_epochs": 3, "per_device_train_batch_size": 16, "save_steps": 3}
    words = partial(finetune, folder / "remarks", base=folder / "vectors.txt", learning_rate=2e-2, **settings)
    alone = partial(finetune, folder / "texts", base=encoder, learning_rate=5e-3, **settings)
    rows = {"data": folder / "target", "source": folder / "source"}
    both = partial(finetune, **rows, base=encoder, learning_rate=5e-3, verdict=False, **settings)
    full, lora = Full(max_length=16, dropout=0.2), Lora(max_length=16, dropout=0.2, lora_dropout=0.2)
    auto = Sequential(target_settings={"layers": "auto"})
    return {
        # 7 or 9 passes an epoch.
        "word2vec": (17, partial(words, route=Word2Vec(num_filters=8, dropout=0.5, train_vectors=True))),
        "full": (14, partial(alone, route=full)),
        "lora": (11, partial(alone, route=lora)),
        # 15 passes on the source, 9 on the target, 30 on both together.
        "source": (8, partial(both, route=full, transfer=Sequential())),
        "target": (15 + 5, partial(both, route=full, transfer=Sequential())),
        "held": (15 + 5, partial(both, route=full, transfer=Sequential(l2_sp=0.1))),
        "copy": (8, partial(both, route=full, transfer=Copy())),
        "joint": (17, partial(both, route=full, transfer=Joint(weighting="scheduled"))),
        "relational": (15 + 6, partial(both, route=full, transfer=Relational())),
        "second choice": (15 + 9 + 5, partial(both, route=full, transfer=auto)),
        "lora target": (15 + 6, partial(both, route=lora, transfer=Sequential())),
    }


def passes_of(run: Run, out: Path, kill_at: int | None = None) -> int:
    """Run, or be killed on the way; returns the forward passes in training."""
    train, passes = fitting.train, 0

    def count(objective: Any, _: Any) -> None:
        nonlocal passes
        passes += objective.training
        if passes == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(objective: Any, *examples: Any, **how: Any) -> Any:
        objective.register_forward_pre_hook(count)
        return train(objective, *examples, **how)

    fitting.train = watched
    run(output_dir=out)
    fitting.train = train
    return passes


def forked(work: Callable[[], Any]) -> int:
    """The id of a process that does some work: a copy of this one, as the imports take longest."""
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    return child


def main(folder: Path) -> None:
    # No run here is asked how fast it is.
    environment.SPEED_SECONDS = 0.0
    gc.freeze()
    found = plans(folder)

    def tell(name: str, end: str) -> None:
        out, (_, run) = folder / f"{name}-{end}", found[name]
        kept = sorted(path.relative_to(out).as_posix() for path in out.glob("checkpoints*/*"))
        # One write a line: two processes share this pipe, and print writes the end of a line by itself where nothing is
        # buffered.
        os.write(sys.stdout.fileno(), f"{json.dumps([name, end, kept, passes_of(run, out)])}\n".encode())

    # All forks come first: what has run in a process may have started threads.
    cut = [forked(partial(passes_of, run, folder / f"{name}-cut", kill_at)) for name, (kill_at, run) in found.items()]
    whole = forked(lambda: [tell(name, "whole") for name in found])
    assert [os.WTERMSIG(os.waitpid(child, 0)[1]) for child in cut] == [signal.SIGKILL] * len(cut)
    for name in found:
        tell(name, "cut")
    assert os.waitpid(whole, 0)[1] == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
