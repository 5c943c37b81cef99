"""What is changed of other libraries, all of it: how long torch's threads wait, Accelerate's memory of a precision, and
the hooks of transformers.

GNU's OpenMP, which runs torch's threads on a processor, lets one that waits spin for milliseconds before it gives way.
Where other programs use the cores too, a small model then trains several times more slowly.

Accelerate keeps the precision of a process's first training, and refuses every other one after it. Nothing public makes
it forget.

transformers captures hidden states by hooks that are local functions, which cannot be pickled. It sets them again where
it sees none.
"""

import os
from typing import Any

_CAPTURING = "transformers.utils.output_capturing"


def give_way_soon() -> None:
    """Let threads spin a little, then sleep. It is read once, when torch is imported, and what a user has set stays."""
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def forget(state: Any) -> None:
    """Empty one of Accelerate's states, so that the next training may have another precision."""
    state._reset_state()


def captures(module: Any) -> list[int]:
    """Return the numbers of the hooks by which transformers captures a module's output."""
    return [number for number, hook in module._forward_hooks.items() if hook.__module__ == _CAPTURING]


def remove_captures(module: Any) -> None:
    """Remove these hooks from a module."""
    for number in captures(module):
        del module._forward_hooks[number]
    module.__dict__.pop("_output_capturing_hooks_installed", None)
