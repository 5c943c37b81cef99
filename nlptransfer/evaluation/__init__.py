"""Score predictions, calibrate probabilities, and tell a difference from chance.

This room knows arrays of targets and probabilities. It does not know models, texts or folders.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
