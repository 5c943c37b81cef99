"""Show a result: report.html with its figures.

This room knows results and pages. It does not know how to train, score or choose.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
