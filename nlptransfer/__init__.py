"""Transfer pretrained language models to your own text."""

import os

import lazy_loader

# Threads that wait for each other spin a little, then give way. By default they spin on, and on a machine that others
# use too a small model trains several times more slowly. GNU's OpenMP reads it once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
