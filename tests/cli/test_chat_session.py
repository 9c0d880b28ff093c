"""The conversation behind the terminal, with a model that was taught a few answers."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from nanochat_pl.checkpoint.named_model import find_named_model
from nanochat_pl.cli.chat_session import ChatSession
from nanochat_pl.core.errors import UserError
from nanochat_pl.inference.answer import content_of
from nanochat_pl.inference.sampling import Sampling
from tests.demo.served_models import lengthened
from tests.taught import CALL, LESSONS, save_taught_model

GREEDY = Sampling(max_new_tokens=40, temperature=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught") / "sft" / "model"
    save_taught_model(folder)
    return folder


def session_with(folder: Path, sampling: Sampling = GREEDY) -> ChatSession:
    return ChatSession(find_named_model(str(folder)), sampling, "cpu")


def said(session: ChatSession, text: str) -> Any:
    return content_of(session.ask(text))


def test_it_remembers_what_was_said(folder: Path) -> None:
    session = session_with(folder)
    assert said(session, "What is my name?") == "I do not know."
    session.clear()
    assert session.messages == [] and session.newest is None
    assert said(session, "My name is Ada") == "Hi Ada."
    assert said(session, "What is my name?") == "Ada."
    assert session.messages == LESSONS[1]
    assert session.newest is not None and session.newest.finish == "stop"
    assert session.newest.sampled_tokens == session.newest.answer_tokens == 4 and session.newest.seconds > 0


def test_tool_calls_are_answered_and_kept(folder: Path) -> None:
    session = session_with(folder)
    assert said(session, "What is 12*7?") == CALL
    assert session.newest is not None and session.newest.answer_tokens - session.newest.sampled_tokens == 4
    assert said(session, "Thanks") == "You are welcome."
    assert json.loads(json.dumps(session.messages)) == LESSONS[0]


def test_the_next_turn_reads_only_what_is_new(folder: Path) -> None:
    session = session_with(folder)
    read: list[int] = []
    session.loaded.model.embedding.register_forward_hook(lambda _, arguments, __: read.append(arguments[0].shape[1]))
    said(session, "What is 12*7?")
    assert session.newest is not None and read[0] == session.newest.prompt_tokens
    read.clear()
    said(session, "Thanks")
    assert session.newest.prompt_tokens > 40
    assert sum(read) <= 11, "the end of the answer, the user's eight tokens, the start of the next answer"


def test_a_stopped_answer_is_kept_as_far_as_it_came(folder: Path) -> None:
    session = session_with(folder)
    parts = []
    for part in session.ask("My name is Ada", stopped=lambda: len(parts) >= 2):
        parts.append(part)
    assert content_of(parts) == "Hi" == session.messages[-1]["content"]
    assert session.newest is not None and session.newest.finish is None
    assert said(session, "What is my name?")
    assert len(session.messages) == 4
    session.clear()
    assert list(session.ask("My name is Ada", stopped=lambda: True)) == [] and session.messages == []
    assert said(session, "My name is Ada") == "Hi Ada."


def test_an_answer_that_is_not_read_to_its_end_leaves_nothing_behind(folder: Path) -> None:
    session = session_with(folder)
    answer = session.ask("My name is Ada")
    next(answer)
    answer.close()
    assert session.messages == []
    assert said(session, "What is my name?") == "I do not know."


def test_a_conversation_beyond_the_context_keeps_its_newest_turns(folder: Path) -> None:
    session = session_with(folder)
    dropped = []
    for _ in range(12):
        assert said(session, "My name is Ada") and session.newest is not None
        dropped.append(session.newest.dropped_messages)
        assert session.newest.prompt_tokens <= session.context_tokens - GREEDY.max_new_tokens
    assert dropped[0] == 0 and dropped == sorted(dropped) and dropped[-1] > 0
    assert len(session.messages) == 24
    before = list(session.messages)
    with pytest.raises(UserError, match=r"needs 304 tokens, but a prompt of this model may have 216 at most"):
        said(session, "x" * 300)
    assert session.messages == before


def test_a_long_window_is_context_too(folder: Path, tmp_path: Path) -> None:
    longer = lengthened(folder, tmp_path / "model", long_window=511)
    session = session_with(longer)
    for _ in range(12):
        said(session, "My name is Ada")
        assert session.newest is not None and session.newest.dropped_messages == 0
    assert session.newest.prompt_tokens > find_named_model(str(folder)).load().model.config.sequence_len


def test_seeds_count_on_with_the_turns(folder: Path) -> None:
    hot = Sampling(max_new_tokens=12, temperature=3.0, seed=5)
    first, again, other = (session_with(folder, dataclasses.replace(hot, seed=seed)) for seed in (5, 5, 6))
    for session in (first, again, other):
        said(session, "hello")
        said(session, "hello")
    assert first.messages == again.messages != other.messages
    assert first.messages[1] != first.messages[3]


def test_another_model_goes_on_with_the_conversation(folder: Path, tmp_path: Path) -> None:
    session = session_with(folder)
    said(session, "My name is Ada")
    with pytest.raises(UserError):
        session.load(dataclasses.replace(find_named_model(str(folder)), path=tmp_path))
    session.load(find_named_model(str(folder)))
    assert said(session, "What is my name?") == "Ada."
