"""Requests that get no answer: refused with OpenAI's errors, without a worker being asked."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from nanochat_pl.core.errors import UserError
from nanochat_pl.demo.job import AnswerRequest
from nanochat_pl.demo.pool import WorkerPool
from nanochat_pl.demo.refused import Refused
from nanochat_pl.demo.schemas import event
from nanochat_pl.demo.server import MAX_BODY_BYTES, ServeSpec, build_app, serve
from nanochat_pl.demo.service import Service
from tests.demo.served_models import ALPHABET, TOKENIZER, save_model, token_id

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def service_of(root: Path, spec: ServeSpec) -> Service:
    pool = WorkerPool(spec.workers, spec.device, spec.max_rows, first=root, first_required=False)
    return Service(pool, root, None, spec.max_queue, spec.time_limit_seconds)


def client_of(root: Path, spec: ServeSpec, address: str = "127.0.0.1") -> TestClient:
    app = build_app(service_of(root, spec), spec, address)
    return TestClient(app, "http://localhost:8000", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    save_model(root / "alphabet/base/model", ALPHABET, 32, stage="base")
    save_model(root / "alphabet/sft/model", ALPHABET, 64)
    weights = root / "damaged/sft/model/model.safetensors"
    save_model(weights.parent, ALPHABET, 64)
    weights.write_bytes(weights.read_bytes()[:-100])
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[TestClient]:
    """Of a server whose workers are not there and whose queue is of no length."""
    with client_of(root, ServeSpec(page=False, max_queue=0, max_rows=4)) as client:
        yield client


def error_of(response: Any, status: int) -> dict[str, Any]:
    """The error in a response, which must have OpenAI's shape."""
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and isinstance(error["message"], str)
    assert "Traceback" not in response.text
    return error


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (CHAT | {"temperature": -1}, "temperature", "must be 0"),
        (CHAT | {"temperature": "hot"}, "temperature", "valid number"),
        (CHAT | {"temperature": 1e-300}, "temperature", "0.001"),
        (CHAT | {"temperature": float("nan")}, "temperature", "nan"),
        (CHAT | {"temperature": float("inf")}, "temperature", "inf"),
        (CHAT | {"top_p": 0}, "top_p", "above 0"),
        (CHAT | {"top_k": -5}, "top_k", "at least 1"),
        (CHAT | {"min_p": 1.5}, "min_p", "below 1"),
        (CHAT | {"repetition_penalty": 0}, "repetition_penalty", "0.001"),
        (CHAT | {"n": 0}, "n", "1 to 4"),
        (CHAT | {"n": 5}, "n", "1 to 4"),
        (CHAT | {"n": 1.5}, "n", "valid integer"),
        (CHAT | {"max_tokens": -1}, "max_tokens", "at least 0"),
        (CHAT | {"max_completion_tokens": -1}, "max_tokens", "at least 0"),
        (CHAT | {"stop": [str(i) for i in range(17)]}, "stop", "at most 16"),
        (CHAT | {"stop": ""}, None, "stop string is empty"),
        (CHAT | {"stop": [1]}, "stop", "valid string"),
        (CHAT | {"stream": "maybe"}, "stream", "boolean"),
        (CHAT | {"seed": "x"}, "seed", "valid integer"),
        (CHAT | {"top_logprobs": 3}, "top_logprobs", "not supported"),
        (CHAT | {"tools": [{"type": "function"}]}, "tools", "not supported"),
        (CHAT | {"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        (CHAT | {"model": 7}, "model", "valid string"),
        ({}, "messages", "required"),
        ([], None, "object"),
        ({"messages": "hi"}, "messages", "array"),
        ({"messages": ["hi"]}, "messages", "object"),
        ({"messages": []}, None, "no messages"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, None, "'wizard'"),
        ({"messages": [{"content": "hi"}]}, None, "None"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, None, "user must speak"),
        ({"messages": CHAT["messages"] * 2}, None, "take turns"),
        ({"messages": [*CHAT["messages"], {"role": "assistant", "content": "x"}]}, None, "by the user"),
        ({"messages": [{"role": "user", "content": None}]}, None, "text or a list"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, None, "image_url"),
        ({"messages": [{"role": "user", "content": "x" * 50}]}, None, "54 tokens"),
        ({"messages": [{"role": "user", "content": "\u4e2d"}]}, None, "\u4e2d"),
    ],
)  # fmt: skip
def test_a_wrong_chat_request_is_told_what_is_wrong(
    client: TestClient, body: Any, param: str | None, said: str
) -> None:
    if isinstance(body, dict):
        body = {"model": "alphabet/sft"} | body
    error = error_of(client.post("/v1/chat/completions", content=json.dumps(body)), 400)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert said in error["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": "x" * 31}, "32"),
        ({"prompt": [3] * 500}, "500 tokens"),
        ({"prompt": [3, 10_000]}, f"between 0 and {TOKENIZER.vocab_size - 1}"),
        ({"prompt": [-1]}, "between 0"),
        ({"prompt": []}, "no tokens"),
        ({"prompt": ["a", "b"]}, "2 prompts"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "a", "logprobs": 2}, "logprobs"),
        ({"prompt": "a", "echo": True}, "echo is not supported"),
        ({}, "required"),
    ],
)
def test_a_wrong_completion_request_is_told_what_is_wrong(client: TestClient, body: Any, said: str) -> None:
    response = client.post("/v1/completions", json={"model": "alphabet/base"} | body)
    assert said in error_of(response, 400)["message"]


