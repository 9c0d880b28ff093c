"""A folder of prepared tokens: token shards, the tokenizer that made them, and a readable index.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import write_text
from nanochat_pl.data.tokens.shard import SUFFIX, Header, read_header
from nanochat_pl.data.tokens.source import TokenSource

INDEX_FILE = "index.json"
TOKENIZER_FOLDER = "tokenizer"
FORMAT = "nanochat_pl.tokens"
FORMAT_VERSION = 1

Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")


@dataclass(frozen=True)
class TokenIndex:
    """What index.json says.

    Attributes:
        made_from: what decides every byte of the files: fingerprints of the documents and the tokenizer, the options.
        complete: False while the preparation is under way or was interrupted.
        splits: for each split the number of shards of its source and, when complete, its files and their totals.
    """

    made_from: dict[str, Any]
    complete: bool = False
    splits: Mapping[Split, dict[str, Any]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write index.json; it is either the old one or the new one."""
        content = {"format": FORMAT, "version": FORMAT_VERSION, "complete": self.complete, "made_from": self.made_from}
        write_text(folder / INDEX_FILE, json.dumps(content | dict(self.splits), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "TokenIndex":
        """The index of a folder.

        Raises:
            UserError: there is none, or it is damaged, foreign or of a later version.
        """
        path = folder / INDEX_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise KeyError("format")
            if content["version"] != FORMAT_VERSION:
                raise UserError(
                    f"{path} is of version {content['version']}, this nanochat-pl reads version {FORMAT_VERSION}: use "
                    "the version that wrote it, or prepare the tokens again."
                )
            splits = {split: content[split] for split in SPLITS} if content["complete"] else {}
            return cls(content["made_from"], content["complete"], splits)
        except OSError as error:
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            raise UserError(f"There are no prepared tokens in {folder}: {path} {reason}.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} is damaged, or `data prepare` did not write it ({error}).") from error

    def open(self, folder: Path, split: Split) -> TokenSource:
        """The documents of a split.

        Raises:
            UserError: the preparation was not completed; a file is missing, damaged or another one than listed.
        """
        if not self.complete:
            raise UserError(
                f"The tokens in {folder} are not complete: the preparation was interrupted or is still under way. Run "
                "the same `python -m nanochat_pl data prepare` again; it goes on where it was."
            )
        listed = self.splits[split]
        files = [folder / entry["file"] for entry in listed["files"]]
        for path, entry in zip(files, listed["files"]):
            if entry != describe(path, read_header(path)):
                raise UserError(
                    f"{path} is another file than the one that {folder / INDEX_FILE} lists. Restore it, or delete it "
                    "and run the same `python -m nanochat_pl data prepare` again."
                )
        return TokenSource(files, listed["shards"])


def shard_path(folder: Path, split: Split, number: int) -> Path:
    """The file with this number."""
    return folder / f"{split}-{number:05d}{SUFFIX}"


def describe(path: Path, header: Header) -> dict[str, Any]:
    """What the index says of a file."""
    return {
        "file": path.name,
        "shard": header.shard,
        "documents": header.num_documents,
        "tokens": header.num_tokens,
        "bytes": header.file_bytes,
        "sha256_of_index": header.index_digest,
    }
