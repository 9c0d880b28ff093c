"""What the page asks for, from what is on the screen; what it says of models."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import pytest

from nanochat_pl.core.errors import UserError
from nanochat_pl.demo import page_answer
from nanochat_pl.demo.job import AnswerRequest, Delta
from nanochat_pl.demo.models import ModelInfo
from nanochat_pl.demo.page_answer import Answers, messages_of, new_answer, seed_of
from nanochat_pl.demo.page_text import choice_label, left_out, status
from nanochat_pl.demo.pool import WorkerPool
from nanochat_pl.demo.service import Service
from nanochat_pl.tokenizers.chat import check_messages
from tests.demo.served_models import ALPHABET, save_model


def question(text: str) -> dict[str, Any]:
    return {"role": "user", "text": text}


def answer(*parts: tuple[str, str]) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": kind, "text": text} for kind, text in parts]}


def test_the_conversation_on_the_screen_becomes_messages() -> None:
    tool = answer(("python", "1+2"), ("python_output", "3"), ("text", "Three."))
    messages = messages_of(
        [question("1+2?"), tool, question("Sure?"), answer(("text", "Yes.")), question("Why?")], "Be brief."
    )
    check_messages(messages)
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert messages[2]["content"] == tool["content"]
    assert messages[4]["content"] == "Yes."


def test_questions_without_an_answer_are_left_out() -> None:
    messages = messages_of([question("a"), answer(), question("b"), answer(("text", "B")), question("c")], " ")
    check_messages(messages)
    assert [message["content"] for message in messages] == ["b", "B", "c"]


class Endless:
    """A service that never says anything."""

    async def stream(self, request: AnswerRequest) -> AsyncGenerator[Delta, None]:
        await asyncio.Event().wait()
        yield cast(Delta, None)


def test_a_question_that_arrives_after_the_stop_that_followed_it_is_too_early() -> None:
    async def ask_and_stop() -> None:
        answers, turn = Answers(cast(Service, Endless())), new_answer(None)
        shown = [question("a"), turn]
        assert not answers.is_too_early("me", [])
        writing = answers.write("me", lambda: cast(AnswerRequest, None), turn)
        await anext(writing)
        before_the_stop = [question("a"), dict(turn)]
        assert answers.is_too_early("me", before_the_stop)
        stop = asyncio.ensure_future(answers.stop("me"))
        async for _ in writing:
            pass
        assert await stop
        assert answers.is_too_early("me", before_the_stop)
        assert not answers.is_too_early("me", shown)
        assert not answers.is_too_early("you", before_the_stop)  # such as after the server was started again

    asyncio.run(asyncio.wait_for(ask_and_stop(), 20))


def test_seeds() -> None:
    assert seed_of(" 12 ") == 12
    assert len({seed_of("") for _ in range(20)}) > 1
    for wrong in ("-1", "1.5", "seven", "9" * 30, "²"):
        with pytest.raises(UserError, match="whole number"):
            seed_of(wrong)


def test_what_is_said_of_models_and_answers() -> None:
    info = ModelInfo("tiny/sft", Path("model"), "sft", {"val_bpb": 0.9}, 128, (0, 0), 0.0)
    assert choice_label(info, is_default=True) == "tiny/sft (default) · 0.900 bpb"
    assert choice_label(ModelInfo("mine", Path("mine"), "base", {}, 128, (0, 0), 0.0), False) == "mine · base"
    assert status(41, 2.0, "stop") == "41 tokens · 20 tok/s"
    assert status(1, 0.0, "length") == "1 token · reached its maximum length"
    assert status(0, 0.0, "stopped") == "stopped"
    assert "oldest 2 messages were" in left_out(2)


class Short:
    """A service that ends at once."""

    async def stream(self, request: AnswerRequest) -> AsyncGenerator[Delta, None]:
        return
        yield cast(Delta, None)


def test_what_is_shown_next_waits_for_the_end_of_an_answer_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_answer, "SECONDS_OF_SENDING", 0.3)

    async def ask_and_clear() -> None:
        answers = Answers(cast(Service, Short()))
        async for _ in answers.write("me", lambda: cast(AnswerRequest, None), new_answer(None)):
            ended = time.monotonic()
        assert not await answers.stop("another") and time.monotonic() - ended < 0.3
        assert not await answers.stop("me") and time.monotonic() - ended > 0.2

    asyncio.run(ask_and_clear())


@pytest.mark.slow
def test_a_model_that_goes_while_it_is_chosen_may_be_asked_for(tmp_path: Path) -> None:
    """The choice is on its way while a look that no longer finds the model is answered."""
    from gradio.state_holder import SessionState

    from nanochat_pl.demo.page import build_page

    save_model(tmp_path / "abc/base/model", ALPHABET, context_tokens=100, stage="base")
    blocks = build_page(Service(cast(WorkerPool, None), tmp_path, None, 1, 1.0))
    events = {event.name: event for event in blocks.fns.values()}

    async def choose() -> list[Any]:
        state = SessionState(blocks)
        await blocks.process_api(events["look"], [None], state=state)
        return (await blocks.process_api(events["describe"], ["later/base"], state=state))["data"]

    assert "No model" in asyncio.run(choose())
