"""Ordinary programs in the sandbox, its bounds and errors, and the weak mode."""

import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nanochat_pl.core.errors import UserError
from nanochat_pl.tools.sandbox import MIN_MEMORY_BYTES, SandboxResult, SandboxUnavailable, check_sandbox, run_python

Mode = Any  # a Literal of run_python's


@pytest.fixture(params=["bubblewrap", "weak"])
def mode(request: pytest.FixtureRequest) -> str:
    if request.param == "bubblewrap":
        request.getfixturevalue("bubblewrap")
    return request.param


def test_output_and_exit_code(mode: Mode) -> None:
    result = run_python("import sys\nprint('é😀')\nprint('e', file=sys.stderr)", mode=mode)
    assert result == SandboxResult("é😀\n", "e\n", 0, None)


@pytest.mark.parametrize(
    ("code", "exit_code", "stderr"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('why')", 1, "why"),
        ("import os; os._exit(7)", 7, ""),
        ("raise SystemExit", 0, ""),
        ("assert 1 == 2, 'no'", 1, "AssertionError: no"),
        ("def f(:", 1, "SyntaxError"),
        ("1\0", 1, "null byte"),
        ("'\ud800'", 1, "SyntaxError"),
        ("import os; os.kill(os.getpid(), 15)", 128 + 15, ""),
        ("import torch", 1, "ModuleNotFoundError"),
        ("#" * (4 << 20) + "\nprint(1)", 0, ""),
    ],
)
def test_ends_of_programs(mode: Mode, code: str, exit_code: int, stderr: str) -> None:
    result = run_python(code, mode=mode, timeout_seconds=60)
    assert (result.exit_code, result.killed_by) == (exit_code, None)
    assert stderr in result.stderr


def test_errors_show_the_line(mode: Mode) -> None:
    assert "line 2, in <module>\n    1/0" in run_python("\n1/0", mode=mode).stderr


def test_stdin_is_read_or_not(mode: Mode) -> None:
    text = "line é\n" * 10**6
    assert run_python("print(input())", stdin="a\nb\n", mode=mode).stdout == "a\n"
    assert run_python("import sys\nprint(len(sys.stdin.read()))", stdin=text, mode=mode).stdout == f"{len(text)}\n"
    assert run_python("print(1)", stdin=text, mode=mode).stdout == "1\n"
    assert run_python("import sys; sys.stdin.close(); print(1)", stdin=text, mode=mode).stdout == "1\n"
    assert "EOFError" in run_python("input()", mode=mode).stderr


def test_output_is_cut_at_its_bound(mode: Mode) -> None:
    whole = run_python("print(end='x' * 1000)", output_bytes=1000, mode=mode)
    assert whole == SandboxResult("x" * 1000, "", 0, None)
    cut = run_python("print(end='x' * 1001, flush=True)\nwhile True: pass", output_bytes=1000, mode=mode)
    assert cut == SandboxResult("x" * 1000, "", None, "output")
    flood = run_python("while True: print('é' * 999)", output_bytes=9999, mode=mode)
    assert (flood.exit_code, flood.killed_by) == (None, "output")
    assert len(flood.stdout.encode()) in range(9990, 10010)


def test_what_was_written_before_the_time_was_over_is_kept(mode: Mode) -> None:
    result = run_python("print('so far', flush=True)\nwhile True: pass", timeout_seconds=1, mode=mode)
    assert result == SandboxResult("so far\n", "", None, "time")


def test_memory_is_bounded(mode: Mode) -> None:
    code = "x = bytes(150 << 20)\nprint(len(x))"
    assert run_python(code, mode=mode).exit_code == 0
    result = run_python(code, memory_bytes=128 << 20, mode=mode)
    assert result.exit_code == 1 and "MemoryError" in result.stderr


def test_files_live_as_long_as_the_program(mode: Mode) -> None:
    code = "import os, tempfile\nprint(os.listdir())\nwith open('a', 'w') as f: f.write('b')\nprint(open('a').read())"
    for _ in range(2):
        first, second = run_python(code, mode=mode).stdout.splitlines()
        assert (first, second) == ("[]" if mode == "bubblewrap" else "['program.py']", "b")


def test_no_environment(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "secret")
    assert "secret" not in run_python("import os; print(os.environ)", mode=mode).stdout


