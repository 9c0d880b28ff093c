"""The libraries of a training, imported once for all forks of `tests.processes.train`; nothing of the package."""

import gc

import hydra  # noqa: F401
import lightning.pytorch  # noqa: F401
import matplotlib.pyplot  # noqa: F401

gc.freeze()  # a collection in a fork would write to, and so copy, every page of theirs
