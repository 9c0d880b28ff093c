"""The files of a hub data set, and where they are."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.core.paths import data_root
from nanochat_pl.data.parquet import is_text


class HubFile(NamedTuple):
    """A parquet file: its path in the repository (or below the local folder), size in bytes, and hash if known."""

    name: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class HubIndex:
    """The files of one split of one configuration of a data set, at one revision.

    Attributes:
        repo: "ORG/NAME" on the hub; the folder's path for a local one.
        config: the configuration's name.
        split: for example "train".
        revision: the commit; empty for a local folder.
        files: in the data set's own order.
        columns: name -> type, as the first readable file has them; empty where none could be read.
    """

    repo: str
    config: str
    split: str
    revision: str
    files: tuple[HubFile, ...]
    columns: dict[str, str]

    @property
    def is_local(self) -> bool:
        return not self.revision

    @property
    def folder(self) -> Path:
        """Where the files are: the local folder, or the place in the cache for this revision's."""
        return Path(self.repo) if self.is_local else hub_folder(self.repo) / self.revision[:12]

    @property
    def fingerprint(self) -> str:
        """Of the data set and its files' names and sizes; a local folder's does not depend on where it lies."""
        origin = [] if self.is_local else [self.repo, self.config, self.split, self.revision]
        listing = json.dumps([*origin, [(file.name, file.size) for file in self.files]])
        return hashlib.sha256(listing.encode()).hexdigest()

    def check_column(self, column: str, option: str) -> None:
        """Raise `UserError` where the files have no such column."""
        if self.columns and column not in self.columns:
            raise UserError(
                f"{self.repo} has no column '{column}' (there are: {', '.join(self.columns)})"
                f"{nearest(column, list(self.columns))}. Name it with {option}."
            )

    def check_text_column(self, column: str) -> None:
        """Raise `UserError` where the files have no such column, or it holds no strings."""
        self.check_column(column, "data.text_column")
        kind = self.columns.get(column, "string")
        if not is_text(kind):
            texts = ", ".join(name for name, other in self.columns.items() if is_text(other)) or "none"
            raise UserError(
                f"Column '{column}' of {self.repo} holds {kind}, not text (columns of strings: {texts}). Choose one "
                "with data.text_column."
            )


def hub_folder(repo: str) -> Path:
    """The folder in the cache for everything kept of a hub data set."""
    return data_root() / "hub" / repo.replace("/", "--")
