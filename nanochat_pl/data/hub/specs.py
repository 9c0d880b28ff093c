"""Data sets of the Hugging Face hub as specs: what `data=hub`, `fineweb_edu` and `climbmix` name."""

import fnmatch
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat_pl.core.errors import UserError
from nanochat_pl.data.hub.bad_shards import BadShards, OnBadShard
from nanochat_pl.data.hub.cache import ShardCache
from nanochat_pl.data.hub.connection import Connection
from nanochat_pl.data.hub.files import HubFile, HubIndex, hub_folder
from nanochat_pl.data.hub.index import folder_index, hub_index
from nanochat_pl.data.hub.manifest import Manifest
from nanochat_pl.data.hub.shards import LocalShards, RemoteShards, Shards
from nanochat_pl.data.hub.source import HubSource, KeptDocuments
from nanochat_pl.data.parquet import require
from nanochat_pl.data.specs import DataSpec, Sources

_CHARACTERS_PER_TOKEN = 6
"""More than any tokenizer packs into a token on average: enough held-out text is kept for every one."""


@dataclass(frozen=True)
class HubDataSpec(DataSpec):
    """A data set of parquet files on the hub, or in a folder laid out like one.

    Attributes:
        repo: "ORG/NAME".
        config: None: the only or default one.
        revision: a commit, branch or tag; None: the newest when it is first used. Pinned from then on.
        path: a local folder instead of the hub.
        text_column: of strings.
        id_column: what the hash of a document is made of; None: its text.
        val_fraction: the share of documents held out by that hash.
        val_files: names or globs of files that are held out instead.
        mode: "stream": row groups as they are needed, nothing kept; "cache": whole files, fetched ahead and kept.
        cache_gigabytes: what the kept files may take; the oldest used go first.
        on_bad_shard: "refetch": once, then leave it out; "skip": leave it out at once; "stop": end the run.
        val_tokens: None, for all that is held out, goes with `val_files` or `path` only.
    """

    repo: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    path: str | None = None
    text_column: str = "text"
    id_column: str | None = None
    val_fraction: float = 0.01
    val_files: str | list[str] | None = None
    mode: Literal["stream", "cache"] = "cache"
    cache_gigabytes: float = 50.0
    on_bad_shard: OnBadShard = "refetch"
    val_tokens: int | None = 524_288

    def check(self) -> None:
        super().check()
        if not self.repo and not self.path:
            raise UserError("data=hub needs data.repo=ORG/NAME, or a local folder: data.path=FOLDER.")
        if self.packing == "windows":
            raise UserError(
                "data.packing=windows holds all tokens in memory, which such data sets don't fit. Prepare them once "
                "(python -m nanochat_pl data prepare), and train with data=tokens data.packing=windows."
            )
        self.check_fraction("val_fraction")
        if self.cache_gigabytes <= 0:
            raise UserError(f"data.cache_gigabytes is {self.cache_gigabytes}; it must be positive.")

    def build_index(self, connection: Connection | None = None) -> HubIndex:
        """The data set's files, kept or found; raises what `hub_index` and `folder_index` raise.

        Args:
            connection: shared with those who read the files; None: one of its own.
        """
        require("pyarrow")
        if self.path:
            index = folder_index(Path(self.path), self.config, self.split)
        else:
            assert self.repo is not None
            require("datasets", "huggingface_hub")
            index = hub_index(self.repo, self.config, self.split, self.revision, connection)
        index.check_text_column(self.text_column)
        if self.id_column:
            index.check_column(self.id_column, "data.id_column (null: the text itself)")
        return index

    def build_sources(self) -> Sources:
        connection = Connection()
        index = self.build_index(connection)
        if index.is_local:
            return self._open(index, connection)
        if self.val_tokens is None and not self.val_files:
            raise UserError(
                "data.val_tokens=null would read all of the data set for its held-out documents: give a number, or "
                "hold out whole files with data.val_files."
            )
        train, held_out = self._open(index, connection)
        characters = _CHARACTERS_PER_TOKEN * self.val_tokens if self.val_tokens else 1 << 62
        name = f"validation-{held_out.fingerprint[:12]}-{self.val_tokens or 'all'}.jsonl"
        return train, KeptDocuments(held_out, hub_folder(index.repo) / name, characters)

    def build_whole_sources(self) -> Sources:
        connection = Connection()
        return self._open(self.build_index(connection), connection, validate_from_cache=True)

    def _open(
        self, index: HubIndex, connection: Connection, validate_from_cache: bool = False
    ) -> tuple[HubSource, HubSource]:
        """Both sides.

        Args:
            validate_from_cache: whole files are fetched for the held-out documents too, in the mode that fetches any.
        """
        train_files, val_files = self.files_by_side(index)
        manifest = None if index.is_local else Manifest(hub_folder(index.repo))
        bad = BadShards(self.on_bad_shard, index.repo, self.text_column, manifest, f"{index.folder.name}/")
        train: Shards
        val: Shards
        if manifest is None:
            train = val = LocalShards(index.folder)
        elif self.mode == "stream":
            train = val = RemoteShards(index, connection, self._attempts)
        else:
            train = cache = self._build_cache(index, manifest, connection)
            val = cache if validate_from_cache else RemoteShards(index, connection, self._attempts, cache.kept)
        side = functools.partial(
            HubSource,
            index,
            bad=bad,
            text_column=self.text_column,
            id_column=self.id_column,
            val_fraction=self.val_fraction,
        )
        if self.val_files:
            return side(train_files, train, side="all"), side(val_files, val, side="all")
        return side(train_files, train, side="train"), side(val_files, val, side="val")

    def _build_cache(self, index: HubIndex, manifest: Manifest, connection: Connection) -> ShardCache:
        """The place on the disk for the files; raises `UserError` where the two largest, which are in use at the same
        time, don't fit."""
        bound_bytes = int(self.cache_gigabytes * 1e9)
        largest = sum(sorted(file.size for file in index.files)[-2:])
        if bound_bytes < largest:
            raise UserError(
                f"data.cache_gigabytes={self.cache_gigabytes} is too little for two files of {index.repo}, and two are "
                f"in use where one follows the other: give {largest / 1e9:.2f} or more, or data.mode=stream."
            )
        return ShardCache(
            index,
            manifest,
            bound_bytes=bound_bytes,
            text_column=self.text_column,
            id_column=self.id_column,
            attempts=self._attempts,
            connection=connection,
        )

    @property
    def _attempts(self) -> int:
        return 2 if self.on_bad_shard == "refetch" else 1

    def files_by_side(self, index: HubIndex) -> tuple[list[HubFile], list[HubFile]]:
        """The files to train on, and those to validate on: the same ones where single documents are held out."""
        if not self.val_files:
            return list(index.files), list(index.files)
        patterns = [self.val_files] if isinstance(self.val_files, str) else self.val_files
        names = {file.name: {file.name, Path(file.name).name} for file in index.files}
        for pattern in patterns:
            if not any(fnmatch.filter(spellings, pattern) for spellings in names.values()):
                listed = ", ".join(list(names)[:5])
                raise UserError(
                    f"data.val_files: no file of {index.repo} matches {pattern} (the first of {len(names)}: {listed})."
                )
        val = [file for file in index.files if any(fnmatch.filter(names[file.name], pattern) for pattern in patterns)]
        train = [file for file in index.files if file not in val]
        if not train:
            raise UserError(f"data.val_files holds out all {len(val)} files of {index.repo}; leave some to train on.")
        return train, val
