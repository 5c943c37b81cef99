"""Make results: fine-tune, compare, measure what a source gains and what separates two domains.

This room knows all rooms below it. It does not know the command line.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
