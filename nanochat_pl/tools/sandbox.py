"""Model-written Python, run where it can harm nothing: bubblewrap, a filter of system calls, rlimits.

Inside there is one process with one thread, no network, no other user, the interpreter with its standard library
(read-only) and an empty /tmp. What bounds it:

    memory      RLIMIT_AS of the one process; /tmp holds SCRATCH_BYTES
    time        the parent's clock; RLIMIT_CPU should the parent hang; it dies with its parent
    output      each stream is cut at its bound, and the program killed
    kernel      no capabilities, no user namespaces, no /proc, /sys or /dev, a filter of system calls

What does not: the processor while it runs, and small kernel objects (a program that does nothing else makes some
100,000 empty files a second, of 1 KB each); both end with it. Bugs of the kernel are not covered.
"""

import contextlib
import functools
import math
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.tools.bounded_process import BoundedRun, run_bounded
from nanochat_pl.tools.system_calls import build_filter

SCRATCH_BYTES = 64 << 20
MIN_MEMORY_BYTES = 64 << 20
OPEN_FILES = 64
_WEAK = "sandbox=weak runs programs with limits on time and memory only: no protection against a hostile program."
_PYTHON_FLAGS = ("-I", "-S", "-E", "-X", "utf8")


class SandboxUnavailable(UserError):
    """This machine cannot run the sandbox; the message says what to install or to allow."""


@dataclass(frozen=True)
class SandboxResult:
    """How a program ended and what it wrote.

    Args:
        stdout, stderr: UTF-8, anything else as U+FFFD; cut at the bound.
        exit_code: the program's own; 1 after an uncaught exception, which a lack of memory is too; 128 + n where signal
            n ended it; None where a bound did. 0 does not prove that the program came to its last line: it may have
            called `exit` before. Let the last line print something that the program cannot know.
        killed_by: "time" or "output", the bound that it passed.
    """

    stdout: str
    stderr: str
    exit_code: int | None
    killed_by: Literal["time", "output"] | None


def run_python(
    code: str,
    *,
    timeout_seconds: float = 5.0,
    memory_bytes: int = 256 << 20,
    output_bytes: int = 1 << 20,
    stdin: str = "",
    mode: Literal["bubblewrap", "weak"] = "bubblewrap",
) -> SandboxResult:
    """Run `code` as a Python program and wait for its end; threads may do so at the same time.

    The program sees the standard library alone, and can start neither processes nor threads.

    Args:
        timeout_seconds: by the clock on the wall, with the start of the interpreter (about 25 ms).
        memory_bytes: of address space, of which the interpreter takes about 20 MB.
        output_bytes: of stdout and of stderr, each.
        mode: "weak" is a process of its own in an empty folder, with rlimits and without the environment. It is no
            security boundary: the program can read and write what the user can, use the network, start processes.

    Raises:
        SandboxUnavailable: bubblewrap is missing or cannot work here.
        UserError: a bound out of range.
        MachineError: the program could not be started.
    """
    _check(timeout_seconds, memory_bytes, output_bytes, mode)
    if "\0" in code:  # which Python before 3.11.4 takes for the program's end
        return SandboxResult("", "SyntaxError: source code cannot contain null bytes\n", 1, None)
    source = code.encode("utf-8", "surrogatepass")
    limits = _limits(timeout_seconds, memory_bytes)
    run = functools.partial(
        run_bounded,
        stdin=stdin.encode("utf-8", "surrogatepass"),
        timeout_seconds=timeout_seconds,
        output_bytes=output_bytes,
    )
    if mode == "weak":
        ended = _run_weakly(source, limits, run)
    else:
        ended = _run_in_bubblewrap(_bubblewrap(), source, limits, run)
    return SandboxResult(_text(ended.stdout), _text(ended.stderr), ended.exit_code, ended.killed_by)


def check_sandbox() -> None:
    """Run a program in bubblewrap, once in this process: a caller may ask before it needs the sandbox.

    Raises:
        SandboxUnavailable: bubblewrap is missing or cannot work here.
    """
    _bubblewrap()


def _check(timeout_seconds: float, memory_bytes: int, output_bytes: int, mode: str) -> None:
    if mode not in ("bubblewrap", "weak"):
        raise UserError(f"The sandbox's mode is {mode!r}; legal values: 'bubblewrap', 'weak'.")
    if not 0 < timeout_seconds < math.inf:
        raise UserError(f"timeout_seconds of the sandbox is {timeout_seconds}; it must be above 0, and finite.")
    if memory_bytes < MIN_MEMORY_BYTES:
        raise UserError(f"memory_bytes of the sandbox is {memory_bytes}; it must be at least {MIN_MEMORY_BYTES}.")
    if output_bytes < 1:
        raise UserError(f"output_bytes of the sandbox is {output_bytes}; it must be at least 1.")


