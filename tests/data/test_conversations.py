"""Conversations through streams and packing: each whole, each once in an epoch, learned where it should be."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.types import IGNORE_INDEX
from nanochat_pl.data.conversations import ConversationSource, Learned
from nanochat_pl.data.module import Layout, TextDataModule
from nanochat_pl.tasks.mixture import Mixture
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
        assert (targets[:, :-1][~text] == IGNORE_INDEX).all()


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


def test_too_long_conversations_are_cut_at_a_turn_counted_or_left_out() -> None:
    class Long(Echoes):
        def conversation(self, i: int) -> list[Message]:
            first = super().conversation(i)
            return [*first, *question_and_answer("x" * 50, "never")] if i % 2 else question_and_answer("y" * 60, "no")

    data = module([(Long("a", 12), 1.0)])
    for batch, _ in zip(data.train_dataloader(), range(8)):
        text = bytes(i for i in batch.inputs.flatten().tolist() if i < 256)
        assert b"abc" in text and b"never" not in text and b"y" not in text
    counters = data.counters()
    assert counters["cut_conversations"] > 0 and counters["left_out_conversations"] > 0
    data.check_length()
    with pytest.raises(UserError, match=r"None of the 3 conversations .* longer context"):
        module([(Echoes("z" * 80, 3), 1.0)]).check_length()


def test_tokens_of_an_epoch() -> None:
    def all_and_estimated(count: int) -> tuple[int, int]:
        mixture = Mixture([(Echoes("a", count), 1.0), (Echoes("b", count), 1.0)])
        lengths = [len(render_conversation(TOKENIZER, mixture.conversation(n)).ids) for n in range(len(mixture))]
        return sum(lengths), ConversationSource(mixture, "assistant", 1000).epoch_tokens(TOKENIZER)

    exact, counted = all_and_estimated(100)
    assert counted == exact
    exact, estimated = all_and_estimated(2000)
    assert estimated == pytest.approx(exact, rel=0.02)
