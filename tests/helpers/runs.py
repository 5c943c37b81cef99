"""Runs that write no report and show no progress, unless a test asks for it."""

from functools import partial

import nlptransfer

finetune = partial(nlptransfer.finetune, report=False, progress=False)
compare = partial(nlptransfer.compare, progress=False)
gain_curve = partial(nlptransfer.gain_curve, progress=False)
