"""Requests for answers, from whoever asks (the API, the page), to the workers: checked, queued, streamed, ended."""

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from nanochat_pl.core.errors import UserError
from nanochat_pl.demo.job import AnswerRequest, Delta, Job, Usage
from nanochat_pl.demo.models import Found, ModelInfo, find_models, name_of
from nanochat_pl.demo.pool import WorkerPool
from nanochat_pl.demo.refused import Refused
from nanochat_pl.demo.worker import Submit
from nanochat_pl.inference.conversation import max_prompt_tokens, prompt_of, stop_ids
from nanochat_pl.tokenizers.base import Tokenizer

log = logging.getLogger(__name__)
Result = TypeVar("Result")

LOOK_AGAIN_SECONDS = 1.0
"""How old the list of models may be."""
TELL_SECONDS = 1.0
"""For clients to read how their answers end; one that does not read is not waited for."""
NO_MODEL = (
    "There is no model{where} yet. Train one with `python train.py` (about 90 seconds on a CPU), which exports it "
    "at every validation; or start with model=PATH."
)


class Service:
    """Answers requests with the workers of a pool; all in one event loop, that of `attach`.

    Args:
        runs_root: where models are looked for.
        given: a model folder that may lie elsewhere; the default model. None: the newest export is.
        max_queue: requests that may wait for a free row; more are refused with 429.
        time_limit_seconds: of a request, from when it is accepted.
    """

    def __init__(
        self, pool: WorkerPool, runs_root: Path, given: Path | None, max_queue: int, time_limit_seconds: float
    ):
        self.time_limit_seconds, self.max_queue = time_limit_seconds, max_queue
        self._pool, self._root, self._given = pool, runs_root, given
        self._given_name = None if given is None else name_of(given, runs_root)
        self._found = Found([], {})
        self._looked = float("-inf")
        self._looking: asyncio.Future[None] | None = None
        self._preparing = 0
        self._keys = itertools.count()
        self._waiting: deque[Job] = deque()
        self._jobs: dict[Job, asyncio.TimerHandle] = {}
        self._mean_seconds = 1.0  # of an answer, lately
        self.draining = False

    def attach(self) -> None:
        """Begin to work in the running event loop."""
        self._pool.attach(self._dispatch)

    @property
    def running(self) -> int:
        """Requests that a worker has."""
        return len(self._jobs) - len(self._waiting)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    async def models(self) -> list[ModelInfo]:
        """All models there are, the newest export first."""
        if self._looking is None and time.monotonic() - self._looked > LOOK_AGAIN_SECONDS:
            self._looking = asyncio.ensure_future(self._look())
        if self._looking is not None:
            await asyncio.shield(self._looking)  # one look for all: who gives up must not begin another
        return self._found.models

    async def _look(self) -> None:
        try:
            self._found = await asyncio.to_thread(find_models, self._root, self._given)
        finally:
            self._looking, self._looked = None, time.monotonic()

    async def default_model(self) -> str | None:
        """The name of the model that answers where none is named; None: there is no model."""
        await self.models()
        return self._default_name()

    async def model(self, name: str | None = None) -> ModelInfo:
        """The model of this name; None: the default one.

        Raises:
            Refused: there is none (404), or it is damaged (500).
        """
        models = await self.models()
        name = self._default_name() if name is None else name
        for model in models:
            if model.name == name:
                return model
        if name in self._found.problems:
            raise _unusable(name, self._found.problems[name])
        names = ", ".join(model.name for model in models)
        unknown = f"There is no model {str(name)[:100]!r}; there are: {names}."
        raise Refused(404, unknown if names else NO_MODEL.format(where=""), code="model_not_found", param="model")

    async def stream(self, request: AnswerRequest) -> AsyncGenerator[Delta, None]:
        """The answers as they come; to close the generator is to cancel them.

        When the time is over, answers that have begun end as "length".

        Raises:
            Refused: before the first item: 400 (the request's fault), 404 (no such model), 429 (the queue is full), 503
                (shutting down), 504 (out of time before the first token); at any time: 500 (the model cannot be used),
                503 (its worker has died).
        """
        if self.draining:
            raise _shutting_down()
        if self._waiting and self.waiting >= self.max_queue:
            raise self._busy()
        model = await self.model(request.model)
        with self._preparation():
            job = await asyncio.to_thread(self._prepare, model, request)
        if self.draining:
            raise _shutting_down()
        self._jobs[job] = asyncio.get_running_loop().call_later(self.time_limit_seconds, self._expire, job)
        self._waiting.append(job)
        begun = False
        try:
            self._dispatch()
            if self.waiting > self.max_queue:
                raise self._busy()
            while job.open:
                event = await job.events.get()
                if event is None and not begun:
                    event = self._out_of_time()
                if isinstance(event, Refused):
                    raise event
                try:
                    deltas = list(job.cut() if event is None else job.take(event))
                except UserError as error:  # a token that is none of the tokenizer's
                    raise _unusable(model.name, str(error)) from error
                # The worker does not know of stop strings.
                self._pool.cancel([job.submit.keys[delta.index] for delta in deltas if delta.finish])
                for delta in deltas:
                    begun = True
                    yield delta
            self._mean_seconds += 0.1 * (time.monotonic() - job.began - self._mean_seconds)
        finally:
            self._jobs.pop(job).cancel()
            if job in self._waiting:
                self._waiting.remove(job)
            self._pool.cancel(job.submit.keys)

    async def tokenize(self, request: AnswerRequest, shown: Callable[[ModelInfo, list[int]], Result]) -> Result:
        """What `shown` makes of the model and the tokens of all that it is asked, also where these are more than it can
        read; in a thread, for there may be a million.

        Raises:
            Refused: 400, 404, 429 and 500, as `stream`.
        """
        model = await self.model(request.model)
        with self._preparation():
            return await asyncio.to_thread(lambda: shown(model, self._tokenize(model, request)))

    def health(self) -> dict[str, Any]:
        """What there is to know of the server: "status" is ok, starting (no worker is ready yet) or draining."""
        status = "draining" if self.draining else "ok" if self._pool.ready else "starting"
        return {
            "status": status,
            "model": self._default_name(),  # by the last look: who asks must not wait for a disk
            "workers": self._pool.ready,
            "running": self.running,
            "waiting": self.waiting,
        }

    async def drain(self, seconds: float) -> None:
        """Refuse new requests and wait for those under way, which have this long."""
        self.draining = True
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        for job, timer in self._jobs.items():
            if timer.when() > end:
                timer.cancel()
                self._jobs[job] = loop.call_at(end, self._expire, job)
        while self._jobs and loop.time() < end + TELL_SECONDS:
            await asyncio.sleep(0.02)

    def _default_name(self) -> str | None:
        return self._given_name or next((model.name for model in self._found.models), None)

    @contextlib.contextmanager
    def _preparation(self) -> Iterator[None]:
        """While a request is prepared, which takes processor time: it counts with those that wait.

        Raises:
            Refused: 429: more are being prepared than there is room for.
        """
        if self._preparing + self.waiting >= self._pool.rows + self.max_queue:
            raise self._busy()
        self._preparing += 1
        try:
            yield
        finally:
            self._preparing -= 1

    def _busy(self) -> Refused:
        seconds = min(60.0, self._mean_seconds * (1 + self.waiting / self._pool.rows))
        under_way = self.running + self.waiting + self._preparing
        message = f"The server is busy: {under_way} requests are under way. Please try again a little later."
        return Refused(429, message, retry_after_seconds=seconds, code="queue_full")

    def _prepare(self, model: ModelInfo, request: AnswerRequest) -> Job:
        """Check a request and make its prompt; takes a while for a long text."""
        if not 1 <= request.num_samples <= self._pool.max_rows:
            rows = self._pool.max_rows
            message = f"{request.num_samples} answers are asked for; there can be 1 to {rows} for one prompt."
            raise Refused(400, message, param="n")
        tokenizer = _tokenizer(model)
        is_chat = request.messages is not None and model.is_chat
        room = max_prompt_tokens(model.context_tokens, request.sampling.max_new_tokens)
        try:
            ids, dropped = _prompt(model, tokenizer, request, room)
            if request.messages is None and len(ids) >= model.context_tokens:
                raise Refused(
                    400,
                    f"The prompt has {len(ids):,} tokens, but prompt and answer together may have "
                    f"{model.context_tokens:,}, the context of {model.name}. Shorten it.",
                    code="context_length_exceeded",
                    param="prompt",
                )
            sampling = dataclasses.replace(
                request.sampling,
                max_new_tokens=min(request.sampling.max_new_tokens, model.context_tokens - len(ids)),
                stop_ids=stop_ids(tokenizer, is_chat),
            )
            submit = Submit(
                tuple(next(self._keys) for _ in range(request.num_samples)), model.folder, ids, sampling, is_chat
            )
            return Job(submit, Usage(model.name, tokenizer, len(ids), 0, dropped), request.stop)
        except UserError as error:
            raise Refused(400, str(error)) from error

    def _tokenize(self, model: ModelInfo, request: AnswerRequest) -> list[int]:
        try:
            return _prompt(model, _tokenizer(model), request, sys.maxsize)[0]
        except UserError as error:
            raise Refused(400, str(error)) from error

    def _dispatch(self) -> None:
        """Give waiting requests to workers, in their order."""
        while self._waiting:
            job = self._waiting[0]
            if not self._pool.submit(job.submit, job.events.put_nowait):
                return
            self._waiting.popleft()

    def _expire(self, job: Job) -> None:
        """The time of a request is over; what its worker has said before still counts."""
        self._pool.cancel(job.submit.keys)
        job.events.put_nowait(None)

    def _out_of_time(self) -> Refused:
        if self.draining:
            return _shutting_down()
        message = f"The answer had not begun within the time limit of {self.time_limit_seconds:g} seconds."
        return Refused(504, message, retry_after_seconds=self._mean_seconds, code="timeout")


