"""The peak of the own memory."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_pl.core.memory import peak_memory_bytes

CHILD = "from nanochat_pl.core.memory import peak_memory_bytes; print(peak_memory_bytes())"


def resident_bytes() -> int:
    """What this process holds now, which may be less than it has held."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux tells it")
def test_it_is_the_most_that_was_held() -> None:
    before = resident_bytes()
    size = peak_memory_bytes() + 200_000_000
    held = bytearray(b"x") * size
    del held
    assert before + size - 10_000_000 < peak_memory_bytes() < before + size + 200_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux tells it")
def test_the_peak_of_the_process_that_started_it_is_left_out() -> None:
    held = bytearray(b"x") * 200_000_000
    told = int(subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout)
    assert told < len(held) // 2
