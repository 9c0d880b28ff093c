"""The tokenizers as specs: what a recipe names, and `.build(texts)` makes."""

from collections.abc import Iterable
from dataclasses import dataclass

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.spec import Spec
from nanochat_pl.tokenizers.base import SPECIAL_TOKENS, Tokenizer
from nanochat_pl.tokenizers.bpe import N_BYTES, train_bpe
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.tokenizers.char import train_char

SMALLEST_BPE = N_BYTES + len(SPECIAL_TOKENS)
LARGEST_BPE = 1 << 20


@dataclass(frozen=True)
class BPESpec(Spec):
    """BPE with `vocab_size` tokens, the nine special ones included, trained on the first `max_chars` characters."""

    vocab_size: int = 1024
    max_chars: int | None = 10_000_000

    def check(self) -> None:
        if not SMALLEST_BPE <= self.vocab_size <= LARGEST_BPE:
            raise UserError(
                f"tokenizer.vocab_size is {self.vocab_size}, but a BPE tokenizer has at least {SMALLEST_BPE} tokens "
                f"({N_BYTES} bytes and {len(SPECIAL_TOKENS)} special tokens) and at most {LARGEST_BPE}. For a "
                "smaller vocabulary use the byte or char tokenizer."
            )
        if self.max_chars is not None and self.max_chars < 1:
            raise UserError(
                f"tokenizer.max_chars is {self.max_chars}; it must be at least 1, or null for all of the text."
            )

    def build(self, texts: Iterable[str]) -> Tokenizer:
        """Train; raises `UserError` where the text does not allow `vocab_size` tokens."""
        return train_bpe(texts, self.vocab_size, self.max_chars)


@dataclass(frozen=True)
class ByteSpec(Spec):
    """Bytes as tokens; needs no text."""

    def build(self, texts: Iterable[str] = ()) -> Tokenizer:
        """The byte tokenizer, whatever the text."""
        return ByteTokenizer()


@dataclass(frozen=True)
class CharSpec(Spec):
    """Characters as tokens: those that occur in the text, all of it."""

    def build(self, texts: Iterable[str]) -> Tokenizer:
        """Read all texts; raises `UserError` where there are none."""
        return train_char(texts)


TokenizerSpec = BPESpec | ByteSpec | CharSpec
