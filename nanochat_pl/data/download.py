"""Small texts fetched once into the cache."""

import hashlib
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock

from nanochat_pl.core.errors import MachineError
from nanochat_pl.core.paths import data_root, replacing

SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def tiny_shakespeare(url: str = SHAKESPEARE_URL) -> Path:
    """The path of Tiny Shakespeare (1.1 MB), downloaded if it is not in the data folder yet; safe in parallel runs.

    Raises:
        MachineError: no connection, or what came is another file.
    """
    path = data_root() / "tinyshakespeare.txt"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            raw = _fetch(url, path)
            with replacing(path) as temporary:
                temporary.write_bytes(raw)
    return path


def _fetch(url: str, path: Path) -> bytes:
    by_hand = f"Download it elsewhere and put it at {path}, or give its place with data.path=FILE."
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            raw = response.read()
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise MachineError(f"Could not download {url}: {reason}. {by_hand}") from error
    if hashlib.sha256(raw).hexdigest() != SHAKESPEARE_SHA256:
        raise MachineError(f"{url} gave another file ({len(raw)} bytes) than Tiny Shakespeare. {by_hand}")
    return raw
