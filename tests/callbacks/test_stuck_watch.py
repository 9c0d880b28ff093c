"""What keeps a training, by where its main thread is."""

import pytest

from nanochat_pl.core.stacks import Thread

LIGHTNING = "/x/site-packages/lightning/pytorch/loops/"


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
        (("/x/nanochat_pl/stages/base.py", "/x/someone/callback.py"), 1, "step"),
        (("/x/someone/callback.py",), 1, "elsewhere"),
    ],
)
def test_the_likely_cause_is_the_innermost_place_that_is_known(
    files: tuple[str, ...], world_size: int, cause: str
) -> None:
    thread = Thread(tuple((file, "1", "call") for file in reversed(files)))
    assert thread.cause(alone=world_size == 1) == cause


def test_where_this_process_stands() -> None:
    thread = Thread.main()
    assert [function for _, _, function in thread.frames[:2]] == ["main", "test_where_this_process_stands"]
    assert "test_stuck_watch.py:" in Thread(thread.frames[1:]).place
    assert Thread.main(collecting=True).cause(alone=True) == "gc"
