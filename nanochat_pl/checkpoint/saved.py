"""The checkpoints that a training has saved for resuming: which there are, which are sound, which is the last."""

import logging
import re
import struct
import zipfile
import zlib
from pathlib import Path

log = logging.getLogger(__name__)

NOT_A_ZIP = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, zlib.error, struct.error)
"""What `zipfile` raises, one or the other, on bytes that were overwritten."""


def step_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    names = (path for path in folder.glob("step-*.ckpt") if re.fullmatch(r"step-\d+\.ckpt", path.name))
    return sorted(names, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The optimizer step that a checkpoint was written after."""
    return int(checkpoint.stem.removeprefix("step-"))


def is_sound(path: Path) -> bool:
    """Whether the zip archive that torch wrote is complete and every checksum in it is right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except NOT_A_ZIP:
        return False


def newest_sound(folder: Path) -> Path | None:
    """The newest checkpoint that can be read whole; None where there is none. Changes nothing."""
    return next(filter(is_sound, step_checkpoints(folder)), None)


def point_last_to(checkpoint: Path) -> None:
    """Make `last.ckpt` a link to this checkpoint, at once."""
    temporary = checkpoint.parent / ".last.ckpt.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(checkpoint.name)
    temporary.replace(checkpoint.parent / "last.ckpt")


def resume_point(folder: Path) -> Path | None:
    """The newest checkpoint that can be read whole; newer damaged ones are reported, renamed and passed over.

    Makes `last.ckpt` point to it. None where there is no sound checkpoint.
    """
    for path in step_checkpoints(folder):
        if is_sound(path):
            point_last_to(path)
            return path
        log.warning("The checkpoint %s is damaged (cut short or overwritten); it is renamed and passed over.", path)
        path.rename(path.with_suffix(".damaged"))
    log.warning("There is no sound checkpoint in %s; training starts from the beginning.", folder)
    return None


def last_good(folder: Path) -> str:
    """A sentence that names the newest checkpoint, for messages about a run that failed."""
    newest = next(iter(step_checkpoints(folder)), None)
    if newest is None:
        return "There is no checkpoint yet."
    return f"The last good checkpoint is kept: {newest}."
