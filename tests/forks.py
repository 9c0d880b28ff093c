"""Python programs in forks of a process that has imported the libraries: most of a short program's time is imports."""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.preloaded"])
STARTING = threading.Lock()


class Program:
    """A program in a fork, with what tests use of `subprocess.Popen`.

    Variables that libraries read when imported come too late there.

    Args:
        arguments: as `python` takes them: a script, or -m and a module, or -c and a program, with what follows.
        environment: all its variables.
        streams: the files of its input, its output and its errors. A terminal becomes its own, and Ctrl-C ends it.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], *streams: Path | str):
        work = (tuple(arguments), dict(environment), tuple(map(str, streams)))
        self._process: BaseProcess = FORKS.Process(target=_run, args=work)
        with STARTING, contextlib.chdir(REPOSITORY):  # or the first one's server would not find the tests
            self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """Its exit code.

        Raises:
            subprocess.TimeoutExpired: it did not end.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self.returncode

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def run_program(
    *arguments: str, environment: Mapping[str, str] | None = None, input: bytes = b"", timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end.

    Args:
        environment: variables beside this process's.
        input: what it reads.
    """
    with tempfile.TemporaryDirectory() as folder:
        read, output, errors = (Path(folder, name) for name in ("input", "output", "errors"))
        read.write_bytes(input)
        program = Program(arguments, os.environ | dict(environment or {}), read, output, errors)
        try:
            code = program.wait(timeout)
        finally:
            program.kill()
        return subprocess.CompletedProcess(arguments, code, *(path.read_text("utf-8") for path in (output, errors)))


def _run(arguments: tuple[str, ...], environment: dict[str, str], streams: tuple[str, str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if {"HF_ENDPOINT", "HF_HUB_OFFLINE"} & environment.keys():  # other libraries have imported it without them
        for name in [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]:
            del sys.modules[name]
    os.chdir(REPOSITORY)
    _connect(*streams)
    try:
        if arguments[0] == "-m":
            sys.argv = list(arguments[1:])
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            exec(arguments[1], {"__name__": "__main__"})
        else:
            sys.argv = list(arguments)
            runpy.run_path(arguments[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out


def _connect(read: str, output: str, errors: str) -> None:
    """Make these files the standard streams."""
    if read.startswith("/dev/pts/"):
        os.setsid()  # the first terminal that it opens is its own
    writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    for descriptor, (path, mode) in enumerate(((read, os.O_RDONLY), (output, writing), (errors, writing))):
        opened = os.open(path, mode)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
