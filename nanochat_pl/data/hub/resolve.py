"""Asking the hub, or a local folder, which files a data set has; what goes wrong there in words that help.

`datasets` reads the data set's card and resolves its patterns, `huggingface_hub` knows sizes and hashes.
"""

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat_pl.core.errors import MachineError, UserError, nearest
from nanochat_pl.data.hub.connection import Connection, access_error, gated_error
from nanochat_pl.data.hub.files import HubFile, HubIndex
from nanochat_pl.data.hub.shards import LocalShards, RemoteShards, Shards
from nanochat_pl.data.parquet import BadShard, read_columns, require

log = logging.getLogger("nanochat_pl.data")

_PATHS_AT_ONCE = 500
_FILES_TRIED_FOR_COLUMNS = 3


def resolve_hub(repo: str, config: str | None, split: str, revision: str | None, connection: Connection) -> HubIndex:
    """Find out by the hub; raises what `hub_index` raises."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        index = connection.run(lambda: _resolve_hub(repo, config, split, revision), f"the list of files of {repo}")
        return dataclasses.replace(index, columns=_columns(index, RemoteShards(index, connection, attempts=1)))
    except HFValidationError as error:
        raise UserError(f"data.repo={repo} is no name of a data set (ORG/NAME): {error}") from error
    except HfHubHTTPError as error:
        raise access_error(error, repo, revision) from error
    except DatasetsError as error:
        if "gated" in str(error):  # `datasets` does not pass on the hub's own error
            raise gated_error(repo) from error
        raise UserError(f"{repo}: {error}") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise MachineError(f"The hub's answer about {repo} cannot be read: {error}") from error


def resolve_folder(folder: Path, config: str | None, split: str) -> HubIndex:
    """Find out by the folder; raises what `folder_index` raises."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))
    if not names:
        raise UserError(f"data.path: the folder {folder} holds no parquet files.")
    if any((folder / card).exists() for card in ("README.md", ".huggingface.yaml")):
        require("datasets")
        from datasets.exceptions import DatasetsError

        try:
            config, paths = _files_of(str(folder), config, split)
        except DatasetsError as error:
            raise UserError(f"data.path={folder}: {error}") from error
        names = [os.path.relpath(path, folder) for path in paths]
    files = tuple(HubFile(name, (folder / name).stat().st_size) for name in names)
    index = HubIndex(str(folder), config or "default", split, "", files, {})
    return dataclasses.replace(index, columns=_columns(index, LocalShards(folder)))


def _resolve_hub(repo: str, config: str | None, split: str, revision: str | None) -> HubIndex:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    commit = api.dataset_info(repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT).sha
    assert commit is not None, "the hub says which commit a revision is"
    config, urls = _files_of(repo, config, split, commit)
    names = [url.split(f"@{commit}/", 1)[-1] for url in urls]
    files: dict[str, HubFile] = {}
    for start in range(0, len(names), _PATHS_AT_ONCE):
        for info in api.get_paths_info(
            repo, names[start : start + _PATHS_AT_ONCE], revision=commit, repo_type="dataset"
        ):
            assert isinstance(info, RepoFile), "the builder names files"
            files[info.path] = HubFile(info.path, info.size, info.lfs.sha256 if info.lfs else None)
    return HubIndex(repo, config, split, commit, tuple(files[name] for name in names), {})


def _columns(index: HubIndex, shards: Shards) -> dict[str, str]:
    """Of the first readable file; nothing where the first ones are bad: each of those is told of when it is read."""
    for file in index.files[:_FILES_TRIED_FOR_COLUMNS]:
        try:
            return shards.read(file, read_columns)
        except BadShard as error:
            log.warning("%s of %s: %s", file.name, index.repo, error)
    return {}


def _files_of(path: str, config: str | None, split: str, revision: str | None = None) -> tuple[str, list[str]]:
    """(configuration, its files) by the builder of `datasets`."""
    from datasets import get_dataset_config_names, load_dataset_builder

    try:
        builder: Any = load_dataset_builder(path, name=config, revision=revision)
    except ValueError as error:
        configs = get_dataset_config_names(path, revision=revision)
        if config in configs:
            raise
        listed = ", ".join(configs)
        if config is None:
            raise UserError(f"{path} has several configurations ({listed}): choose with data.config.") from error
        raise UserError(
            f"{path} has no configuration '{config}' (there are: {listed}){nearest(config, configs)} Choose one with "
            "data.config."
        ) from error
    by_split: dict[str, Sequence[str]] = {str(name): files for name, files in (builder.config.data_files or {}).items()}
    if split not in by_split:
        raise UserError(
            f"{path}, configuration {builder.config.name}, has no split '{split}' (there are: {', '.join(by_split)})"
            f"{nearest(split, list(by_split))} Choose one with data.split."
        )
    files = [str(file) for file in by_split[split]]
    others = [file for file in files if not file.endswith(".parquet")]
    if others:
        raise UserError(
            f"{path} holds no parquet but {Path(others[0]).name}. Data sets on the hub often have a parquet twin: try "
            "data.revision=refs/convert/parquet."
        )
    return builder.config.name, files
