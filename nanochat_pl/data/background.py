"""An iterator worked through by a thread, ahead of whoever reads it."""

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from torch.utils.data import IterableDataset

T = TypeVar("T")

_END = object()
_JOIN_SECONDS = 5.0

STALLED_SECONDS = 5.0
"""So long nothing has come: whoever asks may give up."""


class Endless(IterableDataset, Generic[T]):
    """What a function makes, anew at each `iter`."""

    def __init__(self, make: Callable[[], Iterator[T]]):
        self._make = make

    def __iter__(self) -> Iterator[T]:
        return self._make()


class ReadAhead(Iterator[T], Generic[T]):
    """The same items in the same order, up to `depth` of them made before they are asked for.

    What `items` raises is raised here, after the items before it. What `given_up` returns, if anything, is raised where
    nothing has come for `STALLED_SECONDS`. The thread ends when this is closed or forgotten, and
    before the process: one that is torn out of a library's native code takes the process down with it.

    Attributes:
        waited_seconds: for all items so far.
    """

    def __init__(self, items: Iterator[T], depth: int, given_up: Callable[[], BaseException | None] = lambda: None):
        self.waited_seconds = 0.0
        self._given_up = given_up
        self._ready: queue.Queue[tuple[object, BaseException | None]] = queue.Queue(depth)
        stopped = threading.Event()
        thread = threading.Thread(target=_work, args=(items, self._ready, stopped), name="read-ahead", daemon=True)
        self._close = weakref.finalize(self, _stop, stopped, thread)
        thread.start()

    def __next__(self) -> T:
        if not self._close.alive:
            raise StopIteration
        asked = time.perf_counter()
        while True:
            try:
                item, error = self._ready.get(timeout=STALLED_SECONDS)
                break
            except queue.Empty:
                reason = self._given_up()
                if reason is not None:
                    raise reason from None
        self.waited_seconds += time.perf_counter() - asked
        if error is None and item is not _END:
            return item  # type: ignore[return-value]
        self.close()
        raise error or StopIteration

    def close(self) -> None:
        """End the thread; nothing more comes."""
        self._close()


def _work(items: Iterator[T], ready: queue.Queue, stopped: threading.Event) -> None:
    def put(item: object, error: BaseException | None = None) -> bool:
        while not stopped.is_set():
            try:
                ready.put((item, error), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    try:
        for item in items:
            if not put(item):
                return
        put(_END)
    except BaseException as error:
        put(_END, error)


def _stop(stopped: threading.Event, thread: threading.Thread) -> None:
    stopped.set()
    if thread is not threading.current_thread():  # where it collects the garbage
        thread.join(timeout=_JOIN_SECONDS)
