"""Read rows of text, name their labels, and split them without leaks.

This room knows files, columns, labels and splits. It does not know tokens, models or scores.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
