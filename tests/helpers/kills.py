"""Commands that are killed (SIGKILL) at a random moment and run again, until each has given what it gives whole.

python -m helpers.kills FOLDER TIMES [SEED]

FOLDER holds the data, what each command gives whole, and a line for each kill: the same call goes on with those that
are not there or were not right. Commands are forks of this process, which does nothing but import, as that takes
longest.
"""

import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from helpers.corpora import text_of, texts_of, topic_splits, write_splits
from helpers.hub_server import Hub

ROUTES = {
    "word2vec": "--base {data}/vectors.txt --set head_type=cnn --set num_filters=8 --set dropout=0.5",
    "probe": "--base {data}/encoder --set head_type=mlp",
    "full": "--base {data}/encoder --set max_length=16",
    "lora": "--base {data}/encoder --set max_length=16",
}
TRAINED = "--num-train-epochs 4 --learning-rate 5e-3 --set per_device_train_batch_size=16 --set save_steps=3 "
TRAINED += "--no-report"
COMMANDS = {
    f"finetune {route} {strategy}": f"finetune {{data}}/{'words' if route == 'word2vec' else 'texts'} --route {route} "
    f"--output-dir out {settings} {TRAINED}"
    + (" --source {data}/source --no-verdict" if strategy == "sequential" else "")
    for route, settings in ROUTES.items()
    for strategy in ("direct", "sequential")
} | {
    "compare": "compare {data}/words --routes majority,word2vec --seeds 2 --output-dir out "
    + ROUTES["word2vec"].replace("--base ", "--bases "),
    "predict": "predict {data}/model {data}/rows.jsonl --output out/labels.parquet",
    "export": "export {data}/model --to onnx --output-dir out",
    "push": "push {data}/adapter me/films-{number} --merged --base {data}/encoder",
}
"""By name, the arguments of nlptransfer; what each writes lies in the folder ``out``, or on the hub."""
OF_THE_MOMENT = ("second", "cost", "sha256", "files", "memory", "speed", "since")
"""Parts of the names of what differs from run to run: times, and hashes of what holds them."""
TRIES = 10
"""How often a command is begun anew where it has ended before it was to be killed."""


def forked(work: Callable[[], Any], log: Path) -> int:
    """The id of a process that does some work and writes what it says to a file."""
    child = os.fork()
    if not child:
        code = 1
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a") as file:
                for stream in (1, 2):
                    os.dup2(file.fileno(), stream)
            code = work() or 0
        except SystemExit as end:
            code = end.code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return child


