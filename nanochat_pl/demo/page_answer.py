"""An answer of the page as it is written: the turns on the screen become a request, and its stream a turn.

A chat is {"turns", "welcome"}: the conversation, and what stands in its place while there is none.
A turn is {"role": "user", "text"} or {"role": "assistant", "content", "model", "plain", "running"}, with "status",
"notice" and "error" where there are any. The content is a list of parts {"type", "text"}, as in a message.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from nanochat_pl.core.errors import UserError
from nanochat_pl.demo.job import AnswerRequest, Delta
from nanochat_pl.demo.models import ModelInfo
from nanochat_pl.demo.page_text import left_out, status
from nanochat_pl.demo.refused import Refused
from nanochat_pl.demo.service import Service
from nanochat_pl.inference.answer import Part, append_part, content_of

MAX_SEED = 2**31 - 1
SECONDS_BETWEEN_UPDATES = 0.06
SECONDS_OF_OVERTAKING = 5.0
"""For so long after a stop, a question may arrive that was sent before it."""
SECONDS_OF_SENDING = 1.0
"""For so long after an answer's end, its last words may be on their way to the browser."""
Turn = dict[str, Any]
Chat = dict[str, Any]
log = logging.getLogger(__name__)


def messages_of(turns: list[Turn], system: str) -> list[dict[str, Any]]:
    """The conversation that the model is to go on with; a question that got no answer is left out with it."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system.strip() else []
    for turn, following in zip(turns, [*turns[1:], None]):
        if turn["role"] == "assistant" and turn["content"]:
            parts = [Part(part["type"], part["text"]) for part in turn["content"]]
            messages.append({"role": "assistant", "content": content_of(parts)})
        elif turn["role"] == "user" and (following is None or following["content"]):
            messages.append({"role": "user", "content": turn["text"]})
    return messages


def seed_of(text: str) -> int:
    """The seed that was typed, or any where none was.

    Raises:
        UserError: it is no seed.
    """
    if not text.strip():
        return secrets.randbelow(MAX_SEED)
    if not text.strip().isdecimal() or int(text) > MAX_SEED:
        raise UserError(f"The seed is {text!r}; it must be a whole number from 0 to {MAX_SEED}, or empty for any.")
    return int(text)


def new_answer(model: ModelInfo | None) -> Turn:
    """The assistant's turn before its first word."""
    return {
        "role": "assistant",
        "content": [],
        "model": model.name if model else "",
        "plain": model is not None and not model.is_chat,
        "running": True,
    }


class _Run:
    """An answer under way."""

    def __init__(self) -> None:
        self.stopping, self.ended = asyncio.Event(), asyncio.Event()
        self.instead: Chat | None = None


class Answers:
    """The answers that are being written, one at most in each browser session."""

    def __init__(self, service: Service):
        self._service = service
        self._running: dict[str, _Run] = {}
        self._stopped: dict[str, float] = {}  # session -> when
        self._ended: dict[str, float] = {}  # session -> when

    def is_too_early(self, session: str, turns: list[Turn]) -> bool:
        """Whether the session has an answer under way, or had when the browser, which showed `turns`, asked."""
        was_running = bool(turns) and turns[-1].get("running", False)
        stopped_at = self._stopped.get(session, float("-inf"))
        return session in self._running or (was_running and time.monotonic() - stopped_at < SECONDS_OF_OVERTAKING)

    async def stop(self, session: str, instead: Chat | None = None) -> bool:
        """End the session's answer; whether there was one.

        Args:
            instead: show this conversation afterwards. Who writes the answer must do it: whatever another event shows
                is overwritten by the last of the answer, which Gradio sends once more.
        """
        run = self._running.get(session)
        if run is None:  # what is shown next must not be overtaken by the end of an answer
            await asyncio.sleep(self._ended.get(session, float("-inf")) + SECONDS_OF_SENDING - time.monotonic())
            return False
        run.instead = instead
        self._stopped = _with_now(self._stopped, session, SECONDS_OF_OVERTAKING)
        run.stopping.set()
        await run.ended.wait()
        return True

    async def write(
        self, session: str, build_request: Callable[[], AnswerRequest], answer: Turn
    ) -> AsyncGenerator[Chat | None, None]:
        """Fill `answer` from the service; yields when it should be shown anew, and once a second at least.

        Whatever happens, the engine's row is free when it ends, and the answer says what was wrong.

        Yields:
            What is to be shown instead of the conversation with this answer, or None.
        """
        run = self._running[session] = _Run()
        writer = _Writer(answer)
        try:
            yield None
            async with aclosing(_until(run.stopping, self._service.stream(build_request()))) as deltas:
                shown = time.monotonic()
                async for delta in deltas:
                    if delta is not None:
                        writer.add(delta)
                    if delta is None or time.monotonic() - shown > SECONDS_BETWEEN_UPDATES:
                        yield None
                        shown = time.monotonic()
        except (Refused, UserError) as error:
            answer["error"] = str(error)
        except Exception:
            log.exception("An answer for the page failed.")
            answer["error"] = "The answer failed on the server; its log says why. Please try again."
        finally:
            writer.end(stopped=run.stopping.is_set())
            run.ended.set()
            self._running.pop(session, None)
            self._ended = _with_now(self._ended, session, SECONDS_OF_SENDING)
        yield run.instead


def _with_now(times: dict[str, float], session: str, seconds: float) -> dict[str, float]:
    """Those of the last seconds, and that of the session now."""
    now = time.monotonic()
    return {other: at for other, at in times.items() if now - at < seconds} | {session: now}


class _Writer:
    """Adds what the service says to a turn."""

    def __init__(self, answer: Turn):
        self._answer = answer
        self._tokens, self._finish = 0, None
        self._first_at = self._last_at = 0.0

    def add(self, delta: Delta) -> None:
        for part in delta.parts:
            append_part(self._answer["content"], part)
        self._last_at = time.monotonic()
        if not self._tokens:
            self._first_at = self._last_at
        self._tokens = delta.usage.answer_tokens
        if delta.usage.dropped_turns:
            self._answer["notice"] = left_out(delta.usage.dropped_turns)
        self._say(delta.finish)

    def end(self, stopped: bool) -> None:
        self._answer["running"] = False
        if stopped:
            self._say("stopped")

    def _say(self, finish: str | None) -> None:
        self._answer["status"] = status(self._tokens, self._last_at - self._first_at, finish)


async def _until(stopping: asyncio.Event, stream: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta | None, None]:
    """The stream's items until it ends or `stopping` is set; None after each second without one."""
    stop: asyncio.Future[Any] = asyncio.ensure_future(stopping.wait())
    following: asyncio.Future[Any] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(anext(stream, None))
            await asyncio.wait({following, stop}, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                return
            if not following.done():
                yield None
                continue
            delta, following = following.result(), None
            if delta is None:
                return
            yield delta
    finally:
        waiting = [task for task in (stop, following) if task is not None]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await stream.aclose()
