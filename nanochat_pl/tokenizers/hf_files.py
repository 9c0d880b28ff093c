"""Where a Hugging Face tokenizer lies: a folder, a tokenizer.json, or a repository on the hub."""

import hashlib
import json
from pathlib import Path
from typing import Any

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.hub_file import download
from nanochat_pl.tokenizers.base import FORMAT, Tokenizer
from nanochat_pl.tokenizers.base import HEADER_FILE as DEFINITION_FILE
from nanochat_pl.tokenizers.hf import HFTokenizer
from nanochat_pl.tokenizers.load import load_tokenizer

SETTINGS_FILE = "tokenizer_config.json"


def find_hf_tokenizer(name: str, bos: str | None = None) -> Tokenizer:
    """The tokenizer of a local folder or tokenizer.json, else of the repository of that name on the hub.

    A folder may hold one of ours, as `tokenizer import` writes it: the same ids, with its own `bos`.

    Where there is no tokenizer.json, the library transformers makes one of what is there.

    Args:
        bos: the token that begins a document; None: its bos_token, else its eos_token, else one is added.

    Raises:
        UserError: there is none, it is damaged, or it has no such token.
        MachineError: the hub cannot be reached.
    """
    path = local_path(name)
    if path is not None and path.is_file():
        return _tokenizer(path, path.with_name(SETTINGS_FILE), bos)
    files = [path / file if path is not None else _download(name, file) for file in (DEFINITION_FILE, SETTINGS_FILE)]
    definition, settings = (file if file and file.is_file() else None for file in files)
    if definition is not None:
        return _tokenizer(definition, settings, bos)
    return _converted(str(path or name), bos)


def local_path(name: str) -> Path | None:
    """The file or folder of this name on this machine; None where it must be a repository on the hub.

    Raises:
        UserError: it is a path, and nothing lies there.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.suffix == ".json":
        raise UserError(
            f"There is no tokenizer {name} (looked from {Path.cwd()}). Name a tokenizer.json, a folder with one, or a "
            "repository on the Hugging Face hub, such as gpt2 or ORGANISATION/NAME."
        )
    return None


def content_hash(name: str) -> str:
    """Of the local files that make the tokenizer; empty for one on the hub."""
    path = local_path(name)
    if path is None:
        return ""
    files = (
        [path]
        if path.is_file()
        else sorted(file for file in path.glob("*") if file.suffix in (".json", ".txt", ".model"))
    )
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _tokenizer(definition: Path, settings: Path | None, bos: str | None) -> Tokenizer:
    try:
        text = definition.read_text(encoding="utf-8")
        if f'"{FORMAT}"' in text and json.loads(text).get("format") == FORMAT:
            if bos is not None:
                raise UserError(
                    f"it is one of nanochat-pl's, whose documents begin as they do; leave tokenizer.bos={bos} out."
                )
            return load_tokenizer(definition.parent)
        known = json.loads(settings.read_text(encoding="utf-8")) if settings and settings.is_file() else {}
        eos = _token(known, "eos_token")
        return HFTokenizer(text, bos or _token(known, "bos_token") or eos, eos)
    except (ValueError, AttributeError) as error:  # UserError is a ValueError too
        raise UserError(f"{definition} cannot be used as a tokenizer: {error}") from error


def _token(settings: dict[str, Any], name: str) -> str | None:
    token = settings.get(name)
    return token.get("content") if isinstance(token, dict) else token


def _download(repo: str, file: str) -> Path | None:
    return download(repo, file, "the tokenizer", "a folder that holds its tokenizer.json and tokenizer_config.json")


def _converted(name: str, bos: str | None) -> HFTokenizer:
    """What `transformers` makes of the older files: vocab.json and merges.txt, a vocab.txt, a SentencePiece model."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UserError(
            f"{name} has no {DEFINITION_FILE}; making one of what it has needs: pip install 'nanochat-pl[hf]'"
        ) from error
    try:
        made = AutoTokenizer.from_pretrained(name)
        definition = made.backend_tokenizer.to_str()
    except Exception as error:  # it raises many kinds for files that are no tokenizer
        raise UserError(f"There is no tokenizer in {name}: {error}") from error
    return HFTokenizer(definition, bos or made.bos_token or made.eos_token, made.eos_token)
