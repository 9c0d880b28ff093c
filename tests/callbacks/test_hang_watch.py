"""Which of several processes keeps the others waiting, by what they say of themselves."""

from pathlib import Path
from typing import Any

import pytest

from nanochat_pl.callbacks.hang_watch import explanation
from nanochat_pl.core.stacks import Thread


class Loss:
    """A number on a device, of which it is noted from where it is asked for."""

    def item(self) -> Thread:
        return Thread(Thread.main().frames[2:])

    def detach(self) -> Thread:
        return Thread(Thread.main().frames[2:])


def test_one_that_asks_for_a_number_waits_for_its_device() -> None:
    asked = Loss().item()
    assert asked.waits_for(alone=False) == "device" and f"{Path(__file__).name}:" in asked.place
    assert Loss().detach().waits_for(alone=False) is None


def one(batches: int = 4, waits: bool = True, at: str = "a.py:1 in backward") -> dict[str, Any]:
    return {"host": "here", "pid": 1, "step": 4, "batches": batches, "waits": waits, "at": at}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({0: one(), 2: one()}, "Rank 1 did not answer at all"),
        ({0: one(5), 1: one(4), 2: one(5)}, "Rank 1 is behind the others."),
        ({0: one(), 1: one(waits=False), 2: one()}, "Rank 1 is busy with something else"),
        ({0: one(), 1: one(), 2: one()}, "All are at the same place"),
        ({0: one(), 1: one(at="b.py:2 in item"), 2: one()}, "It does not show which one the others wait for."),
    ],
    ids=["silent", "behind", "busy", "same", "unknown"],
)
def test_the_one_at_fault_is_named(told: dict[int, dict[str, Any]], said: str) -> None:
    assert said in explanation(told, 3, 600, Path("stacks"))
