"""What keeps a training, by where its main thread is."""

import sys
from types import FrameType
from typing import Any

import pytest

from nanochat_pl.callbacks.stuck_watch import likely_cause

LIGHTNING = "/x/site-packages/lightning/pytorch/loops/"


def frame_in(*files: str) -> FrameType:
    """A frame in the last of these files, called from the one before it, and so on."""
    seen: dict[str, Any] = {"call": lambda: sys._getframe(1)}
    for file in reversed(files):
        scope: dict[str, Any] = {"inner": seen["call"]}
        exec(compile("def call():\n    return inner()", file, "exec"), scope)
        seen = scope
    return seen["call"]()


@pytest.mark.parametrize(
    ("files", "world_size", "cause"),
    [
        ((f"{LIGHTNING}fetchers.py", "/x/nanochat_pl/data/background.py", "/lib/python3.11/threading.py"), 1, "loader"),
        ((f"{LIGHTNING}evaluation_loop.py", "/x/nanochat_pl/nn/layers.py"), 1, "evaluation"),
        ((f"{LIGHTNING}evaluation_loop.py", f"{LIGHTNING}fetchers.py"), 1, "loader"),
        ((f"{LIGHTNING}evaluation_loop.py", "/x/nanochat_pl/checkpoint/model_folder.py"), 1, "checkpoint"),
        (("/x/site-packages/torch/distributed/distributed_c10d.py",), 2, "collective"),
        (("/x/site-packages/torch/autograd/graph.py",), 2, "collective"),
        (("/x/site-packages/torch/autograd/graph.py",), 1, "step"),
        (("/x/someone/callback.py",), 1, "step"),
    ],
)
def test_the_likely_cause_is_the_innermost_place_that_is_known(
    files: tuple[str, ...], world_size: int, cause: str
) -> None:
    frame = frame_in(*files)
    assert frame.f_code.co_filename == files[-1]
    assert likely_cause(frame, world_size) == cause
