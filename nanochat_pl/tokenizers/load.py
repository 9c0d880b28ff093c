"""Reading a saved tokenizer back, whatever its kind."""

import base64
import binascii
import json
from pathlib import Path
from typing import Any

from nanochat_pl.core.errors import UserError
from nanochat_pl.tokenizers.base import FORMAT, FORMAT_VERSION, HEADER_FILE, SPECIAL_TOKENS, Tokenizer
from nanochat_pl.tokenizers.bpe import MERGES_FILE, BPETokenizer
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.tokenizers.char import CharTokenizer
from nanochat_pl.tokenizers.hf import VOCABULARY_FILE, HFTokenizer
from nanochat_pl.tokenizers.word import WordTokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer saved in `folder`.

    Raises:
        UserError: there is none, it is of a later format, or its files are damaged (the fingerprint tells).
    """
    folder = Path(folder)
    header = _read_header(folder)
    try:
        tokenizer = _build(header, folder)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged vocabulary runs into, the files are what is wrong
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error
    if tokenizer.fingerprint != header.get("fingerprint"):
        raise _damaged(folder, "the fingerprint in tokenizer.json does not fit the vocabulary")
    return tokenizer


def _build(header: dict[str, Any], folder: Path) -> Tokenizer:
    match header.get("kind"):
        case "bpe":
            return BPETokenizer(_read_ranks(folder), header["pattern"])
        case "byte":
            return ByteTokenizer()
        case "char":
            return CharTokenizer(header["characters"])
        case "word":
            return WordTokenizer(header["words"])
        case "hf":
            return HFTokenizer((folder / VOCABULARY_FILE).read_text(encoding="utf-8"), header["bos"], header["eos"])
        case kind:
            raise UserError(f"{folder / HEADER_FILE} is of kind {kind!r}; known kinds: bpe, byte, char, word, hf.")


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / HEADER_FILE
    if not path.is_file():
        raise UserError(
            f"There is no tokenizer in {folder}: {HEADER_FILE} is missing. Name a folder that a training run or "
            "`python -m nanochat_pl tokenizer train --out DIR` wrote."
        )
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(folder, f"{HEADER_FILE} is not JSON ({error})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f'{path} was not written by nanochat-pl: it has no "format": "{FORMAT}".')
    if header.get("version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {header.get('version')}, this nanochat-pl reads version {FORMAT_VERSION}. "
            "Use the version of nanochat-pl that wrote it, or train the tokenizer again."
        )
    if list(header.get("special_tokens", ())) != list(SPECIAL_TOKENS):
        raise _damaged(folder, f"its special tokens are not {', '.join(SPECIAL_TOKENS)}")
    return header


def _read_ranks(folder: Path) -> dict[bytes, int]:
    path = folder / MERGES_FILE
    if not path.is_file():
        raise _damaged(folder, f"{MERGES_FILE} is missing")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            token, rank = line.split(" ")
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise _damaged(folder, f"line {number} of {MERGES_FILE} is {line[:40]!r}") from error
        if int(rank) != number - 1 or len(ranks) != number:
            raise _damaged(folder, f"line {number} of {MERGES_FILE} breaks the order of the ranks")
    return ranks


def _damaged(folder: Path, reason: str) -> UserError:
    return UserError(
        f"The tokenizer in {folder} is damaged: {reason}. Restore the folder from a copy; if it lies in the cache, "
        "delete it and it will be trained again."
    )
