"""What every tokenizer can do, and the special tokens that all of them share."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import write_text

BOS = "<|bos|>"
SPECIAL_TOKENS = (
    BOS,
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)
"""nanochat's nine: a document begins with the first; the others mark the turns and tool calls of a conversation."""

FORMAT = "nanochat_pl.tokenizer"
FORMAT_VERSION = 1
HEADER_FILE = "tokenizer.json"


class Tokenizer(ABC):
    """Text to token ids and back.

    Ids below `n_ordinary` come from text, the special tokens follow them; only a foreign vocabulary (hf.py) may have
    some among them. Text never becomes a special token: a text that contains the characters `<|bos|>` is encoded as
    those characters.
    """

    kind: ClassVar[str]
    n_ordinary: int
    _bytes: Sequence[bytes]
    """What each id stands for, special tokens by their name; of kinds that have such a table."""

    @property
    def vocab_size(self) -> int:
        """Ordinary and special tokens together."""
        return self.n_ordinary + len(SPECIAL_TOKENS)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Name of each special token -> its id."""
        return {name: self.n_ordinary + i for i, name in enumerate(SPECIAL_TOKENS)}

    @property
    def bos_id(self) -> int:
        """The id that begins every document."""
        return self.n_ordinary

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids of which each ends a document: what a model that has said all goes on with."""
        return (self.bos_id,)

    def is_text(self, token: int) -> bool:
        """Whether an id stands for text; no special token does."""
        return 0 <= token < self.n_ordinary

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The smallest of uint16 and uint32 that holds every id; `encode_batch` returns it."""
        return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that decides how text is encoded."""
        vocabulary = "".join(self._vocabulary_files().values())
        content = json.dumps([self._definition(), vocabulary], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(content.encode("ascii")).hexdigest()

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without BOS. Lone surrogates, which UTF-8 cannot hold, count as U+FFFD."""

    def encode_batch(self, texts: Sequence[str], num_threads: int = 1) -> list[np.ndarray]:
        """The ids of each text, without BOS: one array of `dtype` a text, perhaps views of a few shared buffers."""
        return [np.array(self.encode(text), dtype=self.dtype) for text in texts]

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The UTF-8 bytes of `ids`; a special token gives its name.

        Raises:
            UserError: an id is not in the vocabulary.
        """
        ids = [int(i) for i in ids]
        if any(not 0 <= i < self.vocab_size for i in ids):
            raise unknown_id(ids, self.vocab_size)
        return b"".join([self._bytes[i] for i in ids])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`; bytes that are no UTF-8 (a character cut in the middle) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def token_bytes(self) -> np.ndarray:
        """(vocab_size,) int32: the number of UTF-8 bytes that each token stands for; 0 for special tokens."""
        return np.array([len(raw) if self.is_text(i) else 0 for i, raw in enumerate(self._bytes)], dtype=np.int32)

    def save(self, folder: Path) -> None:
        """Write the tokenizer to `folder` as readable files; `load_tokenizer` reads it back."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self._vocabulary_files().items():
            write_text(folder / name, text)
        header = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            **self._definition(),
            "vocab_size": self.vocab_size,
            "fingerprint": self.fingerprint,
        }
        write_text(folder / HEADER_FILE, json.dumps(header, indent=2, ensure_ascii=False) + "\n")

    def _definition(self) -> dict[str, Any]:
        """What stands in the header, apart from the vocabulary's files."""
        return {"kind": self.kind, "special_tokens": self.special_tokens}

    def _vocabulary_files(self) -> dict[str, str]:
        """File name -> content, for what does not fit into the header."""
        return {}


def without_surrogates(text: str) -> str:
    """`text` as UTF-8 can hold it: surrogate pairs joined, lone surrogates replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def unknown_id(ids: Sequence[int], vocab_size: int) -> UserError:
    """The error for `ids` of which at least one is outside of the vocabulary."""
    wrong = next((i for i in ids if not 0 <= i < vocab_size), None)
    return UserError(
        f"Token id {wrong} is not in this tokenizer's vocabulary of {vocab_size} (0 to {vocab_size - 1}); "
        "the ids come from another tokenizer."
    )
