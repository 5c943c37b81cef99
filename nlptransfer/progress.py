"""Show the progress of long work in a terminal."""

from typing import Any


def progress_bar(progress: bool, *columns: Any, stays: bool = False) -> Any:
    """Return a bar on stderr, as what a command prints may be piped on.

    Args:
        columns: of rich; none: its default ones.
        stays: whether the finished bar is left in the terminal, and written where stderr is none.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    shown = progress and (stays or console.is_terminal)
    return Progress(*columns, console=console, transient=not stays, disable=not shown)
