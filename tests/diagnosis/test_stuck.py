"""Stack dumps that faulthandler writes, read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.diagnosis import stuck

PROGRAM = """
import faulthandler, runpy, sys, threading, time
def dump():
    while sys._current_frames()[threading.main_thread().ident].f_code.co_name != sys.argv[3]:
        time.sleep(0.001)
    with open(sys.argv[2], "w") as file:
        faulthandler.dump_traceback(file, all_threads=True)
    import os; os._exit(0)
def background():
    threading.Event().wait()
threading.Thread(target=background, daemon=True).start()
threading.Thread(target=dump).start()
runpy.run_path(sys.argv[1])
"""
WAITING = "def {function}():\n    import time\n    time.sleep(60)\n{function}()\n"
ALL_REDUCE = "site-packages/torch/distributed/all_reduce.py"
READ_CHUNK = "nanochat_pl/data/read_chunk.py"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "runs/x/base")
    (run.path / "stacks").mkdir(parents=True)
    return run


def dump(run: RunFolder, name: str, file: str) -> None:
    """What a process writes whose main thread is in this file."""
    path = run.path.parent / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(WAITING.format(function=path.stem))
    arguments = [sys.executable, "-S", "-c", PROGRAM, str(path), str(run.path / "stacks" / name), path.stem]
    subprocess.run(arguments, check=True, timeout=60)


def plan_devices(run: RunFolder, devices: int) -> None:
    run.resolved.write_text(json.dumps({"hardware": {"devices": devices, "nodes": 1}}))


def test_the_one_that_is_different(run: RunFolder) -> None:
    plan_devices(run, 3)
    for rank, file in enumerate((ALL_REDUCE, READ_CHUNK, ALL_REDUCE)):
        dump(run, f"rank-{rank}.txt", file)
    diagnosis = stuck.diagnose(run)
    hung, *ranks = diagnosis.findings
    assert not diagnosis.sound and "rank 1 waits for or prepares data, and the others wait for it" in hung.what
    assert "data prepare" in hung.advice
    assert "read_chunk.py:3 in read_chunk <- different" in ranks[1].what and "different" not in ranks[0].what
    assert [path.name for path in diagnosis.artifacts] == ["rank-0.txt", "rank-1.txt", "rank-2.txt"]
    (run.path / "stacks/rank-1.txt").unlink()
    assert "rank 1 wrote no stacks" in stuck.diagnose(run).findings[0].what


def test_all_alike_and_a_single_process(run: RunFolder) -> None:
    dump(run, "stuck-step-7.rank-0.txt", ALL_REDUCE)
    dump(run, "stuck-step-7.rank-1.txt", ALL_REDUCE)
    said = stuck.diagnose(run).findings[0]
    assert "after step 7" in said.what and "each process waits for the other processes" in said.what
    dump(run, "stuck-step-30.rank-0.txt", "nanochat_pl/callbacks/evaluate.py")
    said, *_, earlier = stuck.diagnose(run).findings
    assert "after step 30" in said.what and "the process evaluates" in said.what and "step 7" in earlier.what


@pytest.mark.parametrize(
    ("file", "cause"),
    [
        ("nanochat_pl/callbacks/checkpoints.py", "checkpoint"),
        ("nanochat_pl/evals/suites.py", "evaluation"),
        ("nanochat_pl/data/hub/fetch.py", "network"),
        ("nanochat_pl/callbacks/gc.py", "gc"),
        ("nanochat_pl/optim/muon.py", "step"),
        ("site-packages/torch/autograd/graph.py", "step"),
        ("somewhere.py", "elsewhere"),
    ],
)
def test_causes(run: RunFolder, file: str, cause: str) -> None:
    dump(run, "rank-0.txt", file)
    threads = stuck.parse_dump((run.path / "stacks/rank-0.txt").read_text())
    assert len(threads) == 3
    main = stuck.main_thread(threads)
    assert main.cause(alone=True) == cause and f"{Path(file).stem}" in main.place


def test_a_device_and_garbage_collection(tmp_path: Path) -> None:
    source = tmp_path / "nanochat_pl/stages/a.py"
    source.parent.mkdir(parents=True)
    source.write_text("loss = mean_step_loss().item()\n")
    frame = (str(source), "1", "training_step")
    assert stuck.Thread((frame,)).cause(alone=False) == "device"
    text = 'Thread 0x00007f1 [main] (most recent call first):\n  Garbage-collecting\n  File "a.py", line 1 in f\n'
    (thread,) = stuck.parse_dump(text)
    assert thread.cause(alone=True) == "gc" and thread.frames == (("a.py", "1", "f"),)
    assert stuck.suspects({0: "collective", 1: "device", 2: "collective"}, {0: "a", 1: "b", 2: "a"}, []) == (
        [1],
        "device",
    )


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff" * 50, b"Thread 0x1 (most recent call first):\n", b"Current thread"]
)
def test_garbage_is_survived(run: RunFolder, content: bytes) -> None:
    (run.path / "stacks/rank-0.txt").write_bytes(content)
    (run.path / "stacks/rank-x.txt").write_bytes(content)
    run.resolved.write_text('{"hardware": {"devices": "many"}}')
    diagnosis = stuck.diagnose(run)
    assert not diagnosis.sound and "does not say where it is" in " ".join(
        finding.what for finding in diagnosis.findings
    )


def test_nothing_hung(run: RunFolder) -> None:
    assert stuck.diagnose(run).sound
    run.write_summary(status="running")
    assert "it was killed" in stuck.diagnose(run).findings[-1].what
