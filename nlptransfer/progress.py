"""Show the progress of long work in a terminal."""

from typing import Any


def progress_bar(progress: bool) -> Any:
    from rich.console import Console
    from rich.progress import Progress

    # On stderr: what a command prints may be piped on.
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not (progress and console.is_terminal))
