"""Weights & Biases: a mirror of the run folder's records that training never waits for (`logger=wandb`)."""
