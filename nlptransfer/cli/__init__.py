"""Offer each public function as one verb of the command line.

This room knows options, tables and exit codes. It does not know anything that the functions it calls could decide.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