def _prompt(model: ModelInfo, tokenizer: Tokenizer, request: AnswerRequest, room: int) -> tuple[list[int], int]:
    """The prompt's ids, and how many messages are left out; a conversation has at most `room` ids, a text any number.

    Raises:
        UserError: the request's fault.
    """
    if request.messages is not None:
        return prompt_of(tokenizer, request.messages, model.is_chat, room)
    if isinstance(request.prompt, str):
        return [tokenizer.bos_id, *tokenizer.encode(request.prompt)], 0
    ids = list(request.prompt or ())
    if not ids:
        raise UserError("The prompt has no tokens; begin it at least with the BOS token.")
    if not 0 <= min(ids) <= max(ids) < tokenizer.vocab_size:
        raise UserError(f"The prompt's token ids must lie between 0 and {tokenizer.vocab_size - 1}.")
    return ids, 0


def _tokenizer(model: ModelInfo) -> Tokenizer:
    try:
        return model.tokenizer()
    except UserError as error:
        raise _unusable(model.name, str(error)) from error


def _unusable(name: str, problem: str) -> Refused:
    """What a client learns of a damaged model: not where it lies."""
    log.warning("%s", problem)
    message = f"The model {name} cannot be used; the server's log says why."
    return Refused(500, message, code="model_unusable", param="model")


def _shutting_down() -> Refused:
    return Refused(503, "The server is shutting down.", retry_after_seconds=10, code="shutting_down")
