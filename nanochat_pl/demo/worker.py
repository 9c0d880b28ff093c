"""A worker: the process that holds models on one device and continues prompts with them.

It talks to the web process over a pipe, so that HTTP never waits for a step of the model and the reverse:

    in    Submit, Cancel                     the end of the pipe is the end of the worker
    out   Ready, Failed, list[NewToken]      the new tokens of all answers, together

Importing this module costs no torch: the web process needs the messages.
"""

import logging
import os
import queue
import signal
import sys
import threading
import time
from collections import OrderedDict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nanochat_pl.core.errors import UserError
from nanochat_pl.demo.models import version_of

if TYPE_CHECKING:
    from nanochat_pl.inference.engine import Token
    from nanochat_pl.inference.sampling import Sampling

log = logging.getLogger(__name__)

SECONDS_BETWEEN_MESSAGES = 0.05
"""Between two lists of tokens, so that a fast model does not drown the web process in small pieces of text."""
MAX_MODELS = 3
"""Models that a worker keeps in memory, beyond those with answers under way."""


class Submit(NamedTuple):
    """Continue a prompt, once for each key.

    Attributes:
        keys: the names of the answers, never used twice.
        tools: run the model's tool calls.
    """

    keys: tuple[int, ...]
    folder: Path
    prompt: list[int]
    sampling: "Sampling"
    tools: bool


class Cancel(NamedTuple):
    """Forget these answers; keys that have ended already do no harm."""

    keys: tuple[int, ...]


class Ready(NamedTuple):
    """The worker is up; sent once.

    Attributes:
        devices: of this kind on the machine.
        problem: why the model that it should load first could not be loaded.
    """

    device: str
    devices: int
    problem: str | None


class Failed(NamedTuple):
    """These answers will not come; without keys, the worker itself cannot work and ends."""

    keys: tuple[int, ...]
    message: str


class NewToken(NamedTuple):
    """A token of an answer (`inference.engine.Token`, under the answer's key)."""

    key: int
    id: int | None
    forced: bool
    logprob: float | None
    finish: str | None


class WorkerSpec(NamedTuple):
    """What a worker is started with.

    Attributes:
        number: which of the workers it is; it takes the device of that number.
        device: cpu, cuda or mps; None: the best that is there.
        threads: of torch; None: torch's choice.
        first: the model to load before anything is asked.
    """

    number: int
    device: str | None
    max_rows: int
    threads: int | None
    first: Path | None


def work(connection: Connection, spec: WorkerSpec) -> None:
    """The whole life of a worker process."""
    # The web process decides when its workers end, also where a signal reaches the whole group.
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    inbox: queue.SimpleQueue[Submit | Cancel] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    try:
        device, compute_dtype, devices = _choose_device(spec)
    except UserError as error:
        connection.send(Failed((), str(error)))
        return
    models = HeldModels(device, compute_dtype, spec.max_rows)
    problem = None
    if spec.first is not None:
        try:
            models.load(spec.first)
        except UserError as error:
            problem = str(error)
    connection.send(Ready(device, devices, problem))
    outbox = Outbox(connection)
    while True:
        while not (models.busy and inbox.empty()):
            message = inbox.get()
            if isinstance(message, Cancel):
                models.cancel(message.keys)
                outbox.forget(message.keys)
                continue
            try:
                models.submit(message)
            except Exception as error:  # the answers under way go on
                log.error("%s", error, exc_info=None if isinstance(error, UserError) else error)
                connection.send(Failed(message.keys, "The model cannot be used; the server's log says why."))
        answered, failed = models.step()
        outbox.add(answered)
        if failed:
            outbox.forget(failed)
            connection.send(Failed(failed, "The model failed while it answered; the server's log says why."))


def _receive(connection: Connection, inbox: queue.SimpleQueue) -> None:
    """Keep the pipe empty, also while a model is loaded: the web process must never wait for room in it."""
    while True:
        try:
            inbox.put(connection.recv())
        except (EOFError, OSError):
            os._exit(0)  # the web process is gone, whatever the main thread is at


class Outbox:
    """Sends tokens: those that begin or end an answer at once, the others together with what has come meanwhile."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._tokens: list[NewToken] = []
        self._begun: set[int] = set()
        self._sent = time.monotonic()

    def add(self, tokens: list[NewToken]) -> None:
        """Take the tokens of a step."""
        self._tokens += tokens
        urgent = time.monotonic() - self._sent > SECONDS_BETWEEN_MESSAGES
        for token in tokens:
            if token.finish:
                self._begun.discard(token.key)
                urgent = True
            elif token.key not in self._begun:
                self._begun.add(token.key)
                urgent = True
        if urgent and self._tokens:
            self._connection.send(self._tokens)
            self._tokens, self._sent = [], time.monotonic()

    def forget(self, keys: tuple[int, ...]) -> None:
        """These answers are cancelled."""
        self._begun -= set(keys)


def _choose_device(spec: WorkerSpec) -> tuple[str, str, int]:
    """The device, the dtype to compute in, and how many such devices there are."""
    import torch

    from nanochat_pl.core.hardware import HardwareSpec

    hardware = HardwareSpec(accelerator=spec.device, threads=spec.threads).detect()  # type: ignore[arg-type]
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    if hardware.accelerator != "cuda":
        return hardware.accelerator, hardware.compute_dtype, 1
    devices = torch.cuda.device_count()
    torch.cuda.set_device(spec.number % devices)
    return f"cuda:{spec.number % devices}", hardware.compute_dtype, devices


class _Held:
    """A model in memory, and the keys of its engine's requests."""

    def __init__(self, engine: Any, tokenizer: Any, version: tuple[int, int]):
        self.engine, self.tokenizer, self.version = engine, tokenizer, version
        self.keys: dict[int, int] = {}  # request -> key


