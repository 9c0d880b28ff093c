"""Chunks tokenized by several processes, in the order in which they come."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import numpy as np

from nanochat_pl.core.errors import MachineError
from nanochat_pl.tokenizers.base import Tokenizer

Place = TypeVar("Place")

JOB_CHARACTERS = 1 << 20
"""Chunks are put together into a job until they have so many characters."""

Encode = Callable[[list[str]], list[np.ndarray]]


def tokenize_chunks(
    chunks: Iterable[tuple[Place, list[str]]], tokenizer: Tokenizer, processes: int
) -> Generator[tuple[Place, list[np.ndarray]]]:
    """The chunks with their documents' ids, in their order, a few jobs per process ahead of who asks.

    Args:
        chunks: the place of each, whatever that is, and its documents; read by this process.
        processes: 1: a thread of this one.

    Raises:
        MachineError: a process was killed.
    """
    waiting: deque[tuple[list[tuple[Place, int]], Future[list[np.ndarray]]]] = deque()

    def finished() -> Iterator[tuple[Place, list[np.ndarray]]]:
        places, future = waiting.popleft()
        ids, start = future.result(), 0
        for place, count in places:
            yield place, ids[start : start + count]
            start += count

    with _pool(tokenizer, processes) as (pool, encode):
        try:
            for places, texts in _jobs(chunks):
                waiting.append((places, pool.submit(encode, texts)))
                if len(waiting) > 2 * processes:
                    yield from finished()
            while waiting:
                yield from finished()
        except BrokenProcessPool as error:
            raise MachineError(
                f"One of {processes} processes that tokenize was killed, perhaps for want of memory. Run the same "
                "command again with fewer --processes; what is finished is kept."
            ) from error


def _jobs(chunks: Iterable[tuple[Place, list[str]]]) -> Iterator[tuple[list[tuple[Place, int]], list[str]]]:
    """Documents of some chunks at a time, with each chunk's place and number of documents."""
    places: list[tuple[Place, int]] = []
    texts: list[str] = []
    characters = 0
    for place, documents in chunks:
        places.append((place, len(documents)))
        texts += documents
        characters += sum(map(len, documents))
        if characters >= JOB_CHARACTERS:
            yield places, texts
            places, texts, characters = [], [], 0
    if places:
        yield places, texts


@contextlib.contextmanager
def _pool(tokenizer: Tokenizer, processes: int) -> Iterator[tuple[Executor, Encode]]:
    """What runs, and what it is to run."""
    pool: Executor
    encode: Encode
    if processes == 1:
        pool, encode = ThreadPoolExecutor(1), tokenizer.encode_batch
    else:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of whatever threads there are
        pool, encode = ProcessPoolExecutor(processes, context, _start_worker, (tokenizer,)), _encode_in_worker
    try:
        yield pool, encode
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_tokenizer: Tokenizer
"""Of a worker process."""


def _start_worker(tokenizer: Tokenizer) -> None:
    global _tokenizer
    _tokenizer = tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode_in_worker(texts: list[str]) -> list[np.ndarray]:
    return _tokenizer.encode_batch(texts)
