"""Who waits for whom, by the stack of a training's main thread."""

import linecache
from pathlib import Path

import pytest

from nanochat_pl.core.stacks import Thread
from nanochat_pl.optim import sharding

SHARDING = str(Path(sharding.__file__))
WAIT = next(n for n, line in enumerate(linecache.getlines(SHARDING), 1) if ".wait()" in line)
TORCH = "/venv/lib/python3.11/site-packages/torch"
DDP = (f"{TORCH}/nn/parallel/distributed.py", "1", "_run_ddp_forward")
STEP = ("/home/me/mine/stage.py", "12", "training_step")
LIGHTNING = ("/venv/lib/python3.11/site-packages/lightning/pytorch/strategies/strategy.py", "3", "wrapped_forward")


@pytest.mark.parametrize(
    ("frames", "waits"),
    [
        (((SHARDING, str(WAIT), "gather"),), "collective"),  # native code behind it has no frame
        ((STEP, LIGHTNING, DDP), None),  # busy, though DDP called it
        ((DDP, LIGHTNING), "collective"),
        (((f"{TORCH}/autograd/graph.py", "9", "_engine_run_backward"), STEP), "collective"),
        (((f"{TORCH}/a.py", "9", "f"), (f"{TORCH}/distributed/c10d.py", "1", "barrier"), STEP), "collective"),
    ],
    ids=["gather", "own step", "ddp", "backward", "barrier"],
)
def test_what_a_process_among_others_waits_for(frames: tuple[tuple[str, str, str], ...], waits: str | None) -> None:
    assert Thread(frames).waits_for(alone=False) == waits
    if frames[0][0] == SHARDING:
        assert Thread(frames).waits_for(alone=True) is None
