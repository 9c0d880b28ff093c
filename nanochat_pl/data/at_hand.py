"""The files of a data set that are on this machine, with what is known of each."""

from dataclasses import dataclass, field
from pathlib import Path

from nanochat_pl.core.errors import UserError
from nanochat_pl.data.download import SHAKESPEARE_SHA256, tiny_shakespeare
from nanochat_pl.data.hub.files import hub_folder
from nanochat_pl.data.hub.manifest import Manifest
from nanochat_pl.data.hub.specs import HubDataSpec
from nanochat_pl.data.specs import DataSpec, ShakespeareDataSpec, TextDataSpec, as_list
from nanochat_pl.data.text_files import find_files
from nanochat_pl.data.verify import DataFile


@dataclass(frozen=True)
class FilesAtHand:
    """What of a data set is here.

    Attributes:
        files: in the data set's order.
        text_key: the column, or key, of their texts.
        num_files: of the whole data set.
        left_out: name -> why training does without it.
    """

    files: list[DataFile]
    text_key: str
    num_files: int
    left_out: dict[str, str] = field(default_factory=dict)


def files_at_hand(data: DataSpec) -> FilesAtHand:
    """The files that are read here, or kept in the cache.

    Raises:
        UserError: these data are no files, there are none yet, or what finding them raises.
    """
    if isinstance(data, HubDataSpec):
        return _of_hub(data)
    if isinstance(data, TextDataSpec):
        patterns = [*as_list(data.files), *as_list(data.val_files)]
        files = [DataFile(path, str(path)) for path in find_files(patterns)]
        return FilesAtHand(files, data.text_key, len(files))
    if isinstance(data, ShakespeareDataSpec):
        own = Path(data.path) if data.path else None
        file = DataFile(own, str(own)) if own else DataFile(tiny_shakespeare(), "Shakespeare", None, SHAKESPEARE_SHA256)
        return FilesAtHand([file], "text", 1)
    raise UserError("These data are no files of text: there is nothing to verify.")


def _of_hub(data: HubDataSpec) -> FilesAtHand:
    index = data.build_index()
    kept, left_out = {}, {}
    if not index.is_local:
        contents = Manifest(hub_folder(index.repo)).read()
        prefix = f"{index.folder.name}/"
        kept = {name.removeprefix(prefix): entry.sha256 for name, entry in contents.kept.items()}
        left_out = {
            name.removeprefix(prefix): entry.reason
            for name, entry in contents.left_out.items()
            if name.startswith(prefix) and entry.text_column == data.text_column
        }
    files = [
        DataFile(index.folder / file.name, file.name, file.size, file.sha256 or kept.get(file.name))
        for file in index.files
        if (index.folder / file.name).exists()
    ]
    if not files:
        raise UserError(
            f"None of the {len(index.files)} files of {index.repo} is on this machine yet. Fetch some with: "
            "python -m nanochat_pl data download -n 1"
        )
    return FilesAtHand(files, data.text_column, len(index.files), left_out)
