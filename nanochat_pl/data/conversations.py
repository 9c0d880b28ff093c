"""Conversations as documents: rendered when they are read, and each token marked that the model is to learn to say.

So streams, packing, cursors and resumption are those of any text.
"""

import functools
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from nanochat_pl.core.errors import UserError
from nanochat_pl.data.packing import Packing
from nanochat_pl.data.sources import DocumentSource
from nanochat_pl.data.specs import DataSpec, Sources
from nanochat_pl.data.targets import LEARNED
from nanochat_pl.tasks.mixture import Mixture
from nanochat_pl.tasks.specs import TaskSpec, build_mixture
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.chat import Message, render_conversation

if TYPE_CHECKING:
    from nanochat_pl.data.module import TextDataModule

Learned = Literal["assistant", "all"]
"""What of a conversation is learned: what the assistant says, or every token, as in pretraining."""

_CHUNK = 32
_SAMPLES = 16
_MEASURED = 2000
"""Conversations, at random, from whose length that of all is estimated."""


class ConversationSource(DocumentSource):
    """The conversations of a mixture; an epoch of it is a shard.

    Args:
        max_tokens: of a conversation, BOS included; a longer one is cut at a turn, or left out where none fits.
    """

    marks_learned = True

    def __init__(self, mixture: Mixture, learned: Learned, max_tokens: int, epochs: int = 1024):
        self.mixture, self._learned, self._max_tokens, self.num_shards = mixture, learned, max_tokens, epochs
        self._cut = self._left_out = 0

    def of_length(self, max_tokens: int) -> "ConversationSource":
        """The same conversations, cut to another length."""
        return ConversationSource(self.mixture, self._learned, max_tokens, self.num_shards)

    @functools.cached_property
    def fingerprint(self) -> str:
        parts: list[Any] = [self._learned, self._max_tokens, self.mixture.seed]
        for task, count in zip(self.mixture.tasks, self.mixture.counts):
            samples = range(0, len(task), -(-len(task) // _SAMPLES))
            parts += [task.name, count, len(task), [task.conversation(i) for i in samples]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def num_chunks(self, shard: int) -> int:
        return -(-len(self.mixture) // _CHUNK)

    def read_chunk(self, shard: int, chunk: int) -> list[Any]:
        size = len(self.mixture)
        numbers = range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, size))
        return [self.mixture.conversation(shard * size + n) for n in numbers]

    def encode(self, tokenizer: Tokenizer, documents: Sequence[Any], num_threads: int) -> list[np.ndarray]:
        """Ids without BOS, those to be learned with LEARNED added; empty for a conversation with nothing to learn."""
        return [self._rendered(tokenizer, messages) for messages in documents]

    def counters(self) -> dict[str, int]:
        return {"cut_conversations": self._cut, "left_out_conversations": self._left_out}

    def check_learnable(self, tokenizer: Tokenizer) -> None:
        """Raise `UserError` where the assistant says nothing that fits, in the first epoch."""
        shortest: int | None = None
        for n in range(len(self.mixture)):
            conversation = self.mixture.conversation(n)
            if len(self._rendered(tokenizer, conversation)):
                return
            length = len(render_conversation(tokenizer, conversation).ids)
            shortest = min(shortest or length, length)
        raise UserError(
            f"None of the {len(self.mixture):,} conversations can be trained on: they have {shortest} tokens or more, "
            f"of which {self._max_tokens} fit, or the assistant says nothing in them. Train a model with a longer "
            "context (model.sequence_len of stage=base), or give shorter conversations."
        )

    def epoch_tokens(self, tokenizer: Tokenizer) -> int:
        """Tokens of one pass over the mixture, BOS included, padding not; an estimate where there are thousands."""
        measured = min(len(self.mixture), _MEASURED)
        lengths = (len(self._rendered(tokenizer, self.mixture.conversation(n))) for n in range(measured))
        return sum(length + 1 for length in lengths if length) * len(self.mixture) // measured

    def _rendered(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> np.ndarray:
        rendered = render_conversation(tokenizer, messages, self._max_tokens)
        ids, mask = np.array(rendered.ids[1:], dtype=np.int64), np.array(rendered.mask[1:], dtype=np.int64)
        if not mask.any():
            self._left_out += 1
            return np.empty(0, dtype=np.int64)
        self._cut += rendered.cut > 0
        return ids + LEARNED * (mask if self._learned == "assistant" else 1)


@dataclass(frozen=True)
class ChatDataSpec(DataSpec):
    """The conversations of tasks.

    Attributes:
        tasks: to train on.
        val_tasks: to validate on.
        learned: what of them is learned.
    """

    tasks: tuple[TaskSpec, ...] = ()
    val_tasks: tuple[TaskSpec, ...] = ()
    learned: Learned = "assistant"
    packing: Packing = "whole"

    holds: ClassVar[str] = "conversations"

    def check(self) -> None:
        super().check()
        if self.packing == "windows":
            raise UserError("data.packing=windows is for text; conversations are packed whole or best_fit.")

    def build_sources(self) -> tuple[ConversationSource, ConversationSource]:
        """The conversations at their full length: `build` knows how much of them fits."""
        train = ConversationSource(build_mixture(self.tasks), self.learned, sys.maxsize)
        return train, ConversationSource(build_mixture(self.val_tasks), self.learned, sys.maxsize, epochs=1)

    def build(self, tokenizer: Tokenizer, *, sources: Sources | None = None, **how: Any) -> "TextDataModule":
        """As `DataSpec.build`; a conversation is cut to what a row holds."""
        cut = [source.of_length(how["sequence_len"] + 1) for source in self._conversations(sources)]
        return super().build(tokenizer, sources=(cut[0], cut[1]), **how)

    def epoch_tokens(self, tokenizer: Tokenizer, sequence_len: int, sources: Sources | None = None) -> int:
        """Of the training conversations, see `ConversationSource.epoch_tokens`."""
        return self._conversations(sources)[0].of_length(sequence_len + 1).epoch_tokens(tokenizer)

    def _conversations(self, sources: Sources | None) -> tuple[ConversationSource, ConversationSource]:
        train, val = sources or self.build_sources()
        assert isinstance(train, ConversationSource) and isinstance(val, ConversationSource)
        return train, val
