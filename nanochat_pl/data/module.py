"""The LightningDataModule of text: rows dealt from virtual streams, exact to stop and continue at any step."""

import weakref
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from nanochat_pl.core.errors import UserError, nearest_multiples
from nanochat_pl.core.types import StepBatch
from nanochat_pl.data.background import Endless, ReadAhead
from nanochat_pl.data.packing import BestFitPacker, PackerState, Packing
from nanochat_pl.data.sources import DocumentSource, TokenArray, read_documents
from nanochat_pl.data.state import Cursor, DataState, gather_states
from nanochat_pl.data.stream import Dealer, PieceStream, load_pieces
from nanochat_pl.data.targets import inputs_and_targets
from nanochat_pl.data.validation import packed_rows, window_rows
from nanochat_pl.data.windows import WindowRows, joined
from nanochat_pl.tokenizers.base import Tokenizer

AHEAD_BATCHES = 4
"""Batches that the background thread has ready, so that the training never waits for one."""


@dataclass(frozen=True)
class Layout:
    """How the rows of a step are shared out.

    Row n, counted over the whole run, comes from stream n mod V and belongs to rank n mod W; a micro-batch is any slice
    of a rank's rows.

    Attributes:
        sequence_len: T; a row has T inputs and T targets.
        rows_per_step: R, rows of one optimizer step over all ranks; a multiple of W.
        micro_batch_rows: rows of one batch of one rank; the last batch of a step may be smaller.
        streams: V; a multiple of W.
        rank: of this process.
        world_size: W.
    """

    sequence_len: int
    rows_per_step: int
    micro_batch_rows: int
    streams: int = 16
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        for name in ("sequence_len", "rows_per_step", "micro_batch_rows", "streams", "world_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        assert 0 <= self.rank < self.world_size
        for name in ("rows_per_step", "streams"):
            value, w = getattr(self, name), self.world_size
            if value % w:
                legal = nearest_multiples(value, w)
                raise UserError(f"{name} is {value}, which {w} devices cannot share evenly; nearest legal: {legal}.")

    @property
    def micro_batches_per_step(self) -> int:
        """Batches that one rank yields in one optimizer step: the accumulation."""
        return -(-(self.rows_per_step // self.world_size) // self.micro_batch_rows)

    @property
    def own_streams(self) -> range:
        """The streams of this rank."""
        return range(self.rank, self.streams, self.world_size)

    def own_rows(self, start: int) -> range:
        """This rank's rows of the step that begins at row `start`."""
        return range(start + (self.rank - start) % self.world_size, start + self.rows_per_step, self.world_size)


class TextDataModule(LightningDataModule):
    """Batches for pretraining from `train`, and a fixed validation list from `val`.

    `train_dataloader()` never ends and goes on from the last committed cursor. A batch that ends a step carries a
    cursor; `commit(cursor)` when the optimizer has stepped makes it the state that `state_dict()` saves. Rows depend on
    the sources, the tokenizer, T, V, the packing and the seed only, so a run goes on exactly with another number of
    ranks or other micro-batches.

    Args:
        train, val: documents to train on, documents never trained on.
        layout: how rows are shared out.
        packing: "best_fit" or "windows" (text is tokenized at once and held in memory).
        shuffle_windows: windows begin anywhere at random; else one follows the other.
        buffer_documents: pieces that each stream's packer chooses from.
        val_tokens: at most so many targets in the validation list; None: all.
        tokenizer_threads: tokenizing ahead, beside the training.

    Attributes:
        micro_batches_per_step: see `Layout`.
        marks_learned: whether only some of the targets count.
    """

    def __init__(
        self,
        train: DocumentSource,
        val: DocumentSource,
        tokenizer: Tokenizer,
        layout: Layout,
        *,
        seed: int,
        packing: Packing = "best_fit",
        shuffle_windows: bool = True,
        buffer_documents: int = 128,
        val_tokens: int | None = 1 << 17,
        tokenizer_threads: int = 2,
    ):
        super().__init__()
        self.tokenizer, self.layout = tokenizer, layout
        self.micro_batches_per_step, self.val_tokens = layout.micro_batches_per_step, val_tokens
        self.marks_learned = train.marks_learned
        self._train, self._val, self._packing, self._shuffle_windows = train, val, packing, shuffle_windows
        self._seed, self._buffer_documents, self._threads = seed, buffer_documents, tokenizer_threads
        self._committed = Cursor(0, {})
        self._train_tokens: TokenArray | None = None
        self._val_batches: list[StepBatch] | None = None
        self._interruption: BaseException | None = None
        self._reading: weakref.ref[ReadAhead[StepBatch]] | None = None  # which ends when it is forgotten

    @property
    def waited_seconds(self) -> float:
        """That the training has waited for batches so far."""
        reading = self._reading and self._reading()
        return reading.waited_seconds if reading else 0.0

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the rows depend on; a state goes on only where all of it is the same."""
        shared = {
            "training data": self._train.fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            "sequence_len": self.layout.sequence_len,
            "packing": self._packing,
            "seed": self._seed,
        }
        if self._packing == "windows":
            return shared if self._shuffle_windows else shared | {"packing": "windows in order"}
        return shared | {"streams": self.layout.streams, "buffer_documents": self._buffer_documents}

    def check_length(self) -> None:
        """Read as many documents as a row needs; for a new run, whose first shards are wanted anyway.

        Where not every token counts, see also that validation will have one that does.

        Raises:
            UserError: all of them together are shorter, or nothing in them is to be learned.
        """
        self._train.check_learnable(self.tokenizer)
        if self._val.marks_learned:
            self.val_dataloader()
        if self._packing == "whole":
            return
        wanted = self.layout.sequence_len + 1
        tokens = self._count_tokens(wanted)
        if tokens < wanted:
            raise UserError(
                f"The training text has only {tokens} tokens, but one row of sequence_len={self.layout.sequence_len} "
                f"needs {wanted}. Give more text, or set model.sequence_len to {max(1, tokens - 1)} or less."
            )

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Endless(self._read_ahead), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        if self._val_batches is None:
            build = self._build_val_batches
            self._val_batches = next(ReadAhead((build() for _ in range(1)), 1, lambda: self._interruption))
        return DataLoader(self._val_batches, batch_size=None)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch: StepBatch, device: torch.device, dataloader_idx: int) -> StepBatch:
        both = batch.inputs._base
        if both is None or both is not batch.targets._base:
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        inputs, targets = both.to(device, non_blocking=True)
        return batch._replace(inputs=inputs, targets=targets)

    def commit(self, cursor: Cursor) -> None:
        """The optimizer has stepped on the batches up to and including the one that carried `cursor`."""
        assert cursor.streams is not None, "a cursor in the middle of a step; accumulate micro_batches_per_step batches"
        self._committed = cursor

    def interrupt(self, error: BaseException) -> None:
        """Whoever waits in vain for a batch, now or later, gets `error`; batches that can be had still come."""
        self._interruption = error

    def state_dict(self) -> dict[str, Any]:
        """The committed state of all ranks, in plain containers. A collective call where torch.distributed runs."""
        streams = gather_states(self._states, self.layout.world_size)
        return DataState(self.fingerprint, self._committed.rows, streams).as_plain()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the state was saved, on any number of ranks.

        Raises:
            UserError: the state belongs to other data, another tokenizer or other settings; names the differences.
        """
        state = DataState.from_plain(state_dict)
        state.check_fingerprint(self.fingerprint)
        state.check_streams([] if self._packing == "windows" else self.layout.own_streams)
        self._committed = Cursor(state.rows, state.streams)

    def counters(self) -> dict[str, int]:
        """What this rank's streams have read up to the committed step, for a log line.

        `epoch` is the number of complete passes over the data, `pieces` counts documents and row-sized parts of long
        ones, `tokens` those placed in rows, `cropped_tokens` those cut off; the source may add its own.
        """
        if self._packing == "windows":
            tokens = self._committed.rows // self.layout.world_size * self.layout.sequence_len
            size = 0 if self._train_tokens is None else len(self._train_tokens)
            epoch = self._committed.rows * self.layout.sequence_len // size if size else 0
            return {"epoch": epoch, "tokens": tokens, **self._train.counters()}
        states = self._states.values()
        slots_per_epoch = 1 if self._train.each_shard_is_an_epoch else self._train.num_shards
        return {
            "epoch": min(state.position[0] for state in states) // slots_per_epoch,
            "pieces": sum(state.pieces for state in states),
            "tokens": sum(state.tokens for state in states),
            "cropped_tokens": sum(state.cropped_tokens for state in states),
            **self._train.counters(),
        }

    def _read_ahead(self) -> ReadAhead[StepBatch]:
        batches = ReadAhead(self._train_batches(), AHEAD_BATCHES, lambda: self._interruption)
        self._reading = weakref.ref(batches)
        return batches

    @property
    def _states(self) -> dict[int, PackerState]:
        """Of this rank's streams at the committed step; windows have none."""
        assert self._committed.streams is not None
        streams = [] if self._packing == "windows" else self.layout.own_streams
        return {stream: self._committed.streams.get(stream, PackerState()) for stream in streams}

    def _dealer(self) -> Dealer:
        return Dealer(self._train, self.layout.streams, self._seed)

    def _train_batches(self) -> Iterator[StepBatch]:
        if self._packing == "windows":
            if self._train_tokens is None:
                self._train_tokens = joined(self._train, self.tokenizer, self._threads)
            return self._batches_from(WindowRows(self._train_tokens, self._seed, self._shuffle_windows))
        # Not shut down by hand: its threads end when the last stream that uses it is gone.
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="tokenize")
        rows = PackedRows(
            self._dealer(),
            self._states,
            self.tokenizer,
            self.layout.sequence_len,
            self._buffer_documents,
            pool,
            crop=self._packing != "whole",
        )
        return self._batches_from(rows)

    def _batches_from(self, rows: "WindowRows | PackedRows") -> Iterator[StepBatch]:
        layout, start, marked = self.layout, self._committed.rows, self._train.marks_learned
        pin = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        while True:
            own = layout.own_rows(start)
            start += layout.rows_per_step
            for first in range(0, len(own), layout.micro_batch_rows):
                numbers = own[first : first + layout.micro_batch_rows]
                block = np.empty((len(numbers), layout.sequence_len + 1), dtype=np.int64)
                for i, n in enumerate(numbers):
                    rows.fill(n, block[i])
                ends_step = numbers[-1] == own[-1]
                inputs, targets = inputs_and_targets(block, marked=marked, padding_id=self.tokenizer.bos_id)
                # One tensor, which is one transfer to a device.
                both = torch.empty(2, len(numbers), layout.sequence_len, dtype=torch.int64, pin_memory=pin)
                both[0], both[1] = torch.from_numpy(inputs), torch.from_numpy(targets)
                yield StepBatch(both[0], both[1], None, Cursor(start, rows.snapshot() if ends_step else None))

    def _count_tokens(self, enough: int) -> int:
        """Tokens to train on, a BOS before each document included; not counted much further than `enough`."""
        prepared = self._train.joined()
        if prepared is not None:
            return len(prepared)
        tokens, dealer = 0, self._dealer()
        shards = (dealer.shard(slot)[1] for slot in range(self._train.num_shards))
        for document in read_documents(self._train, shards):
            tokens += len(self._train.encode(self.tokenizer, [document], num_threads=1)[0]) + 1
            if tokens >= enough:
                break
        return tokens

    def _build_val_batches(self) -> list[StepBatch]:
        layout = self.layout
        limit = None if self.val_tokens is None else max(1, self.val_tokens // layout.sequence_len)
        how = (self._val, self.tokenizer, layout.sequence_len, limit, layout.world_size)
        rows = window_rows(*how) if self._packing == "windows" else packed_rows(*how, crop=self._packing != "whole")
        own = [torch.from_numpy(side[layout.rank :: layout.world_size].copy()) for side in rows]
        return [
            StepBatch(inputs, targets, None, None)
            for inputs, targets in zip(*(side.split(layout.micro_batch_rows) for side in own))
        ]


class PackedRows:
    """The packers of one rank's streams."""

    def __init__(
        self,
        dealer: Dealer,
        states: dict[int, PackerState],
        tokenizer: Tokenizer,
        sequence_len: int,
        buffer_documents: int,
        pool: Executor,
        crop: bool,
    ):
        self._streams = dealer.streams
        self._states = dict(states)
        self._packers: dict[int, BestFitPacker] = {}
        self._touched: set[int] = set()

        def open_packer(stream: int, state: PackerState) -> BestFitPacker:
            held = load_pieces(dealer, stream, tokenizer, sequence_len, state.held)
            pieces = PieceStream(dealer, stream, tokenizer, sequence_len, pool, state.position)
            return BestFitPacker(pieces, tokenizer.bos_id, buffer_documents, held, state, crop)

        self._opening: dict[int, Future[BestFitPacker]] = {
            stream: pool.submit(open_packer, stream, state) for stream, state in states.items()
        }

    def fill(self, n: int, row: np.ndarray) -> None:
        """Write row number `n` of the run."""
        stream = n % self._streams
        packer = self._packers.get(stream)
        if packer is None:
            packer = self._packers[stream] = self._opening.pop(stream).result()
        packer.fill(row)
        self._touched.add(stream)

    def snapshot(self) -> dict[int, PackerState]:
        """The state of every stream."""
        for stream in self._touched:
            self._states[stream] = self._packers[stream].snapshot()
        self._touched.clear()
        return dict(self._states)
