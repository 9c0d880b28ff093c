"""Prepared tokens as a data set: `data=tokens data.path=DIR`."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat_pl.core.errors import UserError
from nanochat_pl.data.specs import DataSpec, Sources
from nanochat_pl.data.tokens.bins import BinDtype, BinSource, BinTokens
from nanochat_pl.data.tokens.folder import INDEX_FILE, TOKENIZER_FOLDER, TokenIndex
from nanochat_pl.tokenizers.base import HEADER_FILE, Tokenizer
from nanochat_pl.tokenizers.load import load_tokenizer

if TYPE_CHECKING:
    from nanochat_pl.data.module import TextDataModule

BIN_FILES = ("train.bin", "val.bin")


@dataclass(frozen=True)
class TokenDataSpec(DataSpec):
    """Tokens in a folder: token shards that `data prepare` wrote, or nanoGPT's headerless train.bin and val.bin.

    Attributes:
        path: the folder.
        tokenizer: folder of the tokenizer that made the tokens; None: the folder `tokenizer` in `path`.
        shuffle: windows begin anywhere at random; else one follows the other through the tokens (packing=windows).
        dtype: of the ids in headerless files.
        separator: the id behind each document in headerless files, which packing=best_fit needs.
    """

    path: str | None = None
    tokenizer: str | None = None
    shuffle: bool = True
    dtype: BinDtype = "uint16"
    separator: int | None = None

    def check(self) -> None:
        super().check()
        if not self.path:
            raise UserError(
                "data=tokens needs a folder: data.path=DIR, one that `python -m nanochat_pl data prepare SOURCE "
                "--tokenizer NAME --out DIR` wrote, or one with nanoGPT's train.bin and val.bin."
            )
        if not self.shuffle and self.packing != "windows":
            raise UserError("data.shuffle=false goes with data.packing=windows; best_fit shuffles the documents.")

    def own_tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens.

        Raises:
            UserError: there is none, or `tokenizer` names another.
        """
        return self._tokenizer

    def build_sources(self) -> Sources:
        index = self._index
        if index is not None:
            return index.open(self._folder, "train"), index.open(self._folder, "val")
        if self.packing == "best_fit" and self.separator is None:
            raise UserError(
                f"The files in {self._folder} don't tell where a document ends. Name the token behind each "
                "(data.separator=50256 for GPT-2's), or train on windows of the text with data.packing=windows."
            )
        vocab_size = self.own_tokenizer().vocab_size
        train, val = (BinTokens(self._folder / name, self.dtype, vocab_size) for name in BIN_FILES)
        return BinSource(train, self.separator), BinSource(val, self.separator)

    def build(self, tokenizer: Tokenizer, **arguments: Any) -> "TextDataModule":
        """The data module of one rank.

        Args:
            arguments: as of `DataSpec.build`.

        Raises:
            UserError: `tokenizer` is not the one that made the tokens.
        """
        own = self.own_tokenizer()
        if tokenizer.fingerprint != own.fingerprint:
            raise _mismatch(self._folder, _name(own.fingerprint, own.vocab_size), tokenizer)
        return super().build(tokenizer, shuffle_windows=self.shuffle, **arguments)

    @property
    def _folder(self) -> Path:
        assert self.path is not None
        return Path(self.path).expanduser()

    @functools.cached_property
    def _index(self) -> TokenIndex | None:
        """None where the files are headerless."""
        if not (self._folder / INDEX_FILE).exists() and (self._folder / BIN_FILES[0]).exists():
            return None
        return TokenIndex.load(self._folder)

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        folder = Path(self.tokenizer).expanduser() if self.tokenizer else self._folder / TOKENIZER_FOLDER
        if self._index is None and not self.tokenizer and not (folder / HEADER_FILE).is_file():
            raise UserError(
                f"{self._folder} holds headerless files, which don't tell how their ids were made. Name the folder of "
                "their tokenizer with data.tokenizer=FOLDER; `python -m nanochat_pl tokenizer --help` says how to "
                "get one."
            )
        tokenizer = load_tokenizer(folder)
        if self._index is not None and tokenizer.fingerprint != self._index.made_from["tokenizer"]:
            made_from = self._index.made_from
            raise _mismatch(self._folder, _name(made_from["tokenizer"], made_from["vocab_size"]), tokenizer)
        return tokenizer


def _mismatch(folder: Path, own: str, other: Tokenizer) -> UserError:
    return UserError(
        f"The tokens in {folder} were made by {own}, but the one to train with is "
        f"{_name(other.fingerprint, other.vocab_size)}: their ids mean different things. Train with the tokenizer that "
        "lies in the folder, or prepare the tokens again."
    )


def _name(fingerprint: str, vocab_size: int) -> str:
    return f"the tokenizer {fingerprint[:12]} of {vocab_size} tokens"
