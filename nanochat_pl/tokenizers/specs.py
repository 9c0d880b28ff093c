"""The tokenizers as specs: what a recipe names, and `.build(texts)` makes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.core.spec import Spec
from nanochat_pl.tokenizers.base import SPECIAL_TOKENS, Tokenizer
from nanochat_pl.tokenizers.bpe import N_BYTES, train_bpe
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.tokenizers.char import train_char
from nanochat_pl.tokenizers.hf_files import content_hash, find_hf_tokenizer
from nanochat_pl.tokenizers.openai import N_ORDINARY, openai_tokenizer
from nanochat_pl.tokenizers.word import train_word

SMALLEST_BPE = N_BYTES + len(SPECIAL_TOKENS)
LARGEST_BPE = 1 << 20


class TokenizerSpec(Spec):
    """A section `tokenizer` of the configuration.

    Attributes:
        reads: which text decides what it becomes: what is trained on, or the held-out documents too.
    """

    reads: ClassVar[Literal["nothing", "train", "all"]] = "train"

    def build(self, texts: Iterable[str]) -> Tokenizer:
        """The tokenizer of these texts; raises `UserError` where they do not allow it, or what finding it raises."""
        raise NotImplementedError


@dataclass(frozen=True)
class BPESpec(TokenizerSpec):
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
        return train_bpe(texts, self.vocab_size, self.max_chars)


@dataclass(frozen=True)
class ByteSpec(TokenizerSpec):
    """Bytes as tokens; needs no text."""

    reads = "nothing"

    def build(self, texts: Iterable[str] = ()) -> Tokenizer:
        return ByteTokenizer()


@dataclass(frozen=True)
class CharSpec(TokenizerSpec):
    """Characters as tokens: those that occur in the text, all of it; an unknown one could not be validated on."""

    reads = "all"

    def build(self, texts: Iterable[str]) -> Tokenizer:
        return train_char(texts)


@dataclass(frozen=True)
class WordSpec(TokenizerSpec):
    """Words as tokens: those that occur in the text, all of it."""

    reads = "all"

    def build(self, texts: Iterable[str]) -> Tokenizer:
        return train_word(texts)


@dataclass(frozen=True)
class TiktokenSpec(TokenizerSpec):
    """One of OpenAI's encodings; tiktoken fetches it once."""

    encoding: str = "gpt2"

    reads = "nothing"

    def check(self) -> None:
        if self.encoding not in N_ORDINARY:
            hint = nearest(self.encoding, list(N_ORDINARY))
            raise UserError(f"tokenizer.encoding is '{self.encoding}'{hint} Encodings: {', '.join(N_ORDINARY)}.")

    @property
    def vocab_size(self) -> int:
        """Known before it is fetched."""
        return N_ORDINARY[self.encoding] + len(SPECIAL_TOKENS)

    def build(self, texts: Iterable[str] = ()) -> Tokenizer:
        return openai_tokenizer(self.encoding)


@dataclass(frozen=True)
class HFSpec(TokenizerSpec):
    """Any tokenizer of Hugging Face.

    Attributes:
        name: a repository on the hub, a folder, or a tokenizer.json.
        bos: its token that begins a document; None: what it says itself.
    """

    name: str = "gpt2"
    bos: str | None = None

    reads = "nothing"

    def as_dict(self) -> dict[str, Any]:
        """With a hash of the files where they are local: others may lie there another time."""
        return super().as_dict() | {"content": content_hash(self.name)}

    def build(self, texts: Iterable[str] = ()) -> Tokenizer:
        return find_hf_tokenizer(self.name, self.bos)
