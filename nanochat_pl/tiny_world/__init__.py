"""The embedded corpus: a small English world, its stories, facts and sums, made on the spot and without files."""

from nanochat_pl.tiny_world.documents import document

__all__ = ["document"]
