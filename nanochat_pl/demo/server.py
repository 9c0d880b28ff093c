"""The server from its options to its end: workers, web process, signals."""

import asyncio
import contextlib
import gc
import importlib.util
import ipaddress
import logging
import resource
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat_pl.checkpoint.named_model import find_named_model
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.hardware import Accelerator
from nanochat_pl.core.paths import runs_root
from nanochat_pl.core.spec import Spec
from nanochat_pl.demo.models import find_models, read_model
from nanochat_pl.demo.pool import WorkerPool
from nanochat_pl.demo.service import NO_MODEL, Service

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 20
BACKLOG = 2048
"""Connections that wait to be accepted."""
CLOSE_SECONDS = 1
"""For what is still being sent when the answers have ended."""


@dataclass(frozen=True)
class ServeSpec(Spec):
    """The options of serve.py (conf/serve.yaml).

    Attributes:
        model: the default model: a run, a stage of a run, or a model folder; None: the newest export there is.
        host: the address to listen on; 0.0.0.0: on all.
        port: 0 lets the system choose.
        api_key: that requests must send; None: none.
        cors_origins: of pages that may use the API from a browser; "*": of all.
        workers: processes with a model each; None: one for each device.
        device: None: the best that is there.
        max_rows: answers under way at once in each worker.
        max_queue: requests that may wait for a row.
        time_limit_seconds: of a request, waiting included.
        drain_seconds: that answers under way have when the server is told to stop.
        page: serve the chat page beside the API.
    """

    model: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    workers: int | None = None
    device: Accelerator | None = None
    max_rows: int = 32
    max_queue: int = 64
    time_limit_seconds: float = 300.0
    drain_seconds: float = 30.0
    page: bool = True

    def check(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UserError(f"port is {self.port}; it must lie between 1 and 65535, or be 0 for any that is free.")
        for name, least in (("workers", 1), ("max_rows", 1), ("max_queue", 0), ("drain_seconds", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} is {value}; it must be at least {least}.")
        if not self.time_limit_seconds > 0:
            raise UserError(f"time_limit_seconds is {self.time_limit_seconds}; it must be above 0.")
        if self.api_key is not None and not self.api_key.strip():
            raise UserError("api_key is empty; choose a long random one, or null for none.")


def serve(spec: ServeSpec) -> int:
    """Serve until a signal comes; returns the exit code that it asks for.

    Raises:
        UserError: no model, a damaged one, an address that cannot be used, a missing package.
        MachineError: the workers cannot be started.
    """
    _check_packages(spec)
    root = runs_root()
    given = _given(spec.model, root) if spec.model is not None else None
    logging.basicConfig(format="%(message)s")
    logging.getLogger("nanochat_pl").setLevel(logging.INFO)
    models, problems = find_models(root, given)
    if not models:
        raise UserError(next(iter(problems.values()), NO_MODEL.format(where=f" in {root}")))
    _allow_many_connections()
    with _listening(spec.host, spec.port) as listener:
        first = given or models[0].folder
        pool = WorkerPool(spec.workers, spec.device, spec.max_rows, first, first_required=given is not None)
        pool.start()  # the workers load the model while the libraries of the web are imported here
        try:
            service = Service(pool, root, given, spec.max_queue, spec.time_limit_seconds)
            app = build_app(service, spec, listener.getsockname()[0])
            gc.freeze()  # what has been imported stays; to look through it again and again would stall the answers
            return asyncio.run(_run(app, service, pool, listener, spec))
        finally:
            pool.close()


def build_app(service: Service, spec: ServeSpec, address: str) -> "FastAPI":
    """The API, and the page at / behind it.

    Args:
        address: where it listens.
    """
    from fastapi import FastAPI
    from starlette.middleware.cors import CORSMiddleware

    from nanochat_pl.demo.api import DROPPED_TURNS_HEADER, add_api
    from nanochat_pl.demo.gates import BodyGate, HostGate, KeyGate, is_loopback

    # Without FastAPI's own pages, which load scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BodyGate, max_bytes=MAX_BODY_BYTES)
    if spec.api_key is not None:
        app.add_middleware(KeyGate, api_key=spec.api_key)
    elif is_loopback(address):
        app.add_middleware(HostGate)
    # The outermost: preflight requests have no key. Where no origin is allowed too: Gradio's own allows any.
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(spec.cors_origins),
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=[DROPPED_TURNS_HEADER, "Retry-After"],
    )
    add_api(app, service)
    if spec.page:
        from nanochat_pl.demo.page import mount_page

        mount_page(app, service)
    return app


async def _run(app: "FastAPI", service: Service, pool: WorkerPool, listener: socket.socket, spec: ServeSpec) -> int:
    """Answer requests until a signal; then finish the answers under way."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # they are handled below: uvicorn's handlers would close before the answers are done

    server = Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
    )
    loop = asyncio.get_running_loop()
    service.attach()
    received: list[signal.Signals] = []
    draining: list[asyncio.Task[Any]] = []

    async def drain() -> None:
        await service.drain(spec.drain_seconds)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is cut off now is so on purpose
        server.should_exit = True

    def stop(kind: signal.Signals) -> None:
        received.append(kind)
        if len(received) == 1:
            under_way = service.running + service.waiting
            if under_way:
                print(f"{kind.name}: {under_way} requests are finished first; again: stop at once.", flush=True)
            draining.append(loop.create_task(drain()))
        else:
            server.should_exit = server.force_exit = True

    for kind in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(kind, stop, kind)
    pool.failed.add_done_callback(lambda _: setattr(server, "should_exit", True))
    await _announce(service, listener, spec)
    await server.serve([listener])
    for task in draining:
        task.cancel()
    if pool.failed.done():
        pool.failed.result()
    return 128 + received[0] if received else 0


async def _announce(service: Service, listener: socket.socket, spec: ServeSpec) -> None:
    host, port = listener.getsockname()[:2]
    shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    others = len(await service.models()) - 1
    and_others = f" and {others} other{'s' if others > 1 else ''}" if others > 0 else ""
    if spec.page:
        print(f"Chat page: http://{shown}:{port}")
    print(f"API: http://{shown}:{port}/v1")
    print(f"Model: {await service.default_model()}{and_others}. Ctrl-C stops.", flush=True)
    if not ipaddress.ip_address(host).is_loopback and spec.api_key is None:
        log.warning(
            "WARNING: everybody who reaches %s can use this server, and nobody is asked for a key. Set api_key=KEY, or "
            "leave host= out to serve this machine alone.",
            "any address of this machine" if host in ("0.0.0.0", "::") else host,
        )


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket, so that who connects early waits instead of being turned away.

    Raises:
        UserError: the address is taken, or not one of this machine.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise UserError(
            f"Cannot listen on {host}, port {port}: {error.strerror}. Choose another port with port=N (0: any that is "
            "free), or another address with host=."
        ) from error
    with listener:
        yield listener


def _given(name: str, root: Path) -> Path:
    """The folder of the model that the user names.

    Raises:
        UserError: there is none, it is damaged, or it is not an exported model.
    """
    path = find_named_model(name).path
    if not path.is_dir():
        raise UserError(f"{name} is a checkpoint of a training; what is served are exports, such as runs/NAME/STAGE.")
    read_model(path, root)
    return path


def _check_packages(spec: ServeSpec) -> None:
    needed = ("fastapi", "uvicorn", *(("gradio",) if spec.page else ()))
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"Serving needs {', '.join(missing)}: install them with `pip install 'nanochat-pl[serve]'`.")


def _allow_many_connections() -> None:
    """As many open files as the system lets us have: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
