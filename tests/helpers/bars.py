"""See what progress shows, without a terminal."""

from contextlib import contextmanager
from unittest.mock import patch

from nlptransfer import progress


@contextmanager
def drawn_bars(delay=0.0):
    """Yield a list that gets, for each drawing, the (description, figures, note) of each bar; the last is empty."""
    drawings = []

    class Board:
        between = 0.0

        def draw(self, bars):
            drawings.append([(bar.description, bar.figures, bar.note) for bar in bars])

        def stop(self):
            drawings.append([])

    with patch.object(progress, "DELAY", delay), patch.object(progress, "_Terminal", Board):
        yield drawings
