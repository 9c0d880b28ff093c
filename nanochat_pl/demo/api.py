"""The OpenAI-compatible API under /v1, and /health. docs/serving.md tells what of OpenAI's it has."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from nanochat_pl.demo.job import AnswerRequest, Delta
from nanochat_pl.demo.models import ModelInfo
from nanochat_pl.demo.refused import Refused
from nanochat_pl.demo.schemas import (
    ChatRequest,
    CompletionRequest,
    Reply,
    TextReply,
    TokenizeRequest,
    event,
    model_object,
)
from nanochat_pl.demo.service import Service

log = logging.getLogger(__name__)

DROPPED_TURNS_HEADER = "X-Dropped-Turns"
CLIENT_CLOSED_REQUEST = 499
"""nginx's word for a response that nobody reads."""

Body = TypeVar("Body", ChatRequest, CompletionRequest, TokenizeRequest)
Result = TypeVar("Result")


def add_api(app: FastAPI, service: Service) -> None:
    """Add the routes, and OpenAI's shape for every error."""
    app.include_router(_health(service))
    app.include_router(_routes(service))
    app.add_exception_handler(Refused, _on_refused)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_exception)


def _health(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> JSONResponse:
        """200 when requests are answered; 503 while the workers start or the server shuts down."""
        state = service.health()
        return JSONResponse(state, 200 if state["status"] == "ok" else 503)

    return router


def _routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.get("/models")
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [model_object(model) for model in await service.models()]})

    @router.get("/models/{name:path}")
    async def model(name: str) -> JSONResponse:
        return JSONResponse(model_object(await service.model(name)))

    @router.post("/chat/completions")
    async def chat(request: Request) -> Response:
        body = _parse(ChatRequest, await request.body())
        return await _answer(service, request, body, body.answer_request(), Reply, bool(body.logprobs))

    @router.post("/completions")
    async def completions(request: Request) -> Response:
        body = _parse(CompletionRequest, await request.body())
        return await _answer(service, request, body, body.answer_request(), TextReply, body.logprobs is not None)

    @router.post("/tokenize")
    async def tokenize(request: Request) -> JSONResponse:
        body = _parse(TokenizeRequest, await request.body())

        def shown(model: ModelInfo, ids: list[int]) -> JSONResponse:
            if body.prompt is not None and not body.add_special_tokens:
                ids = ids[1:]
            return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": model.context_tokens})

        return await service.tokenize(body.answer_request(), shown)

    @router.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
    async def unknown(path: str, request: Request) -> Response:
        raise Refused(404, f"There is no {request.method} {request.url.path[:200]} in this API.", code="not_found")

    return router


def _parse(kind: type[Body], data: bytes) -> Body:
    """The body of a request.

    Raises:
        Refused: 400: it is no JSON, or does not have this shape.
    """
    try:
        body = kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "json_invalid":
            raise Refused(400, f"The body is not valid JSON: {first['msg']}.", code="invalid_json") from None
        param = str(first["loc"][0]) if first["loc"] else None
        raise Refused(400, f"{place or 'The body'}: {first['msg']}.", param=param) from None
    body.check_extra()
    return body


async def _answer(
    service: Service,
    request: Request,
    body: ChatRequest | CompletionRequest,
    asked: AnswerRequest,
    kind: type[Reply],
    logprobs: bool,
) -> Response:
    """The response to a request for answers; the row is free as soon as the client is gone."""
    stream = service.stream(asked)
    try:
        first = await _while_connected(request, anext(stream))
        reply = kind(first.usage.tokenizer, first.usage, logprobs)
        headers = {DROPPED_TURNS_HEADER: str(first.usage.dropped_turns)} if first.usage.dropped_turns else {}
        if body.stream:
            return _EventStream(reply, first, stream, body.include_usage, headers)
        return JSONResponse(reply.whole([first, *await _while_connected(request, _rest(stream))]), headers=headers)
    except BaseException:
        await stream.aclose()
        raise


async def _rest(stream: AsyncGenerator[Delta, None]) -> list[Delta]:
    return [delta async for delta in stream]


async def _events(
    reply: Reply, first: Delta, stream: AsyncGenerator[Delta, None], include_usage: bool
) -> AsyncGenerator[str, None]:
    """The server-sent events of an answer; an error after the first one is an event too."""
    usage = first.usage
    try:
        if chunk := reply.chunk(first):
            yield chunk
        async for delta in stream:
            usage = delta.usage
            if chunk := reply.chunk(delta):
                yield chunk
    except Refused as error:
        yield event(error.as_dict())
        return
    except Exception:
        log.exception("An answer failed in the middle of its stream.")
        yield event(_unforeseen().as_dict())
        return
    if include_usage:
        yield reply.usage_chunk(usage)
    yield "data: [DONE]\n\n"


class _EventStream(StreamingResponse):
    """Server-sent events; whatever ends the response closes their source at once."""

    def __init__(
        self,
        reply: Reply,
        first: Delta,
        stream: AsyncGenerator[Delta, None],
        include_usage: bool,
        headers: dict[str, str],
    ):
        self._events, self._source = _events(reply, first, stream, include_usage), stream
        unbuffered = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._events, headers=headers | unbuffered, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._source.aclose()


async def _while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client goes away.

    Raises:
        ClientDisconnect: it has.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def _error(refused: Refused) -> JSONResponse:
    return JSONResponse(refused.as_dict(), refused.status, headers=refused.headers)


async def _on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _error(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(Refused(error.status_code, f"{error.detail}: {request.method} {request.url.path[:200]}"))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _on_exception(request: Request, error: Exception) -> Response:
    """Of what nobody foresaw the client learns that it happened; the log has the rest."""
    return _error(_unforeseen())


def _unforeseen() -> Refused:
    return Refused(500, "The server failed at this request; its log says why.", code="internal_error")
