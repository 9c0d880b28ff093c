"""The data sets as specs: what `data=...` names, and `.build(...)` makes."""

from dataclasses import dataclass

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.spec import Spec
from nanochat_pl.data.module import Layout, Packing, TextDataModule
from nanochat_pl.data.sources import DocumentSource, TinySource
from nanochat_pl.tokenizers.base import Tokenizer

Sources = tuple[DocumentSource, DocumentSource]
"""The documents to train on, and those held out."""


@dataclass(frozen=True)
class DataSpec(Spec):
    """What every text data set can be told.

    Attributes:
        packing: "best_fit": rows begin with BOS and hold whole documents where they can; "windows": random windows.
        streams: V, virtual streams; as many devices as divide it can train on the same rows.
        buffer_documents: documents that each stream's packer chooses from.
        val_tokens: size of the validation list; None: the whole held-out split.
    """

    packing: Packing = "best_fit"
    streams: int = 16
    buffer_documents: int = 128
    val_tokens: int | None = 131_072

    def check(self) -> None:
        for name in ("streams", "buffer_documents", "val_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"data.{name} is {value}; it must be at least 1.")

    def build_sources(self) -> Sources:
        """Open the documents; (train, val). Raises what reading them raises."""
        raise NotImplementedError

    def build(
        self,
        tokenizer: Tokenizer,
        *,
        sequence_len: int,
        rows_per_step: int,
        micro_batch_rows: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        tokenizer_threads: int = 2,
        sources: Sources | None = None,
    ) -> TextDataModule:
        """The data module of one rank.

        Args:
            rows_per_step: rows of one optimizer step over all ranks.
            micro_batch_rows: rows of one batch.
            sources: what `build_sources` returned, where it was called before.
        """
        train, val = sources or self.build_sources()
        return TextDataModule(
            train,
            val,
            tokenizer,
            Layout(sequence_len, rows_per_step, micro_batch_rows, self.streams, rank, world_size),
            seed=seed,
            packing=self.packing,
            buffer_documents=self.buffer_documents,
            val_tokens=self.val_tokens,
            tokenizer_threads=tokenizer_threads,
        )


@dataclass(frozen=True)
class TinyDataSpec(DataSpec):
    """The embedded tiny world.

    Attributes:
        num_documents: training documents before they repeat.
    """

    num_documents: int = 262_144
    val_documents: int = 8_192

    def check(self) -> None:
        super().check()
        for name in ("num_documents", "val_documents"):
            if getattr(self, name) < 1:
                raise UserError(f"data.{name} is {getattr(self, name)}; it must be at least 1.")

    def build_sources(self) -> Sources:
        return TinySource("train", self.num_documents), TinySource("val", self.val_documents)
