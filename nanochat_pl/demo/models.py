"""The models that can be served: what lies under the runs root, read anew where an export has replaced an older one."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from nanochat_pl.checkpoint.header import check_sizes, read_facts, read_header
from nanochat_pl.checkpoint.named_model import model_folders
from nanochat_pl.core.errors import UserError
from nanochat_pl.tokenizers.base import HEADER_FILE, Tokenizer
from nanochat_pl.tokenizers.load import load_tokenizer


@dataclass(frozen=True)
class ModelInfo:
    """A model that can be asked.

    Attributes:
        name: as requests spell it: "tiny/sft" for runs/tiny/sft/model.
        folder: the model folder.
        stage: that trained it last: base, mid, sft or rl.
        facts: what was known at its export: step, tokens, val_bpb where measured.
        context_tokens: that it looks back on, prompt and answer together: as many as it was trained to, or more by
            `long_window`.
        version: differs between two exports into the same folder.
        exported_seconds: when it was written, since the epoch.
    """

    name: str
    folder: Path
    stage: str
    facts: dict[str, float]
    context_tokens: int
    version: tuple[int, int]
    exported_seconds: float

    @property
    def is_chat(self) -> bool:
        """Whether it has learned the form of a conversation; a base model only continues text."""
        return self.stage != "base"

    def tokenizer(self) -> Tokenizer:
        """The model's own, kept in memory.

        Raises:
            UserError: it is missing or damaged.
        """
        folder = self.folder / "tokenizer"
        try:
            changed = (folder / HEADER_FILE).stat().st_mtime_ns
        except OSError:
            changed = 0
        return _tokenizer(folder, changed)


def version_of(folder: Path) -> tuple[int, int]:
    """A value that changes when a newer export replaces the model.

    Raises:
        UserError: there is no complete model.
    """
    try:
        return (folder / "model.json").stat().st_mtime_ns, (folder / "model.safetensors").stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"The model in {folder} is incomplete: {error.strerror}: {error.filename}.") from error


def read_model(folder: Path, root: Path) -> ModelInfo:
    """What there is to know of the model in `folder` without loading it.

    Raises:
        UserError: it is incomplete, damaged, or not one of ours.
    """
    version = version_of(folder)
    stage, facts, context_tokens = _description(folder, version)
    return ModelInfo(name_of(folder, root), folder, stage, facts, context_tokens, version, version[1] / 1e9)


def name_of(folder: Path, root: Path) -> str:
    """What requests call the model in `folder`: its path under the runs root, else its own name; without `/model`."""
    folder, root = folder.resolve(), root.resolve()
    place = folder.parent if folder.name == "model" else folder
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else place.name


class Found(NamedTuple):
    """What a look at the disk has found.

    Attributes:
        models: that can be asked, the newest export first.
        problems: name of each model that cannot be used -> what is wrong with it.
    """

    models: list[ModelInfo]
    problems: dict[str, str]


def find_models(root: Path, given: Path | None = None) -> Found:
    """All models under the runs root, and the given one.

    Args:
        given: another model folder, which may lie elsewhere; of two with the same name it is the one.
    """
    models: dict[str, ModelInfo] = {}
    problems: dict[str, str] = {}
    for folder in _folders(root, given):
        try:
            model = read_model(folder, root)
        except UserError as error:
            problems.setdefault(name_of(folder, root), str(error))
        else:
            models.setdefault(model.name, model)
    return Found(sorted(models.values(), key=lambda model: model.exported_seconds, reverse=True), problems)


def _folders(root: Path, given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
    for folder in model_folders(root):
        if given is None or folder.resolve() != given.resolve():
            yield folder


@lru_cache(maxsize=1000)
def _description(folder: Path, version: tuple[int, int]) -> tuple[str, dict[str, float], int]:
    header = read_header(folder)
    context_tokens = header.config.get("sequence_len")
    if not isinstance(context_tokens, int):
        raise UserError(f"{folder}/model.json is damaged: its sequence_len is {context_tokens!r}.")
    if isinstance(long_window := header.config.get("long_window"), int):
        context_tokens = max(context_tokens, long_window + 1)
    check_sizes(folder, header.config)
    return header.stage, read_facts(folder), context_tokens


@lru_cache(maxsize=8)
def _tokenizer(folder: Path, changed: int) -> Tokenizer:
    return load_tokenizer(folder)
