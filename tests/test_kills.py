"""Each command, killed at a random moment and run again, gives what it gives whole and leaves nothing behind."""

import os
import subprocess
import sys

from helpers.kills import COMMANDS


def test_commands_that_are_killed_and_run_again(tmp_path):
    call = [sys.executable, "-m", "helpers.kills", tmp_path, str(len(COMMANDS))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, capture_output=True, text=True, timeout=570, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = ("finetune", "compare", "predict", "export", "push")
    expected = [f"{kind}: {count} killed and run again, {count} as if nothing had been, with nothing left"
                for kind in kinds if (count := sum(name.split()[0] == kind for name in COMMANDS))]  # fmt: skip
    assert sorted(done.stdout.splitlines()) == sorted(expected) and len(COMMANDS) == 12
