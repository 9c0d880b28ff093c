"""The worker processes as the web process sees them: started, fed, listened to, and started again where one dies."""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.demo.refused import Refused
from nanochat_pl.demo.worker import Cancel, Failed, NewToken, Ready, Submit, WorkerSpec, work

log = logging.getLogger(__name__)

LONGEST_PAUSE_SECONDS = 30.0
"""Before a worker that keeps dying is started again."""

Listener = Callable[[list[NewToken] | Refused], None]
"""Takes a step's tokens of a request's answers, or the reason why they will not come."""


class _Worker:
    """One worker process.

    Attributes:
        answers: key of each answer under way -> its request's listener.
    """

    def __init__(self, spec: WorkerSpec):
        context = multiprocessing.get_context("spawn")
        self.number = spec.number
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, spec), name=f"worker {spec.number}")
        with _ignored(signal.SIGINT):  # the process inherits it, until it says so itself
            self.process.start()
        theirs.close()
        self.answers: dict[int, Listener] = {}
        self.ready = False

    def send(self, message: Submit | Cancel) -> None:
        try:
            self.connection.send(message)
        except OSError:  # it has just died, which its reader is about to tell
            log.debug("Worker %d did not get a message.", self.number)


class WorkerPool:
    """The workers; requests go to the one with the fewest answers under way.

    `start` can be called before there is an event loop, so that the workers load while the web server is imported; all
    else belongs to the thread of the loop that `attach` is called in.

    Args:
        workers: None: one for each device.
        device: cpu, cuda or mps; None: the best that is there.
        first: the model that each worker loads before anything is asked.
        first_required: not to be able to load it is an error of the start.

    Attributes:
        failed: done, with an exception, when the workers could not be started.
    """

    def __init__(self, workers: int | None, device: str | None, max_rows: int, first: Path, first_required: bool):
        self.max_rows = max_rows
        self._wanted, self._device, self._first, self._first_required = workers, device, first, first_required
        self._workers: list[_Worker | None] = []
        self._deaths: dict[int, int] = {}  # in a row, of each worker
        self._up = False  # a worker has been ready once
        self._closed = False

    def start(self) -> None:
        """Start the processes; where it is not known how many, the first one tells."""
        self._workers = [self._start(number) for number in range(self._wanted or 1)]

    def attach(self, on_room: Callable[[], None]) -> None:
        """Begin to listen to the workers.

        Args:
            on_room: called when answers have ended or a worker is there again.
        """
        self._loop, self._on_room = asyncio.get_running_loop(), on_room
        self.failed: asyncio.Future[None] = self._loop.create_future()
        for worker in self._workers:
            if worker:
                self._listen(worker)

    @property
    def answers(self) -> int:
        """Answers under way."""
        return sum(len(worker.answers) for worker in self._workers if worker)

    @property
    def ready(self) -> int:
        """Workers that are up."""
        return sum(worker.ready for worker in self._workers if worker)

    @property
    def rows(self) -> int:
        """Answers that can be under way at once."""
        return self.max_rows * max(1, len(self._workers))

    def submit(self, message: Submit, listener: Listener) -> bool:
        """Give a request to the least loaded worker; False where none has room for it."""
        there = [worker for worker in self._workers if worker]
        if not there:
            return False
        worker = min(there, key=lambda worker: len(worker.answers))
        if worker.answers and len(worker.answers) + len(message.keys) > self.max_rows:
            return False
        worker.answers |= dict.fromkeys(message.keys, listener)
        worker.send(message)
        return True

    def cancel(self, keys: Sequence[int]) -> None:
        """Forget answers, wherever they are; the keys of those that have ended do no harm."""
        for worker in self._workers:
            if worker and (here := tuple(key for key in keys if worker.answers.pop(key, None))):
                worker.send(Cancel(here))
                self._on_room()

    def close(self) -> None:
        """End all workers, which have nothing to save."""
        self._closed = True
        workers = [worker for worker in self._workers if worker]
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()

    def _start(self, number: int) -> _Worker:
        # On a CPU the workers share the cores.
        threads = max(1, (os.cpu_count() or 1) // self._wanted) if self._wanted and self._wanted > 1 else None
        return _Worker(WorkerSpec(number, self._device, self.max_rows, threads, self._first))

    def _listen(self, worker: _Worker) -> None:
        threading.Thread(target=self._read, args=(worker,), name=f"reader {worker.number}", daemon=True).start()

    def _read(self, worker: _Worker) -> None:
        """In a thread: hand over each message of a worker, and its end."""
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            while True:
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    worker.process.kill()
                    worker.process.join()
                    self._loop.call_soon_threadsafe(self._on_death, worker)
                    return
                self._loop.call_soon_threadsafe(self._on_message, worker, message)

    def _on_message(self, worker: _Worker, message: Any) -> None:
        if isinstance(message, Ready):
            self._on_ready(worker, message)
        elif isinstance(message, Failed):
            if not message.keys:
                self._fail(UserError(message.message))
            listeners = {worker.answers.pop(key): None for key in message.keys if key in worker.answers}
            for listener in listeners:
                listener(Refused(500, message.message, code="model_unusable", param="model"))
            self._on_room()
        else:
            self._on_answered(worker, message)

    def _on_answered(self, worker: _Worker, answered: list[NewToken]) -> None:
        tokens: dict[Listener, list[NewToken]] = {}
        ended = False
        for token in answered:
            if listener := worker.answers.get(token.key):  # else it has been cancelled meanwhile
                tokens.setdefault(listener, []).append(token)
                if token.finish:
                    del worker.answers[token.key]
                    ended = True
        for listener, of_request in tokens.items():
            listener(of_request)
        if ended:
            self._on_room()

    def _on_ready(self, worker: _Worker, message: Ready) -> None:
        worker.ready = True
        self._deaths.pop(worker.number, None)
        if message.problem and self._first_required and not self._up:
            self._fail(UserError(message.problem))
        elif message.problem:
            log.warning("%s", message.problem)
        self._up = True
        if self._wanted is None:
            self._wanted = message.devices
            for number in range(len(self._workers), self._wanted):
                self._workers.append(further := self._start(number))
                self._listen(further)
        log.info("Worker %d is ready on %s.", worker.number, message.device)
        self._on_room()

    def _on_death(self, worker: _Worker) -> None:
        worker.connection.close()  # here and not in its reader: this thread may be writing to it
        if self._closed or self._workers[worker.number] is not worker:
            return
        code = worker.process.exitcode
        self._workers[worker.number] = None
        if not self._up:
            self._fail(MachineError(f"A worker ended with code {code} before it was ready; its messages say why."))
        deaths = self._deaths[worker.number] = self._deaths.get(worker.number, 0) + 1
        pause = 0.0 if deaths == 1 else min(LONGEST_PAUSE_SECONDS, 2.0 ** (deaths - 2))
        log.error("Worker %d died (exit code %s); it is started again.", worker.number, code)
        for listener in dict.fromkeys(worker.answers.values()):
            message = "The process that worked on this request died; it is being started again. Please ask again."
            listener(Refused(503, message, retry_after_seconds=pause + 5, code="worker_died"))
        self._loop.call_later(pause, self._restart, worker.number)

    def _restart(self, number: int) -> None:
        if not self._closed:
            worker = self._workers[number] = self._start(number)
            self._listen(worker)
            self._on_room()

    def _fail(self, error: Exception) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)


@contextlib.contextmanager
def _ignored(kind: signal.Signals) -> Iterator[None]:
    before = signal.signal(kind, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(kind, before)
