"""The cache: trained once per data set and spec, whole or absent, also with several processes at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.tiny_world import document
from nanochat_pl.tokenizers.cache import cached_tokenizer
from nanochat_pl.tokenizers.specs import BPESpec, CharSpec

DOCUMENTS = [document(i) for i in range(60)]


class Texts:
    """Counts how often the texts are asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> list[str]:
        self.asked += 1
        return DOCUMENTS


def test_trained_once_per_data_and_spec(tmp_path: Path) -> None:
    texts = Texts()
    first = cached_tokenizer(BPESpec(300), "data", texts, tmp_path)
    again = cached_tokenizer(BPESpec(300), "data", texts, tmp_path)
    assert texts.asked == 1
    assert again.fingerprint == first.fingerprint
    for spec, data in ((BPESpec(301), "data"), (BPESpec(300), "other data"), (CharSpec(), "data")):
        cached_tokenizer(spec, data, texts, tmp_path)
    assert texts.asked == 4


def test_lies_in_the_cache_root_by_default() -> None:
    cached_tokenizer(BPESpec(300), "data", lambda: DOCUMENTS)
    assert list((Path(os.environ["NANOCHAT_PL_CACHE"]) / "tokenizers").glob("bpe-300-*/tokenizer.json"))


def test_a_damaged_entry_is_trained_again(tmp_path: Path) -> None:
    texts = Texts()
    first = cached_tokenizer(BPESpec(300), "data", texts, tmp_path)
    merges = next(tmp_path.glob("*/merges.tiktoken"))
    merges.write_text("garbage", encoding="utf-8")
    assert cached_tokenizer(BPESpec(300), "data", texts, tmp_path).fingerprint == first.fingerprint
    assert texts.asked == 2
    assert merges.read_text(encoding="utf-8") != "garbage"


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="allows only"):
        cached_tokenizer(BPESpec(100_000), "data", lambda: DOCUMENTS, tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MachineError, match="NANOCHAT_PL_CACHE"):
        cached_tokenizer(BPESpec(300), "data", lambda: DOCUMENTS, tmp_path / "file" / "cache")


PROCESS = """
import pathlib, sys, time
from nanochat_pl.tiny_world import document
from nanochat_pl.tokenizers.cache import cached_tokenizer
from nanochat_pl.tokenizers.specs import BPESpec

folder = pathlib.Path(sys.argv[1])

def texts():
    with open(folder / "trainings", "a") as file:
        file.write("x")
    time.sleep(1.0)
    return [document(i) for i in range(60)]

print("ready", flush=True)
sys.stdin.readline()
print(cached_tokenizer(BPESpec(300), "data", texts, folder / "cache").fingerprint)
"""


def test_of_two_processes_one_trains(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    fingerprints = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(fingerprints) == 1
    assert (tmp_path / "trainings").read_text() == "x"