@pytest.mark.parametrize("text", ["", "{", "{]", "[" * 100_000, '{"messages": "\\ud800"}', "\x00", '{"a": 1} x'])
def test_what_is_no_json_is_refused(client: TestClient, text: str) -> None:
    for path in ("chat/completions", "completions", "tokenize"):
        assert error_of(client.post(f"/v1/{path}", content=text), 400)["code"] == "invalid_json"
    assert error_of(client.post("/v1/completions", content=b"\xff\xfe"), 400)["code"] == "invalid_json"


def test_an_unknown_model_is_told_those_there_are(client: TestClient) -> None:
    for name in ("gpt-4", "../alphabet/sft", "/etc/passwd", "{root}", "", "x" * 100_000):
        error = error_of(client.post("/v1/chat/completions", json=CHAT | {"model": name}), 404)
        assert error["code"] == "model_not_found" and error["param"] == "model" and len(error["message"]) < 300
        assert "alphabet/base" in error["message"] and "alphabet/sft" in error["message"]
    assert error_of(client.get("/v1/models/gpt-4"), 404)["code"] == "model_not_found"


def test_without_a_model_one_is_told_how_to_train_one(tmp_path: Path) -> None:
    with client_of(tmp_path, ServeSpec(page=False)) as client:
        message = error_of(client.post("/v1/chat/completions", json=CHAT), 404)["message"]
        assert "python train.py" in message and str(tmp_path) not in message
        assert client.get("/v1/models").json() == {"object": "list", "data": []}


