"""Find base models, fetch and push classifiers, and write the model card.

This room knows folders, the hub and what must not leave the machine. It does not know how a model is built or trained.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
