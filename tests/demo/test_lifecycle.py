"""A server under more than it can take, and its end."""

import asyncio
import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from tests.demo.served_models import ALPHABET, alphabet, save_model
from tests.demo.serving import Server, is_alive
from tests.forks import run_program

pytestmark = pytest.mark.slow

HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "served"
    save_model(root / "alphabet/sft/model", ALPHABET, 100_000)
    return root


@pytest.fixture
def start(runs: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers without a page, which end with the test."""
    servers = []

    def start(*arguments: str, **options: str) -> Server:
        servers.append(server := Server(runs, "page=false", *arguments, **options))
        return server

    yield start
    for server in servers:
        server.kill()


def begin(client: openai.OpenAI, **options) -> Iterator:
    """An answer under way."""
    stream = client.chat.completions.create(model="alphabet/sft", messages=HI, temperature=0, stream=True, **options)
    chunks = iter(stream)
    next(chunks)
    return chunks


def test_the_queue_is_bounded_and_so_is_the_time(start: Callable[..., Server]) -> None:
    """With one row, room for one request that waits, and little time."""
    narrow = start("max_rows=1", "max_queue=1", "time_limit_seconds=4", "host=0.0.0.0", api_key="sesame")
    assert "WARNING" not in narrow.output.read_text(), "who has no key cannot use it"
    client = narrow.client()
    running = begin(client)
    with pytest.raises(openai.APITimeoutError):
        narrow.client(timeout=0.5).chat.completions.create(model="alphabet/sft", messages=HI)
    narrow.wait(lambda: narrow.health()["waiting"] == 0)  # a client that leaves the queue is forgotten
    next(running)
    assert narrow.health()["running"] == 1
    narrow.wait(lambda: narrow.health()["running"] == 0)
    with pytest.raises(openai.AuthenticationError):
        narrow.client(api_key="wrong").models.list()
    running = begin(client)
    ends: list[str | int] = []

    def wait_in_vain() -> None:
        try:
            ends.append(client.chat.completions.create(model="alphabet/sft", messages=HI).choices[0].finish_reason)
        except openai.APIStatusError as error:
            ends.append(error.status_code)

    waiting = threading.Thread(target=wait_in_vain)
    waiting.start()
    narrow.wait(lambda: narrow.health()["waiting"] == 1)
    with pytest.raises(openai.RateLimitError) as error:
        client.chat.completions.create(model="alphabet/sft", messages=HI)
    assert int(error.value.response.headers["Retry-After"]) >= 1 and error.value.code == "queue_full"
    *_, last = running
    assert last.choices[0].finish_reason == "length", "the time of an answer that has begun is over"
    waiting.join()
    assert ends in (["length"], [504])  # it has had a row for a moment, or not
    narrow.wait(lambda: narrow.health()["running"] == 0)
    patient = narrow.client(max_retries=5)
    assert patient.chat.completions.create(model="alphabet/sft", messages=HI, max_tokens=3).choices
    assert narrow.end(signal.SIGINT) == 130


def test_the_end_waits_for_the_answers_under_way(start: Callable[..., Server]) -> None:
    server = start("max_rows=2", "drain_seconds=5")
    client = server.client()
    short, endless = begin(client, max_tokens=200), begin(client)
    server.process.send_signal(signal.SIGTERM)
    server.wait(lambda: server.health()["status"] == "draining")
    with pytest.raises(openai.InternalServerError) as error:
        client.chat.completions.create(model="alphabet/sft", messages=HI)
    assert error.value.status_code == 503 and error.value.code == "shutting_down"
    text = "a" + "".join(chunk.choices[0].delta.content or "" for chunk in short)
    assert text.endswith(alphabet("", 200)[-100:])
    *_, last = endless
    assert last.choices[0].finish_reason == "length"
    assert server.process.wait(30) == 143
    assert "Traceback" not in server.output.read_text()


def test_a_second_signal_ends_at_once(start: Callable[..., Server]) -> None:
    server = start("drain_seconds=1000", "workers=2")
    server.wait(lambda: server.health()["workers"] == 2)
    running = begin(server.client())
    workers = server.workers()
    server.process.send_signal(signal.SIGTERM)
    server.wait(lambda: server.health()["status"] == "draining")
    assert server.end(signal.SIGTERM) == 143
    with pytest.raises(openai.APIError):
        list(running)
    assert not any(map(is_alive, workers)), "it ends after its workers"


def test_the_end_does_not_wait_for_a_client_that_does_not_read(start: Callable[..., Server]) -> None:
    server = start("drain_seconds=1")
    body = json.dumps({"messages": HI, "stream": True, "logprobs": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(head + body)
        server.wait(lambda: server.health()["running"] == 1)
        time.sleep(3)  # until the buffers between us are full
        assert server.end() == 143


def test_requests_go_to_the_least_loaded_worker_and_all_end_with_a_server_that_is_killed(
    start: Callable[..., Server],
) -> None:
    server = start("workers=2", "max_rows=4")
    server.wait(lambda: server.health()["workers"] == 2)
    running = [begin(server.client()) for _ in range(4)]
    os.kill(server.workers()[0], signal.SIGKILL)
    server.wait(lambda: server.health()["running"] == 2)
    server.wait(lambda: server.health()["workers"] == 2)
    assert server.health()["running"] == 2, "each worker had two of the answers"
    assert len(running) == 4
    workers = server.workers()
    assert len(workers) == 2
    server.kill()
    server.wait(lambda: not any(map(is_alive, workers)))


def test_1000_connections_at_once(start: Callable[..., Server]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    server = start("max_rows=8", "max_queue=100")
    body = json.dumps({"messages": HI, "max_tokens": 5, "temperature": 0}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def all_at_once() -> list[bytes]:
        connections = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(1000)]
        for _, writer in connections:
            writer.write(request)
        heads = [await reader.readuntil(b"\r\n\r\n") for reader, _ in connections]
        for _, writer in connections:
            writer.close()
        return heads

    statuses = [head.split()[1] for head in asyncio.run(all_at_once())]
    assert set(statuses) <= {b"200", b"429"} and statuses.count(b"200") >= 100 and b"429" in statuses
    server.wait(lambda: server.health()["running"] == 0)
    answer = server.client().chat.completions.create(model="alphabet/sft", messages=HI, max_tokens=3, temperature=0)
    assert answer.choices[0].message.content == "abc" and "Traceback" not in server.output.read_text()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_binding_elsewhere_without_a_key_is_said_loudly(start: Callable[..., Server]) -> None:
    server = start("host=0.0.0.0")
    assert "WARNING: everybody" in server.output.read_text()
    assert server.end() == 143


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "python train.py"),
        (("model=nothing",), "no model in nothing"),
        (("model={pickle}",), "pickles"),
        (("model={damaged}",), "damaged"),
        (("model={good}", "port=99999"), "between 1 and 65535"),
        (("model={good}", "host=203.0.113.1"), "Cannot listen"),
        (("model={good}", "host=no.such.host.invalid"), "Cannot listen"),
        (("model={good}", "prot=1"), "did you mean 'port'"),
        (("model={good}", "max_rows=x"), "whole number"),
        (("model={good}", "cors_origins=[a"), "cannot be understood"),
        (("model={good}", "device=mps"), "mps"),
        (("model={misfit}",), "holds the weights of another model"),
    ],
)
def test_mistakes_end_with_code_2_and_a_paragraph(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    good, damaged, misfit, pickle = (tmp_path / name for name in ("good", "damaged", "misfit", "model.pt"))
    for folder in (good, damaged, misfit):
        save_model(folder, ALPHABET, 64)
    header = misfit / "model.json"
    header.write_text(header.read_text().replace('"n_layer": 2', '"n_layer": 3'))  # only its worker will see it
    (damaged / "model.safetensors").write_bytes(b"\x80\x04nothing")
    pickle.write_bytes(b"\x80\x04N.")
    places = {"good": good, "damaged": damaged, "misfit": misfit, "pickle": pickle}
    result = run_program("serve.py", "page=false", "port=0", *(argument.format(**places) for argument in arguments))
    assert result.returncode == 2 and said in result.stderr and "Traceback" not in result.stderr
