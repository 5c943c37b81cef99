"""What is changed of other libraries, all of it: how long torch's threads wait, and Accelerate's memory of a precision.

GNU's OpenMP, which runs torch's threads on a processor, lets one that waits spin for milliseconds before it gives way.
Where other programs use the cores too, a small model then trains several times more slowly.

Accelerate keeps the precision of a process's first training, and refuses every other one after it. Nothing public makes
it forget.
"""

import os
from typing import Any


def give_way_soon() -> None:
    """Let threads spin a little, then sleep. It is read once, when torch is imported, and what a user has set stays."""
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def forget(state: Any) -> None:
    """Empty one of Accelerate's states, so that the next training may have another precision."""
    state._reset_state()
