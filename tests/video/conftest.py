"""One small run for all tests of the videos; its tokenizer merges."""

from pathlib import Path

import pytest

from tests.processes import SMALL, train

OPTIONS = (
    "tokenizer=bpe", "tokenizer.vocab_size=512", "tokenizer.max_chars=200000", "model.depth=3",
    "callbacks.evaluate=null",
)  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs that holds `test/base`."""
    runs = tmp_path_factory.mktemp("video") / "runs"
    code, output = train(*SMALL, *OPTIONS, runs=runs)
    assert code == 0, output
    return runs


@pytest.fixture
def small_run(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run `test` under the runs root."""
    monkeypatch.setenv("NANOCHAT_PL_RUNS", str(trained))
    monkeypatch.setenv("NANOCHAT_PL_CACHE", str(trained / "cache"))
    return trained / "test"
