"""The tokenizers as specs: what a recipe names, and `.build(texts)` makes."""

from collections.abc import Iterable
from dataclasses import dataclass

from nanochat_pl.core.spec import Spec
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.bpe import train_bpe


@dataclass(frozen=True)
class BPESpec(Spec):
    """BPE with `vocab_size` tokens, the nine special ones included, trained on the first `max_chars` characters."""

    vocab_size: int = 1024
    max_chars: int | None = 10_000_000

    def build(self, texts: Iterable[str]) -> Tokenizer:
        return train_bpe(texts, self.vocab_size, self.max_chars)
