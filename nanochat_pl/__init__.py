"""nanochat-pl: train small ChatGPT-like models from scratch on PyTorch Lightning and Hydra."""

__version__ = "0.1.0"
