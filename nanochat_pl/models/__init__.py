"""The model contract, the models, and what they cost."""
