"""Nothing that a program does in the sandbox reaches the host, and every call comes back with what happened."""

import os
import platform
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nanochat_pl.tools.sandbox import run_python
from tests.conftest import REPOSITORY
from tests.tools.sandbox_attacks import ATTACKS, PRELUDE

OUTPUT_BYTES = 200_000
SECRET = "canary-0123456789"


@dataclass
class Host:
    """What must be as it was after every attack."""

    folder: Path
    port: int
    canary: subprocess.Popen[bytes]
    visits: list[str]
    processes: set[int]

    def assert_unharmed(self) -> None:
        assert {path.name: path.read_bytes() for path in self.folder.iterdir() if path.is_file()} == {"file": b"intact"}
        assert self.visits == []
        assert self.canary.poll() is None
        # The last processes of a killed sandbox are gone within an instant.
        deadline = time.monotonic() + 30
        while left_behind := _children() - self.processes:
            assert time.monotonic() < deadline, f"left behind: {left_behind}"
            time.sleep(0.01)


def _children() -> set[int]:
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


@pytest.fixture(scope="module")
def host(bubblewrap: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A file, servers on TCP, UDP and Unix sockets, a process, a secret in the environment: all of them canaries."""
    folder = tmp_path_factory.mktemp("canary")
    (folder / "file").write_bytes(b"intact")
    visits: list[str] = []
    tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)
    port = tcp.getsockname()[1]
    udp.bind(("127.0.0.1", port))
    unix, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    unix.bind(str(folder / "socket"))
    abstract.bind(f"\0nanochat-pl-{port}")
    servers = (tcp, unix, abstract)
    for server in servers:
        server.listen()
        threading.Thread(target=_note_visits, args=(server, visits), daemon=True).start()
    threading.Thread(target=_note_packets, args=(udp, visits), daemon=True).start()
    canary = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3600)"])
    os.environ["SECRET_OF_THE_TEST"] = SECRET
    yield Host(folder, port, canary, visits, _children())
    del os.environ["SECRET_OF_THE_TEST"]
    canary.kill()
    canary.wait()
    for server in (*servers, udp):
        server.close()


def _note_visits(server: socket.socket, visits: list[str]) -> None:
    while True:
        try:
            visits.append(str(server.accept()))
        except OSError:
            return


def _note_packets(server: socket.socket, visits: list[str]) -> None:
    while True:
        try:
            visits.append(str(server.recvfrom(1)))
        except OSError:
            return


def test_the_canaries_would_notice(host: Host) -> None:
    socket.create_connection(("127.0.0.1", host.port)).close()
    client = socket.socket(socket.AF_UNIX)
    client.connect(f"\0nanochat-pl-{host.port}")
    socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", host.port))
    deadline = time.monotonic() + 30
    while len(host.visits) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    host.visits.clear()
    assert host.canary.pid in _children()


@pytest.mark.parametrize("name", ATTACKS)
def test_contained(host: Host, name: str) -> None:
    attack = ATTACKS[name]
    if platform.machine() != "x86_64" and ("call(" in attack.code or "int 0x80" in attack.code):
        pytest.skip("system calls by their numbers on x86_64")
    code = attack.code.format(
        port=host.port,
        file=host.folder / "file",
        folder=host.folder,
        repository=REPOSITORY,
        pid=os.getpid(),
        canary_pid=host.canary.pid,
    )
    seconds = 0.4 if attack.ends == "time" else 20
    began = time.monotonic()
    result = run_python(PRELUDE + code, timeout_seconds=seconds, output_bytes=OUTPUT_BYTES)
    # Loose enough for a busy machine, and far below the hours that these programs would take.
    assert time.monotonic() - began < seconds + 60
    host.assert_unharmed()

    output = result.stdout + result.stderr
    assert not re.search("^ESCAPED", output, re.MULTILINE), output[-2000:]
    assert SECRET not in output
    assert max(len(result.stdout), len(result.stderr)) <= OUTPUT_BYTES
    if isinstance(attack.ends, str):
        assert (result.killed_by, result.exit_code) == (attack.ends, None), output[-2000:]
    else:
        codes = attack.ends if isinstance(attack.ends, tuple) else (attack.ends,)
        assert result.killed_by is None and result.exit_code in codes, (
            result.killed_by,
            result.exit_code,
            output[-2000:],
        )
    assert re.search(attack.says, output, re.MULTILINE), output[-2000:]


def test_there_are_enough_attacks() -> None:
    assert len(ATTACKS) >= 40


def test_the_sandbox_dies_with_its_parent(host: Host) -> None:
    sleeper = "from nanochat_pl.tools.sandbox import *; run_python('import time; time.sleep(600)', timeout_seconds=600)"
    parent = subprocess.Popen([sys.executable, "-c", sleeper], cwd=REPOSITORY)
    inside: set[int] = set()
    deadline = time.monotonic() + 60
    # bubblewrap, pid 1 of the sandbox, the program
    while len(inside) < 3 or not any("program.py" in _command(pid) for pid in inside):
        assert time.monotonic() < deadline and parent.poll() is None
        inside = _descendants(parent.pid)
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while alive := [pid for pid in inside if _is_running(pid)]:
        assert time.monotonic() < deadline, f"outlived the parent: {alive}"
        time.sleep(0.01)
    host.assert_unharmed()


def _descendants(pid: int) -> set[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = {int(child) for task in tasks for child in (task / "children").read_text().split()}
    except OSError:
        return set()
    return children.union(*map(_descendants, children))


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
