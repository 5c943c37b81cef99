"""Keep what a run found, in memory and in its folder.

This room knows the names of files and keys of a run's folder. It does not know how results are made or shown.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
