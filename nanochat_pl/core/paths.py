"""Where runs and caches live, and files that are either complete or absent."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat_pl.core.errors import MachineError, UserError

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EACCES, errno.EPERM)


def runs_root() -> Path:
    """The folder of all runs: NANOCHAT_PL_RUNS, else OUT_DIR (the seeds' name), else ./runs."""
    return Path(os.environ.get("NANOCHAT_PL_RUNS") or os.environ.get("OUT_DIR") or "runs")


def cache_root() -> Path:
    """Tokenizers and downloaded data: NANOCHAT_PL_CACHE, else ~/.cache/nanochat_pl."""
    return Path(os.environ.get("NANOCHAT_PL_CACHE") or Path.home() / ".cache" / "nanochat_pl")


def data_root() -> Path:
    """Downloaded data: DATA_ROOT (the seeds' name), else the cache's folder `data`."""
    return Path(os.environ.get("DATA_ROOT") or cache_root() / "data")


def keep_compiled_kernels() -> None:
    """Let torch.compile keep its work in the cache, so that only the first run waits for it.

    Before torch is imported, which else decides for a temporary folder. TORCHINDUCTOR_CACHE_DIR wins.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "compiled"))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is fsynced and takes the place of `path` at once.

    Raises:
        MachineError: the disk is full or not writable; `path` is as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _fsync(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _fsync(path.parent)
    except Exception as error:
        if is_disk_error(error):
            raise MachineError(
                f"Could not write {path}: {error}. Free some space (or point NANOCHAT_PL_RUNS or NANOCHAT_PL_CACHE to "
                "another disk) and run the same command again; what was there before is untouched."
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_disk_error(error: Exception) -> bool:
    """Whether a full, read-only or broken disk is behind it; torch and safetensors wrap the system's error in words."""
    if isinstance(error, OSError):
        return error.errno in DISK_ERRORS
    words = ("PytorchStreamWriter", "unexpected pos", "I/O error", "No space left", "File too large")
    return any(word in str(error) for word in words)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the machine or of its accelerator was full; torch says so in words only, on a CPU."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def known_error(error: BaseException) -> Any:
    """An error with an `exit_code`: this one, or what it means to the user; None for any other."""
    if hasattr(error, "exit_code"):
        return error
    if is_out_of_memory(error):
        return MachineError(
            f"The memory is full: {error}. A training needs less with hw.tokens_per_device=N, and "
            "stays the same; else take a smaller model."
        )
    if isinstance(error, OSError) and is_disk_error(error):
        return MachineError(f"The disk failed: {error}. Free some space or choose another folder, and run it again.")
    if isinstance(error, NotADirectoryError):
        return UserError(f"{error.filename} cannot be: a part of this path is a file, no folder. Name another.")
    return None


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8; `path` holds either the old content or the new one, never a part of it."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def free_name(path: Path) -> Path:
    """The path, or one like it where that is taken."""
    while path.exists():
        path = path.with_name(f"{path.name}x")
    return path


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
