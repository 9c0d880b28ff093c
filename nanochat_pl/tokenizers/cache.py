"""Tokenizers trained once per data set and spec, and shared by all runs on this machine."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.core.paths import cache_root
from nanochat_pl.tokenizers.base import FORMAT_VERSION, Tokenizer
from nanochat_pl.tokenizers.load import load_tokenizer
from nanochat_pl.tokenizers.specs import TokenizerSpec


def cached_tokenizer(
    spec: TokenizerSpec,
    data_fingerprint: str,
    texts: Callable[[], Iterable[str]],
    folder: Path | None = None,
) -> Tokenizer:
    """The tokenizer of `spec` for the data of this fingerprint, trained on `texts()` if it is not in the cache.

    Of several processes that ask at the same time one trains and the others wait. A damaged entry is trained again.

    Args:
        folder: where the cache lies; None: `tokenizers` in the cache root.

    Raises:
        UserError: the text does not allow the spec (see `spec.build`); nothing is cached then.
        MachineError: the cache cannot be written.
    """
    root = Path(folder) if folder is not None else cache_root() / "tokenizers"
    entry = root / _key(spec, data_fingerprint)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f".{entry.name}.lock").acquire()
    except OSError as error:
        raise MachineError(
            f"The cache {root} cannot be written ({error.strerror or error}). Make it writable, or point "
            "NANOCHAT_PL_CACHE to another folder."
        ) from error
    with lock:
        if entry.exists():
            try:
                return load_tokenizer(entry)
            except UserError:
                shutil.rmtree(entry)
        tokenizer = spec.build(texts())
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{entry.name}.") as temporary:
            complete = Path(temporary) / "tokenizer"
            tokenizer.save(complete)
            complete.rename(entry)
    return tokenizer


def find_tokenizer(spec: TokenizerSpec, data_fingerprint: str) -> Tokenizer | None:
    """The one that `cached_tokenizer` would find in the cache; None where it would train it."""
    try:
        return load_tokenizer(cache_root() / "tokenizers" / _key(spec, data_fingerprint))
    except UserError:
        return None


def _key(spec: TokenizerSpec, data_fingerprint: str) -> str:
    content = json.dumps([FORMAT_VERSION, type(spec).__name__, spec.as_dict(), data_fingerprint], sort_keys=True)
    kind = type(spec).__name__.removesuffix("Spec").lower()
    size = f"-{spec.vocab_size}" if hasattr(spec, "vocab_size") else ""
    return f"{kind}{size}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
