"""The data sets as specs: what `data=...` names, and `.build(...)` makes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.spec import Spec
from nanochat_pl.data.download import tiny_shakespeare
from nanochat_pl.data.packing import Packing
from nanochat_pl.data.sources import DocumentSource, TinySource
from nanochat_pl.data.text_files import find_files
from nanochat_pl.data.text_sources import text_sources
from nanochat_pl.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from nanochat_pl.data.module import TextDataModule

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

    holds: ClassVar[str] = "text"

    def check(self) -> None:
        self.check_at_least_1("streams", "buffer_documents", "val_tokens")

    def check_at_least_1(self, *names: str) -> None:
        """Raise `UserError` where one of these is set, and not positive."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"data.{name} is {value}; it must be at least 1.")

    def check_fraction(self, name: str) -> None:
        """Raise `UserError` where this is no share."""
        if not 0 < getattr(self, name) < 1:
            raise UserError(f"data.{name} is {getattr(self, name)}; it must lie between 0 and 1, for example 0.1.")

    def build_sources(self) -> Sources:
        """Open the documents; (train, val). Raises what reading them raises."""
        raise NotImplementedError

    def buffered_documents(self, train: DocumentSource) -> int:
        """Documents that each stream's packer chooses from."""
        return self.buffer_documents

    def build_whole_sources(self) -> Sources:
        """As `build_sources`; where that keeps only some of the held-out documents, all of them."""
        return self.build_sources()

    def own_tokenizer(self) -> Tokenizer | None:
        """The tokenizer that made the data, where they are tokens; None for text, which takes any."""
        return None

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
        shuffle_windows: bool = True,
        sources: Sources | None = None,
    ) -> "TextDataModule":
        """The data module of one rank.

        Args:
            rows_per_step: rows of one optimizer step over all ranks.
            micro_batch_rows: rows of one batch.
            shuffle_windows: with packing="windows", False for one after the other.
            sources: what `build_sources` returned, where it was called before.
        """
        from nanochat_pl.data.module import (
            Layout,
            TextDataModule,
        )  # Lightning: seconds that opening sources needn't cost

        train, val = sources or self.build_sources()
        return TextDataModule(
            train,
            val,
            tokenizer,
            Layout(sequence_len, rows_per_step, micro_batch_rows, self.streams, rank, world_size),
            seed=seed,
            packing=self.packing,
            shuffle_windows=shuffle_windows,
            buffer_documents=self.buffered_documents(train),
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
        self.check_at_least_1("num_documents", "val_documents")

    def build_sources(self) -> Sources:
        return TinySource("train", self.num_documents), TinySource("val", self.val_documents)


@dataclass(frozen=True)
class TextDataSpec(DataSpec):
    """The user's own .txt, .jsonl and .parquet files.

    Attributes:
        files: paths, folders or globs. A .txt file is split into documents at blank lines (not for windows).
        val_files: what to validate on; None: a part of `files` is held out.
        text_key: key of the text in .jsonl, column in .parquet.
        val_fraction: the share that is held out: the end of the .txt files, documents by hash of the others.
    """

    files: str | list[str] | None = None
    val_files: str | list[str] | None = None
    text_key: str = "text"
    val_fraction: float = 0.05

    def check(self) -> None:
        super().check()
        if not self.files:
            raise UserError("data=text needs files: data.files=my.txt, or data.files='[a.jsonl,more/*.parquet]'.")
        self.check_fraction("val_fraction")

    def build_sources(self) -> Sources:
        return text_sources(
            find_files(as_list(self.files)),
            find_files(as_list(self.val_files), "data.val_files"),
            text_key=self.text_key,
            val_fraction=self.val_fraction,
            whole_files=self.packing == "windows",
        )


@dataclass(frozen=True)
class ShakespeareDataSpec(DataSpec):
    """Tiny Shakespeare; the last 10% are held out, as in nanoGPT.

    Attributes:
        path: the text; None: downloaded once and kept.
    """

    path: str | None = None
    val_fraction: float = 0.1
    packing: Packing = "windows"

    def check(self) -> None:
        super().check()
        self.check_fraction("val_fraction")

    def build_sources(self) -> Sources:
        files = find_files([self.path], "data.path") if self.path else [tiny_shakespeare()]
        return text_sources(files, val_fraction=self.val_fraction, whole_files=self.packing == "windows")


def as_list(files: str | list[str] | None) -> list[str]:
    """One or several, or none."""
    return [files] if isinstance(files, str) else list(files or ())
