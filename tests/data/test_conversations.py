"""Conversations through streams and packing: each whole, each once in an epoch, learned where it should be."""

import itertools
import json
import logging
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.types import IGNORE_INDEX
from nanochat_pl.data.conversations import ChatDataSpec, ConversationSource, Learned
from nanochat_pl.data.module import Layout, TextDataModule
from nanochat_pl.tasks.custom import Custom
from nanochat_pl.tasks.mixture import Mixture, shuffled_index
from nanochat_pl.tasks.task import UnscoredTask, question_and_answer
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.tokenizers.chat import Message, render_conversation

TOKENIZER = ByteTokenizer()
T = 48


class Echoes(UnscoredTask):
    """Questions of different lengths."""

    def __init__(self, name: str, count: int, longest: int = 30):
        self.name, self._count, self._longest = name, count, longest

    def __len__(self) -> int:
        return self._count

    def conversation(self, i: int) -> list[Message]:
        self._check_index(i)
        return question_and_answer(f"{self.name}{i}", "abc" * (i * 7 % self._longest // 3 + 1))


def module(parts: list[tuple[Any, float]], learned: Learned = "assistant", **layout: Any) -> TextDataModule:
    source = ConversationSource(Mixture(parts, seed=3), learned, T + 1)
    return TextDataModule(
        source, source, TOKENIZER, Layout(T, 8, 4, streams=4, **layout), seed=1, packing="whole", buffer_documents=8
    )  # fmt: skip


def rendered(parts: list[tuple[Any, float]]) -> Counter:
    """(ids, mask) of every conversation of one epoch."""
    found: Counter = Counter()
    for task, epochs in parts:
        for i in range(len(task)):
            ids, mask, _ = render_conversation(TOKENIZER, task.conversation(i))
            found[tuple(ids), tuple(mask)] += int(epochs)
    return found


def conversations_in(inputs: np.ndarray, targets: np.ndarray) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(ids, mask) of the conversations of one row, read from what is trained on."""
    ids = np.append(inputs, targets[-1] if targets[-1] != IGNORE_INDEX else TOKENIZER.bos_id)
    mask = np.append(0, targets != IGNORE_INDEX)
    assert (targets[targets != IGNORE_INDEX] == ids[1:][targets != IGNORE_INDEX]).all()
    starts = [*np.flatnonzero(ids == TOKENIZER.bos_id).tolist(), len(ids)]
    parts = [(tuple(ids[a:b].tolist()), tuple(mask[a:b].tolist())) for a, b in itertools.pairwise(starts)]
    return [part for part in parts if len(part[0]) > 1]  # the others are padding


def test_every_conversation_is_trained_on_whole_and_once_in_an_epoch() -> None:
    parts = [(Echoes("a", 90), 1.0), (Echoes("b", 40), 2.0)]
    data = module(parts)
    wanted, seen = rendered(parts), Counter()
    padding = 0
    for batch in data.train_dataloader():
        for inputs, targets in zip(batch.inputs.numpy(), batch.targets.numpy()):
            found = conversations_in(inputs, targets)
            seen.update(found)
            padding += T + 1 - sum(len(ids) for ids, _ in found)
        if sum(seen.values()) >= 3 * sum(wanted.values()):
            break
    assert set(seen) == set(wanted)
    # Streams end an epoch at different rows; within a buffer and a chunk everything comes equally often.
    assert all(abs(seen[key] / wanted[key] - 3) <= 1.5 for key in wanted)
    assert padding > 0


@pytest.mark.parametrize("learned", ["assistant", "all"])
def test_masks(learned: Learned) -> None:
    batch = next(iter(module([(Echoes("a", 9), 1.0)], learned).train_dataloader()))
    inputs, targets = batch.inputs.numpy(), batch.targets.numpy()
    if learned == "assistant":
        conversations = [part for row in zip(inputs, targets) for part in conversations_in(*row)]
        assert conversations and set(conversations) <= set(rendered([(Echoes("a", 9), 1.0)]))
    else:
        text = inputs[:, 1:] != TOKENIZER.bos_id
        assert (targets[:, :-1][text] == inputs[:, 1:][text]).all() and text.any()
        assert (targets[:, :-1][~text] == IGNORE_INDEX).all() and (~text).any()


def test_a_resumed_run_and_other_ranks_see_the_same_rows() -> None:
    parts = [(Echoes("a", 50), 1.0)]

    def rows(data: TextDataModule, steps: int) -> list[list[int]]:
        collected = []
        for batch in data.train_dataloader():
            collected += batch.inputs.tolist()
            if batch.cursor.streams is not None:
                data.commit(batch.cursor)
                steps -= 1
                if not steps:
                    return collected
        raise AssertionError

    whole = rows(module(parts), 6)
    first = module(parts)
    begun = rows(first, 2)
    resumed = module(parts)
    resumed.load_state_dict(first.state_dict())
    assert begun + rows(resumed, 4) == whole
    ranks = [rows(module(parts, rank=rank, world_size=2), 6) for rank in range(2)]
    assert [row for pair in zip(*ranks) for row in pair] == whole


def test_validation_has_each_conversation_once() -> None:
    parts = [(Echoes("a", 30), 1.0)]
    source = ConversationSource(Mixture(parts), "assistant", T + 1, epochs=1)
    data = TextDataModule(source, source, TOKENIZER, Layout(T, 8, 4), seed=1, packing="whole", val_tokens=None)
    found: Counter = Counter()
    for batch in data.val_dataloader():
        assert batch.inputs.min() >= 0
        for row in zip(batch.inputs.numpy(), batch.targets.numpy()):
            found.update(conversations_in(*row))
    assert found == rendered(parts)


class Long(Echoes):
    """Every other conversation is cut, the others don't fit."""

    def conversation(self, i: int) -> list[Message]:
        first = super().conversation(i)
        return [*first, *question_and_answer("x" * 50, "never")] if i % 2 else question_and_answer("y" * 60, "no")


def test_too_long_conversations_are_cut_at_a_turn_or_left_out_and_that_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = module([(Long("a", 12), 1.0)])
    for batch, _ in zip(data.train_dataloader(), range(8)):
        text = bytes(i for i in batch.inputs.flatten().tolist() if i < 256)
        assert b"abc" in text and b"never" not in text and b"y" not in text

    def told(count: int) -> tuple[str, ...]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            module([(Long("a", count), 1.0), (Echoes("b", 3), 1.0)]).check_length()
        [line] = caplog.messages
        found = re.match(rf"Of ([\d,]+) conversations (.*) are cut at a turn .* {T + 1} tokens\), and (.*) left", line)
        assert found, line
        return found.groups()

    assert told(12) == ("15", "6", "6")
    size, *estimated = told(9000)
    assert size == "9,003"
    assert all(re.fullmatch("about [45],[0-9]{3}", count) for count in estimated), "4,500 of each"


class Silent(Echoes):
    """The assistant says nothing."""

    def conversation(self, i: int) -> list[Message]:
        return question_and_answer(f"{i}?", "")


@pytest.mark.parametrize("task", [Echoes("z" * 80, 3), Silent("a", 3)])
def test_conversations_in_which_nothing_is_said_are_found_before_the_first_step(task: Echoes) -> None:
    good, bad = (ConversationSource(Mixture([(each, 1.0)]), "assistant", T + 1, 1) for each in (Echoes("a", 9), task))

    def check(train: ConversationSource, val: ConversationSource) -> None:
        TextDataModule(train, val, TOKENIZER, Layout(T, 8, 4), seed=1, packing="whole").check_length()

    check(good, good)
    with pytest.raises(UserError, match=r"None of the 3 held-out conversations .*longer context.*tasks\.val_path=FILE"):
        check(good, bad)
    if not isinstance(task, Silent):  # that it is to say nothing can be learned
        with pytest.raises(UserError, match=r"None of 3 conversations can be trained on.* longer context"):
            check(bad, good)


def test_a_run_does_not_go_on_with_an_edited_file(tmp_path: Path) -> None:
    def custom(edited: int | None) -> TextDataModule:
        answers = [f"answer {n}{'!' * (n == edited)}" for n in range(500)]
        path = tmp_path / "chats.json"
        path.write_text(json.dumps([question_and_answer("?", answer) for answer in answers]))
        return module([(Custom("all", path=str(path)), 1.0)])

    state = custom(None).state_dict()
    custom(None).load_state_dict(state)
    for edited in (1, 250, 498):
        with pytest.raises(UserError, match=r"training data was .*fresh=true"):
            custom(edited).load_state_dict(state)


class Mixed(Echoes):
    """Many short ones, some as long as a row."""

    def conversation(self, i: int) -> list[Message]:
        return question_and_answer(f"<{i}>", "a" * int(10 ** (2 * shuffled_index(i, len(self), 7) / len(self))))


@pytest.mark.parametrize("count", [40, 300, 500])
def test_with_the_default_settings_few_conversations_are_all_trained_on_equally_often(count: int) -> None:
    sequence_len, rows = 128, 16
    spec, source = ChatDataSpec(), ConversationSource(Mixture([(Mixed("a", count), 1.0)]), "assistant", 129)
    assert (spec.streams, spec.buffer_documents) == (16, 128)
    data = spec.build(
        TOKENIZER,
        sources=(source, source),
        sequence_len=sequence_len,
        rows_per_step=rows,
        micro_batch_rows=rows,
        seed=1,
    )
    epoch_steps = spec.epoch_tokens(TOKENIZER, sequence_len, (source, source)) / (rows * sequence_len)
    seen: Counter = Counter()
    for batch, _ in zip(data.train_dataloader(), range(math.ceil(3 * epoch_steps))):
        data.commit(batch.cursor)
        for row in batch.inputs.tolist():
            seen.update(re.findall("<[0-9]+>", TOKENIZER.decode([token for token in row if token < 256])))
    assert len(seen) == count and set(seen.values()) <= {1, 2, 3, 4, 5}
    assert sum(abs(times - 3) <= 1 for times in seen.values()) > 0.99 * count
    assert sum(seen.values()) == pytest.approx(3 * count, rel=0.1)
    assert data.counters()["epoch"] == 2, "the third is not complete in every stream"


def test_the_halves_of_a_task_come_in_turn() -> None:
    """One stream that does not choose, so that an epoch ends at a conversation."""
    source = ConversationSource(Mixture([(Echoes("a", 20), 0.5), (Echoes("b", 15), 1.0)]), "assistant", T + 1)
    layout = Layout(T, 1, 1, streams=1)
    data = TextDataModule(source, source, TOKENIZER, layout, seed=1, packing="whole", buffer_documents=1)
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for batch in data.train_dataloader():
        seen += conversations_in(batch.inputs[0].numpy(), batch.targets[0].numpy())
        data.commit(batch.cursor)
        if len(seen) >= 6 * len(source.mixture):
            break
    epochs = [Counter(seen[n : n + 25]) for n in range(0, 150, 25)]
    twice = rendered([(Echoes("a", 20), 1.0), (Echoes("b", 15), 2.0)])
    for one, two in itertools.pairwise(epochs):
        assert one + two == twice and one != two
    assert data.counters()["epoch"] in (5, 6)


def test_tokens_of_an_epoch() -> None:
    def all_and_estimated(count: int) -> tuple[int, int]:
        mixture = Mixture([(Echoes("a", count), 1.0), (Echoes("b", count), 1.0)])
        lengths = [len(render_conversation(TOKENIZER, mixture.conversation(n)).ids) for n in range(len(mixture))]
        source = ConversationSource(mixture, "assistant", 1000)
        return sum(lengths), ChatDataSpec(packing="best_fit").epoch_tokens(TOKENIZER, 999, (source, source))

    for count in (100, 2000):
        exact, estimated = all_and_estimated(count)
        assert estimated == pytest.approx(exact, rel=0.02)
