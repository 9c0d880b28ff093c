"""Requests for answers, from whoever asks (the API, the page), to the workers: checked, queued, streamed, ended."""

import asyncio
import contextlib
import dataclasses
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from nanochat_pl.core.errors import UserError
from nanochat_pl.demo.job import AnswerRequest, Delta, Job, Usage
from nanochat_pl.demo.models import ModelInfo, find_models, name_of, why_not
from nanochat_pl.demo.pool import WorkerPool
from nanochat_pl.demo.refused import Refused
from nanochat_pl.demo.worker import Submit
from nanochat_pl.inference.conversation import max_prompt_tokens, prompt_of, stop_ids
from nanochat_pl.tokenizers.base import Tokenizer

__all__ = ["AnswerRequest", "Delta", "Refused", "Service", "Usage"]

LOOK_AGAIN_SECONDS = 1.0
"""How old the list of models may be."""
TELL_SECONDS = 1.0
"""For clients to read how their answers end; one that does not read is not waited for."""
NO_MODEL = (
    "There is no model in {root} yet. Train one with `python train.py` (about 90 seconds on a CPU), which exports it "
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
        self._models: list[ModelInfo] = []
        self._looked = float("-inf")
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

    def models(self) -> list[ModelInfo]:
        """All models there are, the newest export first."""
        if time.monotonic() - self._looked > LOOK_AGAIN_SECONDS:
            self._looked = time.monotonic()
            with contextlib.suppress(OSError):  # a folder is being moved
                self._models = find_models(self._root, self._given)
        return self._models

    def default_model(self) -> str | None:
        """The name of the model that answers where none is named; None: there is no model."""
        if self._given is not None:
            return name_of(self._given, self._root)
        return next((model.name for model in self.models()), None)

    def model(self, name: str | None = None) -> ModelInfo:
        """The model of this name; None: the default one.

        Raises:
            Refused: there is none (404), or it is damaged (500).
        """
        name = self.default_model() if name is None else name
        for model in self.models():
            if model.name == name:
                return model
        if name is not None and (problem := why_not(name, self._root, self._given)):
            raise Refused(500, problem, code="model_unusable", param="model")
        names = ", ".join(model.name for model in self._models)
        unknown = f"There is no model {str(name)[:100]!r}; there are: {names}."
        message = unknown if names else NO_MODEL.format(root=self._root)
        raise Refused(404, message, code="model_not_found", param="model")

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
        job = await asyncio.to_thread(self._prepare, self.model(request.model), request)
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
                for delta in job.cut() if event is None else job.take(event):
                    begun = True
                    if delta.finish:  # the worker does not know of stop strings
                        self._pool.cancel([job.submit.keys[delta.index]])
                    yield delta
            self._mean_seconds += 0.1 * (time.monotonic() - job.began - self._mean_seconds)
        finally:
            self._jobs.pop(job).cancel()
            if job in self._waiting:
                self._waiting.remove(job)
            self._pool.cancel(list(job.open))

    async def prompt_ids(self, request: AnswerRequest) -> tuple[ModelInfo, list[int]]:
        """The tokens that the model would read, and the model.

        Raises:
            Refused: as `stream`.
        """
        model = self.model(request.model)
        return model, (await asyncio.to_thread(self._prepare, model, request)).submit.prompt

    def health(self) -> dict[str, Any]:
        """What there is to know of the server: "status" is ok, starting (no worker is ready yet) or draining."""
        status = "draining" if self.draining else "ok" if self._pool.ready else "starting"
        return {
            "status": status,
            "model": self.default_model(),
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

    def _busy(self) -> Refused:
        seconds = min(60.0, self._mean_seconds * (1 + self.waiting / self._pool.rows))
        message = f"The server is busy: {self.running} requests are under way. Please try again a little later."
        return Refused(429, message, retry_after_seconds=seconds, code="queue_full")

    def _prepare(self, model: ModelInfo, request: AnswerRequest) -> Job:
        """Check a request and make its prompt; takes a while for a long text."""
        if not 1 <= request.num_samples <= self._pool.max_rows:
            rows = self._pool.max_rows
            message = f"{request.num_samples} answers are asked for; there can be 1 to {rows} for one prompt."
            raise Refused(400, message, param="n")
        try:
            tokenizer = model.tokenizer()
        except UserError as error:
            raise Refused(500, str(error), code="model_unusable", param="model") from error
        try:
            ids, dropped, is_chat = self._prompt(model, tokenizer, request)
            sampling = dataclasses.replace(
                request.sampling,
                max_new_tokens=min(request.sampling.max_new_tokens, model.context_tokens - len(ids)),
                stop_ids=stop_ids(tokenizer, is_chat),
            )
            submit = Submit(
                tuple(next(self._keys) for _ in range(request.num_samples)), model.folder, ids, sampling, is_chat
            )
            return Job(submit, Usage(model.name, len(ids), 0, dropped), tokenizer, request.stop)
        except UserError as error:
            raise Refused(400, str(error)) from error

    def _prompt(self, model: ModelInfo, tokenizer: Tokenizer, request: AnswerRequest) -> tuple[list[int], int, bool]:
        """The prompt's ids, the messages that did not fit, and whether it has the form of a conversation."""
        context = model.context_tokens
        if request.messages is not None:
            room = max_prompt_tokens(context, request.sampling.max_new_tokens)
            return *prompt_of(tokenizer, request.messages, model.is_chat, room), model.is_chat
        if isinstance(request.prompt, str):
            ids = [tokenizer.bos_id, *tokenizer.encode(request.prompt)]
        else:
            ids = list(request.prompt or ())
            if not ids:
                raise UserError("The prompt has no tokens; begin it at least with the BOS token.")
            if not 0 <= min(ids) <= max(ids) < tokenizer.vocab_size:
                raise UserError(f"The prompt's token ids must lie between 0 and {tokenizer.vocab_size - 1}.")
        if len(ids) >= context:
            raise Refused(
                400,
                f"The prompt has {len(ids):,} tokens, but prompt and answer together may have {context:,}, the context "
                f"of {model.name}. Shorten it.",
                code="context_length_exceeded",
                param="prompt",
            )
        return ids, 0, False

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


def _shutting_down() -> Refused:
    return Refused(503, "The server is shutting down.", retry_after_seconds=10, code="shutting_down")
