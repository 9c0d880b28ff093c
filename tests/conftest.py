"""Shared by all tests: one torch thread a process, caches and runs in temporary folders, the optional real data."""

import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)

# A shell starts what runs in its background with SIGINT ignored, and the processes of tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def isolated_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test does reaches the user's runs or caches."""
    monkeypatch.setenv("NANOCHAT_PL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("NANOCHAT_PL_CACHE", str(tmp_path / "cache"))
    for name in ("OUT_DIR", "DATA_ROOT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def test_data() -> Path:
    """Folder of small real data in the originals' formats; the test is skipped where it is absent."""
    folder = REPOSITORY / os.environ.get("NANOCHAT_PL_TEST_DATA", "../shared/data")
    if not folder.exists():
        pytest.skip("set NANOCHAT_PL_TEST_DATA to the folder of real test data")
    return folder
