"""The recipes for Ray and Spark on the real engines, on this machine alone: equal to predict, also after a kill."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from helpers.folders import ROOT

pytestmark = pytest.mark.engines
SECONDS = 600
ACTOR = "ray::MapWorker(MapBatches(BatchPredictor))"
BLOCKS = 20


def run(recipe: str, arguments: list[object], environment: dict[str, str], meanwhile: Callable) -> None:
    """Run a recipe as a script, and something again and again until it ends."""
    command = [sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), *map(str, arguments)]
    with tempfile.TemporaryFile() as log:
        start, variables = time.monotonic(), {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=variables)
        try:
            while process.poll() is None and time.monotonic() < start + SECONDS:
                meanwhile(psutil.Process(process.pid))
                time.sleep(0.05)
        finally:
            process.terminate()
            process.wait(timeout=60)
        log.seek(0)
        assert process.returncode == 0, log.read().decode(errors="replace")[-5000:]


def test_ray_whose_actor_is_killed(model, rows, tmp_path, check, only_here):
    killed, seen, looked = list[int](), dict[int, str](), [0.0]

    def kill(process: psutil.Process) -> None:
        actors = {each.pid: name for each in process.children(recursive=True) if ACTOR in (name := name_of(each))}
        seen.update(actors)
        # By its name it is at work on a batch.
        if not killed and (at_work := [pid for pid, name in actors.items() if ").submit" in name]):
            os.kill(at_work[0], signal.SIGKILL)
            killed.append(at_work[0])
        if time.monotonic() > looked[0] + 1:
            looked[0] = time.monotonic()
            only_here(process)

    output = tmp_path / "labeled"
    # A path of sockets has 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-") as place:
        environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": place}
        run("predict_with_ray", [model, rows, output, "--actors", 2, "--blocks", BLOCKS], environment, kill)
    check(output)
    assert killed and len(seen) >= 3, (killed, seen)


def test_spark(model, rows, tmp_path, check, only_here):
    options = "--master local[2] --driver-memory 1g --conf spark.ui.enabled=false"
    environment = {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_SUBMIT_ARGS": f"{options} pyspark-shell"}
    run("predict_with_spark", [model, rows, tmp_path / "labeled"], environment, only_here)
    check(tmp_path / "labeled")


def name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""  # it has ended


@pytest.mark.parametrize("recipe", ["predict_with_ray", "predict_with_spark"])
def test_what_is_wrong_is_said_before_an_engine_starts(recipe, tmp_path):
    command = [sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), str(tmp_path), "rows", "out"]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ended.returncode == 2 and ended.stderr.startswith(f"error: {tmp_path}: expected a saved classifier")
    assert Path(tmp_path).is_dir() and len(ended.stderr.splitlines()) == 1
