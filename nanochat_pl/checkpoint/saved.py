"""The checkpoints that a training has saved for resuming: which there are, which are sound, which is the last."""

import logging
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

NOT_A_ZIP = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, zlib.error, struct.error)
"""What `zipfile` raises, one or the other, on bytes that were overwritten."""


@dataclass(frozen=True)
class Keep:
    """Which checkpoints are kept.

    Attributes:
        last: so many of the newest; at least 1.
        best: so many with the lowest validation bits per byte, among those whose bits per byte are known.
        every_n_steps: those whose step is a multiple of it; None: none for that.
        budget_bytes: what all that are kept may take together; None: no limit.
    """

    last: int = 3
    best: int = 0
    every_n_steps: int | None = None
    budget_bytes: int | None = None

    def chosen(self, sizes: Mapping[int, int], val_bpb: Mapping[int, float]) -> set[int]:
        """The steps to keep.

        Beyond the budget the least worth goes first: old ones of every so many steps, then old ones of the last, then
        the worst of the best. The newest always stays, however large.

        Args:
            sizes: step -> bytes, of the checkpoints that there are.
            val_bpb: step -> bits per byte; what is not finite counts as unknown.
        """
        newest_first = sorted(sizes, reverse=True)
        known = [step for step in newest_first if math.isfinite(val_bpb.get(step, math.nan))]
        best = sorted(known, key=lambda step: val_bpb[step])[: self.best]  # of equal ones the newer
        regular = [step for step in newest_first if self.every_n_steps and step % self.every_n_steps == 0]
        kept: set[int] = set()
        taken = 0
        for step in dict.fromkeys([*newest_first[:1], *best, *newest_first[: self.last], *regular]):  # by their worth
            taken += sizes[step]
            if kept and self.budget_bytes is not None and taken > self.budget_bytes:
                break
            kept.add(step)
        return kept

    def most_bytes(self, checkpoint_bytes: int, steps: int) -> int:
        """What the checkpoints of a training of so many steps take at most, with the next one beside them."""
        count = self.last + self.best + (steps // self.every_n_steps if self.every_n_steps else 0)
        kept = count * checkpoint_bytes
        if self.budget_bytes is not None:
            kept = min(kept, max(self.budget_bytes, checkpoint_bytes))
        return kept + checkpoint_bytes


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


def point_last_to(checkpoint: Path) -> None:
    """Make `last.ckpt` a link to this checkpoint, at once."""
    temporary = checkpoint.parent / ".last.ckpt.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(checkpoint.name)
    temporary.replace(checkpoint.parent / "last.ckpt")


def put_aside(checkpoint: Path) -> Path:
    """Rename it, so that no training goes on from it."""
    return checkpoint.rename(checkpoint.with_suffix(".damaged"))


def resume_point(folder: Path) -> Path | None:
    """The newest checkpoint that can be read whole; newer damaged ones are reported, renamed and passed over.

    Makes `last.ckpt` point to it. None where there is no sound checkpoint.
    """
    for path in step_checkpoints(folder):
        if is_sound(path):
            point_last_to(path)
            return path
        log.warning("The checkpoint %s is damaged (cut short or overwritten); it is renamed and passed over.", path)
        put_aside(path)
    log.warning("There is no sound checkpoint in %s; training starts from the beginning.", folder)
    return None


def last_good(folder: Path) -> str:
    """A sentence that names the newest checkpoint, for messages about a run that failed."""
    newest = next(iter(step_checkpoints(folder)), None)
    if newest is None:
        return "There is no checkpoint yet."
    return f"The last good checkpoint is kept: {newest}."
