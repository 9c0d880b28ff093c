"""nanochat-pl: train small ChatGPT-like models from scratch on PyTorch Lightning and Hydra."""

import time

__version__ = "0.1.0"

STARTED = time.perf_counter()
"""When this process imported the package, which every program does first."""
