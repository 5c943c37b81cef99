"""Bring knowledge from a source task to a target task: the strategies, stage by stage, and their losses.

This room knows sources, targets and objectives. It does not know folders, reports or the command line.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