@pytest.mark.parametrize("mode", ["bubblewrap"])
def test_the_standard_library_works(bubblewrap: None, mode: Mode) -> None:
    code = """
import asyncio, bz2, collections, ctypes, dataclasses, datetime, decimal, functools, hashlib, heapq, itertools, json
import lzma, math, random, re, signal, sqlite3, statistics, string, tempfile, textwrap, typing, unittest, uuid, zlib
async def double(x):
    await asyncio.sleep(0.001)
    return 2 * x
async def main():
    return await asyncio.gather(*map(double, range(3)))
assert asyncio.run(main()) == [0, 2, 4]
assert sqlite3.connect(":memory:").execute("select 6 * 7").fetchone() == (42,)
with tempfile.TemporaryFile() as file:
    file.write(b"x" * (10 << 20))
signal.signal(signal.SIGALRM, lambda *_: print("alarm"))
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.pause()
class Test(unittest.TestCase):
    def test(self):
        self.assertEqual(json.loads(json.dumps([random.random() < 2])), [True])
        self.assertEqual(hashlib.sha256(b"").hexdigest()[:4], "e3b0")
unittest.main()
"""
    result = run_python(code, mode=mode, timeout_seconds=60)
    assert (result.stdout, result.exit_code) == ("alarm\n", 0), result.stderr
    assert "OK" in result.stderr


def test_threads_share_nothing(mode: Mode) -> None:
    code = "import os, time\nopen('f', 'a').write('{n}')\ntime.sleep(0.05)\nprint(open('f').read())"
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: run_python(code.format(n=n), mode=mode, timeout_seconds=60), range(24)))
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(24)]


def test_no_files_or_threads_pile_up(mode: Mode) -> None:
    run_python("pass", mode=mode)
    before = sorted(os.listdir("/proc/self/fd")), threading.active_count()
    for code in ("pass", "1/0", "while True: pass", "while True: print('x' * 9999)"):
        run_python(code, timeout_seconds=0.3, output_bytes=999, mode=mode)
    assert (sorted(os.listdir("/proc/self/fd")), threading.active_count()) == before


@pytest.mark.parametrize(
    "bounds",
    [
        {"timeout_seconds": 0},
        {"timeout_seconds": -1},
        {"timeout_seconds": float("nan")},
        {"timeout_seconds": float("inf")},
        {"memory_bytes": MIN_MEMORY_BYTES - 1},
        {"output_bytes": 0},
        {"mode": "strong"},
    ],
)
def test_bounds_out_of_range(bounds: dict[str, Any]) -> None:
    (name, value) = next(iter(bounds.items()))
    with pytest.raises(UserError, match=f"{name.split('_')[0]}.*{value}"):
        run_python("pass", **bounds)


def test_the_smallest_bounds_work(bubblewrap: None) -> None:
    assert run_python("print(1)", memory_bytes=MIN_MEMORY_BYTES, output_bytes=2).stdout == "1\n"
    assert run_python("print(1)", timeout_seconds=1e-6).killed_by == "time"


def test_without_bubblewrap_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for refused in (check_sandbox, lambda: run_python("print(1)")):
        with pytest.raises(SandboxUnavailable, match=r"apt-get install bubblewrap.*sandbox=weak"):
            refused()
    assert run_python("print(1)", mode="weak").stdout == "1\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'bwrap: No permissions to create new namespace' >&2; exit 1", "No permissions to create new namespace"),
        ("exit 0", "exit code 0"),
        ("kill -9 $$", "exit code 137"),
        ("echo 'bwrap: Unknown option --size' >&2; exit 1", "Unknown option --size.*0.8 or newer"),
    ],
)
def test_a_bubblewrap_that_cannot_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    bwrap = tmp_path / "bwrap"
    bwrap.write_text(f"#!/bin/sh\n{script}\n")
    bwrap.chmod(bwrap.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match=f"(?s){reason}.*sandbox=weak"):
        run_python("print(1)")


def test_the_weak_mode_kills_what_the_program_started() -> None:
    """Also a daemon that holds the pipes open does not hold up the call."""
    child_code = "import os, time\nif os.fork() == 0:\n    print(os.getpid(), flush=True)\n    {sleep}\n"
    code = child_code.format(sleep="time.sleep(600)") + "time.sleep(0.3)"
    child = int(run_python(code, timeout_seconds=60, mode="weak").stdout)
    began = time.monotonic()
    run_python(child_code.format(sleep="os.setsid(); time.sleep(20)"), timeout_seconds=60, mode="weak")
    assert time.monotonic() - began < 20
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}/stat").exists() and ") Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_humaneval_s_solutions_pass_and_wrong_ones_do_not(bubblewrap: None, test_data: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (file,) = (test_data / "hub/openai/openai_humaneval").rglob("*.parquet")
    problems = parquet.read_table(file).to_pylist()
    assert len(problems) >= 80
    outcomes: dict[str, SandboxResult] = {}
    for problem in problems:
        checks = f"\n{problem['test']}\ncheck({problem['entry_point']})\nprint('done')"
        outcomes[problem["task_id"]] = run_python(
            problem["prompt"] + problem["canonical_solution"] + checks, timeout_seconds=60
        )
    assert {
        task: result for task, result in outcomes.items() if (result.exit_code, result.stdout) != (0, "done\n")
    } == {}
    for problem in problems[::10]:
        checks = f"\n{problem['test']}\ncheck({problem['entry_point']})\nprint('done')"
        assert run_python(problem["prompt"] + "    return None\n" + checks).exit_code == 1
