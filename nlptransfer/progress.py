"""Show the progress of long work in a terminal."""

from typing import Any


def progress_bar(progress: bool, *columns: Any, stays: bool = False) -> Any:
    """Return a bar on stderr, of rich's ``columns``; ``stays``: left there, also where that is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    shown = progress and (stays or console.is_terminal)
    return Progress(*columns, console=console, transient=not stays, disable=not shown)
