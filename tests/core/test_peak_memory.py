"""The peak of the own memory."""

import subprocess
import sys

import pytest

from nanochat_pl.core.peak_memory import peak_memory_bytes

CHILD = "from nanochat_pl.core.peak_memory import peak_memory_bytes; print(peak_memory_bytes())"


def test_it_is_the_most_that_was_held() -> None:
    before = peak_memory_bytes()
    size = before + 200_000_000
    held = bytearray(b"x") * size
    del held
    assert size < peak_memory_bytes() < before + size + 200_000_000  # less than before may be held by now


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux tells it")
def test_the_peak_of_the_process_that_started_it_is_left_out() -> None:
    held = bytearray(b"x") * 200_000_000
    told = int(subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout)
    assert told < len(held) // 2
