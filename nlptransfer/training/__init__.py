"""Train a model: losses, the loop, the optimizer, linear heads, and altered copies of texts.

This room knows batches, losses and gradients. It does not know routes, transfers or saved folders.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
