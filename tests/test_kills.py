"""Each command, killed at a random moment and run again, gives what it gives whole and leaves nothing behind."""

import os
import subprocess
import sys

from helpers.kills import COMMANDS

SEED, TIMES = 57, 5
"""By this seed the first five are each command once; make kills has all routes and strategies."""


def test_commands_that_are_killed_and_run_again(tmp_path):
    call = [sys.executable, "-m", "helpers.kills", tmp_path, str(TIMES), str(SEED)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, capture_output=True, text=True, timeout=570, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {"finetune": 1, "compare": 1, "predict": 1, "export": 1, "push": 1}
    assert {name.split()[0] for name in COMMANDS} == {*expected}
    assert sorted(done.stdout.splitlines()) == sorted(
        f"{kind}: {count} killed and run again, {count} as if nothing had been, with nothing left"
        for kind, count in expected.items()
    )