def ended(child: int) -> int:
    """Its exit code; the negative signal that it was ended by."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def command(name: str, data: Path, folder: Path, number: int) -> Callable[[], Any]:
    """Call the command line in a folder, with caches and temporary files of its own."""

    def call() -> None:
        from nlptransfer.cli import main
        from nlptransfer.experiments import environment

        # No run here is asked how fast it is.
        environment.SPEED_SECONDS = 0.0
        os.chdir(folder)
        os.environ["HF_HOME"] = str(folder / "caches")
        tempfile.tempdir = str(folder / "tmp")
        (folder / "tmp").mkdir(exist_ok=True)
        sys.argv = ["nlptransfer", *COMMANDS[name].format(data=data, number=number).split()]
        main()

    folder.mkdir(parents=True, exist_ok=True)
    return call


def result_of(name: str, folder: Path, number: int, hub: Hub) -> dict[str, str]:
    """What a command gave: by file a hash of what is in it, but for what is of the moment."""
    if name == "push":
        address = f"{hub.url}/api/models/me/films-{number}/tree/main"
        with urlopen(Request(address, headers={"Authorization": f"Bearer {hub.token}"})) as answer:
            # The card and the record name the repo.
            found = {file["path"]: file["oid"] for file in json.load(answer)}
            return {path: oid if path.endswith(".safetensors") else "" for path, oid in found.items()}
    return {
        path.relative_to(folder / "out").as_posix(): _hash_of(path)
        for path in sorted((folder / "out").rglob("*"))
        if path.is_file()
    }


def _hash_of(path: Path) -> str:
    if path.suffix == ".html":
        return ""
    content = path.read_bytes()
    if path.suffix == ".json" and path.name not in ("tokenizer.json", "tokenizer_config.json"):
        content = json.dumps(_lasting(json.loads(content)), sort_keys=True).encode()
    return sha256(content).hexdigest()


def _lasting(value: Any) -> Any:
    if isinstance(value, list):
        return [*map(_lasting, value)]
    if isinstance(value, dict) and isinstance(value.get("target_modules"), list):
        # A set in peft, in the order of the process.
        value = value | {"target_modules": sorted(value["target_modules"])}
    if not isinstance(value, dict):
        return value
    return {name: _lasting(part) for name, part in value.items() if not any(word in name for word in OF_THE_MOMENT)}


def left_behind(folder: Path) -> list[str]:
    """Temporary files, locks and checkpoints."""
    places = [*(folder / "tmp").iterdir(), *folder.rglob("*nlptransfer-*-*"), *folder.rglob("*.lock")]
    places += [*folder.rglob("checkpoints*"), *folder.rglob("*.earlier")]
    return sorted(path.relative_to(folder).as_posix() for path in {*places})


def prepare(data: Path) -> None:
    """Write rows, word vectors, an encoder, and classifiers to predict by, export and push."""
    import numpy as np

    from helpers.corpora import DIMENSIONS, FILLER, TOPIC_WORDS, TOPICS
    from helpers.encoders import SIZES, make_base
    from helpers.runs import finetune

    draw, numbers = random.Random(0), np.random.default_rng(0)
    sizes = {"train": 120, "validation": 30, "test": 30}
    write_splits(data / "words", topic_splits(sizes, 0))
    for seed, name in enumerate(("texts", "source")):
        write_splits(data / name, {split: texts_of(count, seed + count) for split, count in sizes.items()})
    rows = [json.dumps({"text": text_of(draw, [draw.choice(TOPICS)])}) for _ in range(15_000)]
    (data / "rows.jsonl").write_text("\n".join(rows))
    words = [*FILLER, *(word for some in TOPIC_WORDS.values() for word in some)]
    lines = [f"{word} {' '.join(f'{x:.4f}' for x in numbers.normal(size=DIMENSIONS))}" for word in words]
    (data / "vectors.txt").write_text("\n".join([f"{len(words)} {DIMENSIONS}", *lines, ""]))
    make_base(data / "encoder", "bert", SIZES | {"num_hidden_layers": 2})
    for name, route in {"model": "word2vec", "adapter": "lora"}.items():
        base = data / ("vectors.txt" if name == "model" else "encoder")
        rows_of = data / ("words" if name == "model" else "texts")
        finetune(rows_of, route=route, base=base, num_train_epochs=1, output_dir=data / name)


def whole(name: str, data: Path, hub: Hub) -> dict[str, Any]:
    """What a command gives, and the seconds that it takes, where it is not killed."""
    record, place = data / f"{name}.json", data / name
    if not record.exists():
        shutil.rmtree(place, ignore_errors=True)
        begun = time.monotonic()
        code = ended(forked(command(name, data, place, 0), data / f"{name}.log"))
        assert code == 0, f"{name}: exit code {code}, see {data / name}.log"
        seconds = time.monotonic() - begun
        record.write_text(json.dumps({"seconds": seconds, "result": result_of(name, place, 0, hub)}))
    return json.loads(record.read_text())


def killed(name: str, number: int, data: Path, folder: Path, draw: random.Random, hub: Hub) -> dict[str, Any]:
    """Kill a command at a random moment, sometimes twice, run it again, and say what differs and what is left."""
    expected = whole(name, data, hub)
    for _ in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        moments = [draw.uniform(0, expected["seconds"]) for _ in range(draw.choice([1, 1, 2]))]
        codes = []
        for moment in moments:
            child = forked(command(name, data, folder, number), folder / "log")
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
            codes.append(ended(child))
        if codes == [-signal.SIGKILL] * len(moments):
            break
    code = ended(forked(command(name, data, folder, number), folder / "log"))
    found = result_of(name, folder, number, hub) if code == 0 else {}
    names = found.keys() | expected["result"].keys()
    differ = sorted(file for file in names if found.get(file) != expected["result"].get(file))
    left = left_behind(folder)
    counted = {"number": number, "command": name, "moments": moments}
    return counted | {"codes": codes, "code": code, "differ": differ, "left": left}


def main(folder: Path, times: int, seed: int) -> int:
    # The client of the hub reads them once. A hub that is begun anew has no repo any more.
    hub = Hub()
    os.environ |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HOME": str(folder / "home")}
    os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    data, counted = folder / f"data-{seed}", folder / f"kills-{seed}.jsonl"
    data.mkdir(parents=True, exist_ok=True)
    (data / "push.json").unlink(missing_ok=True)
    for name in ("classifier", "cli.app", "experiments", "experiments.environment", "report.build", "routes.lora"):
        __import__(f"nlptransfer.{name}")
    for name in ("onnxruntime", "onnxscript", "sklearn.linear_model", "torch.onnx", "pyarrow.parquet", "matplotlib"):
        __import__(name)
    gc.collect()
    gc.freeze()

    def serve() -> None:
        hub.start()
        while os.getppid() == boss:
            time.sleep(0.2)

    boss = os.getpid()
    forked(serve, folder / "hub.log")
    if not (data / "ready").exists():
        assert ended(forked(lambda: prepare(data), data / "log")) == 0, f"see {data / 'log'}"
        (data / "ready").touch()
    lines = [json.loads(line) for line in counted.read_text().splitlines()] if counted.exists() else []
    right = {one["number"]: one for one in lines if is_right(one)}
    wrong = []
    for number in sorted({*range(times)} - right.keys()):
        draw = random.Random(seed * 10_000 + number)
        # All commands by turns, each time in another order.
        round_, place = divmod(number, len(COMMANDS))
        name = random.Random(seed * 10_000 + round_).sample([*COMMANDS], len(COMMANDS))[place]
        trial = folder / f"trial-{seed}-{number}"
        found = killed(name, number, data, trial, draw, hub)
        with counted.open("a") as file:
            file.write(json.dumps(found) + "\n")
        if is_right(found):
            right[number] = found
            shutil.rmtree(trial)
        else:
            wrong.append(found)
            print(f"{trial}: {found}", flush=True)
    for kind in dict.fromkeys(name.split()[0] for name in COMMANDS):
        good, other = (sum(one["command"].split()[0] == kind for one in some) for some in (right.values(), wrong))
        print(f"{kind}: {good + other} killed and run again, {good} as if nothing had been, with nothing left")
    return 1 if wrong else 0


def is_right(found: dict[str, Any]) -> bool:
    """Whether a command was killed, and gave the same when it was run again, with nothing left behind."""
    was_killed = all(code == -signal.SIGKILL for code in found["codes"])
    return was_killed and found["code"] == 0 and not found["differ"] and not found["left"]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0))
