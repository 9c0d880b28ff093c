"""Reading ahead in a thread."""

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from nanochat_pl.data import background
from nanochat_pl.data.background import ReadAhead


def test_items_come_in_order_and_an_error_after_those_before_it() -> None:
    def items() -> Iterator[int]:
        yield from range(50)
        raise ValueError("at the end")

    seen = []
    with pytest.raises(ValueError, match="at the end"):
        for item in ReadAhead(items(), 3):
            seen.append(item)
    assert seen == list(range(50))
    assert list(ReadAhead(iter("abc"), 1)) == ["a", "b", "c"]


def test_no_more_than_the_depth_is_made_ahead_and_the_thread_ends_with_its_reader() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        while True:
            made.append(len(made))
            yield made[-1]

    reader = ReadAhead(items(), 3)
    assert next(reader) == 0
    deadline = time.monotonic() + 10
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(made) == 5  # one read, three ready, one at hand
    reader.close()
    assert not any(thread.name == "read-ahead" for thread in threading.enumerate())
    assert list(reader) == []


def test_whoever_waits_in_vain_may_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "STALLED_SECONDS", 0.1)
    goes_on, reasons = threading.Event(), [None, None, KeyboardInterrupt("enough"), None]

    def items() -> Iterator[int]:
        yield 1
        goes_on.wait()
        yield 2

    reader = ReadAhead(items(), 3, lambda: reasons.pop(0))
    assert next(reader) == 1 and len(reasons) == 4, "what is there comes"
    with pytest.raises(KeyboardInterrupt, match="enough"):
        next(reader)
    assert len(reasons) == 1
    goes_on.set()
    assert next(reader) == 2


def test_the_thread_ends_with_a_reader_that_is_forgotten() -> None:
    reader = ReadAhead(itertools.count(), 2)
    assert next(reader) == 0
    del reader
    assert not any(thread.name == "read-ahead" for thread in threading.enumerate())
