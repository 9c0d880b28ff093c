"""A program of which nothing is known: run with bounds on its time and on what it may write, then gone."""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat_pl.core.errors import MachineError

_READ_BYTES = 1 << 16
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class BoundedRun:
    """What a program wrote and how it ended.

    Args:
        stdout, stderr: at most the bound on each.
        exit_code: 128 + n when signal n ended it; None when it was killed by a bound.
        killed_by: the bound that it passed.
    """

    stdout: bytes
    stderr: bytes
    exit_code: int | None
    killed_by: Literal["time", "output"] | None


def run_bounded(
    command: Sequence[str],
    *,
    stdin: bytes,
    timeout_seconds: float,
    output_bytes: int,
    pass_fds: Collection[int] = (),
    cwd: Path | None = None,
) -> BoundedRun:
    """Run `command` with an empty environment, in a session of its own, and kill its process group at the end.

    Args:
        timeout_seconds: by the clock on the wall.
        output_bytes: of each of the two streams; the reader never holds more.
        pass_fds: open for the program besides its three streams.

    Raises:
        MachineError: the program could not be started.
    """
    deadline = time.monotonic() + timeout_seconds
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            cwd=cwd,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    except OSError as error:
        raise MachineError(f"Could not start {command[0]}: {error}. Close other programs, or free memory.") from error
    streams = _Streams(process, stdin, output_bytes)
    try:
        killed_by = streams.follow(deadline)
        if killed_by is None:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                killed_by = "time"
    finally:
        # The group outlives its leader where the program left something behind.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        streams.close()
    code = process.returncode
    exit_code = None if killed_by else code if code >= 0 else 128 - code
    return BoundedRun(bytes(streams.stdout), bytes(streams.stderr), exit_code, killed_by)


class _Streams:
    """The three pipes of a process, served without blocking and without holding more than the bound."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes, output_bytes: int):
        assert process.stdin and process.stdout and process.stderr
        self.stdout, self.stderr = bytearray(), bytearray()
        self._process = process
        self._unsent = memoryview(stdin)
        self._output_bytes = output_bytes
        self._pipes = (process.stdin, process.stdout, process.stderr)
        self._selector = selectors.DefaultSelector()
        for pipe in self._pipes:
            os.set_blocking(pipe.fileno(), False)
        self._selector.register(process.stdin, selectors.EVENT_WRITE)
        self._selector.register(process.stdout, selectors.EVENT_READ, self.stdout)
        self._selector.register(process.stderr, selectors.EVENT_READ, self.stderr)

    def follow(self, deadline: float) -> Literal["time", "output"] | None:
        """Serve the pipes until all are at their end or the process is; returns the bound that was passed first."""
        while self._selector.get_map():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return "time"
            ended = self._process.poll() is not None  # before the pipes are looked at: then they hold all it wrote
            events = self._selector.select(0 if ended else min(remaining, _POLL_SECONDS))
            for key, _ in events:
                if key.data is None:
                    self._send(key.fd)
                elif not self._receive(key.fd, key.data):
                    return "output"
            # Something that the process left behind may hold its pipes open.
            if ended and not events:
                return None
        return None

    def close(self) -> None:
        self._selector.close()
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.close()

    def _send(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            try:
                self._unsent = self._unsent[os.write(fd, self._unsent[:_READ_BYTES]) :]
            except BrokenPipeError:
                self._unsent = self._unsent[:0]
            if not self._unsent:
                self._selector.unregister(fd)
                self._pipes[0].close()

    def _receive(self, fd: int, kept: bytearray) -> bool:
        """Whether `kept` is still within the bound."""
        chunk = os.read(fd, _READ_BYTES)
        if not chunk:
            self._selector.unregister(fd)
        room = self._output_bytes - len(kept)
        kept += chunk[:room]
        return len(chunk) <= room