class HeldModels:
    """The models that were used last, each with its engine."""

    def __init__(self, device: str, compute_dtype: str, max_rows: int):
        self._device, self._compute_dtype, self._max_rows = device, compute_dtype, max_rows
        self._held: OrderedDict[Path, _Held] = OrderedDict()
        self._replaced: list[_Held] = []  # older exports with answers under way

    @property
    def busy(self) -> bool:
        """Whether an answer is under way."""
        return any(held.engine.busy for held in self._all())

    def load(self, folder: Path) -> _Held:
        """The newest export of a model, read where it is not in memory yet.

        Answers under way go on with the export that they began with.

        Raises:
            UserError: it cannot be loaded, and no earlier export is in memory.
        """
        held = self._held.get(folder)
        try:
            version = version_of(folder)
            if held is None or held.version != version:
                newer = self._read(folder, version)
                if held is not None and held.engine.busy:
                    self._replaced.append(held)
                self._held[folder] = held = newer
        except UserError as error:
            if held is None:
                raise
            log.warning("Going on with the earlier export: %s", error)
        self._held.move_to_end(folder)
        for other in [other for other, model in self._held.items() if not model.engine.busy and other != folder]:
            if len(self._held) > MAX_MODELS:
                del self._held[other]
        return held

    def submit(self, message: Submit) -> None:
        """Begin answers.

        Raises:
            UserError: the model cannot be loaded, or does not know an id of the prompt.
        """
        from nanochat_pl.tools.tool_calls import ToolCalls

        held = self.load(message.folder)
        tools = [ToolCalls(held.tokenizer) for _ in message.keys] if message.tools else None
        requests = held.engine.submit(message.prompt, message.sampling, tools, num_samples=len(message.keys))
        held.keys |= dict(zip(requests, message.keys))

    def cancel(self, keys: tuple[int, ...]) -> None:
        """Forget answers."""
        for held in self._all():
            for request in [request for request, key in held.keys.items() if key in keys]:
                held.engine.cancel(request)
                del held.keys[request]

    def step(self) -> tuple[list[NewToken], tuple[int, ...]]:
        """One step of every engine that has something to do.

        Returns:
            The new tokens, and the keys of answers that will not come: an engine that fails is let go with its model.
        """
        answered: list[NewToken] = []
        failed: tuple[int, ...] = ()
        for held in self._all():
            if not held.engine.busy:
                continue
            try:
                answered += [self._answered(held, token) for token in held.engine.step()]
            except Exception as error:  # such as too little memory: the other models' answers go on
                log.error("A model failed while it answered.", exc_info=error)
                failed += tuple(held.keys.values())
                self._held = OrderedDict((folder, other) for folder, other in self._held.items() if other is not held)
                self._replaced = [other for other in self._replaced if other is not held]
        self._replaced = [held for held in self._replaced if held.engine.busy]
        return answered, failed

    def _answered(self, held: _Held, token: "Token") -> NewToken:
        key = held.keys.pop(token.request) if token.finish else held.keys[token.request]
        return NewToken(key, token.id, token.forced, token.logprob, token.finish)

    def _all(self) -> list[_Held]:
        return [*self._held.values(), *self._replaced]

    def _read(self, folder: Path, version: tuple[int, int]) -> _Held:
        """Load a model and let it say a word, so that what its first step prepares is prepared."""
        from nanochat_pl.checkpoint.model_folder import load_model_folder
        from nanochat_pl.inference.engine import Engine
        from nanochat_pl.inference.sampling import Sampling

        try:
            loaded = load_model_folder(folder, self._device, self._compute_dtype)
            engine = Engine(loaded.model, self._max_rows)
            engine.submit([loaded.tokenizer.bos_id], Sampling(max_new_tokens=2))
            for _ in engine.run():
                pass
        except UserError:
            raise
        except Exception as error:  # such as too little memory: this model cannot be used, the others can
            log.warning("%s could not be loaded.", folder, exc_info=error)
            raise UserError(f"{folder} could not be loaded: {type(error).__name__}: {error}") from error
        print(f"Loaded {folder} (step {loaded.facts.get('step', 0):.0f}) on {self._device}.", file=sys.stderr)
        return _Held(engine, loaded.tokenizer, version)
