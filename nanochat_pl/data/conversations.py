"""Conversations as documents: rendered when they are read, and each token marked that the model is to learn to say.

So streams, packing, cursors and resumption are those of any text.
"""

import functools
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from nanochat_pl.core.errors import UserError
from nanochat_pl.data.packing import START, WAIT_BUFFERS, BestFitPacker, Packing, Piece
from nanochat_pl.data.sources import DocumentSource
from nanochat_pl.data.specs import DataSpec, Sources
from nanochat_pl.data.targets import LEARNED
from nanochat_pl.tasks.mixture import Mixture
from nanochat_pl.tasks.specs import TaskSpec, build_mixture
from nanochat_pl.tasks.task import digest
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.chat import Message, render_conversation

if TYPE_CHECKING:
    from nanochat_pl.data.module import TextDataModule

log = logging.getLogger(__name__)

Learned = Literal["assistant", "all"]
"""What of a conversation is learned: what the assistant says, or every token, as in pretraining."""

_SAMPLED = 2000
"""Conversations, at random, from which all are estimated."""


class Sample(NamedTuple):
    """Some conversations as they are trained on.

    Attributes:
        ids: of each that is; see `ConversationSource.encode`.
        cut: how many of them are longer than a row, and lack their last turns.
        left_out: how many others have no turn that fits, or the assistant says nothing in them.
        share: of all conversations, that this sample is.
    """

    ids: list[np.ndarray]
    cut: int
    left_out: int
    share: float


class ConversationSource(DocumentSource):
    """The conversations of a mixture, in chunks of at most 32, and in 64 chunks or more if there are as many of them.

    Args:
        max_tokens: of a conversation, BOS included; a longer one is cut at a turn, or left out where none fits.
    """

    marks_learned = True
    each_shard_is_an_epoch = True

    def __init__(self, mixture: Mixture, learned: Learned, max_tokens: int, epochs: int = 1024):
        self.mixture, self._learned, self._max_tokens, self.num_shards = mixture, learned, max_tokens, epochs
        self._block = max(1, min(32, len(mixture) // 64))

    def of_length(self, max_tokens: int) -> "ConversationSource":
        """The same conversations, cut to another length."""
        return ConversationSource(self.mixture, self._learned, max_tokens, self.num_shards)

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(self._learned, self._max_tokens, self.mixture.fingerprint)

    @property
    def nothing_held_out(self) -> str:
        return (
            f"None of the {len(self.mixture):,} held-out conversations can be validated on: they are longer than the "
            f"{self._max_tokens} tokens that fit, or the assistant says nothing in them. Train a model with a longer "
            "context (model.sequence_len of stage=base), or name other conversations with tasks.val (of tasks=custom: "
            "tasks.val_path=FILE)."
        )

    def num_chunks(self, shard: int) -> int:
        return -(-len(self.mixture) // self._block)

    def read_chunk(self, shard: int, chunk: int) -> list[Any]:
        size = len(self.mixture)
        numbers = range(chunk * self._block, min((chunk + 1) * self._block, size))
        return [self.mixture.conversation(shard * size + n) for n in numbers]

    def encode(self, tokenizer: Tokenizer, documents: Sequence[Any], num_threads: int) -> list[np.ndarray]:
        """Ids without BOS, those to be learned with LEARNED added; empty for a conversation with nothing to learn."""
        return [self._rendered(tokenizer, messages)[0] for messages in documents]

    def check_learnable(self, tokenizer: Tokenizer) -> None:
        sample = self.sample(tokenizer)
        if not sample.ids:
            conversations = map(self.mixture.conversation, range(sample.left_out))
            shortest = min(len(render_conversation(tokenizer, each).ids) for each in conversations)
            raise UserError(
                f"None of {sample.left_out:,} conversations can be trained on: they have {shortest} tokens or more, of "
                f"which {self._max_tokens} fit, or the assistant says nothing in them. Train a model with a longer "
                "context (model.sequence_len of stage=base), or give shorter conversations."
            )
        about = "" if sample.share == 1 else "about "
        cut, left_out = (f"{about}{round(count / sample.share):,}" for count in (sample.cut, sample.left_out))
        log.info(
            f"Of {len(self.mixture):,} conversations {cut} are cut at a turn (longer than a row of {self._max_tokens} "
            f"tokens), and {left_out} left out (no turn fits, or the assistant says nothing)."
        )

    def sample(self, tokenizer: Tokenizer) -> Sample:
        """The conversations of the first epoch; where they are more than 2,000, so many of them at random."""
        count = min(len(self.mixture), _SAMPLED)
        rendered = [self._rendered(tokenizer, self.mixture.conversation(n)) for n in range(count)]
        learned = [ids for ids, _ in rendered if len(ids)]
        cut = sum(is_cut for _, is_cut in rendered)
        return Sample(learned, cut, count - len(learned), count / len(self.mixture))

    def _rendered(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[np.ndarray, bool]:
        """The ids, see `encode`, and whether they are cut."""
        rendered = render_conversation(tokenizer, messages, self._max_tokens)
        ids, mask = np.array(rendered.ids[1:], dtype=np.int64), np.array(rendered.mask[1:], dtype=np.int64)
        if not mask.any():
            return np.empty(0, dtype=np.int64), False
        return ids + LEARNED * (mask if self._learned == "assistant" else 1), rendered.cut > 0


@dataclass(frozen=True)
class ChatDataSpec(DataSpec):
    """The conversations of tasks.

    Attributes:
        tasks: to train on.
        val_tasks: to validate on.
        learned: what of them is learned.
        buffer_documents: at most; fewer where the conversations are few, see `buffered_documents`.
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

    def buffered_documents(self, train: DocumentSource) -> int:
        """So few that none waits in a buffer for much longer than an epoch."""
        assert isinstance(train, ConversationSource)
        return min(self.buffer_documents, max(1, len(train.mixture) // (WAIT_BUFFERS * self.streams)))

    def build(self, tokenizer: Tokenizer, *, sources: Sources | None = None, **how: Any) -> "TextDataModule":
        """As `DataSpec.build`; a conversation is cut to what a row holds."""
        cut = [source.of_length(how["sequence_len"] + 1) for source in self._conversations(sources)]
        return super().build(tokenizer, sources=(cut[0], cut[1]), **how)

    def epoch_tokens(self, tokenizer: Tokenizer, sequence_len: int, sources: Sources | None = None) -> int:
        """Of the rows that one pass over the training conversations fills, with padding; estimated from a sample."""
        source = self._conversations(sources)[0].of_length(sequence_len + 1)
        sample = source.sample(tokenizer)
        pieces = (Piece(ids, START, START) for ids in sample.ids)
        buffered = self.buffered_documents(source)
        packer = BestFitPacker(pieces, tokenizer.bos_id, buffered, crop=self.packing != "whole")
        row, rows = np.empty(sequence_len + 1, dtype=np.int64), 0
        while packer.fill(row):
            rows += 1
        rows_of_all = (rows + packer.filled / len(row)) / sample.share
        return max(1, round(rows_of_all * sequence_len))  # where nothing is to be learned, `check_learnable` says so

    def _conversations(self, sources: Sources | None) -> tuple[ConversationSource, ConversationSource]:
        train, val = sources or self.build_sources()
        assert isinstance(train, ConversationSource) and isinstance(val, ConversationSource)
        return train, val