def _bubblewrap() -> str:
    """The path of a bubblewrap that works."""
    if sys.platform != "linux":
        raise SandboxUnavailable(f"The sandbox for model-written Python is bubblewrap, which needs Linux. {_WEAK}")
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise SandboxUnavailable(
            "The sandbox for model-written Python needs bubblewrap 0.8 or newer, and there is no `bwrap` on the PATH. "
            f"Install it: `apt-get install bubblewrap` or `dnf install bubblewrap`. {_WEAK}"
        )
    _probe(bwrap)
    return bwrap


@functools.cache
def _probe(bwrap: str) -> None:
    run = functools.partial(run_bounded, stdin=b"", timeout_seconds=30, output_bytes=4096)
    try:
        ended = _run_in_bubblewrap(bwrap, b"print(6 * 7)", _limits(30, MIN_MEMORY_BYTES), run)
        reason = "" if ended.stdout == b"42\n" else _text(ended.stderr) or f"it ended as {ended}"
    except (MachineError, UserError) as error:
        reason = str(error)
    if reason:
        raise SandboxUnavailable(
            f"bubblewrap ({bwrap}) cannot run a program here: {reason.strip()} It must be version 0.8 or newer, and "
            "allowed to make user namespaces: in a container, start it with --security-opt seccomp=unconfined (or "
            f"--privileged); on Ubuntu, sysctl kernel.apparmor_restrict_unprivileged_userns=0. {_WEAK}"
        )


def _limits(timeout_seconds: float, memory_bytes: int) -> tuple[str, ...]:
    """The beginning of a command line: a shell that sets the rlimits and becomes the rest of it.

    A limit that cannot be set is tighter already or, where bubblewrap does not work either, unknown to the system.
    """
    cpu_seconds = math.ceil(timeout_seconds) + 1
    limits = {"c": 0, "n": OPEN_FILES, "t": cpu_seconds, "f": SCRATCH_BYTES >> 9, "v": memory_bytes >> 10}
    script = "".join(f"ulimit -{flag} {value} 2>/dev/null || :; " for flag, value in limits.items())
    return ("/bin/sh", "-c", script + 'exec "$@"', "sh")


def _run_weakly(source: bytes, limits: Sequence[str], run: Callable[..., BoundedRun]) -> BoundedRun:
    with tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder:
        program = Path(folder, "program.py")
        program.write_bytes(source)
        return run([*limits, _interpreter(), *_PYTHON_FLAGS, str(program)], cwd=folder)


def _run_in_bubblewrap(bwrap: str, source: bytes, limits: Sequence[str], run: Callable[..., BoundedRun]) -> BoundedRun:
    with _memory_file(source) as program, _memory_file(build_filter(platform.machine())) as calls, _pipe() as status:
        command = [
            *limits, bwrap, *_NAMESPACES, *_mounts(), "--file", str(program), "/program.py", "--remount-ro", "/",
            "--chdir", "/tmp", "--seccomp", str(calls), "--json-status-fd", str(status[1]),
            "--", _interpreter(), *_PYTHON_FLAGS, "/program.py",
        ]  # fmt: skip
        ended = run(command, pass_fds=(program, calls, status[1]))
        # bubblewrap reports an exit code only of a program that it could start.
        if ended.killed_by is None and b'"exit-code"' not in _available(status[0]):
            reason = _text(ended.stderr).strip() or f"exit code {ended.exit_code}"
            raise MachineError(f"The sandbox ended before its program did: {reason}.")
    return ended


_NAMESPACES = (
    "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox",
    "--cap-drop", "ALL", "--die-with-parent", "--new-session", "--clearenv", "--setenv", "HOME", "/tmp",
)  # fmt: skip


@functools.cache
def _mounts() -> tuple[str, ...]:
    """All that the program sees: the libraries, the interpreter with its standard library, its own /tmp.

    No /proc, /sys or /dev: where root runs the sandbox, the program has no capabilities and yet owns root's files. It
    could change the mode of the machine's own /dev/null.
    """
    prefix = os.path.realpath(sys.base_prefix)
    folders = {"/lib", "/lib64", "/usr/lib", "/usr/lib64", f"{prefix}/lib", f"{prefix}/{sys.platlibdir}"}
    options: list[str] = []
    for folder in sorted(folders):
        if os.path.islink(folder):
            options += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            options += ["--ro-bind", folder, folder]
    options += ["--ro-bind", _interpreter(), _interpreter(), "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    return (*options, "--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp")


def _interpreter() -> str:
    """The executable behind all virtual environments and symbolic links."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@contextlib.contextmanager
def _memory_file(content: bytes) -> Iterator[int]:
    fd = os.memfd_create("sandbox")
    with open(fd, "wb") as file:
        file.write(content)
        file.seek(0)
        yield fd


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    try:
        yield read, write
    finally:
        os.close(read)
        os.close(write)


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")


def _available(fd: int) -> bytes:
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        return os.read(fd, 1 << 16)
    return b""
