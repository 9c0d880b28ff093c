"""What every request passes before anything reads it: the key, or who was asked; and the size of its body."""

import base64
import binascii
import hmac
import ipaddress

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat_pl.demo.refused import Refused

PUBLIC = ("/health",)
BROWSERS_CHALLENGE = 'Basic realm="nanochat-pl: any name, the key as the password"'


class KeyGate:
    """Lets only requests with the key pass: `Authorization: Bearer KEY`, or Basic with the key as the password.

    A browser asks its user for the latter, so that the page is as closed as the API. /health is open.
    """

    def __init__(self, app: ASGIApp, api_key: str):
        self._app, self._key = app, api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PUBLIC or self._allows(dict(scope["headers"])):
            return await self._app(scope, receive, send)
        message = "This server asks for its key: send it as `Authorization: Bearer KEY`."
        refused = Refused(401, message, code="invalid_api_key")
        challenge = "Bearer" if scope["path"].startswith("/v1") else BROWSERS_CHALLENGE
        response = JSONResponse(refused.as_dict(), refused.status, {"WWW-Authenticate": challenge})
        await response(scope, receive, send)

    def _allows(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"basic":
            try:
                credentials = base64.b64decode(credentials, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(credentials.strip(), self._key)


class HostGate:
    """Lets only requests pass that were sent to localhost by that name, or by its number.

    Any web page can point a name of its own to 127.0.0.1, and then ask from the browser of whoever looks at it; only
    the Host header tells. Starlette's TrustedHostMiddleware knows neither all of 127.0.0.0/8 nor the API's form of
    errors, nor a path that stays open: /health.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1") if scope["type"] == "http" else ""
        if scope["type"] != "http" or scope["path"] in PUBLIC or is_loopback(_without_port(host)):
            return await self._app(scope, receive, send)
        message = (
            f"This server listens on its own machine and answers what is sent to localhost; this was sent to "
            f"{host[:100]!r}. Start it with api_key=KEY to reach it by another name."
        )
        refused = Refused(403, message, code="unknown_host")
        await JSONResponse(refused.as_dict(), refused.status)(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, is one that only this machine itself reaches."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _without_port(host: str) -> str:
    if host.startswith("["):
        address, _, port = host[1:].partition("]")
        return address if port.startswith(":") or not port else host
    return host.partition(":")[0]


class BodyGate:
    """Refuses bodies of more than `max_bytes` with 413: by what the header says of their length, or once they are."""

    def __init__(self, app: ASGIApp, max_bytes: int):
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._refused()
            return message

        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            refused = self._refused()
            response = JSONResponse(refused.as_dict(), refused.status)
            return await response(scope, receive, send)
        await self._app(scope, counted, send)

    def _refused(self) -> Refused:
        message = f"The body is too large: at most {self._max_bytes:,} bytes are read."
        return Refused(413, message, code="body_too_large")
