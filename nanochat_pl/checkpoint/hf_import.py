"""Models of Hugging Face, from the hub or a folder, as model folders of ours in the cache."""

import hashlib
import json
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor

from nanochat_pl.checkpoint.foreign import ForeignModel, read_pickled, tensors_by_name
from nanochat_pl.checkpoint.header import FORMAT_VERSION
from nanochat_pl.checkpoint.hf_config import config_of
from nanochat_pl.checkpoint.hf_export import CHAT_TEMPLATE
from nanochat_pl.checkpoint.hf_formats import FORMATS, RECORD
from nanochat_pl.checkpoint.hf_library import read_weights
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.hub_file import ON_HUB, download
from nanochat_pl.core.paths import cache_root
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.models.contract import ARCHITECTURES, architecture_of, build_config
from nanochat_pl.models.hf import HFConfig
from nanochat_pl.tokenizers.hf_files import find_hf_tokenizer

WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"
INDEX = ".index.json"


def hf_folder(name: str) -> Path:
    """Our model folder of hf:REPOSITORY or of a local folder, made where it is not in the cache yet.

    Raises:
        UserError: there is no such model, or it is of a kind that is not computed here, or damaged.
        MachineError: the hub cannot be reached, or the disk is full.
    """
    source = _Source(name)
    root = cache_root() / "models"
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"{Path(source.name).name}-{source.fingerprint()}"
    with FileLock(root / f".{folder.name}.lock"):
        if not (folder / "model.safetensors").is_file():  # which is written last
            model = source.read()
            model.save(folder, find_hf_tokenizer(source.name), name)
    return folder


class _Source:
    """A repository or a folder.

    Args:
        name: hf:REPOSITORY or a folder.
    """

    def __init__(self, name: str):
        self.is_local = not name.startswith(ON_HUB)
        self.name = str(Path(name).expanduser()) if self.is_local else name.removeprefix(ON_HUB)
        self.values = self._json("config.json")
        if self.values is None:
            raise UserError(f"{name} has no config.json, so it is no model of Hugging Face.")

    def file(self, name: str) -> Path | None:
        """One of its files; None where it has no such one."""
        if self.is_local:
            path = Path(self.name) / name
            return path if path.is_file() else None
        return download(self.name, name, "the model", "a folder that holds its config.json and model.safetensors")

    def fingerprint(self) -> str:
        """Of what it is made from: the hub's commit, or what a local folder's files say of themselves."""
        described = self._described()
        there = [str(FORMAT_VERSION), described.parent.name, json.dumps(self.values, sort_keys=True)]
        if self.is_local:
            files = sorted(path for path in described.parent.iterdir() if path.is_file())
            there += [f"{path.resolve()} {(stat := path.stat()).st_size} {stat.st_mtime_ns}" for path in files]
        return hashlib.sha256("\n".join(there).encode()).hexdigest()[:16]

    def _described(self) -> Path:
        path = self.file("config.json")
        assert path is not None  # or there were no values
        return path

    def read(self) -> ForeignModel:
        """The model, with all its weights in memory."""
        record, facts, stage = self._json(RECORD), {}, "base"
        if record is None:
            config: Any = config_of(self.values or {}, self.name)
            if isinstance(config, NanoChatConfig) and self.file(CHAT_TEMPLATE):  # its turns are marked as ours are
                stage = "sft"
        else:  # an export of ours, which says itself what it was
            try:
                if record["architecture"] not in ARCHITECTURES:  # a path of code: what was fetched runs none
                    raise ValueError(f"{record['architecture']!r} is none of {', '.join(ARCHITECTURES)}")
                config = build_config(record["architecture"], record["config"])
                facts, stage = dict(record["facts"]), str(record["stage"])
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"The {RECORD} of {self.name} is damaged: {error}. Export the model again.") from error
        if isinstance(config, HFConfig):
            self._shards()  # which fetches them
            return ForeignModel(config, read_weights(self._described().parent, config, self.name), None, stage, facts)
        form = next((form for form in FORMATS[architecture_of(config)] if form.fits(config)), None)
        if form is None:
            raise UserError(f"{self.name} has options of its model that are not imported; take our model folder of it.")
        return ForeignModel(config, self._weights(), form.weights, stage, facts)

    def _weights(self) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        weights: dict[str, Tensor] = {}
        try:
            for path in self._shards():
                read = load_file if path.suffix == ".safetensors" else read_pickled
                weights |= tensors_by_name(read(path), path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"The weights of {self.name} are damaged: {error}. Fetch them again.") from error
        return weights

    def _shards(self) -> list[Path]:
        """The files of its weights."""
        for name in (WEIGHTS, PICKLED):
            index = self._json(name + INDEX)
            shards = [name] if index is None else sorted(set(index.get("weight_map", {}).values()))
            found = {shard: path for shard in shards if (path := self.file(Path(shard).name))}
            if index is None and not found:
                continue
            if missing := [shard for shard in shards if shard not in found]:
                raise UserError(f"{self.name} lacks {missing[0]}, which its {name}{INDEX} names.")
            return [*found.values()]
        raise UserError(f"{self.name} has no {WEIGHTS} and no {PICKLED}, so there are no weights in it.")

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.file(name)
        if path is None:
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged: {error}.") from error
        if not isinstance(values, dict):
            raise UserError(f"{path} is damaged: it is no JSON object.")
        return values
