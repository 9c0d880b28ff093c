"""Causal attention: one file a backend, `choose` among those that run here."""
