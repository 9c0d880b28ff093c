"""The embedded corpus: a small English world, its stories, facts and sums, made on the spot and without files."""

from nanochat_pl.tiny_world.documents import KINDS, document
from nanochat_pl.tiny_world.split import sentences, split_of

__all__ = ["KINDS", "document", "sentences", "split_of"]