def test_a_damaged_model_is_named_and_the_others_are_served(
    root: Path, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = client.post("/v1/chat/completions", json=CHAT | {"model": "damaged/sft"})
    error = error_of(response, 500)
    assert error["code"] == "model_unusable" and "damaged/sft" in error["message"]
    assert "model.safetensors is missing or damaged" in caplog.text and str(root) in caplog.text
    assert str(root) not in response.text, "where models lie is nobody's business"
    models = client.get("/v1/models").json()["data"]
    assert sorted(model["id"] for model in models) == ["alphabet/base", "alphabet/sft"]
    one = client.get("/v1/models/alphabet/sft").json()
    assert one in models and one["stage"] == "sft" and one["max_model_len"] == 64 and one["val_bpb"] == 1.25


def test_paths_and_methods_that_are_not_there(client: TestClient) -> None:
    for path, method in (("/v1/embeddings", "POST"), ("/v1/chat/completions", "GET"), ("/v1/", "GET"), ("/x", "GET")):
        error_of(client.request(method, path), 404)
    error_of(client.post("/health"), 405)


def test_a_large_body_is_refused_before_it_is_read(client: TestClient) -> None:
    huge = b'{"messages": [{"role": "user", "content": "' + b"x" * 10_000_000 + b'"}]}'
    assert error_of(client.post("/v1/chat/completions", content=huge), 413)["code"] == "body_too_large"
    chunks = (b"[" * 100_000 for _ in range(100))  # of no announced length, and no JSON
    assert error_of(client.post("/v1/chat/completions", content=chunks), 413)["code"] == "body_too_large"
    assert error_of(client.post("/v1/chat/completions", content=b"[" * (MAX_BODY_BYTES - 1)), 400)


def test_a_full_queue_says_when_to_try_again(client: TestClient) -> None:
    response = client.post("/v1/chat/completions", json=CHAT | {"model": "alphabet/sft"})
    assert error_of(response, 429)["type"] == "rate_limit_error"
    assert int(response.headers["Retry-After"]) >= 1


def test_waiting_longer_than_the_time_limit_is_a_timeout(root: Path) -> None:
    with client_of(root, ServeSpec(page=False, time_limit_seconds=0.2)) as client:
        for stream in (False, True):
            body = CHAT | {"model": "alphabet/sft", "stream": stream}
            assert error_of(client.post("/v1/chat/completions", json=body), 504)["code"] == "timeout"
        assert client.get("/health").json()["waiting"] == 0


def test_text_never_becomes_special_tokens(client: TestClient) -> None:
    text = "<|assistant_start|>"
    for body in ({"prompt": text}, {"messages": [{"role": "user", "content": text}]}):
        tokens = client.post("/v1/tokenize", json=body | {"model": "alphabet/sft"}).json()
        written = TOKENIZER.encode(text)
        assert token_id(text) not in written
        if "prompt" in body:
            assert tokens == {"tokens": [TOKENIZER.bos_id, *written], "count": 20, "max_model_len": 64}
        else:
            names = ("<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>")
            bos, start, end, assistant = map(token_id, names)
            assert tokens["tokens"] == [bos, start, *written, end, assistant]
    bare = client.post("/v1/tokenize", json={"model": "alphabet/base", "prompt": "ab", "add_special_tokens": False})
    assert bare.json()["tokens"] == TOKENIZER.encode("ab")
    assert "either" in error_of(client.post("/v1/tokenize", json={}), 400)["message"]


def test_a_slow_disk_holds_nobody_up(tmp_path: Path) -> None:
    for name in ("slow", "quick"):
        save_model(tmp_path / name / "sft/model", ALPHABET, 64)
    header = tmp_path / "slow/sft/model/model.json"
    header.unlink()
    os.mkfifo(header)  # who reads it waits until somebody writes
    service = service_of(tmp_path, ServeSpec())

    def unblock() -> None:  # whatever the server does, the test ends
        while True:
            header.write_text("{")

    async def look() -> list[str]:
        looking = [asyncio.ensure_future(service.models()) for _ in range(4)]
        await asyncio.sleep(0.2)
        assert service.health()["status"] == "starting" and not any(look.done() for look in looking)
        looking.pop().cancel()  # who gives up does not begin another look
        looking.append(asyncio.ensure_future(service.models()))
        await asyncio.to_thread(header.write_text, "{")
        return [model.name for models in await asyncio.gather(*looking) for model in models]

    rescue = threading.Timer(20, unblock)
    rescue.daemon = True
    rescue.start()
    assert asyncio.run(look()) == ["quick/sft"] * 4
    assert not rescue.finished.is_set(), "one look is enough for all"
    rescue.cancel()


@pytest.mark.parametrize("host", ["[::1]:8000", "localhost:8000", "my.lan:8000"])
def test_no_foreign_page_may_read_what_this_one_may(root: Path, host: str) -> None:
    spec = ServeSpec()
    address = "0.0.0.0" if host.startswith("my.lan") else "127.0.0.1"
    client = TestClient(build_app(service_of(root, spec), spec, address), f"http://{host}")
    for path in ("/config", "/v1/models"):
        answer = client.get(path, headers={"Origin": "https://evil.example"})
        assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers, path
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = client.options("/gradio_api/queue/join", headers=asked)
    assert "access-control-allow-origin" not in answer.headers


def test_where_all_models_are_damaged_the_damage_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_PL_RUNS", str(tmp_path))
    with pytest.raises(UserError, match=r"There is no model in .* Train one"):
        serve(ServeSpec())
    save_model(tmp_path / "run/sft/model", ALPHABET, 64)
    (tmp_path / "run/sft/model/model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"model\.safetensors is missing or damaged"):
        serve(ServeSpec())


def test_the_gate_goes_by_the_address(root: Path) -> None:
    spec = ServeSpec(host="127.1")
    client = TestClient(build_app(service_of(root, spec), spec, "127.0.0.1"), "http://evil.example")
    assert error_of(client.get("/v1/models"), 403)["code"] == "unknown_host"
    headers = {"Host": "[::1].evil.example"}
    assert error_of(client.get("/v1/models", headers=headers), 403)["code"] == "unknown_host"


def test_any_text_can_be_tokenized(client: TestClient) -> None:
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i}"} for i in range(41)]
    for name, body in (
        ("alphabet/sft", {"prompt": "x" * 500}),
        ("alphabet/sft", {"messages": turns}),
        ("alphabet/base", {"messages": turns}),
    ):
        answer = client.post("/v1/tokenize", json=body | {"model": name}).json()
        assert answer["count"] == len(answer["tokens"]) > 200 > answer["max_model_len"]
        text = TOKENIZER.decode(answer["tokens"])
        assert all(turn["content"] in text for turn in turns) or "prompt" in body


def test_what_is_being_prepared_counts_with_what_waits(root: Path) -> None:
    service = service_of(root, ServeSpec(max_rows=1, max_queue=3))

    async def all_at_once() -> list[Any]:
        await service.models()
        request = AnswerRequest("alphabet/sft", prompt="x" * 10_000)
        asked = (service.tokenize(request, lambda model, ids: len(ids)) for _ in range(10))
        return await asyncio.gather(*asked, return_exceptions=True)

    prepared, refused = (results := asyncio.run(all_at_once()))[:4], results[4:]
    assert prepared == [10_001] * 4
    assert all(isinstance(error, Refused) and error.status == 429 for error in refused)
    assert asyncio.run(all_at_once())[:4] == [10_001] * 4, "there is room again"


def test_no_client_takes_a_character_for_the_end_of_a_line() -> None:
    text = "a\x85b\u2028c\u2029d\ne\x0bf\x0cg\x1ch\r\té"
    line, *rest = event({"text": text}).splitlines()
    assert json.loads(line.removeprefix("data: ")) == {"text": text} and rest == [""] and "é" in line


def test_tool_calls_that_a_client_sends_back_are_read_as_such(client: TestClient) -> None:
    parts = [
        {"type": "python", "text": "1+2"},
        {"type": "python_output", "text": "3"},
        {"type": "text", "text": "So 3."},
    ]
    answer = {"role": "assistant", "content": "So 3.", "parts": parts, "refusal": None}
    messages = [{"role": "developer", "content": "Add."}, *CHAT["messages"], answer, *CHAT["messages"]]
    response = client.post("/v1/tokenize", json={"model": "alphabet/sft", "messages": messages})
    ids = response.json().get("tokens") or pytest.fail(response.text)
    call = [token_id("<|python_start|>"), *TOKENIZER.encode("1+2"), token_id("<|python_end|>")]
    assert TOKENIZER.decode(call) in TOKENIZER.decode(ids) and ids.count(token_id("<|output_start|>")) == 1
    assert "Add.\n\nhi" in TOKENIZER.decode(ids)


def test_the_key_is_asked_for(root: Path) -> None:
    with client_of(root, ServeSpec(page=False, api_key="sesame")) as client:
        assert client.get("/health").status_code == 503  # no worker is ready, but nobody asks for a key
        for header in ({}, {"Authorization": "Bearer"}, {"Authorization": "Bearer sesam"}, {"Authorization": "sesame"}):
            for path in ("/v1/models", "/v1/anything", "/"):
                response = client.get(path, headers=header)
                assert error_of(response, 401)["code"] == "invalid_api_key"
                assert response.headers["WWW-Authenticate"].startswith("Bearer" if path != "/" else "Basic")
        assert error_of(client.get("/v1/models", headers={"Authorization": b"Basic x\xff"}), 401)
        assert client.get("/v1/models", headers={"Authorization": "Bearer sesame"}).status_code == 200
        assert client.get("/v1/models", auth=("me", "sesame")).status_code == 200
        assert client.get("/v1/models", auth=("sesame", "me")).status_code == 401


@pytest.mark.parametrize("host", ["localhost", "LocalHost:80", "127.0.0.1:8000", "127.0.0.2", "[::1]:8000", "[::1]"])
def test_localhost_may_be_asked_by_its_names(client: TestClient, host: str) -> None:
    assert client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_a_page_that_calls_localhost_by_a_name_of_its_own_is_refused(root: Path) -> None:
    names = ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.0.1",
             "[::2]:80", "[", "", "\xff")  # fmt: skip
    with client_of(root, ServeSpec(page=False)) as client:
        for name in names:
            for path in ("/v1/models", "/"):
                error = error_of(client.get(path, headers={"Host": name.encode("latin-1")}), 403)
                assert error["code"] == "unknown_host" and "api_key" in error["message"]
        assert client.get("/health", headers={"Host": "x"}).json()["status"] == "starting"
    for key, address in ((None, "0.0.0.0"), ("sesame", "127.0.0.1")):
        with client_of(root, ServeSpec(page=False, api_key=key), address) as client:
            headers = {"Host": "my.example", "Authorization": "Bearer sesame"}
            assert client.get("/v1/models", headers=headers).status_code == 200


def test_other_origins_are_allowed_by_name_only(root: Path) -> None:
    theirs = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    spec = ServeSpec(page=False, api_key="sesame", cors_origins=("https://page.example",))
    with client_of(root, spec) as client:
        allowed = client.options("/v1/chat/completions", headers=theirs)
        assert allowed.status_code == 200 and allowed.headers["Access-Control-Allow-Origin"] == theirs["Origin"]
        other = client.options("/v1/chat/completions", headers=theirs | {"Origin": "https://other.example"})
        assert "Access-Control-Allow-Origin" not in other.headers
    with client_of(root, ServeSpec(page=False)) as client:
        assert "Access-Control-Allow-Origin" not in client.get("/v1/models", headers=theirs).headers
