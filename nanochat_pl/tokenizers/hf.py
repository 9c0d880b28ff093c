"""Any tokenizer of Hugging Face's library `tokenizers`, with our special tokens behind its own."""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nanochat_pl.core.errors import UserError
from nanochat_pl.tokenizers.base import BOS, SPECIAL_TOKENS, Tokenizer, without_surrogates
from nanochat_pl.tokenizers.byte import byte_characters

if TYPE_CHECKING:
    import tokenizers

VOCABULARY_FILE = "huggingface.json"
ONE_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class HFTokenizer(Tokenizer):
    """A foreign vocabulary: its ids stay as they are, so that a model that was trained with it can go on.

    Our BOS is its own token for the beginning or the end of a document, where it has one. Of our other special tokens
    those that it knows by name keep their ids there; the rest follows its last id. Its own special tokens are not
    text: they count no bytes, and a text that spells one is encoded as those characters (by all but unigram models, to
    which they are pieces of text as well).

    Text comes back from its ids as far as the vocabulary allows: one that lowers case, or that puts a space in front
    of a text (Llama 2's), gives it back so.

    Args:
        definition: the content of a tokenizer.json.
        bos: its token that begins a document; None: one is added.
        eos: its token that ends one.

    Raises:
        UserError: the library is missing, this is no tokenizer, or it has no such token.
    """

    kind = "hf"

    def __init__(self, definition: str, bos: str | None = None, eos: str | None = None):
        self.definition, self.bos, self.eos = definition, bos, eos
        self._library = library = _read(definition)
        vocabulary = library.get_vocab(with_added_tokens=True)
        for name in filter(None, (bos, eos)):
            if name not in vocabulary:
                raise UserError(f"The tokenizer has no token {name!r}, which is to begin or end a document.")
        self.n_ordinary = max(vocabulary.values()) + 1
        theirs = {token.content: i for i, token in library.get_added_tokens_decoder().items() if token.special}
        known = {name: theirs[name] for name in SPECIAL_TOKENS if name in theirs}
        if bos:
            known[BOS] = vocabulary[bos]
        self.added = tuple(name for name in SPECIAL_TOKENS if name not in known)
        self._special = known | {name: self.n_ordinary + i for i, name in enumerate(self.added)}
        self._eos_id = vocabulary[eos] if eos else self._special[BOS]
        self._not_text = {*theirs.values(), *self._special.values(), self._eos_id}
        self._bytes = _bytes_of_tokens(library, vocabulary, self.n_ordinary) + [name.encode() for name in self.added]

    def __reduce__(self) -> tuple[Any, ...]:
        return HFTokenizer, (self.definition, self.bos, self.eos)

    @property
    def vocab_size(self) -> int:
        return self.n_ordinary + len(self.added)

    @property
    def special_tokens(self) -> dict[str, int]:
        return {name: self._special[name] for name in SPECIAL_TOKENS}

    @property
    def bos_id(self) -> int:
        return self._special[BOS]

    @property
    def end_ids(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((self.bos_id, self._eos_id)))

    def is_text(self, token: int) -> bool:
        return 0 <= token < self.n_ordinary and token not in self._not_text

    def encode(self, text: str) -> list[int]:
        return self._encode([text])[0]

    def encode_batch(self, texts: Sequence[str], num_threads: int = 1) -> list[np.ndarray]:
        return [np.array(ids, dtype=self.dtype) for ids in self._encode(texts)]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        texts = [text if text.isascii() else without_surrogates(text) for text in texts]
        try:
            return [one.ids for one in self._library.encode_batch_fast(texts, add_special_tokens=False)]
        except Exception as error:  # the library raises no class of its own
            raise UserError(f"The tokenizer cannot encode a text: {error}. Remove what it does not know.") from error

    def _definition(self) -> dict[str, Any]:
        return {**super()._definition(), "bos": self.bos, "eos": self.eos}

    def _vocabulary_files(self) -> dict[str, str]:
        return {VOCABULARY_FILE: self.definition}


def _read(definition: str) -> "tokenizers.Tokenizer":
    try:
        from tokenizers import Tokenizer as Library
    except ImportError as error:
        raise UserError(
            "This tokenizer needs the library tokenizers. Install it with: pip install 'nanochat-pl[hf]'"
        ) from error
    try:
        library = Library.from_str(definition)
    except Exception as error:  # the library raises no class of its own
        raise UserError(f"This is not a tokenizer of the library tokenizers ({error}).") from error
    library.encode_special_tokens = True
    library.no_truncation()
    library.no_padding()
    return library


def _bytes_of_tokens(library: "tokenizers.Tokenizer", vocabulary: dict[str, int], size: int) -> list[bytes]:
    """What each id stands for within a text; nothing for an id that there is not."""
    if '"ByteLevel"' in json.dumps(json.loads(library.to_str())["decoder"]):
        byte_of = {character: byte for byte, character in enumerate(byte_characters())}
        bytes_by_id = {
            i: bytes([byte_of[character] for character in token])
            for token, i in vocabulary.items()
            if byte_of.keys() >= set(token)
        }
    else:
        bytes_by_id = _behind_another(library, vocabulary)
    bytes_by_id |= {i: token.content.encode() for i, token in library.get_added_tokens_decoder().items()}
    return [bytes_by_id.get(i, b"") for i in range(size)]


def _behind_another(library: "tokenizers.Tokenizer", vocabulary: dict[str, int]) -> dict[int, bytes]:
    """What the library's decoder makes of each id where it follows another, so that a leading space stays."""
    before = [vocabulary[token] for token in ("a", "▁a", "a</w>") if token in vocabulary][:1]
    start, ids = len(library.decode(before)), sorted(vocabulary.values())
    texts = library.decode_batch([[*before, i] for i in ids], skip_special_tokens=False)
    single = {i: bytes.fromhex(found[1]) for token, i in vocabulary.items() if (found := ONE_BYTE.fullmatch(token))}
    return {i: text[start:].encode() for i, text in zip(ids, texts)} | single
