"""Open up encoders: load them, tokenize and batch their texts, run all or a part of them, and change their heads.

This room knows architectures, tokens and tensors. It does not know what is learned from them, by which route or why.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
