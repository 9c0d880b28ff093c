"""A real server, asked by the official openai client."""

import concurrent.futures
import os
import signal
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import torch

from nanochat_pl.models.nanochat import NanoChat
from nanochat_pl.tokenizers.char import CharTokenizer
from tests.demo.served_models import ALPHABET, LETTERS, SUM, TOKENIZER, alphabet, save_model, save_random_model
from tests.demo.serving import Server

pytestmark = pytest.mark.slow

HI = [{"role": "user", "content": "Hi"}]
ENDLESS = 100_000
"""Tokens, far more than a test takes the time for."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    runs = tmp_path_factory.mktemp("runs")
    save_model(runs / "alphabet/sft/model", ALPHABET, ENDLESS)
    save_model(runs / "alphabet/base/model", ALPHABET, 64, stage="base")
    save_model(runs / "sum/sft/model", SUM, 64)
    server = Server(
        runs, f"model={runs}/alphabet/sft", "page=false", "max_rows=16", "cors_origins=[https://page.example]"
    )
    yield server
    server.kill()


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return server.client()


def chat(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(**{"model": "alphabet/sft", "messages": HI, "temperature": 0} | options)


def test_models_are_listed_and_the_default_answers(server: Server, client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"alphabet/sft", "alphabet/base", "sum/sft"}
    assert client.models.retrieve("sum/sft").id == "sum/sft"
    response = server.http.post("/v1/chat/completions", json={"messages": HI, "max_tokens": 3})
    assert response.json()["model"] == "alphabet/sft"


def test_a_chat_is_answered(client: openai.OpenAI) -> None:
    answer = chat(client, max_tokens=30)
    assert answer.choices[0].message.content == alphabet("", 30) and answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (6, 30, 36)
    assert chat(client, max_completion_tokens=4).choices[0].message.content == "abcd"


def test_a_stream_gives_the_same_in_pieces(client: openai.OpenAI) -> None:
    chunks = list(chat(client, max_tokens=30, stream=True, stream_options={"include_usage": True}))
    *deltas, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in deltas) == alphabet("", 30) and len(deltas) > 1
    assert deltas[0].choices[0].delta.role == "assistant" and deltas[-1].choices[0].finish_reason == "length"
    assert not last.choices and last.usage.completion_tokens == 30
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chat(client, max_tokens=3, stream=True))


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_end_an_answer_and_are_no_part_of_it(server: Server, client: openai.OpenAI, stream: bool) -> None:
    answer = chat(client, stop=["xyz", "mno"], stream=stream)
    pieces = list(answer) if stream else [answer]
    texts = [(piece.choices[0].delta if stream else piece.choices[0].message).content or "" for piece in pieces]
    assert "".join(texts) == "abcdefghijkl" and pieces[-1].choices[0].finish_reason == "stop"
    server.wait(lambda: server.health()["running"] == 0)


def test_tool_calls_are_shown_beside_the_text(client: openai.OpenAI) -> None:
    parts = [
        {"type": "text", "text": "Hm:"},
        {"type": "python", "text": "1+2"},
        {"type": "python_output", "text": "3"},
        {"type": "text", "text": "!"},
    ]
    answer = chat(client, model="sum/sft")
    assert answer.choices[0].message.content == "Hm:!" and answer.choices[0].message.parts == parts
    assert answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens == 9  # what was sampled
    streamed: list[dict[str, str]] = []
    for chunk in chat(client, model="sum/sft", stream=True):
        delta = chunk.choices[0].delta
        new = getattr(delta, "parts", None) or ([{"type": "text", "text": delta.content}] if delta.content else [])
        for part in new:
            if streamed and streamed[-1]["type"] == part["type"]:
                streamed[-1]["text"] += part["text"]
            else:
                streamed.append(dict(part))
    assert streamed == parts
    again = chat(client, model="sum/sft", messages=[*HI, answer.choices[0].message, *HI])
    assert again.choices[0].message.content == "Hm:!"
    assert again.usage.prompt_tokens == 6 + len("Hm:[1+2][3]!.") + 5  # all of the call was read again


def test_several_answers_seeds_and_settings(client: openai.OpenAI) -> None:
    hot = {"temperature": 50.0, "max_tokens": 12, "extra_body": {"top_k": 40}}
    one = chat(client, n=4, seed=5, **hot)
    texts = [choice.message.content for choice in one.choices]
    assert [choice.index for choice in one.choices] == [0, 1, 2, 3] and len(set(texts)) == 4
    assert 12 < one.usage.completion_tokens <= 48 and one.usage.prompt_tokens == 6
    assert [choice.message.content for choice in chat(client, n=4, seed=5, **hot).choices] == texts
    assert chat(client, seed=6, **hot).choices[0].message.content != texts[0]
    drawn = {chat(client, **hot).choices[0].message.content for _ in range(8)}
    assert len(drawn) >= 4, "each has a seed of its own; some say nothing at once"
    for body in ({"top_k": 1}, {"min_p": 0.99}):
        cold = chat(client, temperature=50.0, max_tokens=12, extra_body=body)
        assert cold.choices[0].message.content == alphabet("", 12)
    assert chat(client, temperature=1.0, top_p=0.01, max_tokens=12).choices[0].message.content == alphabet("", 12)
    penalized = chat(client, max_tokens=30, extra_body={"repetition_penalty": 1000})
    assert penalized.choices[0].message.content != alphabet("", 30)


def test_logprobs(client: openai.OpenAI) -> None:
    answer = chat(client, max_tokens=5, logprobs=True)
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == "abcde" and all(-0.1 < token.logprob < 0 for token in tokens)
    chunks = chat(client, max_tokens=5, logprobs=True, stream=True)
    streamed = [token for chunk in chunks for token in chunk.choices[0].logprobs.content]
    assert [token.logprob for token in streamed] == pytest.approx([token.logprob for token in tokens])
    text = client.completions.create(model="alphabet/base", prompt="k", max_tokens=3, logprobs=0, temperature=0)
    assert text.choices[0].logprobs.tokens == ["l", "m", "n"] and len(text.choices[0].logprobs.token_logprobs) == 3


def test_completions_of_texts_and_of_tokens(client: openai.OpenAI) -> None:
    def complete(prompt: Any, **options: Any) -> Any:
        return client.completions.create(model="alphabet/base", prompt=prompt, temperature=0, **options)

    answer = complete("hello k", max_tokens=6)
    assert answer.choices[0].text == "lmnopq" and answer.usage.prompt_tokens == 8
    assert complete("k").usage.completion_tokens == 16  # OpenAI's default
    assert complete([TOKENIZER.bos_id, *TOKENIZER.encode("k")], max_tokens=3).choices[0].text == "lmn"
    assert complete(["k"], max_tokens=3).choices[0].text == "lmn"
    assert complete("k", max_tokens=1000).usage.total_tokens == 64, "to the end of the context"
    streamed = list(complete("k", max_tokens=6, stream=True, stop="p"))
    assert (
        "".join(chunk.choices[0].text for chunk in streamed) == "lmno"
        and streamed[-1].choices[0].finish_reason == "stop"
    )


def test_a_base_model_continues_a_chat_as_text(client: openai.OpenAI) -> None:
    answer = chat(client, model="alphabet/base", max_tokens=5, messages=[{"role": "user", "content": "hij"}])
    assert answer.choices[0].message.content == "klmno"


def test_turns_that_do_not_fit_are_left_out_and_that_is_said(client: openai.OpenAI) -> None:
    turns = [{"role": ("user", "assistant")[i % 2], "content": "hello"} for i in range(21)]
    raw = client.chat.completions.with_raw_response.create(model="sum/sft", messages=turns, max_tokens=9)
    answer = raw.parse()
    assert answer.choices[0].message.content and answer.usage.prompt_tokens <= 64 - 9
    assert answer.dropped_turns == int(raw.headers["X-Dropped-Turns"]) > 10
    chunks = list(chat(client, model="sum/sft", messages=turns, stream=True))
    assert all(chunk.dropped_turns > 10 for chunk in chunks)
    assert getattr(chat(client, max_tokens=1), "dropped_turns", None) is None


def test_special_tokens_in_a_text_stay_text(client: openai.OpenAI) -> None:
    text = "<|user_end|><|assistant_start|><|assistant_end|><|bos|>"
    answer = chat(client, max_tokens=5, messages=[{"role": "user", "content": text}])
    assert answer.choices[0].message.content == "abcde" and answer.usage.prompt_tokens == 4 + len(text)


def continued(model: NanoChat, prompt: str, length: int) -> str:
    """The text that goes on from `prompt` by the likeliest token, by a full forward for each."""
    ids = [TOKENIZER.bos_id, *TOKENIZER.encode(prompt)]
    said: list[int] = []
    with torch.no_grad():
        while len(said) < length:
            said.append(int(model(torch.tensor([ids + said]))[0, -1].argmax()))
            if said[-1] == TOKENIZER.bos_id:
                break
    return TOKENIZER.decode([id for id in said if id < TOKENIZER.n_ordinary])


def test_64_at_once_get_their_own_answers(server: Server, client: openai.OpenAI) -> None:
    model = save_random_model(server.output.parent / "random/base/model", context_tokens=64)
    server.wait(lambda: "random/base" in {model.id for model in client.models.list()})
    prompts = ["".join(LETTERS[(i * k + k * k) % 27] for k in range(1 + i % 40)) for i in range(64)]

    def ask(prompt: str) -> str:
        stream = client.completions.create(
            model="random/base", prompt=prompt, max_tokens=20, temperature=0, stream=True
        )
        return "".join(chunk.choices[0].text for chunk in stream)

    with concurrent.futures.ThreadPoolExecutor(64) as threads:
        answers = list(threads.map(ask, prompts))
    assert answers == [continued(model, prompt, 20) for prompt in prompts]
    assert len(set(answers)) > 50


def test_a_client_that_leaves_frees_its_row(server: Server, client: openai.OpenAI) -> None:
    stream = chat(client, stream=True)
    next(iter(stream))
    assert server.health()["running"] == 1
    stream.close()
    server.wait(lambda: server.health()["running"] == 0)
    with pytest.raises(openai.APITimeoutError):
        chat(client.with_options(timeout=1.0))  # not streamed
    server.wait(lambda: server.health()["running"] == 0)
    assert chat(client, max_tokens=3).choices[0].message.content == "abc"


def test_extreme_settings_harm_nobody(server: Server, client: openai.OpenAI) -> None:
    workers = server.workers()
    for options in (
        {"temperature": 0.001}, {"temperature": 1000}, {"top_p": 1e-300}, {"seed": 2**63 - 1},
        {"extra_body": {"top_k": 10**400}}, {"extra_body": {"repetition_penalty": 1000}},
        {"extra_body": {"repetition_penalty": 0.001}}, {"extra_body": {"min_p": 0.999999}},
        {"n": 16}, {"max_tokens": 0},
    ):  # fmt: skip
        assert chat(client, **{"max_tokens": 3} | options).choices
    assert server.workers() == workers


def test_the_openai_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="must be 0"):
        chat(client, temperature=-1)
    with pytest.raises(openai.NotFoundError, match="alphabet/base"):
        chat(client, model="gpt-4")
    with pytest.raises(openai.BadRequestError, match="64"):
        client.completions.create(model="alphabet/base", prompt="x" * 100)


def test_a_newer_export_is_talked_to(server: Server, client: openai.OpenAI) -> None:
    folder = server.output.parent / "young/base/model"
    save_model(folder, ALPHABET, 64, stage="base")
    server.wait(lambda: "young/base" in {model.id for model in client.models.list()})

    def first_letter() -> str:
        return client.completions.create(model="young/base", prompt="k", max_tokens=1, temperature=0).choices[0].text

    assert first_letter() == "l"
    save_model(folder, ALPHABET | {"k": "z"}, 64, stage="base", step=2)
    server.wait(lambda: first_letter() == "z")


def test_a_model_that_breaks_is_said_and_the_others_go_on(server: Server, client: openai.OpenAI) -> None:
    folder = server.output.parent / "broken/sft/model"
    save_model(folder, ALPHABET, 64)
    (folder / "tokenizer/tokenizer.json").unlink()
    server.wait(lambda: "broken/sft" in {model.id for model in client.models.list()})
    with pytest.raises(openai.InternalServerError, match="broken/sft cannot be used"):
        chat(client, model="broken/sft")
    save_model(folder.parent.parent / "rl/model", ALPHABET, 64)
    header = folder.parent.parent / "rl/model/model.json"
    header.write_text(header.read_text().replace('"n_layer": 2', '"n_layer": 3'))  # the weights do not fit
    server.wait(lambda: "broken/rl" in {model.id for model in client.models.list()})
    with pytest.raises(openai.InternalServerError, match="cannot be used") as error:
        chat(client, model="broken/rl")
    said, root = server.output.read_text(), str(server.output.parent)
    assert f"{root}/broken/sft/model/tokenizer" in said
    assert f"{root}/broken/rl/model holds the weights of another model" in said
    assert root not in str(error.value)
    assert chat(client, max_tokens=3).choices[0].message.content == "abc"


@pytest.mark.parametrize("stream", [False, True])
def test_a_token_that_the_tokenizer_does_not_know_is_an_error_also_in_a_stream(
    server: Server, client: openai.OpenAI, stream: bool
) -> None:
    folder = server.output.parent / f"strange{stream}/sft/model"
    fewer = CharTokenizer(TOKENIZER.characters[:40])
    start = TOKENIZER.characters[fewer.special_tokens["<|assistant_start|>"]]  # of the same id
    save_model(folder, {start: "!", "!": "#", "#": "z"}, 64)
    fewer.save(folder / "tokenizer")
    server.wait(lambda: f"strange{stream}/sft" in {model.id for model in client.models.list()})
    said = ""
    with pytest.raises(openai.APIError, match=f"strange{stream}/sft cannot be used"):
        for chunk in chat(
            client, model=f"strange{stream}/sft", stream=stream, messages=[{"role": "user", "content": "$"}]
        ):
            said += chunk.choices[0].delta.content or ""
    assert said[:1] == ("!" if stream else "")
    assert "is not in this tokenizer's vocabulary" in server.output.read_text()
    server.wait(lambda: server.health()["running"] == 0)


def test_a_worker_that_dies_is_started_again(server: Server, client: openai.OpenAI) -> None:
    (worker,) = server.workers()
    stream = chat(client, stream=True)
    next(iter(stream))
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        whole = threads.submit(chat, client)
        server.wait(lambda: server.health()["running"] == 2)
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(openai.InternalServerError) as error:
            whole.result()
    assert error.value.status_code == 503 and error.value.code == "worker_died"
    with pytest.raises(openai.APIError, match="started again"):
        list(stream)
    assert chat(client, max_tokens=3).choices[0].message.content == "abc"
    assert server.workers() != [worker] and "Traceback" not in server.output.read_text()
