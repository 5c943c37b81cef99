"""Read, cache, train and distill word vectors, and split text into their words.

This room knows words and their vectors. It does not know classifiers, labels or runs.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
