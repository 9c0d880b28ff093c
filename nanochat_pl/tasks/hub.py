"""Rows of the Hugging Face hub's data sets, or of a local folder laid out like one."""

import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.core.paths import cache_root, is_disk_error
from nanochat_pl.tasks.task import Task, check_split, digest

if TYPE_CHECKING:
    import datasets


class HubTask(Task):
    """A conversation for each row of a data set; the first base of a task that has such.

    Args:
        path: see `load_rows`; the errors too.

    Attributes:
        repo, config: the data set's name on the hub, and which of its configurations.
        splits: the task's own names of the splits, and the data set's.
    """

    repo: ClassVar[str]
    config: ClassVar[str]
    splits: ClassVar[dict[str, str]]

    def __init__(self, split: str = "train", path: str | None = None):
        check_split(self.name, split, list(self.splits))
        self._rows = load_rows(self.repo, self.config, self.splits[split], path)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, i: int) -> dict[str, Any]:
        """Row i, by the data set's columns."""
        self._check_index(i)
        return self._rows[i]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of a sample, and of the size of all rows in bytes."""
        return digest(super().fingerprint, self._rows.data.nbytes)


SHUFFLE_SEED = 42
"""nanochat's, so that the first n rows are the same ones."""


def load_rows(repo: str, config: str, split: str, path: str | None = None) -> "datasets.Dataset":
    """The rows of one split, shuffled: the first n of them are a fair sample, whatever the order on the hub.

    Args:
        repo: the data set's name on the hub.
        config: which of its configurations.
        path: a folder with the data set's files as on the hub, or with a folder `repo` in which they are.

    Raises:
        UserError: the package `datasets` is missing, there is no such folder, or the files there are no such data set.
        MachineError: the hub cannot be reached, or the cache cannot be written.
    """
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"{repo} is read with the package datasets: pip install 'nanochat-pl[data]'.")
    source = repo if path is None else str(_folder(repo, Path(path)).resolve())
    from datasets import load_dataset

    try:
        rows = load_dataset(source, config, split=split, cache_dir=str(cache_root() / "datasets"))
    except (OSError, ValueError) as error:  # the hub's and `datasets`' own errors are among these
        raise _explained(error, source, config, split) from error
    return rows.shuffle(seed=SHUFFLE_SEED)


def _explained(error: Exception, source: str, config: str, split: str) -> Exception:
    """What went wrong with a data set, and what to do."""
    from datasets.exceptions import DatasetNotFoundError

    what = f"The split {split} of {source} ({config})"
    reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    if isinstance(error, ConnectionError) or "Couldn't reach" in reason:
        from huggingface_hub import constants

        return MachineError(
            f"{what} could not be fetched: {constants.ENDPOINT} cannot be reached ({reason}). Connect and run the same "
            "command again, point HF_ENDPOINT to a mirror, or download the data set on another machine "
            f"(hf download --repo-type dataset {source} --local-dir FOLDER) and give path=FOLDER."
        )
    if isinstance(error, DatasetNotFoundError):
        return UserError(
            f"{what} cannot be fetched: {reason}. If it is private or gated, set HF_TOKEN to a token that may read it."
        )
    if is_disk_error(error):
        return MachineError(
            f"{what} could not be kept in {cache_root()}: {reason}. Free some space there, or point NANOCHAT_PL_CACHE "
            "to another disk."
        )
    return UserError(f"{what} cannot be read: {reason}. The files must be laid out as on the hub.")


def _folder(repo: str, path: Path) -> Path:
    for folder in (path / repo, path):
        if folder.is_dir():
            return folder
    raise UserError(f"There is no folder {path}. Give one that holds the files of {repo} as on the hub.")
