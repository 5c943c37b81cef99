"""Build a classifier by one of the routes: what is frozen, what learns, how it is saved and opened.

This room knows models and their formats on disk. It does not know where the data came from or whether a source helps.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
