"""Where the data stand: the cursor that rides in a batch, and the state that a checkpoint keeps."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch.distributed

from nanochat_pl.core.errors import UserError
from nanochat_pl.data.packing import PackerState

FORMAT_VERSION = 2


class Cursor:
    """Where the data go on behind a batch; an immutable object, opaque to Lightning's transfer.

    Attributes:
        rows: rows of the whole run up to the end of the batch's step, over all ranks.
        streams: the state of each of this rank's streams; None in the middle of a step.
    """

    __slots__ = ("rows", "streams")

    def __init__(self, rows: int, streams: dict[int, PackerState] | None):
        self.rows = rows
        self.streams = streams


@dataclass(frozen=True)
class DataState:
    """What a checkpoint keeps.

    Attributes:
        fingerprint: what the rows depend on.
        rows: rows of the whole run so far, over all ranks.
        streams: the state of every stream; empty for windows.
    """

    fingerprint: dict[str, Any]
    rows: int
    streams: dict[int, PackerState]

    def as_plain(self) -> dict[str, Any]:
        """Dicts, lists, ints and strings."""
        return {
            "version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "rows": self.rows,
            "streams": {
                stream: state._asdict()
                | {
                    "position": list(state.position),
                    "held": [list(reference) for reference in sorted(state.held)],
                    "arrivals": sorted(state.arrivals),
                }
                for stream, state in sorted(self.streams.items())
            },
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "DataState":
        """The inverse of `as_plain`.

        Raises:
            UserError: it was written by another version.
        """
        if plain["version"] != FORMAT_VERSION:
            raise UserError(
                f"The checkpoint's data state has format {plain['version']}, this version of nanochat-pl reads "
                f"{FORMAT_VERSION}: go on with the version that wrote it, or start over with run.fresh=true."
            )
        streams = {}
        for stream, state in plain["streams"].items():
            held = tuple(tuple(reference) for reference in state["held"])
            tuples = {"position": tuple(state["position"]), "held": held, "arrivals": tuple(state["arrivals"])}
            streams[int(stream)] = PackerState(**(state | tuples))
        return cls(plain["fingerprint"], plain["rows"], streams)

    def check_streams(self, streams: Iterable[int]) -> None:
        """Raise `UserError` where rows were read, but of these streams one is not there."""
        missing = set(streams) - self.streams.keys()
        if missing and self.rows:
            raise UserError(
                f"The checkpoint's data state is damaged: it lacks the streams {', '.join(map(str, sorted(missing)))}. "
                "Go on from an earlier checkpoint, or start over with run.fresh=true."
            )

    def check_fingerprint(self, now: dict[str, Any]) -> None:
        """Raise `UserError` naming what differs from `now`."""
        names = sorted(self.fingerprint.keys() | now.keys())
        different = [name for name in names if self.fingerprint.get(name) != now.get(name)]
        if different:
            was, is_ = (
                {name: short(each.get(name, "absent")) for name in different} for each in (self.fingerprint, now)
            )
            changes = ", ".join(f"{name} was {was[name]}, is {is_[name]}" for name in different)
            raise UserError(
                f"The checkpoint cannot go on with other data: {changes}. Restore what was changed, or start anew with "
                "run.fresh=true or another run.name."
            )


def gather_states(own: dict[int, PackerState], world_size: int) -> dict[int, PackerState]:
    """The states of all ranks' streams, on every rank. A collective call where torch.distributed runs."""
    if world_size == 1 or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return own
    parts: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(parts, own)
    return {stream: state for part in parts for stream, state in part.items()}


def short(value: Any) -> str:
    """A value as a message can show it: of a fingerprint the first digits."""
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else str(value)
